// What the attention kernels share: tiles of 16 rows, one row per lane, and sums of products for them. Everything is
// kept transposed, [..][16], so that one value (an element of a key, for example) is multiplied with 16 rows at once.
import type { Expr, Exprs, Scalar } from '../../../kernel/expr.ts';
import type { Matrix, Stmt } from '../../../kernel/kernel.ts';
import type { LoopCall, LoopWriter, Place } from '../../op.ts';

/** masked, lengths: whether these inputs follow the others (attentionMask.ts). */
export type AttentionAttrs = {
  readonly causal: boolean;
  readonly scale: number;
  readonly masked?: boolean;
  readonly lengths?: boolean;
};

/** Why the gradients of attention have no gradients themselves. */
export const ATTENTION_ONCE = 'attention can be differentiated once; for more, write it as matmul, softmax, matmul';

/** Keys (or queries) of a block. The number is part of the definition of attention. */
export const BLOCK = 64;

/** A matrix in local memory: rows of lanes. */
export interface Rows {
  at(row: Expr | number, lane: Expr): Expr;
  set(row: Expr | number, lane: Expr, value: Expr): Stmt;
  fill(value: number): Stmt;
  /** The matrix as an operand of a product; `turned`: transposed. */
  matrix(turned?: boolean): Matrix;
}

export interface ProductSizes {
  readonly rows: Expr | number;
  readonly depth: Expr | number;
  readonly lanes: number;
}

interface RowSizes extends ProductSizes {
  readonly rows: Expr;
  readonly depth: number;
}

/** Floats of a row in local memory: a multiple of 16, as matrix cores need. */
const roomFor = (lanes: number): number => Math.ceil(lanes / 16) * 16;

const placeIn = (e: Exprs, m: Matrix, row: Expr, column: Expr): Expr => e.add(m.at, [m.rows, row], [m.columns, column]);

/** An operand of a product, and what must run before it is read. */
export interface Operand {
  readonly setup: readonly Stmt[];
  readonly matrix: Matrix;
}

/** Arithmetic in one dtype, and sums of products over [..][lanes] arrays. */
export class TileWriter {
  readonly e: Exprs;
  readonly w: LoopWriter;
  readonly dtype: Scalar;
  readonly lanes: number;

  constructor({ e, k }: LoopCall<AttentionAttrs>, dtype: Scalar, lanes: number) {
    this.e = e;
    this.w = k;
    this.dtype = dtype;
    this.lanes = lanes;
  }

  add(a: Expr, b: Expr): Expr {
    return this.e.op('add', [a, b]);
  }
  sub(a: Expr, b: Expr): Expr {
    return this.e.op('sub', [a, b]);
  }
  mul(a: Expr, b: Expr): Expr {
    return this.e.op('mul', [a, b]);
  }
  div(a: Expr, b: Expr): Expr {
    return this.e.op('div', [a, b]);
  }
  fma(a: Expr, b: Expr, c: Expr): Expr {
    return this.e.op('fma', [a, b, c]);
  }
  exp(a: Expr): Expr {
    return this.e.op('exp', [a]);
  }
  log(a: Expr): Expr {
    return this.e.op('log', [a]);
  }
  value(x: number): Expr {
    return this.e.const(x, this.dtype);
  }
  /** e^a where `live`, else exactly 0, without computing e^a for numbers that are too small. */
  expWhere(live: Expr, a: Expr): Expr {
    return this.e.select(live, this.exp(this.e.select(live, a, this.value(0))), this.value(0));
  }
  int(a: Expr): Expr {
    return this.e.cast(a, 'int32');
  }

  array(rows: number, dtype = this.dtype, width = this.lanes): Rows {
    const all = this.w.array(dtype, rows * width);
    const place = (row: Expr | number, lane: Expr): Expr =>
      typeof row === 'number' ? this.e.add(lane, width * row) : this.e.add(lane, [width, row]);
    return {
      at: (row, lane) => all.at(place(row, lane)),
      set: (row, lane, value) => all.set(place(row, lane), value),
      fill: all.fill,
      matrix: (turned = false) => ({
        in: 'local',
        of: all.id,
        at: this.e.index(0),
        rows: turned ? 1 : width,
        columns: turned ? width : 1,
      }),
    };
  }

  /** Rows of a head with `columns` elements, with room for a product. */
  wide(rows: number, columns: number): Rows {
    return this.array(rows, this.dtype, roomFor(columns));
  }

  /** One row of lanes. */
  row(dtype = this.dtype): ReturnType<LoopWriter['array']> {
    return this.w.array(dtype, this.lanes);
  }

  each(body: (lane: Expr) => Stmt[]): Stmt {
    return this.w.vector(this.lanes, body);
  }

  /** The rows of one head from `index` [..., row, head, 0] on, as they lie in memory. */
  rows({ buffer, strides, at }: Place, index: readonly Expr[]): Matrix {
    const [rows, , columns] = strides.slice(-3);
    return { in: 'buffer', of: buffer, at: at(index), rows, columns };
  }

  /** Names `count` rows of a head, from `index` on, that will be read soon: they lie far apart in memory. */
  prefetch(place: Place, index: readonly Expr[], count: Expr | number, columns: number): Stmt {
    const rows = typeof count === 'number' ? this.e.index(count) : count;
    return { s: 'prefetch', rows, columns, from: this.rows(place, index) };
  }

  read(m: Matrix, row: Expr, column: Expr): Expr {
    const at = placeIn(this.e, m, row, column);
    return m.in === 'local' ? this.e.local(m.of, this.dtype, at) : this.w.load(m.of, at);
  }

  /** Loads up to `lanes` rows from `index` on, one per lane; lanes beyond the last row hold finite numbers. */
  turn(
    place: Place,
    index: readonly Expr[],
    rows: Expr,
    columns: number,
  ): Pick<Rows, 'matrix'> & Pick<Operand, 'setup'> {
    const { e, w, lanes } = this,
      from = this.rows(place, index),
      all = w.array(this.dtype, columns * lanes),
      { id } = all,
      to: Matrix = { in: 'local', of: id, at: e.index(0), rows: lanes, columns: 1 };
    if (place.dtype === this.dtype)
      return { matrix: () => to, setup: [{ s: 'transpose', rows, lanes, columns, from, to: id }] };
    const copy = w.loop(rows, (r) => [
      w.vector(columns, (c) => [all.set(e.add(r, [lanes, c]), this.read(from, r, c))]),
    ]);
    return { matrix: () => to, setup: [all.fill(0), copy] };
  }

  /**
   * to = to + a b, where a are up to `most` rows from `index` on, read where they lie. Elements of another dtype are
   * converted to a copy before.
   */
  rowsProduct(to: Matrix, place: Place, index: readonly Expr[], most: number, b: Matrix, sizes: RowSizes): Stmt[] {
    const there = this.rows(place, index),
      same = place.dtype === this.dtype,
      a = same ? { setup: [], matrix: there } : this.#copied(there, most, sizes.depth, sizes.rows);
    return [...a.setup, this.product(to, a.matrix, b, sizes)];
  }

  #copied(from: Matrix, most: number, columns: number, count: Expr): Operand {
    const copy = this.wide(most, columns);
    return {
      matrix: copy.matrix(),
      setup: [this.w.loop(count, (j) => [this.w.vector(columns, (d) => [copy.set(j, d, this.read(from, j, d))])])],
    };
  }

  /**
   * The same rows as the right side of a product. Where they lack room for the lanes of a matrix core, or are of
   * another dtype, up to `most` rows are copied to a place that has it.
   */
  inLanes(place: Place, index: readonly Expr[], most: number, columns: number, count: Expr): Operand {
    const there = this.rows(place, index),
      fits = there.columns === 1 && roomFor(columns) === columns && place.dtype === this.dtype;
    return fits ? { setup: [], matrix: there } : this.#copied(there, most, columns, count);
  }

  /** to = to + a b. */
  product(to: Matrix, a: Matrix, b: Matrix, { rows, depth, lanes }: ProductSizes): Stmt {
    const asExpr = (x: Expr | number): Expr => (typeof x === 'number' ? this.e.index(x) : x);
    return { s: 'product', rows: asExpr(rows), depth: asExpr(depth), lanes, to, a, b };
  }
}
