// Maximum over axes, which are removed. Equal maxima share the gradient in equal parts.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkReduced, normaliseAxes, reduceAt } from './reduce.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    max: MaxAttrs;
  }
}

export type MaxAttrs = { readonly axes: readonly number[] };

export const maxOp: Op<MaxAttrs> = {
  // Largest element over axes.
  name: 'max',
  takes: ['numbers'],
  infer([x], { axes }) {
    checkReduced('max', x, axes);
    if (axes.some((a) => boundOf(x.shape[a]) === 0))
      throw new ShapeError(`max: there is no maximum of 0 elements (${showType(x)})`);
    return [{ dtype: x.dtype, shape: x.shape.filter((_, i) => !axes.includes(i)) }];
  },
  grad({ inputs: [x], outputs: [y], douts: [dout], attrs: { axes } }) {
    if (!dout) return [null];
    const wide = (t: Tensor): Tensor => emit1('expand', [t, x], { axes });
    const hit = emit1('cast', [emit1('equal', [x, wide(y)])], { dtype: x.dtype });
    const hits = axes.length === 0 ? hit : emit1('sum', [hit], { axes });
    return [emit1('mul', [hit, wide(emit1('div', [dout, hits]))])];
  },
  lower: { kind: 'map', passes: 1, at: (call, index) => reduceAt(call, 'max', call.attrs.axes, index) },
};

/**
 * Maximum over `axes` (all by default), which are removed; NaN if one element is NaN. ShapeError if an axis has no
 * elements; if a counted one has none in a run, the result is -infinity, or the smallest integer.
 */
export function max(x: Tensor, axes?: readonly number[]): Tensor {
  const list = normaliseAxes('max', x, axes);
  return list.length === 0 ? x : emit1('max', [x], { axes: list });
}
