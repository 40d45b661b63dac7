// The rows of each segment as a tensor of its own, for experts that are separate modules: each with its own bound,
// counted at run time.
import { ShapeError } from '../../../base/errors.ts';
import { showType, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, scalar, type Tensor } from '../../tensor.ts';
import { segmentCount } from './segmentCount.ts';
import { checkVector, indexAt, segmentsOf } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    splitSegments: SplitSegmentsAttrs;
  }
}

/** bounds: the largest number of rows of each segment. */
export type SplitSegmentsAttrs = { readonly bounds: readonly number[] };

export const splitSegmentsOp: Op<SplitSegmentsAttrs> = {
  // Output e is the rows of segment e of x; inputs: x, offsets, a count for each segment.
  name: 'splitSegments',
  takes: ['stored'],
  moves: 'first',
  attrsOnlySizeDims: true,
  infer([x, offsets, ...counts], { bounds }, ids): TensorType[] {
    const { segments, bound, usual } = segmentsOf('splitSegments', x);
    checkVector('splitSegments', 'offsets', offsets, segments + 1);
    if (bounds.length !== segments || counts.length !== segments)
      throw new ShapeError(
        `splitSegments: ` +
          `${showType(x)} has ${segments} segments, got ${bounds.length} bounds and ${counts.length} counts`,
      );
    return bounds.map((b, i) => ({
      dtype: x.dtype,
      shape: [
        { kind: 'bounded', bound: b, count: ids[2 + i], usual: Math.ceil((usual ?? bound) / segments) },
        ...x.shape.slice(1),
      ],
    }));
  },
  grad({ inputs: [x, offsets, ...counts], outputs, douts }) {
    if (douts.every((d) => !d)) return [null, null, ...counts.map(() => null)];
    // If nothing reads a segment, its gradient is 0.
    const parts = douts.map((d, i) => d ?? emit1('mul', [outputs[i], scalar(outputs[i], 0)]));
    const { bound } = segmentsOf('splitSegments', x.type);
    return [
      emit1('joinSegments', [offsets, ...parts], {
        rows: bound,
        usual: segmentsOf('splitSegments', x.type).usual ?? bound,
      }),
      null,
      ...counts.map(() => null),
    ];
  },
  lower: {
    kind: 'map',
    weight: 1,
    at(call, [r, ...rest], output) {
      const {
        e,
        inputs: [x, offsets],
      } = call;
      return x.at([e.add(indexAt(call, offsets, [e.index(output)]), r), ...rest]);
    },
  },
};

/** How many rows each segment has, at most its bound: offsets int32 [E + 1] -> for each segment int32 []. */
export const segmentCounts = (offsets: Tensor, bounds: readonly number[]): Tensor[] =>
  bounds.map((bound, segment) => segmentCount(offsets, { segment, bound }));

/**
 * rows [rows in E segments, ...rest], their `segmentCounts` -> for each segment [at most bounds[e], ...rest]. Tensors
 * split by the same counts have the same rows.
 */
export const splitSegments = (rows: Tensor, counts: readonly Tensor[], bounds: readonly number[]): Tensor[] =>
  emit('splitSegments', [rows, rows.builder.tensor(segmentsOf('splitSegments', rows.type).offsets), ...counts], {
    bounds,
  });
