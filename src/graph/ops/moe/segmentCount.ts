// The number of rows of one segment: it counts the rows of a separate expert.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    segmentCount: SegmentCountAttrs;
  }
}

/** bound: of the dimension that is counted. */
export type SegmentCountAttrs = { readonly segment: number; readonly bound: number };

export const segmentCountOp: Op<SegmentCountAttrs> = {
  // offsets[segment + 1] - offsets[segment], at most the bound.
  name: 'segmentCount',
  countsAreInBounds: true,
  attrsOnlySizeDims: true,
  infer([offsets], { segment }): TensorType[] {
    checkVector('segmentCount', 'offsets', offsets);
    if (!(segment >= 0 && segment < boundOf(offsets.shape[0]) - 1))
      throw new ShapeError(`segmentCount: ${showType(offsets)} has no segment ${segment}`);
    return [{ dtype: 'int32', shape: [] }];
  },
  lower: {
    kind: 'map',
    at({ e, inputs: [offsets], attrs, int }) {
      const segment = int('segment', attrs.segment),
        at = (i: number) => offsets.at([e.add(segment, i)]);
      return e.min(e.op('sub', [at(1), at(0)]), e.cast(int('bound', attrs.bound), 'int32'));
    },
  },
};

/** offsets int32 [E + 1] -> int32 []. */
export const segmentCount = (offsets: Tensor, attrs: SegmentCountAttrs): Tensor =>
  emit1('segmentCount', [offsets], attrs);
