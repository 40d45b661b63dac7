// Kernels of which a block of threads runs an iteration. Scalars have the same value in all threads; arrays lie in
// shared memory. Parallel loops are divided over the threads; reductions, products and copies are too. What remains is
// run by one thread.
import { leastOf } from '../base/dtype.ts';
import { VerifyError } from '../base/errors.ts';
import { maxOf, type Expr, type Exprs, type Scalar, type Var } from '../kernel/expr.ts';
import type {
  HistogramStmt,
  LoopKernel,
  Matrix,
  ProductStmt,
  RankStmt,
  ReduceStmt,
  Stmt,
  TransposeStmt,
} from '../kernel/kernel.ts';
import { substitute } from '../kernel/rewrite.ts';
import type { GpuFor, GpuLocal, GpuStmt } from './gpu-kernel.ts';
import { singleThread, type Single } from './gpu-single.ts';
import { ceilDiv, eachStmt, inThread, serial } from './gpu-statements.ts';
import { histogramStep, rankKey, rankStep } from './order.ts';

/** Partial results of a reduction, and elements of a chunk (docs/architecture/lowering.md). */
const LANES = 16,
  CHUNK = 4096;

export class BlockStatements {
  readonly locals: GpuLocal[];
  readonly #e: Exprs;
  readonly #k: LoopKernel;
  readonly #thread: Var;
  readonly #threads: number;
  readonly #single: Single;
  /** Shared scalars are arrays of one element. */
  readonly #shared = new Map<Expr, Expr>();
  readonly #memo = new Map<Expr, Expr>();

  constructor(e: Exprs, k: LoopKernel, thread: Var, threads: number) {
    this.#e = e;
    this.#k = k;
    this.#thread = thread;
    this.#threads = threads;
    this.#single = singleThread(k.body, k.locals);
    this.locals = k.locals.map((l, n) =>
      l.length > 0 || !this.#single.scalars.has(n) ? { ...l, shared: l.length > 0 } : { ...l, length: 1, shared: true },
    );
    for (const n of this.#single.scalars) {
      const { dtype } = k.locals[n];
      this.#shared.set(e.local(n, dtype), e.local(n, dtype, e.index(0)));
    }
  }

  /** Consecutive statements of one thread are one. */
  all(body = this.#k.body): GpuStmt[] {
    const out: GpuStmt[] = [];
    for (let i = 0; i < body.length;) {
      const run: Stmt[] = [];
      while (i < body.length && this.#single.has(body[i])) run.push(body[i++]);
      if (run.length > 0)
        out.push(
          this.#one(
            1,
            inThread(this.#e, run).map((s) => this.#own(s)),
          ),
        );
      else out.push(...this.#together(body[i++]));
    }
    return out;
  }

  #together(s: Stmt): GpuStmt[] {
    const e = this.#e;
    switch (s.s) {
      case 'for':
        if (s.parallel) return [this.#divided(s.index, this.#x(s.extent), this.#parallel(s.body))];
        return [serial(e, s.index, this.#x(s.extent), this.all(s.body))];
      case 'if':
        return [{ s: 'if', condition: this.#x(s.condition), body: this.all(s.body) }];
      case 'set':
        return [this.#own(s)];
      case 'fill': {
        const { dtype, length } = this.locals[s.local],
          index = e.loop(length);
        const body: GpuStmt[] = [{ s: 'set', local: s.local, index, value: e.const(s.value, dtype) }];
        return [this.#divided(index, e.index(length), body)];
      }
      case 'reduce':
        return this.#reduce(s);
      case 'product':
        return this.#product(s);
      case 'transpose':
        return this.#transpose(s);
      case 'prefetch':
        return [];
      case 'histogram':
        return [this.#byKey(s.to, s, s.key, [], histogramStep(e, s))];
      case 'rank':
        return [this.#byKey(s.next, s, e.local(s.key, 'int32'), [rankKey(s)], rankStep(e, s))];
      case 'scan':
      case 'store':
        throw new VerifyError('schedule', `a ${s.s} outside parallel loops is run by one thread`);
    }
  }

  // ---- threads ----

  /** The first `count` threads run `body`. */
  #one(count: number, body: readonly GpuStmt[]): GpuStmt {
    return { s: 'if', condition: this.#e.op('lt', [this.#thread, this.#e.index(count)], 'bool'), body };
  }

  #divided(index: Var, extent: Expr, body: readonly GpuStmt[]): GpuFor {
    return { s: 'for', index, from: this.#thread, below: extent, step: this.#threads, body };
  }

  #parallel(body: readonly Stmt[]): GpuStmt[] {
    for (const s of body)
      eachStmt(s, (b) => {
        if (b.s === 'set' && this.#single.scalars.has(b.local))
          throw new VerifyError('schedule', `a parallel loop sets t${b.local}, which other code reads`);
      });
    return inThread(this.#e, body).map((s) => this.#own(s));
  }

  // ---- shared scalars ----

  #x(value: Expr): Expr {
    return this.#shared.size === 0 ? value : substitute(this.#e, value, this.#shared, this.#memo);
  }

  #own(s: GpuStmt): GpuStmt {
    switch (s.s) {
      case 'for':
        return { ...s, from: this.#x(s.from), below: this.#x(s.below), body: s.body.map((b) => this.#own(b)) };
      case 'if':
        return { ...s, condition: this.#x(s.condition), body: s.body.map((b) => this.#own(b)) };
      case 'set':
        return { ...s, ...this.#target(s.local, s.index), value: this.#x(s.value) };
      case 'store':
        return { ...s, index: this.#x(s.index), value: this.#x(s.value) };
      case 'barrier':
        return s;
    }
  }

  #target(local: number, index: Expr | null): { readonly local: number; readonly index: Expr | null } {
    if (this.#single.scalars.has(local)) return { local, index: this.#e.index(0) };
    return { local, index: index && this.#x(index) };
  }

  #new(dtype: Scalar, length: number, shared: boolean): number {
    return this.locals.push({ dtype, length, shared }) - 1;
  }

  // ---- reductions ----

  /**
   * A thread computes a partial result of a chunk, 16 threads those of one chunk, and all threads several chunks at
   * once. Then each thread joins them by itself: 8, 4, 2, 1, the chunks in order.
   */
  #reduce(s: ReduceStmt): GpuStmt[] {
    const e = this.#e,
      extent = this.#x(s.extent),
      count = ceilDiv(e, extent, CHUNK),
      few = maxOf(extent) <= CHUNK,
      atOnce = few ? 1 : Math.min(this.#threads / LANES, maxOf(count)),
      turn = e.loop(few ? 1 : ceilDiv(e, count, atOnce), 'c'),
      own = few ? this.#thread : e.mod(this.#thread, LANES),
      chunk = few ? e.index(0) : e.add([atOnce, turn], e.div(this.#thread, LANES)),
      from = e.scale(chunk, CHUNK);
    const targets = s.targets.map((t) => {
      const { dtype } = t.value,
        lanes = this.#new(dtype, LANES * atOnce, true),
        sum = this.#new(dtype, 0, false),
        start = e.const(t.op === 'sum' ? 0 : leastOf(dtype), dtype);
      const join = (into: Expr, x: Expr): Expr =>
        t.op === 'sum' ? e.op('add', [into, x], dtype) : this.#larger(x, into);
      if (this.#single.scalars.has(t.local))
        throw new VerifyError('schedule', `one thread sets t${t.local}, the result of a reduction`);
      /** The partial results of a chunk, joined. */
      const joined = (first: Expr): Expr => {
        let values = Array.from({ length: LANES }, (_, l) => e.local(lanes, dtype, e.add(first, l)));
        for (let width = LANES / 2; width >= 1; width /= 2)
          values = values.slice(0, width).map((v, l) => join(v, values[l + width]));
        return values[0];
      };
      return {
        value: this.#x(t.value),
        set: (value: Expr): GpuStmt => ({ s: 'set', local: sum, index: null, value }),
        setLane: (): GpuStmt => ({ s: 'set', local: lanes, index: this.#thread, value: e.local(sum, dtype) }),
        setResult: (value: Expr): GpuStmt => ({ s: 'set', local: t.local, index: null, value }),
        sum: e.local(sum, dtype),
        result: e.local(t.local, dtype),
        start,
        join,
        joined,
      };
    });
    const end = few ? extent : e.op('min', [extent, e.linear(CHUNK, [[1, from]])], 'index'),
      body = targets.map((t) => t.set(t.join(t.sum, t.value)));
    const partial = this.#one(LANES * atOnce, [
      ...targets.map((t) => t.set(t.start)),
      { s: 'for', index: s.index, from: e.add(from, own), below: end, step: LANES, body },
      ...targets.map((t) => t.setLane()),
    ]);
    const joinChunk = (first: Expr): GpuStmt[] => targets.map((t) => t.setResult(t.join(t.result, t.joined(first))));
    const reset = targets.map((t) => t.setResult(t.start));
    if (few) return [...reset, partial, ...joinChunk(e.index(0))];
    const place = e.loop(atOnce),
      rest = e.op('min', [e.index(atOnce), e.add(count, [-atOnce, turn])], 'index');
    return [
      ...reset,
      serial(e, turn, ceilDiv(e, count, atOnce), [partial, serial(e, place, rest, joinChunk(e.scale(place, LANES)))]),
    ];
  }

  /** NaN if either is NaN. */
  #larger(x: Expr, y: Expr): Expr {
    const e = this.#e,
      or = e.op('or', [e.op('lt', [y, x], 'bool'), e.op('ne', [x, x], 'bool')], 'bool');
    return e.op('select', [or, x, y], x.dtype);
  }

  // ---- histograms and ranks ----

  /** The keys are divided over the threads: each goes through all iterations, and does those with a key of its own. */
  #byKey(
    counters: number,
    { index, extent }: HistogramStmt | RankStmt,
    key: Expr,
    before: readonly Stmt[],
    step: readonly Stmt[],
  ): GpuStmt {
    const e = this.#e,
      { length } = this.locals[counters],
      mine = e.loop(length),
      isMine = e.op('eq', [key, e.cast(mine, 'int32')]);
    const body: Stmt[] = [...before, { s: 'if', condition: isMine, body: step }];
    return this.#divided(mine, e.index(length), [
      serial(
        e,
        index,
        this.#x(extent),
        inThread(e, body).map((s) => this.#own(s)),
      ),
    ]);
  }

  // ---- products and copies ----

  /** Each thread computes elements of its own, k ascending. */
  #product(s: ProductStmt): GpuStmt[] {
    const e = this.#e,
      extent = e.scale(this.#x(s.rows), s.lanes),
      index = e.loop(extent),
      row = e.div(index, s.lanes),
      lane = e.mod(index, s.lanes),
      depth = this.#x(s.depth),
      k = e.loop(depth, 'k');
    const dtype = this.#dtypeOf(s.to),
      sum = this.#new(dtype, 0, false),
      total = e.local(sum, dtype);
    const set = (value: Expr): GpuStmt => ({ s: 'set', local: sum, index: null, value });
    const next = e.op('fma', [this.#read(s.a, row, k), this.#read(s.b, k, lane), total], dtype);
    const body = [
      set(this.#read(s.to, row, lane)),
      serial(e, k, depth, [set(next)]),
      this.#write(s.to, row, lane, total),
    ];
    return [this.#divided(index, extent, body)];
  }

  /** Lanes without a row of their own copy the last row. */
  #transpose({ rows, lanes, columns, from, to }: TransposeStmt): GpuStmt[] {
    const e = this.#e,
      index = e.loop(lanes * columns),
      lane = e.mod(index, lanes),
      column = e.div(index, lanes),
      row = e.op('min', [lane, e.linear(-1, [[1, this.#x(rows)]])], 'index');
    const value = this.#read(from, row, column);
    return [this.#divided(index, e.index(lanes * columns), [{ s: 'set', local: to, index, value }])];
  }

  #at(m: Matrix, row: Expr, column: Expr): Expr {
    return this.#e.linear(0, [
      [1, this.#x(m.at)],
      [m.rows, row],
      [m.columns, column],
    ]);
  }

  #dtypeOf(m: Matrix): Scalar {
    return (m.in === 'local' ? this.#k.locals : this.#k.buffers)[m.of].dtype;
  }

  #read(m: Matrix, row: Expr, column: Expr): Expr {
    const at = this.#at(m, row, column),
      dtype = this.#dtypeOf(m);
    return m.in === 'local' ? this.#e.local(m.of, dtype, at) : this.#e.load(m.of, at, dtype);
  }

  #write(m: Matrix, row: Expr, column: Expr, value: Expr): GpuStmt {
    const index = this.#at(m, row, column);
    return m.in === 'local' ? { s: 'set', local: m.of, index, value } : { s: 'store', buffer: m.of, index, value };
  }
}
