// scatterAdd in parts (base/parts.ts): each row of the table is the sum of its rows in each part, joined as a tree. The
// indices are sorted by row (sortIndices), so that a task goes through those of its own rows alone.
import { ShapeError } from '../../../base/errors.ts';
import { checkParts, type KernelParts, type Parts } from '../../../base/parts.ts';
import { boundOf, elements } from '../../../base/shape.ts';
import type { Expr } from '../../../kernel/expr.ts';
import { partStart } from '../../../kernel/parts.ts';
import { checkVector } from '../moe/routing.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';
import { scatterAddOp } from './scatterAdd.ts';
import { sortIndices } from './sortIndices.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    scatterAddParts: Parts;
  }
}

const COLUMNS = 128, // of a task, at most
  WORK = 4; // of an element

export const scatterAddPartsOp: Op<Parts> = {
  // Row r is the sum of the rows whose index is r, in parts; order and offsets sort the indices by row.
  name: 'scatterAddParts',
  takes: ['any', 'numbers', 'stored', 'any', 'any'],
  unread: [2],
  infer([index, rows, like, order, offsets], attrs) {
    checkVector('scatterAddParts', 'order', order, elements(index.shape));
    checkVector('scatterAddParts', 'offsets', offsets, Math.max(1, boundOf(like.shape[0])) + 1);
    if (index.shape.length === 0) throw new ShapeError('scatterAddParts: needs a list of indices');
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
    build({ e, k, inputs: [index, rows, , order, offsets], outputs: [out], inTypes: [ix], outTypes: [type], attrs }) {
      const width = elements(type.shape.slice(1)),
        stride = Math.max(1, Math.min(COLUMNS, width)),
        blocks = Math.ceil(width / COLUMNS),
        per = elements(ix.shape.slice(1)),
        cut = k.parts(attrs, ix.shape[0], per),
        parts = cut?.parts ?? 1;
      return {
        grid: { extent: e.scale(k.extent(type, 0), blocks), work: WORK * stride },
        body(g) {
          const row = e.div(g, blocks),
            column = e.scale(e.mod(g, blocks), COLUMNS),
            columns = width % stride === 0 ? e.index(stride) : e.min(e.index(stride), e.add([-1, column], width));
          const at = (row: Expr, c: Expr): Expr => e.add([width, row], column, c);
          const [from, many, token, part, found] = Array.from({ length: 5 }, () => k.scalar('index')),
            sums = k.array(type.dtype, parts * stride);
          /** Sums of part p: those of lane c lie `stride` apart. */
          const sumAt = (p: Expr, c: Expr): Expr => e.add([stride, p], c);
          const tree = (p: number, n: number, c: Expr): Expr =>
            n === 1
              ? sums.at(sumAt(e.index(p), c))
              : e.op('add', [tree(p, n / 2, c), tree(p + n / 2, n / 2, c)], type.dtype);
          const partOfToken = (cut: KernelParts): Expr[] =>
            Array.from({ length: parts - 1 }, (_, p) =>
              e.select(
                e.le(partStart(e, e.scale(k.extent(ix, 0), per), e.index(p + 1), cut), token.get()),
                e.index(1),
                e.index(0),
              ),
            );
          const begin = [sums.fill(0), found.set(e.index(1))];
          return [
            from.set(k.loadIndex(offsets, row)),
            many.set(e.add(k.loadIndex(offsets, e.add(row, 1)), [-1, from.get()])),
            found.set(e.index(0)),
            k.loop(many.get(), (q) => [
              token.set(k.loadIndex(order, e.add(from.get(), q))),
              k.when(e.eq(k.loadIndex(index, token.get()), row), [
                k.when(e.lt(found.get(), e.index(1)), begin),
                part.set(e.add(...(cut ? partOfToken(cut) : []))),
                k.vector(columns, (c) => {
                  const to = sumAt(part.get(), c);
                  return [sums.set(to, e.op('add', [sums.at(to), k.load(rows, at(token.get(), c))], type.dtype))];
                }),
              ]),
            ]),
            k.when(e.lt(e.index(0), found.get()), [
              k.vector(columns, (c) => [k.store(out, at(row, c), tree(0, parts, c))]),
            ]),
            k.when(e.lt(found.get(), e.index(1)), [
              k.vector(columns, (c) => [k.store(out, at(row, c), e.const(0, type.dtype))]),
            ]),
          ];
        },
      };
    },
  },
};

/** As scatterAdd. `most`: rows of the largest table whose indices are sorted at once. */
export function scatterAddParts(index: Tensor, rows: Tensor, like: Tensor, parts: Parts, most?: number): Tensor {
  const { order, offsets } = sortIndices(index, boundOf(like.shape[0]), most);
  return emit1('scatterAddParts', [index, rows, like, order, offsets], { ...parts });
}
