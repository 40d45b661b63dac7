// segmentSum that continues sums that were begun before, in their memory: the same chain of additions as if all rows
// had come at once.
import { ShapeError } from '../../../base/errors.ts';
import { sameShape, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { checkVector, segmentsOf } from './routing.ts';
import { sumSegments } from './segmentSum.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    segmentSumOnto: NoAttrs;
  }
}

export const segmentSumOntoOp: Op = {
  // Before + the sum of the rows of each segment, added one by one; expert serves the gradient.
  name: 'segmentSumOnto',
  takes: ['numbers'],
  unread: [1],
  inPlaceOf: 3,
  infer([x, expert, offsets, before]) {
    const { bound, segments } = segmentsOf('segmentSumOnto', x);
    checkVector('segmentSumOnto', 'expert', expert, bound);
    checkVector('segmentSumOnto', 'offsets', offsets, segments + 1);
    if (!sameShape(before.shape, [segments, ...x.shape.slice(1)]) || before.dtype !== x.dtype)
      throw new ShapeError(`segmentSumOnto: rows ${showType(x)} do not add to ${showType(before)}`);
    return [before];
  },
  grad: ({ inputs: [x, expert], douts: [d] }) => [d && emit1('segmentExpand', [d, expert, x]), null, null, d],
  lower: { kind: 'loops', update: true, build: (call) => sumSegments(call, true) },
};
