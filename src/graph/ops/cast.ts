// Conversion to another dtype. Floats to integers truncate towards zero and saturate.
import { castValue } from '../../base/convert.ts';
import type { DType } from '../../base/dtype.ts';
import { isFloat } from '../../base/dtype.ts';
import { emit1, type Tensor } from '../tensor.ts';
import { elementwise } from './elementwise.ts';

export type CastAttrs = { readonly dtype: DType };

export const castOp = elementwise<CastAttrs>({
  // a as another dtype
  name: 'cast', arity: 1, weight: 1, dtype: (_, { dtype }) => dtype,
  grad: ({ inputs: [a] }, dout) => [isFloat(a.dtype) && isFloat(dout.dtype) ? emit1('cast', [dout], { dtype: a.dtype }) : null],
  expr: (e, [a], dtype) => (a.dtype === dtype ? a : e.op('cast', [a], dtype)),
  value: ([a], { dtype }) => (isFloat(dtype) ? a : castValue(a, dtype)),
});

/** `a` as `dtype`. */
export const cast = (a: Tensor, dtype: DType): Tensor => (a.dtype === dtype ? a : emit1('cast', [a], { dtype }));
