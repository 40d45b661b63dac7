// Sums rows into the rows of a table: the gradient of gather. Each row of the table is the sum of its rows in their
// order, for any number of threads: a task has some rows and some columns of the table, and goes through all indices.
import { ShapeError } from '../../../base/errors.ts';
import { boundOf, elements, sameShape, showShape } from '../../../base/shape.ts';
import type { Op } from '../../op.ts';
import { emit1, type Tensor } from '../../tensor.ts';

declare module '../../op-attrs.ts' {
  interface OpAttrs {
    scatterAdd: NoAttrs;
  }
}

// Columns of a task. A table of several times ROWS rows is cut into up to PARTS parts.
const COLUMNS = 128,
  ROWS = 64,
  PARTS = 4;

export const scatterAddOp: Op = {
  // Row r is the sum of the rows whose index is r, in their order; other indices are left out.
  name: 'scatterAdd',
  takes: ['any', 'numbers', 'stored'],
  unread: [2],
  infer([index, rows, like]) {
    if (index.dtype !== 'int32' || !sameShape(rows.shape, [...index.shape, ...like.shape.slice(1)])) {
      throw new ShapeError(
        `scatterAdd: rows ${showShape(rows.shape)} do not fit indices ${showShape(index.shape)} ` +
          `and a table ${showShape(like.shape)}`,
      );
    }
    return [{ dtype: rows.dtype, shape: like.shape }];
  },
  grad: ({ inputs: [index], douts: [dout] }) => [null, dout && emit1('gather', [dout, index], { zeros: true }), null],
  lower: {
    kind: 'loops',
    update: true,
    build({ e, k, inputs: [index, rows], outputs: [out], inTypes: [ix], outTypes: [type] }) {
      const width = elements(type.shape.slice(1)),
        bound = boundOf(type.shape[0]);
      const blocks = Math.ceil(width / COLUMNS),
        parts = Math.max(1, Math.min(PARTS, Math.ceil(bound / ROWS)));
      const share = Math.ceil(bound / parts),
        per = elements(ix.shape.slice(1));
      return {
        grid: { extent: blocks * parts, work: null },
        body(g) {
          const first = e.scale(e.div(g, blocks), share),
            column = e.scale(e.mod(g, blocks), COLUMNS);
          const left = (n: typeof g, from: typeof g) => e.add(n, [-1, from]);
          const height = e.min(e.index(share), left(k.extent(type, 0), first));
          const columns =
            width % COLUMNS === 0 ? e.index(COLUMNS) : e.min(e.index(COLUMNS), left(e.index(width), column));
          const at = (row: typeof g, c: typeof g) => e.add([width, row], column, c);
          const count = ix.shape.length === 0 ? e.index(1) : e.scale(k.extent(ix, 0), per);
          return [
            k.loop(height, (r) => [
              k.vector(columns, (c) => [k.store(out, at(e.add(first, r), c), e.const(0, type.dtype))]),
            ]),
            k.loop(count, (t) => {
              const row = k.loadIndex(index, t),
                inside = [e.le(first, row), e.lt(row, e.add(first, height))];
              return [
                k.when(e.op('and', inside), [
                  k.vector(columns, (c) => {
                    const to = at(row, c);
                    return [k.store(out, to, e.op('add', [k.load(out, to), k.load(rows, at(t, c))]))];
                  }),
                ]),
              ];
            }),
          ];
        },
      };
    },
  },
};

/** index int32 [...], rows [..., ...rest], like [V, ...rest] (its values are not read) -> [V, ...rest]. */
export const scatterAdd = (index: Tensor, rows: Tensor, like: Tensor): Tensor =>
  emit1('scatterAdd', [index, rows, like]);
