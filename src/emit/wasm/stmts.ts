// Statements as WebAssembly. A loop with independent iterations runs four at a time, if its body allows that, and the
// remaining ones one by one.
import { leastOf } from '../../base/dtype.ts';
import { isHalf } from '../../base/half.ts';
import { postorder, type Expr, type Scalar, type Var } from '../../kernel/expr.ts';
import { VerifyError } from '../../base/errors.ts';
import type { Local } from '../../kernel/kernel.ts';
import type { CpuStmt } from '../../schedule/cpu-kernel.ts';
import { I32, V128, type Plain, type Simd } from './binary.ts';
import type { Frame } from './frame.ts';
import { Values } from './values.ts';
import { pushConstant, sizeOf, typeOf } from './words.ts';

const LANES = 16,
  CHUNK = 4096; // docs/architecture/lowering.md

/** The places of arrays in scratch memory, and the bytes of all of them. */
export function layout(
  locals: readonly Local[],
  from = 0,
): { readonly offsets: readonly number[]; readonly end: number } {
  let end = from;
  const offsets = locals.map((l) => {
    const at = end;
    end += Math.ceil((l.length * sizeOf(l.dtype)) / 16) * 16;
    return at;
  });
  return { offsets, end };
}

export class StmtWriter {
  readonly #frame: Frame;
  /** The first byte in scratch memory of the partial results of reductions. */
  readonly #lanes: number;

  constructor(frame: Frame, lanes: number) {
    this.#frame = frame;
    this.#lanes = lanes;
  }

  /** `outer`: values that are in locals already. Successive stores are simultaneous. */
  body(stmts: readonly CpuStmt[], outer: Values): void {
    for (let i = 0; i < stmts.length; i++) {
      const s = stmts[i];
      if (s.s === 'store') {
        const run = [s];
        for (let next = stmts[i + 1]; next?.s === 'store'; next = stmts[++i + 1]) run.push(next);
        this.#stores(run, outer);
      } else this.#stmt(s, outer);
    }
  }

  #stores(run: readonly Extract<CpuStmt, { s: 'store' }>[], outer: Values): void {
    const { f, buffers } = this.#frame,
      v = new Values(this.#frame, outer.lane, outer).share(run.flatMap((s) => [s.value, s.index]));
    const wide = v.lane !== null,
      values: number[] = [];
    for (const [n, s] of run.entries()) {
      if (run.length === 1 && !wide) break; // the address comes first
      if (wide) v.vector(s.value);
      else v.scalar(s.value);
      values[n] = f.keep(wide ? V128 : typeOf(s.value.dtype));
    }
    for (const [n, s] of run.entries()) {
      if (wide) {
        this.#storeLanes(v, 'load', s.buffer, s.index, buffers[s.buffer].dtype, values[n]);
        continue;
      }
      const offset = v.addressOf('load', s.buffer, s.index);
      if (run.length === 1) v.scalar(s.value);
      else f.get(values[n]);
      v.storeAt(buffers[s.buffer].dtype, offset);
    }
  }

  #storeLanes(v: Values, kind: 'load' | 'local', which: number, index: Expr, dtype: Scalar, value: number): void {
    const { f } = this.#frame;
    if (v.stride(index) === 1 && dtype !== 'bool') {
      const offset = v.firstAddress(kind, which, index);
      f.get(value);
      if (isHalf(dtype)) f.get(value).simd('i16x8.narrow_i32x4_u').memoryLane('v128.store64_lane', 0, offset);
      else f.memory('v128.store', offset);
      return;
    }
    v.eachAddress(kind, which, index, (l, offset) => {
      f.get(value);
      if (dtype === 'bool') f.lane('i32x4.extract_lane', l).i32(1).op('i32.and').memory('i32.store8', offset);
      else if (isHalf(dtype)) f.memoryLane('v128.store16_lane', 2 * l, offset);
      else f.memoryLane('v128.store32_lane', l, offset);
    });
  }

  #stmt(s: Exclude<CpuStmt, { s: 'store' }>, outer: Values): void {
    const { f, locals, places, vars } = this.#frame,
      v = new Values(this.#frame, outer.lane, outer);
    switch (s.s) {
      case 'for': {
        const index = f.local(I32),
          end = f.local(I32);
        v.scalar(s.extent);
        f.set(end).i32(0).set(index);
        vars.set(s.index, index);
        this.loop(s.index, index, end, s.vector, s.body, outer);
        return;
      }
      case 'if':
        v.share([s.condition]).scalar(s.condition);
        f.if(() => {
          this.body(s.body, outer);
        });
        return;
      case 'set': {
        v.share(s.index ? [s.value, s.index] : [s.value]);
        if (s.index === null) {
          v.scalar(s.value);
          f.set(places[s.local]);
          return;
        }
        const dtype = locals[s.local].dtype;
        if (v.lane) {
          v.vector(s.value);
          this.#storeLanes(v, 'local', s.local, s.index, dtype, f.keep(V128));
          return;
        }
        const offset = v.addressOf('local', s.local, s.index);
        v.scalar(s.value);
        v.storeAt(dtype, offset);
        return;
      }
      case 'fill':
        this.#fill(s.local, s.value);
        return;
      case 'reduce':
        this.#reduce(s, outer);
        return;
      case 'product':
      case 'transpose':
      case 'prefetch':
        throw noCore(s.s);
    }
  }

  #fill(local: number, value: number): void {
    const { f, locals, places, scratch } = this.#frame,
      { dtype, length } = locals[local];
    const v = new Values(this.#frame),
      bytes = sizeOf(dtype),
      i = f.local(I32);
    f.get(scratch)
      .set(i)
      .get(scratch)
      .i32(length * bytes)
      .op('i32.add');
    const end = f.keep(I32);
    f.loop(i, end, bytes, () => {
      f.get(i);
      pushConstant(f, value, dtype);
      v.storeAt(dtype, places[local]);
    });
  }

  /**
   * Runs `index` up to `end` (both WebAssembly locals); `variable` is bound to `index`. `before` is written at the
   * start of each iteration.
   */
  loop(
    variable: Var,
    index: number,
    end: number,
    vector: boolean,
    body: readonly CpuStmt[],
    outer: Values,
    before: (v: Values) => void = () => undefined,
  ): void {
    const { f } = this.#frame;
    if (vector && outer.lane === null && this.#inLanes(body)) {
      f.get(index)
        .i32(4)
        .op('i32.add')
        .get(end)
        .op('i32.le_s')
        .if(() => {
          const wide = new Values(this.#frame, variable, outer);
          this.#hoist(wide, body);
          f.loop(index, end, 4, () => {
            before(wide);
            this.body(body, wide);
          });
        });
    }
    const single = new Values(this.#frame, null, outer);
    f.loop(index, end, 1, () => {
      before(single);
      this.body(body, single);
    });
  }

  /** Whether four iterations can run at the same time: the body has only stores, and no values of 8 or 2 bytes. */
  #inLanes(body: readonly CpuStmt[]): boolean {
    return body.every(
      (s) =>
        (s.s === 'store' || (s.s === 'set' && s.index !== null)) && narrow([s.value, ...(s.index ? [s.index] : [])]),
    );
  }

  #hoist(v: Values, body: readonly CpuStmt[]): void {
    const roots: Expr[] = [],
      places: { kind: 'load' | 'local'; which: number; index: Expr }[] = [];
    const stored = new Set<string>();
    for (const s of body) {
      if (s.s === 'store') {
        roots.push(s.value);
        places.push({ kind: 'load', which: s.buffer, index: s.index });
        stored.add(`load${s.buffer}`);
      }
      if (s.s === 'set' && s.index) {
        roots.push(s.value);
        places.push({ kind: 'local', which: s.local, index: s.index });
        stored.add(`local${s.local}`);
      }
    }
    v.hoist(roots, places, (kind, which) => stored.has(`${kind}${which}`));
  }

  /**
   * 16 partial results: element j of a chunk goes to partial result j mod 16. Chunks of 4096. Partial results are
   * joined 8, 4, 2, 1; chunks in order.
   */
  #reduce(s: Extract<CpuStmt, { s: 'reduce' }>, outer: Values): void {
    const { f, places, vars, scratch } = this.#frame,
      head = new Values(this.#frame, null, outer);
    const [end, from, size, at, index] = [I32, I32, I32, I32, I32].map(() => f.local(I32));
    head.scalar(s.extent);
    f.set(end).i32(0).set(from);
    for (const t of s.targets) {
      pushConstant(f, t.op === 'sum' ? 0 : leastOf(t.value.dtype), t.value.dtype);
      f.set(places[t.local]);
    }
    const wide = s.targets.every((t) => t.value.dtype !== 'bool') && narrow(s.targets.map((t) => t.value));
    vars.set(s.index, index);
    const lanes = new Values(this.#frame, s.index, outer),
      sums = s.targets.map(() => (wide ? [0, 1, 2, 3].map(() => f.local(V128)) : []));
    const place = (t: number): number => this.#lanes + t * LANES * 8;
    f.get(end)
      .i32(0)
      .op('i32.gt_s')
      .if(() => {
        if (wide)
          lanes.hoist(
            s.targets.map((t) => t.value),
            [],
            () => false,
          );
      });
    f.loop(from, end, 1, () => {
      f.get(end, from).op('i32.sub').tee(size).i32(CHUNK).get(size).i32(CHUNK).op('i32.lt_s', 'select').set(size);
      f.i32(0).set(at);
      for (const [n, t] of s.targets.entries()) {
        const start = t.op === 'sum' ? 0 : leastOf(t.value.dtype);
        if (wide) {
          pushConstant(f, start, t.value.dtype);
          f.simd(t.value.dtype === 'float32' ? 'f32x4.splat' : 'i32x4.splat');
          const first = f.keep(V128);
          for (const x of sums[n]) f.get(first).set(x);
        } else
          for (let l = 0; l < LANES; l++) {
            f.get(scratch);
            pushConstant(f, start, t.value.dtype);
            head.storeAt(t.value.dtype, place(n) + l * sizeOf(t.value.dtype));
          }
      }
      if (wide) {
        const within = s.blocks ? new Values(this.#frame, s.index, lanes) : lanes,
          values = s.blocks?.values ?? s.targets.map((t) => t.value),
          block = f.local(I32);
        if (s.blocks) vars.set(s.blocks.index, block);
        f.loop(at, size, LANES, () => {
          if (s.blocks) {
            f.get(from, at).op('i32.add').i32(Math.log2(LANES)).op('i32.shr_u').set(block);
            within.hoist(values, [], () => false);
          }
          for (let q = 0; q < 4; q++) {
            f.get(from, at)
              .op('i32.add')
              .i32(4 * q)
              .op('i32.add')
              .set(index);
            const v = new Values(this.#frame, s.index, within).share(values);
            for (const [n, t] of s.targets.entries()) {
              v.vector(values[n]);
              this.#joinVector(t.op, t.value.dtype, f.keep(V128), sums[n][q]);
            }
          }
        });
      }
      f.get(at, size)
        .op('i32.lt_s')
        .if(() => {
          const spill = (out: boolean): void => {
            for (const [n] of s.targets.entries())
              for (const [q, x] of sums[n].entries()) {
                f.get(scratch);
                if (out) f.get(x).memory('v128.store', place(n) + 16 * q);
                else f.memory('v128.load', place(n) + 16 * q).set(x);
              }
          };
          spill(true);
          f.loop(at, size, 1, () => {
            f.get(from, at).op('i32.add').set(index);
            const v = new Values(this.#frame, null, outer).share(s.targets.map((t) => t.value));
            for (const [n, t] of s.targets.entries()) {
              const dtype = t.value.dtype,
                log = Math.log2(sizeOf(dtype));
              v.scalar(t.value);
              const value = f.keep(typeOf(dtype));
              f.get(scratch, at)
                .i32(LANES - 1)
                .op('i32.and')
                .i32(log)
                .op('i32.shl', 'i32.add');
              const address = f.keep(I32),
                lane = f.local(typeOf(dtype));
              f.get(address);
              head.loadAt(dtype, place(n));
              f.set(lane);
              this.#join(t.op, dtype, value, lane);
              f.get(address, lane);
              head.storeAt(dtype, place(n));
            }
          });
          spill(false);
        });
      for (const [n, t] of s.targets.entries()) {
        const dtype = t.value.dtype,
          type = typeOf(dtype),
          lane = f.local(type);
        if (wide) {
          const [a, b, c, d] = sums[n];
          this.#joinVector(t.op, dtype, c, a);
          this.#joinVector(t.op, dtype, d, b);
          this.#joinVector(t.op, dtype, b, a);
          f.get(a, a).shuffle(8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7);
          this.#joinVector(t.op, dtype, f.keep(V128), a);
          f.get(a, a).shuffle(4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3);
          this.#joinVector(t.op, dtype, f.keep(V128), a);
          f.get(a)
            .lane(dtype === 'float32' ? 'f32x4.extract_lane' : 'i32x4.extract_lane', 0)
            .set(lane);
        } else {
          const read = (l: number): number => {
            f.get(scratch);
            head.loadAt(dtype, place(n) + l * sizeOf(dtype));
            return f.keep(type);
          };
          const all = Array.from({ length: LANES }, (_, l) => read(l));
          for (const w of [8, 4, 2, 1]) for (let l = 0; l < w; l++) this.#join(t.op, dtype, all[l + w], all[l]);
          f.get(all[0]).set(lane);
        }
        this.#join(t.op, dtype, lane, places[t.local]);
      }
      f.get(from)
        .i32(CHUNK - 1)
        .op('i32.add')
        .set(from);
    });
  }

  /** into = into + x, or the larger of the two (NaN if either is NaN). */
  #joinVector(op: 'sum' | 'max', dtype: Scalar, x: number, into: number): void {
    const { f } = this.#frame,
      t = dtype === 'float32' ? 'f32x4' : 'i32x4';
    if (op === 'sum') {
      f.get(into, x).simd(`${t}.add`).set(into);
      return;
    }
    f.get(x, into, x, into).simd(`${t}.gt${t === 'f32x4' ? '' : dtype === 'uint32' ? '_u' : '_s'}` as Simd);
    if (t === 'f32x4') f.get(x, x).simd('f32x4.ne', 'v128.or');
    f.simd('v128.bitselect').set(into);
  }

  #join(op: 'sum' | 'max', dtype: Scalar, x: number, into: number): void {
    const { f } = this.#frame,
      t = dtype === 'float32' ? 'f32' : dtype === 'float64' ? 'f64' : 'i32';
    if (op === 'sum') {
      f.get(into, x).op(`${t}.add`).set(into);
      return;
    }
    f.get(x, into, x, into).op(`${t}.gt${t !== 'i32' ? '' : dtype === 'uint32' ? '_u' : '_s'}` as Plain);
    if (t !== 'i32') f.get(x, x).op(`${t}.ne`, 'i32.or');
    f.op('select').set(into);
  }
}

/** Whether all values fit into lanes of 32 bits, and lanes have instructions for them. */
export const narrow = (roots: readonly Expr[]): boolean => {
  const rounds = (e: Expr): boolean => e.k === 'op' && e.op === 'cast' && e.args[0].dtype !== 'float32';
  return postorder(roots).every(
    (e) => e.dtype !== 'float64' && e.dtype !== 'float16' && !(e.dtype === 'bfloat16' && rounds(e)),
  );
};

/** The target of the wasm device says that it has neither a core for statements nor prefetches. */
export const noCore = (statement: string): VerifyError =>
  new VerifyError('emit', `WebAssembly has no statement '${statement}': schedule the kernel for the wasm device`);
