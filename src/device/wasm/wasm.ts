// The WebAssembly device: our own emitter makes SIMD code, and workers run it on one shared memory. It needs only a
// JavaScript engine, in Node or a browser. A page that is not cross-origin isolated has one thread, the page's own.
import type { TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import { TABLES } from '../../base/trig.ts';
import { A_STRIDE, DEPTH, emitCore, PANEL } from '../../emit/wasm/gemm.ts';
import { emitModule } from '../../emit/wasm/kernel.ts';
import type { Kernel } from '../../kernel/kernel.ts';
import type { Bound, BoundStep, Device, DeviceInfo, Draw, KernelSource, Memory, StepTimes } from '../device.ts';
import { Heap, MOST_PAGES, PAGE } from './heap.ts';
import { InlinePool, WorkerPool, type Mail, type Pool } from './pool.ts';
import type { Layout } from './runner.ts';

const ROWS = 48;
const LAYOUT: Layout = {
  stepWords: 4,
  depth: DEPTH,
  aStride: A_STRIDE,
  panel: PANEL,
  rows: ROWS,
  own: 256 << 10,
  aBytes: ROWS * A_STRIDE * 4,
  bBytes: DEPTH * 512 * 4,
  sumBytes: 1056 << 10,
};
/** Reserve for tables of steps and for rounding sizes up to whole blocks. */
const SPARE = 8 << 20;
const SCRATCH = LAYOUT.own + LAYOUT.aBytes + LAYOUT.bBytes + LAYOUT.sumBytes;

interface WasmBound extends Bound {
  readonly table: Memory;
  readonly counters: Memory;
}

export interface WasmOptions {
  /**
   * Bytes for programs and states, reserved once; default and maximum 4 GiB. The system provides them when they are
   * first used.
   */
  readonly memory?: number | undefined;
  /** false: behaves as on an engine whose relaxed multiply-add rounds the product. For tests. */
  readonly fuse?: boolean;
  /** Called with the device's memory before anything is written to it (huge-pages.ts). */
  readonly fresh?: (memory: Uint8Array) => void;
}

export class WasmDevice implements Device {
  readonly info: DeviceInfo;
  /** Whether multiply-adds round once, as on the native device. Results then have the same bits. */
  readonly fused: boolean;
  readonly #heap: Heap;
  readonly #pool: Pool;
  readonly #shared: boolean;
  readonly #numbers = new Map<string, number>();
  /** Resolves when all threads have the code sent so far. A failure is permanent: threads without code are useless. */
  #handed: Promise<void> = Promise.resolve();
  /**
   * By kernel key: resolves when the kernel is ready. A kernel whose compilation failed is removed and may be
   * requested again.
   */
  readonly #known = new Map<string, Promise<void>>();
  /** Runs wait for each other and for mail; mail waits for runs. `#runs` counts runs in progress. */
  #runs = 0;
  #ran: Promise<unknown> = Promise.resolve();
  #sent: Promise<unknown> = Promise.resolve();

  private constructor(heap: Heap, shared: boolean, threads: number, fused: boolean) {
    const scratches = Array.from({ length: threads }, () => heap.alloc(SCRATCH).address);
    this.#heap = heap;
    this.#shared = shared;
    this.fused = fused;
    this.#pool = shared
      ? new WorkerPool(heap.memory, heap.alloc(256).address, scratches, LAYOUT)
      : new InlinePool(heap.memory, scratches[0], LAYOUT);
    const why =
      heap.pages === MOST_PAGES
        ? 'the wasm device reaches 4 GiB with its 32-bit addresses'
        : 'the wasm device reserved this much when it was opened';
    this.info = {
      name: 'wasm',
      threads,
      limit: { bytes: heap.left - SPARE, why },
      description: `CPU, WebAssembly, ${threads} ${threads === 1 ? 'thread' : 'threads'}${
        fused
          ? ''
          : " (this engine rounds products before it adds: results differ from the native device's in their " +
            'last bits)'
      }`,
    };
  }

  /** Throws UserError if the engine lacks SIMD. */
  static async open(threads: number, options: WasmOptions = {}): Promise<WasmDevice> {
    const shared =
      typeof SharedArrayBuffer !== 'undefined' &&
      (globalThis as { crossOriginIsolated?: boolean }).crossOriginIsolated !== false;
    const own = (shared ? threads : 1) * SCRATCH + SPARE + 2 * PAGE;
    const heap = new Heap(Math.ceil(((options.memory ?? MOST_PAGES * PAGE) + own) / PAGE), shared, options.fresh);
    const limits = { shared, pages: heap.pages };
    const fast = options.fuse === false ? null : await coreOf(true, limits),
      fused = fast !== null && (await fuses(heap.memory, fast));
    const core = fused ? fast : await coreOf(false, limits);
    if (!core)
      throw new UserError('device wasm: this JavaScript engine has no WebAssembly SIMD', 'a newer browser or Node');
    const device = new WasmDevice(heap, shared, shared ? threads : 1, fused);
    // Threads start while the caller continues; if that fails, the first `compile` rejects.
    device.#handed = device.#send({ core });
    device.#handed.catch(() => undefined);
    return device;
  }

  alloc(bytes: number): Memory {
    return this.#heap.alloc(bytes);
  }
  free(memory: Memory): void {
    this.#heap.free(memory);
  }
  write(address: number, data: TypedArray): void {
    this.#heap.at(address, data.byteLength).set(bytesOf(data));
  }
  read(address: number, into: TypedArray): void {
    bytesOf(into).set(this.#heap.at(address, into.byteLength));
  }

  /** Free bytes. */
  get left(): number {
    return this.#heap.left;
  }

  /** Compiles while the caller and steps continue; threads receive the code between two steps. */
  compile(kernels: readonly KernelSource[]): Promise<void> {
    const fresh = [...new Map(kernels.filter((k) => !this.#known.has(k.key)).map((k) => [k.key, k.kernel]))];
    if (fresh.length > 0) this.#make(fresh);
    return Promise.all([this.#handed, ...kernels.map((k) => this.#known.get(k.key))]).then(() => undefined);
  }

  #make(fresh: readonly (readonly [string, Kernel])[]): void {
    const { bytes, shapes } = emitModule(
      fresh.map(([, k]) => k),
      { fused: this.fused, memory: { shared: this.#shared, pages: this.#heap.pages }, scratch: LAYOUT.own },
    );
    const code = this.#pool.hold(compiled(bytes)).catch((error: unknown) => {
      for (const [key] of fresh) this.#known.delete(key);
      throw error;
    });
    const before = this.#handed,
      hand = async (module: WebAssembly.Module): Promise<void> => {
        await before;
        await this.#send({ module, shapes });
        for (const [key] of fresh) this.#numbers.set(key, this.#numbers.size);
      };
    const ready = code.then(hand);
    this.#handed = code.then(
      () => ready,
      () => before,
    );
    this.#handed.catch(() => undefined);
    ready.catch(() => undefined);
    for (const [key] of fresh) this.#known.set(key, ready);
  }

  bind(steps: readonly BoundStep[]): WasmBound {
    const head = steps.length * LAYOUT.stepWords,
      words = new Int32Array(steps.reduce((n, s) => n + s.buffers.length + s.ints.length, head));
    const numbers = steps.map((s) => {
      const number = this.#numbers.get(s.kernel);
      if (number === undefined) throw new Error(`kernel ${s.kernel} was not compiled`);
      return number;
    });
    const [table, counters] = this.#allocAll([words.byteLength, 8 + 8 * steps.length]);
    let tail = head;
    steps.forEach((s, i) => {
      words.set([numbers[i], table.address + 4 * tail, s.unless ?? 0, s.barrier ? 1 : 0], i * LAYOUT.stepWords);
      for (const v of [...s.buffers, ...s.ints]) words[tail++] = v;
    });
    this.write(table.address, words);
    return { steps: steps.length, table, counters };
  }

  /** Allocates all blocks or none. */
  #allocAll(sizes: readonly number[]): Memory[] {
    const made: Memory[] = [];
    try {
      for (const bytes of sizes) made.push(this.alloc(bytes));
      return made;
    } catch (error) {
      for (const memory of made) this.free(memory);
      throw error;
    }
  }

  run(bound: Bound, from = 0, to = bound.steps): Promise<void> {
    return this.#run(bound as WasmBound, from, to, 0);
  }

  #run({ table, counters }: WasmBound, from: number, to: number, times: number): Promise<void> {
    const turn = (async (before) => {
      await before;
      this.#heap.at(counters.address, counters.bytes).fill(0);
      // The word before the steps' counters is not 0 after a thread has failed.
      await this.#pool.run(table.address, counters.address + 8, from, to, times);
    })(Promise.all([this.#ran, this.#sent])).finally(() => {
      this.#runs--;
    });
    this.#runs++;
    this.#ran = turn.catch(() => undefined);
    return turn;
  }

  #send(mail: Mail): Promise<void> {
    const sent = this.#runs === 0 ? this.#pool.send(mail) : this.#ran.then(() => this.#pool.send(mail));
    this.#sent = Promise.all([this.#sent, sent.catch(() => undefined)]);
    return sent;
  }

  async draw(draws: readonly Draw[]): Promise<void> {
    const memory = this.alloc(TABLES.byteLength + 8),
      taken = memory.address + TABLES.byteLength;
    this.write(memory.address, TABLES);
    await this.#send({ draws, tables: memory.address, taken }).finally(() => {
      this.free(memory);
    });
  }

  async profile(bound: Bound): Promise<StepTimes> {
    const { steps } = bound,
      memory = this.alloc(16 * steps),
      raw = new Float64Array(2 * steps);
    try {
      await this.#run(bound as WasmBound, 0, steps, memory.address);
      this.read(memory.address, raw);
    } finally {
      this.free(memory);
    }
    const pick = (k: number): Float64Array => Float64Array.from({ length: steps }, (_, i) => raw[2 * i + k]);
    return { ns: pick(0), tasks: pick(1) };
  }

  release(bound: Bound): void {
    const { table, counters } = bound as WasmBound;
    this.free(table);
    this.free(counters);
  }

  close(): void {
    this.#pool.close();
  }
}

/** Compiles the matrix core; null if the engine lacks an instruction in it. */
async function coreOf(
  fused: boolean,
  memory: { readonly shared: boolean; readonly pages: number },
): Promise<WebAssembly.Module | null> {
  const bytes = emitCore(fused, memory);
  return WebAssembly.validate(bytes) ? compiled(bytes) : null;
}

/** Compiles a module. Rejects with a UserError where the engine has no memory for it. */
function compiled(bytes: Uint8Array<ArrayBuffer>): Promise<WebAssembly.Module> {
  return WebAssembly.compile(bytes).catch((error: unknown) => {
    if (!(error instanceof RangeError)) throw error;
    throw new UserError(
      `device wasm: too little memory to compile kernels: ${error.message}`,
      'close other programs, or use a smaller model',
      error,
    );
  });
}

/**
 * Whether relaxed multiply-add rounds once: (1 + 2^-12) (1 - 2^-12) - 1 is -2^-24 then, and 0 if the product is
 * rounded.
 */
async function fuses(memory: WebAssembly.Memory, core: WebAssembly.Module): Promise<boolean> {
  const { exports } = await WebAssembly.instantiate(core, { env: { memory } }),
    madd = exports['madd'] as (a: number, b: number, c: number) => number;
  return madd(1 + 2 ** -12, 1 - 2 ** -12, -1) === -(2 ** -24);
}

const bytesOf = (data: TypedArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
