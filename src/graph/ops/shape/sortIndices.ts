// Sorts indices of rows of a table by row, and keeps the order of equal ones. For a small table `permute` does it.
// Otherwise `permute` sorts them by groups of rows, and sortInGroups sorts each group by row: a task would need too
// many counters for all rows of a large table. An index outside the table lies among those of the first or last row.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit, type Tensor } from '../../tensor.ts';
import { div } from '../elementwise/div.ts';
import { permute } from '../moe/permute.ts';
import { checkVector } from '../moe/routing.ts';
import { reshape } from './reshape.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    sortInGroups: SortInGroupsAttrs;
  }
}

/** rows: of the table. height: rows of a group. */
export type SortInGroupsAttrs = { readonly rows: number; readonly height: number };

const AT_ONCE = 1024, // rows of the largest table that is sorted at once
  GROUPS = 256, // of a larger one: few enough that thousands of indices are sorted by group in ranges
  WORK = 16; // of an index or a row, in elements

export const sortInGroupsOp: Op<SortInGroupsAttrs> = {
  // Offsets of the rows, and the indices in the order of their rows; from indices in the order of their groups.
  name: 'sortInGroups',
  infer([index, order, offsets], { rows, height }) {
    const n = elements(index.shape);
    if (index.dtype !== 'int32') throw new ShapeError(`sortInGroups: needs int32, got ${showType(index)}`);
    checkVector('sortInGroups', 'order', order, n);
    if (![rows, height].every((x) => Number.isInteger(x) && x >= 1))
      throw new ShapeError(`sortInGroups: no groups of ${height} of ${rows} rows`);
    checkVector('sortInGroups', 'offsets', offsets, Math.ceil(rows / height) + 1);
    return [{ dtype: 'int32', shape: [rows + 1] }, order];
  },
  lower: {
    kind: 'loops',
    build({ e, k: w, inputs: [index, order, offsets], outputs: [toOffsets, toOrder], attrs: { rows, height } }) {
      const groups = Math.ceil(rows / height);
      return {
        grid: { extent: groups, work: WORK * height },
        body(group) {
          const [from, size] = [w.scalar('index'), w.scalar('index')],
            next = w.array('int32', height),
            first = e.scale(group, height),
            own = rows % height === 0 ? e.index(height) : e.min(e.index(height), e.add([-1, first], rows));
          const choice = (i: typeof group): typeof group => w.load(order, e.add(from.get(), i));
          /** The row of an index in the group. */
          const rowOf = (i: typeof group): typeof group => {
            const row = e.op('sub', [w.load(index, e.cast(choice(i), 'index')), e.cast(first, 'int32')]);
            return e.min(e.max(row, e.const(0, 'int32')), e.cast(e.add(own, -1), 'int32'));
          };
          const int32 = (x: typeof group): typeof group => e.cast(x, 'int32');
          return [
            from.set(w.loadIndex(offsets, group)),
            size.set(e.add(w.loadIndex(offsets, e.add(group, 1)), [-1, from.get()])),
            next.fill(0),
            w.histogram(next, size.get(), rowOf),
            w.scan(next, w.scalar('int32')),
            w.vector(own, (r) => [w.store(toOffsets, e.add(first, r), e.op('add', [int32(from.get()), next.at(r)]))]),
            w.when(e.eq(group, e.index(groups - 1)), [
              w.store(toOffsets, e.index(rows), int32(e.add(from.get(), size.get()))),
            ]),
            w.rank(next, size.get(), rowOf, (i, place) => [
              w.store(toOrder, e.add(from.get(), e.cast(place, 'index')), choice(i)),
            ]),
          ];
        },
      };
    },
  },
};

/** Indices in the order of their rows, and where those of each row begin. */
export interface SortedIndices {
  readonly order: Tensor; // int32 [n]
  readonly offsets: Tensor; // int32 [rows + 1]
}

/** index int32 [..], of a table of so many rows, or up to so many. */
export function sortIndices(index: Tensor, rows: number, most = AT_ONCE): SortedIndices {
  const list = reshape(index, [boundOf(index.shape[0] ?? 1), elements(index.shape.slice(1))]);
  if (rows <= most) return permute(list, Math.max(1, rows));
  const height = Math.ceil(rows / Math.min(most, GROUPS)),
    grouped = permute(div(list, height), Math.ceil(rows / height)),
    [offsets, order] = emit('sortInGroups', [list, grouped.order, grouped.offsets], { rows, height });
  return { order, offsets };
}
