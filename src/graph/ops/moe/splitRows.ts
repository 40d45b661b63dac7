// Splits rows into those within capacity and those beyond it: two views of the rows of all (2 E segments), without a
// pass of their own.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, scalar, type Tensor } from '../../tensor.ts';
import { checkVector, indexAt, segmentsOf } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    splitRows: SplitRowsAttrs;
  }
}

/** expertRows: as for dispatch, for the first part. */
export type SplitRowsAttrs = { readonly expertRows?: number };

export const splitRowsOp: Op<SplitRowsAttrs> = {
  // x [2 E segments] -> its first E segments, its last E segments; inputs: x, offsets of the first, offsets of the last
  // (from 0), like with as many rows as these.
  name: 'splitRows',
  takes: ['stored'],
  moves: 'first',
  unread: [2, 3],
  infer([x, inside, outside, like], _, ids): TensorType[] {
    const { bound, segments: both, usual = bound } = segmentsOf('splitRows', x),
      segments = both / 2,
      beyond = like.shape.length > 0 ? boundOf(like.shape[0]) : 0;
    checkVector('splitRows', 'offsets', inside, segments + 1);
    checkVector('splitRows', 'offsets', outside, segments + 1);
    if (beyond > bound) throw new ShapeError(`splitRows: ${showType(x)} has no ${beyond} rows beyond others`);
    // The usual number of all rows is that of the first part.
    const part = (n: number, offsets: number, most?: number): TensorType => ({
      dtype: x.dtype,
      shape: [
        { kind: 'segmented', bound: n, segments, offsets, ...(most !== undefined && { usual: most }) },
        ...x.shape.slice(1),
      ],
    });
    return [part(bound - beyond, ids[1], usual), part(beyond, ids[2])];
  },
  grad({ inputs: [x], outputs, douts, attrs }) {
    if (douts.every((d) => !d)) return [null, null, null, null];
    const [a, b] = douts.map((d, i) => d ?? emit1('mul', [outputs[i], scalar(outputs[i], 0)]));
    return [
      emit1('joinRows', [a, b, x.builder.tensor(segmentsOf('splitRows', x.type).offsets)], attrs),
      null,
      null,
      null,
    ];
  },
  lower: {
    kind: 'map',
    weight: 0,
    stored: ({ expertRows = 0 }, output, { storedRows }) => expertRows >= storedRows && output === 0,
    at(call, [r, ...rest], output) {
      const {
        e,
        inputs: [x, inside],
        outTypes: [o],
      } = call;
      return x.at([
        output === 0 ? r : e.add(indexAt(call, inside, [e.index(segmentsOf('splitRows', o).segments)]), r),
        ...rest,
      ]);
    },
  },
};

/**
 * x [rows in 2 E segments, ...rest], offsets int32 [E + 1] of both parts, like [room for rows of the second, ...any]
 * (not read) -> both parts, each [rows in E segments, ...rest].
 */
export function splitRows(
  x: Tensor,
  inside: Tensor,
  outside: Tensor,
  like: Tensor,
  { expertRows }: SplitRowsAttrs = {},
): [Tensor, Tensor] {
  const [a, b] = emit('splitRows', [x, inside, outside, like], { ...(expertRows && { expertRows }) });
  return [a, b];
}
