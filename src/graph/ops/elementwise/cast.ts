// Conversion to another dtype. Floats to integers truncate towards zero and saturate; integers to integers keep their
// bits.
import { castValue } from '../../../base/convert.ts';
import { DTYPES, isFloat, type DType } from '../../../base/dtype.ts';
import { ShapeError } from '../../../base/errors.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { elementwise, withOp } from './elementwise.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    cast: CastAttrs;
  }
}

type CastAttrs = { readonly dtype: DType };

const castOp = elementwise<CastAttrs>({
  // a as another dtype
  name: 'cast',
  arity: 1,
  weight: 1,
  takes: 'stored',
  dtype(_, { dtype }) {
    if (!DTYPES.includes(dtype))
      throw new ShapeError(`cast: no dtype named ` + `${String(dtype)}`, `one of ${DTYPES.join(', ')}`);
    return dtype;
  },
  grad: ({ inputs: [a] }, dout) => [
    isFloat(a.dtype) && isFloat(dout.dtype) ? emit1('cast', [dout], { dtype: a.dtype }) : null,
  ],
  expr: (e, [a], dtype) => (a.dtype === dtype ? a : e.cast(a, dtype)),
  // Float64 stands for float32 in the reference, unless a float64 is rounded to it.
  value: ([a], { dtype }, { from: [from] }) =>
    dtype === 'float64' || (dtype === 'float32' && from !== 'float64') ? a : castValue(a, dtype, from),
});

/**
 * `a` as `dtype`. Floats are rounded to the nearest, ties to even, and beyond the largest finite number become
 * infinite; NaN stays NaN. Floats to integers are truncated towards zero and end at the least and the largest integer;
 * NaN gives 0. int32 and uint32 become each other modulo 2^32. To bool: whether a is not 0 (NaN is not). bfloat16 and
 * float16 are only moved and cast.
 */
export const cast = withOp(castOp, (a: Tensor, dtype: DType): Tensor =>
  a.dtype === dtype ? a : emit1('cast', [a], { dtype }),
);
