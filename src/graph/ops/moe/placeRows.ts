// Stores the rows of a window among all rows, into the memory of the rows that other windows stored before.
import { ShapeError } from '../../../base/errors.ts';
import { elements, sameDim, sameShape, showType, type Segmented } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { checkVector, segmentsOf } from './routing.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    placeRows: PlaceRowsAttrs;
  }
}

/** rows: the bound of all rows. */
export type PlaceRowsAttrs = { readonly start: number; readonly rows: number };

const WORK = 512; // of a row, in elements

export const placeRowsOp: Op<PlaceRowsAttrs> = {
  // Before (if given), with row start + r = x[r]; offsets: of all rows.
  name: 'placeRows',
  moves: 'all',
  unread: [1],
  inPlaceOf: 2,
  infer([x, offsets, before], { start, rows }, ids) {
    const { segments, bound } = segmentsOf('placeRows', x);
    checkVector('placeRows', 'offsets', offsets, segments + 1);
    if (!(start >= 0 && start + bound <= rows))
      throw new ShapeError(`placeRows: ${showType(x)} does not fit into ${rows} rows from ${start}`);
    const dim: Segmented = { kind: 'segmented', bound: rows, segments, offsets: ids[1] };
    if (
      before &&
      (!sameDim(before.shape[0], dim) ||
        !sameShape(before.shape.slice(1), x.shape.slice(1)) ||
        before.dtype !== x.dtype)
    ) {
      throw new ShapeError(`placeRows: ${showType(before)} is not all rows of which ${showType(x)} are some`);
    }
    return [{ dtype: x.dtype, shape: [dim, ...x.shape.slice(1)] }];
  },
  // `before` did not contain these rows: their gradient does not flow through it.
  grad({ inputs: [x, , before], douts: [d], attrs: { start } }) {
    const { bound, offsets } = segmentsOf('placeRows', x.type);
    const own = d && emit1('windowRows', [d, x.builder.tensor(offsets)], { start, size: bound });
    return before ? [own, null, d] : [own, null];
  },
  lower: {
    kind: 'loops',
    update: true,
    build({ e, k: w, inputs: [x], outputs: [all], inTypes: [t], attrs }) {
      const width = elements(t.shape.slice(1)),
        start = w.int(attrs.start);
      return {
        grid: { extent: w.extent(t, 0), work: WORK },
        body: (r) => [
          w.vector(width, (c) => [w.store(all, e.add([width, start], [width, r], c), w.load(x, e.add([width, r], c)))]),
        ],
      };
    },
  },
};

/**
 * x [rows of a window in E segments, ...rest], offsets int32 [E + 1] of all rows, the result for other windows (or
 * null) -> all rows [at most `rows` in E segments, ...rest]; rows that no window placed are not defined.
 */
export const placeRows = (x: Tensor, offsets: Tensor, before: Tensor | null, attrs: PlaceRowsAttrs): Tensor =>
  emit1('placeRows', [x, offsets, ...(before ? [before] : [])], attrs);
