// The k largest elements of each row, in descending order; of equal elements the one with the lower index comes first;
// NaN counts as -Infinity. Elements are inserted one by one into a sorted list of k. If k is small, 16 rows run in
// lanes, after some of their columns have been copied side by side; otherwise one row at a time, skipping elements that
// do not enter the list.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, showType } from '../../../base/shape.ts';
import { isFloat } from '../../../base/dtype.ts';
import type { Expr } from '../../../kernel/expr.ts';
import type { Stmt } from '../../../kernel/kernel.ts';
import type { Op } from '../../op.ts';
import { emit, emit1, type Tensor } from '../../tensor.ts';
import { reshape } from '../shape/reshape.ts';

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
      const lanes = k <= SMALL ? 16 : 1,
        least = e.const(-Infinity, dtype),
        none = e.const(-1, 'int32');
      const work = Math.max(1, WORK * width * k * lanes);
      return {
        grid: { extent: e.div(e.add(rows, lanes - 1), lanes), work },
        body(g) {
          const best = w.array(dtype, k * lanes),
            where = w.array('int32', k * lanes); // [k][lanes]
          // [columns][lanes]
          const columns = Math.min(TILE, width),
            tile = w.array(dtype, lanes === 1 ? 1 : columns * lanes);
          const value = w.scalar(dtype),
            index = w.scalar('int32'),
            old = w.scalar(dtype),
            oldIndex = w.scalar('int32'),
            goes = w.scalar('int32');
          const first = e.scale(g, lanes),
            live = e.min(e.index(lanes), e.add(rows, [-1, first]));
          const place = (j: Expr, lane: Expr): Expr => e.add([lanes, j], lane);
          const pick = (a: Expr, b: Expr): Expr => e.select(goes.get(), a, b);
          /** Makes element v of column c the candidate. */
          const take = (v: Expr, c: Expr): Stmt[] => {
            return [
              value.set(e.select(e.eq(v, v), v, least)),
              index.set(e.cast(c, 'int32')),
              goes.set(e.const(0, 'int32')),
            ];
          };
          /**
           * If the candidate is larger than the element in place j, or that place is empty, the two change places; the
           * rest of the list then moves on by one.
           */
          const insert = (j: Expr, lane: Expr): Stmt[] => [
            old.set(best.at(place(j, lane))),
            oldIndex.set(where.at(place(j, lane))),
            goes.set(
              e.or(
                goes.get(),
                e.cast(e.or(e.lt(old.get(), value.get()), e.lt(oldIndex.get(), e.const(0, 'int32'))), 'int32'),
              ),
            ),
            best.set(place(j, lane), pick(value.get(), old.get())),
            where.set(place(j, lane), pick(index.get(), oldIndex.get())),
            value.set(pick(old.get(), value.get())),
            index.set(pick(oldIndex.get(), index.get())),
          ];
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
                  ...take(tile.at(place(c, lane)), e.add(from, c)),
                  ...Array.from({ length: k }, (_, j) => insert(e.index(j), lane)).flat(),
                ]),
              ]),
            ];
          };
          const zero = e.index(0),
            last = e.index(k - 1);
          const enters = e.or(e.lt(best.at(last), value.get()), e.lt(where.at(last), e.const(0, 'int32')));
          return [
            w.vector(k * lanes, (i) => [best.set(i, least), where.set(i, none)]),
            lanes === 1
              ? w.loop(width, (c) => [
                  ...take(w.load(x, e.add([width, g], c)), c),
                  w.when(enters, [w.loop(k, (j) => insert(j, zero))]),
                ])
              : w.loop(Math.ceil(width / columns), sideBySide),
            w.loop(live, (lane) => [
              w.loop(k, (j) => {
                const to = e.add([k, first], [k, lane], j),
                  chosen = where.at(place(j, lane));
                const from = e.add([width, first], [width, lane], e.cast(chosen, 'index'));
                return [w.store(indices, to, chosen), w.store(values, to, w.load(x, from))];
              }),
            ]),
          ];
        },
      };
    },
  },
  reference({ inputs: [x], inTypes: [t], outTypes: [o], attrs: { k }, rows }) {
    const width = boundOf(t.shape[1]),
      values = new Float64Array(elements(o.shape)),
      indices = new Float64Array(elements(o.shape));
    for (let r = 0; r < rows(t); r++) {
      const row = Array.from(x.subarray(r * width, (r + 1) * width)),
        key = row.map((v) => (Number.isNaN(v) ? -Infinity : v));
      const order = row
        .map((_, c) => c)
        .sort((a, b) => (key[a] < key[b] ? 1 : key[a] > key[b] ? -1 : a - b))
        .slice(0, k);
      order.forEach((c, j) => {
        values[r * k + j] = row[c];
        indices[r * k + j] = c;
      });
    }
    return [values, indices];
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
