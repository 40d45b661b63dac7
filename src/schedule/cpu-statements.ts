// Statements of a kernel as statements for a CPU. Products and transposes become code of the device where its matrix
// core can run them; otherwise they become loops.
import type { Exprs, Expr, Scalar } from '../kernel/expr.ts';
import type { Kernel, Local, Matrix, PrefetchStmt, ProductStmt, Stmt, TransposeStmt } from '../kernel/kernel.ts';
import { substitute } from '../kernel/rewrite.ts';
import { blocksOf } from './blocks.ts';
import type { CpuStmt } from './cpu-kernel.ts';
import { orderLoop } from './order.ts';
import type { CpuTarget } from './target.ts';

const LINE = 16; // elements of a cache line
const LANES = 16; // the matrix core's lanes come in multiples of this number
// Rows and depth of a product that is unrolled where there is no matrix core: as many as the registers allow.
const ROWS = 2,
  STEPS = 8;

type Owner = Pick<Kernel, 'buffers' | 'locals'>;

export class CpuStatements {
  readonly #e: Exprs;
  readonly #owner: Owner;
  readonly #target: CpuTarget;
  /** A bool that is kept in a local is kept as 0 or 1 in float32: gcc 12 does not vectorise loops that read a bool. */
  readonly #bools = new Map<Expr, Expr>();
  readonly #memo = new Map<Expr, Expr>();

  constructor(e: Exprs, owner: Owner, target: CpuTarget) {
    this.#e = e;
    this.#owner = owner;
    this.#target = target;
    const zero = e.const(0, 'float32');
    owner.locals.forEach((l, i) => {
      if (isKeptBool(l)) this.#bools.set(e.local(i, 'bool'), e.op('lt', [zero, e.local(i, 'float32')], 'bool'));
    });
  }

  /** The locals of the kernel, as its statements now use them. */
  get locals(): readonly Local[] {
    return this.#owner.locals.map((l) => (isKeptBool(l) ? { ...l, dtype: 'float32' } : l));
  }

  all(body: readonly Stmt[]): CpuStmt[] {
    return body.flatMap((s) => this.#one(s));
  }

  #x(value: Expr): Expr {
    return this.#bools.size === 0 ? value : substitute(this.#e, value, this.#bools, this.#memo);
  }

  #one(s: Stmt): readonly CpuStmt[] {
    switch (s.s) {
      case 'for':
        return nonEmpty(this.all(s.body), (body) => ({
          s: 'for',
          index: s.index,
          extent: this.#x(s.extent),
          vector: s.parallel,
          body,
        }));
      case 'if':
        return nonEmpty(this.all(s.body), (body) => ({ s: 'if', condition: this.#x(s.condition), body }));
      case 'set':
        return [{ ...s, index: s.index && this.#x(s.index), value: this.#kept(s.local, this.#x(s.value)) }];
      case 'fill':
        return [s];
      case 'store':
        return [{ ...s, index: this.#x(s.index), value: this.#x(s.value) }];
      case 'reduce': {
        const targets = s.targets.map((t) => ({ ...t, value: this.#x(t.value) })),
          values = targets.map((t) => t.value);
        return [{ ...s, extent: this.#x(s.extent), targets, blocks: blocksOf(this.#e, values, s.index) }];
      }
      case 'product':
        return this.#product(s);
      case 'transpose':
        return this.#transpose(s);
      case 'prefetch':
        return this.#target.prefetch ? [this.#prefetch(s)] : [];
      case 'histogram':
      case 'scan':
      case 'rank':
        return this.all(orderLoop(this.#e, s, this.#owner.locals));
    }
  }

  #kept(local: number, value: Expr): Expr {
    const [one, zero] = [1, 0].map((n) => this.#e.const(n, 'float32'));
    return isKeptBool(this.#owner.locals[local]) ? this.#e.op('select', [value, one, zero], 'float32') : value;
  }

  // ---- products ----

  #product(s: ProductStmt): readonly CpuStmt[] {
    const width = Math.ceil(s.lanes / LANES) * LANES;
    const fits = (m: Matrix): boolean =>
      m.columns === 1 && (width === s.lanes || (m.in === 'local' && m.rows === width));
    const { rows, depth, to, a, b } = s;
    if (this.#target.core && this.#dtypeOf(to) === 'float32' && fits(to) && fits(b))
      return [{ s: 'product', rows, depth, width, to, a, b }];
    return this.#units(depth, STEPS, (k, steps) =>
      this.#units(rows, ROWS, (row, height) => [
        this.#vector(s.lanes, (lane) =>
          Array.from({ length: height }, (_, r) => {
            const own = this.#e.linear(r, [[1, row]]);
            let sum = this.#read(to, own, lane);
            for (let i = 0; i < steps; i++) {
              const step = this.#e.linear(i, [[1, k]]);
              sum = this.#e.op('fma', [this.#read(a, own, step), this.#read(b, step, lane), sum], sum.dtype);
            }
            return this.#write(to, own, lane, sum);
          }),
        ),
      ]),
    );
  }

  /**
   * Runs `body` for each whole `unit` of a range, then for the rest: at once if the rest is known when compiling, else
   * one by one.
   */
  #units(range: Expr, unit: number, body: (from: Expr, size: number) => CpuStmt[]): CpuStmt[] {
    const e = this.#e;
    if (range.k !== 'const') {
      const whole = e.div(range, unit);
      const rest = e.linear(0, [
        [1, range],
        [-unit, whole],
      ]);
      const from = (i: Expr): Expr =>
        e.linear(0, [
          [unit, whole],
          [1, i],
        ]);
      return [this.#loop(whole, (i) => body(e.scale(i, unit), unit)), this.#loop(rest, (i) => body(from(i), 1))];
    }
    const whole = Math.floor(range.value / unit),
      rest = range.value % unit;
    return [
      ...(whole > 0 ? [this.#loop(e.index(whole), (i) => body(e.scale(i, unit), unit))] : []),
      ...(rest > 0 ? body(e.index(whole * unit), rest) : []),
    ];
  }

  // ---- transposes and prefetches ----

  #transpose({ rows, lanes, columns, from, to }: TransposeStmt): readonly CpuStmt[] {
    const e = this.#e;
    if (this.#target.core && lanes === LANES && this.#dtypeOf(from) === 'float32' && from.columns === 1)
      return [{ s: 'transpose', rows, columns, from, to }];
    const target: Matrix = { in: 'local', of: to, at: e.index(0), rows: lanes, columns: 1 },
      last = e.linear(-1, [[1, rows]]);
    return [
      this.#loop(e.index(lanes), (i) => [
        this.#loop(e.index(columns), (d) => [
          this.#write(target, d, i, this.#read(from, e.op('min', [i, last], 'index'), d)),
        ]),
      ]),
    ];
  }

  /** One prefetch for each cache line of each row. */
  #prefetch({ rows, columns, from }: PrefetchStmt): CpuStmt {
    const lines = Array.from({ length: Math.ceil(columns / LINE) }, (_, c) => this.#e.index(LINE * c));
    return this.#loop(rows, (row) =>
      lines.map((line): CpuStmt => ({
        s: 'prefetch',
        buffer: from.of,
        index: this.#at({ ...from, columns: 1 }, row, line),
      })),
    );
  }

  // ---- writing loops over matrices ----

  #loop(extent: Expr, body: (index: Expr) => CpuStmt[]): CpuStmt {
    const index = this.#e.loop(extent);
    return { s: 'for', index, extent, vector: false, body: body(index) };
  }

  #vector(extent: number, body: (lane: Expr) => CpuStmt[]): CpuStmt {
    const index = this.#e.loop(extent);
    return { s: 'for', index, extent: this.#e.index(extent), vector: true, body: body(index) };
  }

  #at(m: Matrix, row: Expr, column: Expr): Expr {
    return this.#e.linear(0, [
      [1, m.at],
      [m.rows, row],
      [m.columns, column],
    ]);
  }

  #dtypeOf(m: Matrix): Scalar {
    return (m.in === 'local' ? this.#owner.locals : this.#owner.buffers)[m.of].dtype;
  }

  #read(m: Matrix, row: Expr, column: Expr): Expr {
    const at = this.#at(m, row, column),
      dtype = this.#dtypeOf(m);
    return m.in === 'local' ? this.#e.local(m.of, dtype, at) : this.#e.load(m.of, at, dtype);
  }

  #write(m: Matrix, row: Expr, column: Expr, value: Expr): CpuStmt {
    const index = this.#at(m, row, column);
    return m.in === 'local' ? { s: 'set', local: m.of, index, value } : { s: 'store', buffer: m.of, index, value };
  }
}

const isKeptBool = (l: Local): boolean => l.dtype === 'bool' && l.length === 0;

const nonEmpty = (body: readonly CpuStmt[], make: (body: readonly CpuStmt[]) => CpuStmt): CpuStmt[] =>
  body.length === 0 ? [] : [make(body)];
