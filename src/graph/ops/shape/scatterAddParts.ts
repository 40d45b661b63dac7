// scatterAdd in parts (base/parts.ts): each row of the table is the sum of its rows in each part, joined as a tree. A
// task has the rows of one group of the table and some of its columns. Only the indices that fall into the group are
// gone through; `permute` sorts them, and keeps their order.
import { wrapped } from '../elementwise/elementwise.ts';
import { ShapeError } from '../../../base/errors.ts';
import { checkParts, partsOver, partStarts, type Parts } from '../../../base/parts.ts';
import { boundOf, elements } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import { partStart } from '../../../kernel/parts.ts';
import { checkVector } from '../moe/routing.ts';
import type { Op } from '../../op.ts';
import { emit1 } from '../../tensor.ts';
import { scatterAddOp } from './scatterAdd.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    scatterAddParts: ScatterPartsAttrs;
  }
}

/** Parts of the first dimension of the indices. height: rows of a group of the table. */
export type ScatterPartsAttrs = Parts & { readonly height: number };

const COLUMNS = 128, // of a task
  HEIGHT = 8,
  MOST_GROUPS = 1024;

/** How many rows a group of a table has, and how many groups there are. */
export function tableGroups(rows: number): { readonly height: number; readonly groups: number } {
  const height = Math.max(HEIGHT, Math.ceil(rows / MOST_GROUPS));
  return { height, groups: Math.max(1, Math.ceil(rows / height)) };
}

export const scatterAddPartsOp: Op<ScatterPartsAttrs> = {
  // Row r is the sum of the rows whose index is r, in parts; order and offsets sort the indices by groups of the table.
  name: 'scatterAddParts',
  takes: ['any', 'numbers', 'stored', 'any', 'any'],
  unread: [2],
  infer([index, rows, like, order, offsets], attrs) {
    const { height } = attrs,
      groups = Math.max(1, Math.ceil(boundOf(like.shape[0]) / height));
    checkVector('scatterAddParts', 'order', order, elements(index.shape));
    checkVector('scatterAddParts', 'offsets', offsets);
    if (index.shape.length === 0) throw new ShapeError('scatterAddParts: needs a list of indices');
    if (!Number.isInteger(height) || height < 1 || boundOf(offsets.shape[0]) !== groups + 1)
      throw new ShapeError(
        `scatterAddParts: ${boundOf(like.shape[0])} rows in groups of ${height} do not have ` +
          `${boundOf(offsets.shape[0])} offsets`,
      );
    checkParts('scatterAddParts', attrs, index.shape[0]);
    return scatterAddOp.infer([index, rows, like], {}, []);
  },
  grad: ({ inputs: [index], douts: [dout] }) => [
    null,
    dout && emit1('gather', [dout, index], { zeros: true }),
    null,
    null,
    null,
  ],
  lower: {
    kind: 'loops',
    build({
      e,
      k,
      inputs: [index, rows, , order, offsets],
      outputs: [out],
      inTypes: [ix, , , , og],
      outTypes: [type],
      attrs,
    }) {
      const width = elements(type.shape.slice(1)),
        blocks = Math.ceil(width / COLUMNS),
        per = elements(ix.shape.slice(1)),
        parts = partsOver(attrs, per) ?? { parts: 1, sample: per },
        groups = boundOf(og.shape[0]) - 1;
      return {
        grid: { extent: blocks * groups, work: null },
        body(g) {
          const group = e.div(g, blocks),
            first = e.scale(group, attrs.height),
            column = e.scale(e.mod(g, blocks), COLUMNS),
            height = e.min(e.index(attrs.height), e.add(k.extent(type, 0), [-1, first]));
          const columns =
            width % COLUMNS === 0 ? e.index(COLUMNS) : e.min(e.index(COLUMNS), e.add([-1, column], width));
          const at = (row: Expr, c: Expr): Expr => e.add([width, row], column, c),
            zero = e.const(0, type.dtype),
            count = e.scale(k.extent(ix, 0), per);
          const from = k.scalar('index'),
            many = k.scalar('index'),
            token = k.scalar('index'),
            part = k.scalar('index'),
            found = k.scalar('index'),
            sums = k.array(type.dtype, parts.parts * COLUMNS);
          /** Sums of part p: those of lane c lie COLUMNS apart. */
          const sumAt = (p: Expr, c: Expr): Expr => e.add([COLUMNS, p], c);
          const tree = (p: number, n: number, c: Expr): Expr =>
            n === 1
              ? sums.at(sumAt(e.index(p), c))
              : e.op('add', [tree(p, n / 2, c), tree(p + n / 2, n / 2, c)], type.dtype);
          const partOfToken = Array.from({ length: parts.parts - 1 }, (_, p) =>
            e.select(e.le(partStart(e, count, e.index(p + 1), parts), token.get()), e.index(1), e.index(0)),
          );
          return [
            from.set(k.loadIndex(offsets, group)),
            many.set(e.add(k.loadIndex(offsets, e.add(group, 1)), [-1, from.get()])),
            k.loop(height, (r) => {
              const row = e.add(first, r);
              return [
                found.set(e.index(0)),
                k.loop(many.get(), (q) => [
                  token.set(k.loadIndex(order, e.add(from.get(), q))),
                  k.when(
                    e.and(e.le(row, k.loadIndex(index, token.get())), e.le(k.loadIndex(index, token.get()), row)),
                    [
                      k.when(e.lt(found.get(), e.index(1)), [sums.fill(0), found.set(e.index(1))]),
                      part.set(e.add(...partOfToken)),
                      k.vector(columns, (c) => {
                        const to = sumAt(part.get(), c);
                        return [sums.set(to, e.op('add', [sums.at(to), k.load(rows, at(token.get(), c))], type.dtype))];
                      }),
                    ],
                  ),
                ]),
                k.when(e.lt(e.index(0), found.get()), [
                  k.vector(columns, (c) => [k.store(out, at(row, c), tree(0, parts.parts, c))]),
                ]),
                k.when(e.lt(found.get(), e.index(1)), [k.vector(columns, (c) => [k.store(out, at(row, c), zero)])]),
              ];
            }),
          ];
        },
      };
    },
  },
  reference(call) {
    const {
      inputs: [index, rows],
      inTypes: [ix],
      outTypes: [type],
      attrs,
    } = call;
    const width = elements(type.shape.slice(1)),
      per = elements(ix.shape.slice(1)),
      count = call.rows(ix) * per,
      height = call.rows(type),
      starts = partStarts(count, { parts: attrs.parts, sample: attrs.sample * per });
    let sums = Array.from({ length: attrs.parts }, (_, p) => {
      const out = new Float64Array(elements(type.shape));
      for (let t = starts[p]; t < starts[p + 1]; t++) {
        if (!(index[t] >= 0 && index[t] < height)) continue;
        for (let c = 0; c < width; c++) out[index[t] * width + c] += rows[t * width + c];
      }
      return out;
    });
    while (sums.length > 1)
      sums = Array.from({ length: sums.length / 2 }, (_, i) => sums[2 * i].map((v, j) => v + sums[2 * i + 1][j]));
    return [sums[0].map((v) => wrapped(v, type.dtype))];
  },
};
