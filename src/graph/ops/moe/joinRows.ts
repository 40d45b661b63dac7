// Joins rows within capacity and rows beyond it: the inverse of splitRows, and its gradient. A view: a reader reads the
// part that has the row.
import { ShapeError } from '../../../base/errors.ts';
import { sameShape, showType, type TensorType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, indexAt, segmentsOf } from './routing.ts';
import { splitRows, type SplitRowsAttrs } from './splitRows.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    joinRows: SplitRowsAttrs;
  }
}

export const joinRowsOp: Op<SplitRowsAttrs> = {
  // a [E segments], b [E segments] -> the rows of a, then those of b [2 E segments]; offsets: of them all.
  name: 'joinRows',
  moves: 'all',
  infer([a, b, offsets], _, ids): TensorType[] {
    const [x, y] = [segmentsOf('joinRows', a), segmentsOf('joinRows', b)];
    checkVector('joinRows', 'offsets', offsets, 2 * x.segments + 1);
    if (x.segments !== y.segments || a.dtype !== b.dtype || !sameShape(a.shape.slice(1), b.shape.slice(1)))
      throw new ShapeError(`joinRows: ${showType(a)} and ${showType(b)} do not fit`);
    return [
      {
        dtype: a.dtype,
        shape: [
          {
            kind: 'segmented',
            bound: x.bound + y.bound,
            segments: 2 * x.segments,
            offsets: ids[2],
            ...(x.usual !== undefined && { usual: x.usual }),
          },
          ...a.shape.slice(1),
        ],
      },
    ];
  },
  grad({ inputs: [a, b], douts: [d], attrs }) {
    if (!d) return [null, null, null];
    const offsetsOf = (t: Tensor): Tensor => a.builder.tensor(segmentsOf('joinRows', t.type).offsets);
    const [da, db] = splitRows(d, offsetsOf(a), offsetsOf(b), b, attrs);
    return [da, db, null];
  },
  lower: {
    kind: 'map',
    weight: 0.5,
    at(call, [r, ...rest]) {
      const {
          e,
          inputs: [a, b, offsets],
        } = call,
        zero = e.index(0);
      const first = indexAt(call, offsets, [e.index(segmentsOf('joinRows', a.type).segments)]),
        before = e.lt(r, first);
      return e.select(
        before,
        a.at([e.select(before, r, zero), ...rest]),
        b.at([e.select(before, zero, e.add(r, [-1, first])), ...rest]),
      );
    },
  },
};

/** a and b [rows in E segments, ...rest], offsets int32 [2 E + 1] of all -> [rows in 2 E segments, ...rest]. */
export const joinRows = (a: Tensor, b: Tensor, offsets: Tensor, { expertRows }: SplitRowsAttrs = {}): Tensor =>
  emit1('joinRows', [a, b, offsets], { ...(expertRows && { expertRows }) });
