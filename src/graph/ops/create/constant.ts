// A tensor whose elements are all one number: never stored.
import { castValue } from '../../../base/convert.ts';
import { DTYPES, isFloat, type DType } from '../../../base/dtype.ts';
import { ShapeError } from '../../../base/errors.ts';
import type { Op } from '../../op.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    constant: ConstantAttrs;
  }
}

export type ConstantAttrs = { readonly value: number; readonly dtype: DType; readonly shape: readonly number[] };

export const constantOp: Op<ConstantAttrs> = {
  // Value in every element.
  name: 'constant',
  infer(_, { value, dtype, shape }) {
    if (!DTYPES.includes(dtype))
      throw new ShapeError(`constant: no dtype named ${String(dtype)}`, `one of ${DTYPES.join(', ')}`);
    const own = typeof value === 'number' ? castValue(value, dtype, 'float64') : NaN;
    // Floats are rounded to the nearest. A number that is no integer, or is out of range, would become another integer.
    const fits =
      typeof value === 'number' && (isFloat(dtype) ? Number.isFinite(own) || !Number.isFinite(value) : own === value);
    if (!fits)
      throw new ShapeError(
        `constant: ${String(value)} is no ${dtype}`,
        isFloat(dtype) ? `numbers that are finite as ${dtype}` : 'cast the other operand to float32 first',
      );
    return [{ dtype, shape }];
  },
  lower: { kind: 'map', weight: 0, at: ({ e, attrs }) => e.const(attrs.value, attrs.dtype) },
};
