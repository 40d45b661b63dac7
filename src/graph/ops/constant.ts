// A tensor whose elements are all one number: never stored.
import type { DType } from '../../base/dtype.ts';
import { elements } from '../../base/shape.ts';
import type { Op } from '../op.ts';

export type ConstantAttrs = { readonly value: number; readonly dtype: DType; readonly shape: readonly number[] };

export const constantOp: Op<ConstantAttrs> = {
  // Value in every element.
  name: 'constant',
  infer: (_, { dtype, shape }) => [{ dtype, shape }],
  lower: { kind: 'map', weight: 0, at: ({ e, attrs }) => e.const(attrs.value, attrs.dtype) },
  reference: ({ attrs, outTypes }) => [new Float64Array(elements(outTypes[0].shape)).fill(attrs.value)],
};
