// One vector per expert, repeated for each of its rows (an expert's bias).
import { ShapeError } from '../../../base/errors.ts';
import { showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, indexAt, segmentsOf } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    segmentExpand: SegmentExpandAttrs;
  }
}

/** more: as for groupedMatmul. */
export type SegmentExpandAttrs = { readonly more?: boolean };

export const segmentExpandOp: Op<SegmentExpandAttrs> = {
  // Row r = b[expert[r]], for the rows of like, whose values are not read.
  name: 'segmentExpand',
  unread: [2],
  infer([b, expert, like]) {
    const { bound, segments } = segmentsOf('segmentExpand', like);
    checkVector('segmentExpand', 'expert', expert, bound);
    if (b.shape.length === 0 || b.shape[0] !== segments)
      throw new ShapeError(`segmentExpand: needs one row for each of ${segments} segments, got ${showType(b)}`);
    return [{ dtype: b.dtype, shape: [like.shape[0], ...b.shape.slice(1)] }];
  },
  grad({ inputs: [, expert, like], douts: [d], attrs: { more }, takeAccumulatedGrad }) {
    if (!d) return [null, null, null];
    const of = [d, expert, like.builder.tensor(segmentsOf('segmentExpand', like.type).offsets)],
      begun = more ? takeAccumulatedGrad(0) : null;
    return [begun ? emit1('segmentSumOnto', [...of, begun]) : emit1('segmentSum', of), null, null];
  },
  lower: {
    kind: 'map',
    weight: 1,
    at: (call, [r, ...rest]) => call.inputs[0].at([indexAt(call, call.inputs[1], [r]), ...rest]),
  },
};

/**
 * b [E, ...rest], expert int32 [rows] (from `permute`), like [rows in E segments, ..] -> [rows in E segments, ...rest].
 */
export const segmentExpand = (b: Tensor, expert: Tensor, like: Tensor, { more = false } = {}): Tensor =>
  emit1('segmentExpand', [b, expert, like], { ...(more && { more }) });
