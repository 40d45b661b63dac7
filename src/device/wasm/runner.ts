// One thread of the WebAssembly device: goes through a table of steps and runs the tasks that it takes. Workers are
// started from the text of `makeRunner`, so that bundlers need not know them; therefore it must not refer to anything
// outside itself. `makeMath64` is passed in; it is the one in base/math64.ts.
import type { KernelParts } from '../../base/parts.ts';
import type { Math64 } from '../../base/math64.ts';
import type { KernelShape as Shape } from '../../emit/wasm/kernel.ts';
import type { Extent } from '../../kernel/kernel.ts';

/** The layout of tables and scratch memory, for the code that writes tables and the code that reads them. */
export interface Layout {
  readonly stepWords: number; // kernel, arguments, unless, barrier
  readonly depth: number;
  readonly aStride: number;
  readonly panel: number; // of the matrix core
  /** Bytes of the areas in a thread's scratch memory: the kernel's own arrays, packed A, packed B, sums. */
  readonly own: number;
  readonly aBytes: number;
  readonly bBytes: number;
  readonly sumBytes: number;
  readonly rows: number; // rows of A that are packed at once
}

export interface Runner {
  /** Loads the module of the matrix core and of the kernel of initial values (../normals.ts), which gets number 0. */
  core(module: WebAssembly.Module): void;
  /** Loads the kernels of a module; they get the next kernel numbers. */
  add(module: WebAssembly.Module, shapes: readonly Shape[]): void;
  /**
   * Runs this thread's share of steps from..to of the table. times: address where nanoseconds and tasks of each step
   * are added, or 0. Returns false if another thread failed; that thread throws. After a failure, threads may be left
   * waiting for each other, so nothing can be run any more.
   */
  run(table: number, counters: number, from: number, to: number, times: number): boolean;
}

export function makeRunner(
  makeMath64: () => Math64,
  memory: WebAssembly.Memory,
  scratch: number,
  thread: number,
  threads: number,
  layout: Layout,
): Runner {
  type Fn = (...args: number[]) => number;
  /**
   * How a matmul is divided into tasks. of: address of the step's arguments; needed because steps of one wave may run
   * the same kernel on different rows.
   */
  interface Split {
    of: number;
    total: number;
    starts: number[];
    nc: number;
    columns: number;
    slices: number[];
  }
  interface Ready {
    shape: Shape;
    extent: Fn;
    run: Fn;
    packA: Fn;
    packB: Fn;
    store: Fn;
    split: Split;
  }

  const words = new Int32Array(memory.buffer),
    kernels: Ready[] = [],
    SPINS = 2000,
    LATE = 7 / 8;
  const aAt = scratch + layout.own,
    bAt = aAt + layout.aBytes,
    sumAt = bAt + layout.bBytes;
  let block: Fn;

  const env = { memory, ...makeMath64() }; // float64 functions that WebAssembly does not have

  /** How many sums of each element may be kept at a time. */
  const levels = (parts: KernelParts | null): number => 1 + (parts ? Math.log2(parts.parts) : 0);

  /** The value of an extent for group z. */
  const size = (e: Extent, args: number, z: number): number => {
    if (typeof e === 'number') return e;
    if ('count' in e) return e.times * words[(words[(args >>> 2) + e.count] >>> 2) + e.at];
    const at = (words[(args >>> 2) + e.offsets] >>> 2) + z;
    return words[at + 1] - words[at];
  };

  /**
   * Divides a matmul into tasks: slices of each group's rows times blocks of columns, about four tasks per thread.
   * Returns their number.
   */
  const divide = (k: Ready, shape: Extract<Shape, { form: 'matmul' }>, args: number): number => {
    const { groups, n } = shape,
      split = k.split;
    split.of = args;
    if (n === 0) return 0;
    let rows = 0,
      work = 0,
      deepest = 0;
    for (let z = 0; z < groups; z++) {
      const m = Math.max(0, size(shape.m, args, z)),
        depth = Math.max(0, size(shape.depth, args, z));
      rows += m;
      work += m * depth * n;
      deepest = Math.max(deepest, depth);
    }
    const want = threads === 1 || work < 3e5 ? 1 : Math.min(4 * threads, Math.max(threads, Math.ceil(work / 4e6)));
    const widest = Math.floor(layout.bBytes / (4 * layout.depth));
    let columns = Math.ceil(n / widest);
    while (columns < want && rows / Math.ceil(want / columns) < 24 && Math.ceil(n / (columns + 1)) >= 32) columns++;
    split.nc = Math.ceil(Math.ceil(n / columns) / 8) * 8;
    split.columns = Math.ceil(n / split.nc);
    // With several blocks of depth, the sums of a slice must fit into scratch, in parts those of each level. With one
    // block, only the sums of a few rows are kept.
    const most =
      deepest > layout.depth || shape.parts
        ? Math.floor(layout.sumBytes / (24 * split.nc * levels(shape.parts))) * 6
        : Infinity;
    const slice = Math.max(24, rows / Math.max(1, Math.ceil(want / split.columns)));
    split.total = 0;
    for (let z = 0, before = 0; z < groups; z++) {
      const m = Math.max(0, size(shape.m, args, z));
      before += m;
      // All slices of a group have the same size, because each packs B. The last groups get smaller slices, so that
      // threads finish at about the same time.
      const parts =
        Math.max(1, Math.round(m / slice), Math.ceil(m / most)) * (want > 1 && before > LATE * rows && m >= 96 ? 2 : 1);
      split.slices[z] = Math.max(6, Math.ceil(m / parts / 6) * 6);
      split.starts[z] = split.total;
      split.total += Math.ceil(m / split.slices[z]) * split.columns;
    }
    split.starts[groups] = split.total;
    return split.total;
  };

  const product = (k: Ready, shape: Extract<Shape, { form: 'matmul' }>, args: number, task: number): void => {
    if (k.split.of !== args) divide(k, shape, args);
    const { starts, nc, columns, slices } = k.split;
    let z = 0;
    for (let high = shape.groups; high - z > 1;) {
      const middle = (z + high) >> 1;
      if (starts[middle] <= task) z = middle;
      else high = middle;
    }
    const slice = slices[z],
      own = task - starts[z],
      j0 = (own % columns) * nc,
      nj = Math.min(nc, shape.n - j0),
      i0 = Math.floor(own / columns) * slice;
    const ni = Math.min(slice, size(shape.m, args, z) - i0),
      depth = Math.max(0, size(shape.depth, args, z));
    const panels = Math.ceil(nj / layout.panel),
      stride = panels * layout.panel * 4,
      { parts: count, sample, offsets, step = 1 } = shape.parts ?? { parts: 1, sample: 1 },
      apart = ni * stride,
      kept = count > 1 || depth > layout.depth;
    for (let p = 0, end = 0; p < count; p++) {
      const start = end,
        last = p + 1 === count,
        joins = 31 - Math.clz32((p + 1) & -(p + 1)); // how often 2 divides p + 1
      end = last
        ? depth
        : offsets === undefined
          ? Math.floor((Math.floor(depth / sample) * (p + 1)) / count) * sample
          : words[(words[(args >>> 2) + offsets] >>> 2) + (p + 1) * step] * sample;
      for (let k0 = start; k0 < end || k0 === start; k0 += layout.depth) {
        const nk = Math.min(layout.depth, end - k0),
          ends = k0 + layout.depth >= end;
        if (nk > 0) k.packB(args, scratch, bAt, z, k0, nk, j0, nj);
        for (let i = 0; i < ni; i += layout.rows) {
          const height = Math.min(layout.rows, ni - i),
            sums = sumAt + (kept ? i * stride : 0),
            to = ends && !last ? (joins + 1) * apart : 0;
          if (nk > 0) k.packA(args, scratch, aAt, z, i0 + i, height, k0, nk);
          block(aAt, bAt, sums, height, panels, nk, stride, k0 > start ? 1 : 0, ends ? joins : 0, apart, to);
          if (ends && last) k.store(args, scratch, z, i0 + i, height, j0, nj, sums, stride);
        }
      }
    }
  };

  /** A barrier: returns when all threads have called it. */
  const meet = (at: number): void => {
    if (Atomics.add(words, at, 1) + 1 >= threads) {
      Atomics.notify(words, at);
      return;
    }
    for (let i = 0; i < SPINS; i++) if (Atomics.load(words, at) >= threads) return;
    for (let seen = Atomics.load(words, at); seen < threads; seen = Atomics.load(words, at))
      Atomics.wait(words, at, seen);
  };

  const counts: number[] = [];
  /**
   * The number in place of a task's: threads that take tasks in turn get numbers that lie far apart, so that they
   * rarely write to the same line of a cache.
   */
  const apart = (task: number, tasks: number): number => {
    const turn = task % threads,
      rest = tasks % threads;
    return Math.floor(tasks / threads) * turn + Math.min(turn, rest) + Math.floor(task / threads);
  };

  /**
   * Runs one wave: steps first..end, whose tasks all threads share. idle: address of a barrier to wait at before the
   * first task, or 0.
   */
  const wave = (table: number, queue: number, first: number, end: number, idle: number): number => {
    let total = 0,
      mine = 0;
    for (let s = first; s < end; s++) {
      const at = (table >>> 2) + s * layout.stepWords,
        unless = words[at + 2],
        k = kernels[words[at]],
        args = words[at + 1];
      if (unless === 0 || words[unless >>> 2] === 0) {
        total += k.shape.form === 'loops' ? Math.ceil(k.extent(args) / k.shape.grain) : divide(k, k.shape, args);
      }
      counts[s - first] = total;
    }
    if (total === 0) return 0;
    if (idle !== 0) meet(idle);
    for (let s = first; ;) {
      const task = threads === 1 ? mine++ : Atomics.add(words, queue, 1);
      if (task >= total) return total;
      while (task >= counts[s - first]) s++;
      const at = (table >>> 2) + s * layout.stepWords,
        k = kernels[words[at]],
        args = words[at + 1],
        before = s === first ? 0 : counts[s - first - 1],
        own = task - before;
      if (k.shape.form === 'loops') {
        const from = apart(own, counts[s - first] - before) * k.shape.grain;
        k.run(args, scratch, from, Math.min(from + k.shape.grain, k.extent(args)));
      } else product(k, k.shape, args, own);
    }
  };

  /** Adds the kernel of initial values. `normals` (emit/wasm/normals.ts) writes one part of the numbers. */
  const addNormals = (normals: Fn): void => {
    const PART = 8192,
      none: Fn = () => 0,
      std = new Float64Array(1),
      stdWords = new Int32Array(std.buffer);
    kernels.push({
      shape: { form: 'loops', grain: 1 },
      extent: (args) => Math.ceil(words[(args >>> 2) + 2] / PART),
      run: (args, own, from, to) => {
        const [out, tables, count, seed, name, low, high, bytes, pair] = words.subarray(args >>> 2, (args >>> 2) + 9);
        stdWords.set([low, high]);
        for (let at = from * PART; at < Math.min(to * PART, count); at += PART)
          normals(out + bytes * at, tables, Math.min(PART, count - at), pair + at / 2, seed, name, own, std[0], bytes);
        return 0;
      },
      packA: none,
      packB: none,
      store: none,
      split: { of: 0, total: 0, starts: [], nc: 0, columns: 1, slices: [] },
    });
  };

  return {
    core(module) {
      const made = new WebAssembly.Instance(module, { env }).exports as { block: Fn; normals: Fn };
      ({ block } = made);
      addNormals(made.normals);
    },
    add(module, shapes) {
      const made = new WebAssembly.Instance(module, { env }).exports as Record<string, Fn>;
      shapes.forEach((shape, i) => {
        kernels.push({
          shape,
          extent: made[`extent${i}`],
          run: made[`run${i}`],
          packA: made[`packA${i}`],
          packB: made[`packB${i}`],
          store: made[`store${i}`],
          split: { of: 0, total: 0, starts: [], nc: 0, columns: 1, slices: [] },
        });
      });
    },
    run(table, counters, from, to, times) {
      // After a wave without tasks, threads do not wait. Instead they wait before the next task: it may overwrite the
      // counts that other threads still read to see that the wave has no tasks.
      let idle = 0;
      for (let s = from; s < to;) {
        let end = s + 1;
        while (times === 0 && end < to && words[(table >>> 2) + end * layout.stepWords + 3] === 0) end++;
        const queue = (counters >>> 2) + 2 * s,
          begun = times === 0 ? 0 : performance.now();
        let tasks = 0;
        try {
          tasks = wave(table, queue, s, end, idle);
        } catch (error) {
          // Makes the other threads find no work left. This thread does not wait for them: a thread that is still in
          // the previous wave sees the failure flag there and never reaches this barrier.
          Atomics.store(words, (counters >>> 2) - 1, 1);
          Atomics.store(words, queue, 1 << 30);
          throw error;
        }
        idle = tasks === 0 && threads > 1 ? queue + 1 : 0;
        if (threads > 1 && (tasks > 0 || end === to)) meet(queue + 1);
        if (Atomics.load(words, (counters >>> 2) - 1) !== 0) return false;
        if (times !== 0 && thread === 0) {
          const out = new Float64Array(memory.buffer, times + 16 * s, 2);
          out[0] += (performance.now() - begun) * 1e6;
          out[1] += tasks;
        }
        s = end;
      }
      return true;
    },
  };
}
