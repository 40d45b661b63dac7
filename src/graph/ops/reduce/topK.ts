// The k largest elements of each row, in descending order; of equal elements the one with the lower index comes first;
// NaN counts as -Infinity. Elements are inserted one by one into a sorted list of k. If k is small, 16 rows run in
// lanes, after some of their columns have been copied side by side; otherwise one row at a time, skipping elements that
// do not enter the list.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, showType } from '../../../base/shape.ts';
import { isFloat } from '../../../base/dtype.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, type Tensor } from '../../tensor.ts';
import { reshape } from '../shape/reshape.ts';
import { sortedList } from './sortedList.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    topK: TopKAttrs;
  }
}

export type TopKAttrs = { readonly k: number };

/** The largest k for which rows run in lanes; insertions per task, roughly; columns that are copied at once. */
const SMALL = 4,
  WORK = 4,
  TILE = 64;

export const topKOp: Op<TopKAttrs> = {
  // The k largest of each row, descending, ties to the lower index; and their indices.
  name: 'topK',
  keepsRows: true,
  takes: ['floats'],
  infer([x], { k }) {
    if (x.shape.length !== 2 || !isFloat(x.dtype))
      throw new ShapeError(`topK: needs float rows [T, E], got ${showType(x)}`);
    const width = boundOf(x.shape[1]);
    if (!Number.isInteger(k) || k < 1 || k > width)
      throw new ShapeError(`topK: k must be from 1 to ${width}, the width of a row; got ${k}`);
    return [
      { dtype: x.dtype, shape: [x.shape[0], k] },
      { dtype: 'int32', shape: [x.shape[0], k] },
    ];
  },
  grad: ({ inputs: [x], outputs: [, index], douts: [d] }) => [d && emit1('putAlong', [index, d, x])],
  lower: {
    kind: 'loops',
    build({ e, k: w, inTypes: [type], inputs: [x], outputs: [values, indices], attrs: { k } }) {
      const width = boundOf(type.shape[1]),
        { dtype } = type,
        rows = w.extent(type, 0);
      const lanes = k <= SMALL ? 16 : 1;
      const work = Math.max(1, WORK * width * k * lanes);
      return {
        grid: { extent: e.div(e.add(rows, lanes - 1), lanes), work },
        body(g) {
          const list = sortedList({ e, k: w }, dtype, k, lanes);
          // [columns][lanes]
          const columns = Math.min(TILE, width),
            tile = w.array(dtype, lanes === 1 ? 1 : columns * lanes);
          const first = e.scale(g, lanes),
            live = e.min(e.index(lanes), e.add(rows, [-1, first])),
            place = (j: Expr, lane: Expr): Expr => e.add([lanes, j], lane);
          /** The columns of tile t. */
          const sideBySide = (t: Expr): Stmt[] => {
            const from = e.scale(t, columns),
              count = e.min(e.index(columns), e.add([-1, from], width));
            return [
              w.loop(count, (c) => [
                w.loop(lanes, (lane) => {
                  // Lanes beyond the last row repeat the last row.
                  const row = e.min(e.add(first, lane), e.add(rows, -1));
                  return [tile.set(place(c, lane), w.load(x, e.add([width, row], from, c)))];
                }),
              ]),
              w.loop(count, (c) => [
                w.vector(lanes, (lane) => [
                  ...list.take(tile.at(place(c, lane)), e.add(from, c)),
                  ...Array.from({ length: k }, (_, j) => list.insert(e.index(j), lane)).flat(),
                ]),
              ]),
            ];
          };
          return [
            list.clear,
            lanes === 1
              ? w.loop(width, (c) => list.consider(w.load(x, e.add([width, g], c)), c))
              : w.loop(Math.ceil(width / columns), sideBySide),
            w.loop(live, (lane) => [
              w.loop(k, (j) => {
                const to = e.add([k, first], [k, lane], j),
                  chosen = list.at(j, lane);
                const from = e.add([width, first], [width, lane], e.cast(chosen, 'index'));
                return [w.store(indices, to, chosen), w.store(values, to, w.load(x, from))];
              }),
            ]),
          ];
        },
      };
    },
  },
};

/**
 * x [..., n] -> values [..., k], indices int32 [..., k], both in descending order of value; NaN counts as -Infinity.
 */
export function topK(x: Tensor, k: number): { values: Tensor; indices: Tensor } {
  const lead = x.shape.slice(0, -1).map(boundOf),
    n = boundOf(x.shape[x.shape.length - 1] ?? 0);
  const rows = x.shape.length === 2 ? x : reshape(x, [lead.reduce((a, b) => a * b, 1), n]);
  const [values, indices] = emit('topK', [rows], { k }).map((t) =>
    x.shape.length === 2 ? t : reshape(t, [...lead, k]),
  );
  return { values, indices };
}
