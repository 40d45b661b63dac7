// The WebAssembly device: our own emitter makes SIMD code, and workers run it on one shared memory. It needs only a
// JavaScript engine, in Node or a browser. A page that is not cross-origin isolated has one thread, the page's own.
import { DTYPES, type TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import { A_STRIDE, DEPTH, emitCore, PANEL } from '../../emit/wasm/gemm.ts';
import { emitModule } from '../../emit/wasm/kernel.ts';
import type { CpuKernel } from '../../schedule/cpu-kernel.ts';
import { forCpu } from '../../schedule/schedule.ts';
import { onlyKernels, type BoundStep, type Device, type DeviceInfo } from '../device.ts';
import type { KernelSource, Memory, Place, Read } from '../device.ts';
import { isNormals, NORMALS, type NormalsSource } from '../normals.ts';
import { WASM } from '../../schedule/target.ts';
import { Heap, MOST_PAGES, PAGE, type Block } from './heap.ts';
import { InlinePool, WorkerPool, type Mail, type Pool } from './pool.ts';
import type { Layout } from './runner.ts';
import { WasmTable } from './table.ts';

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
  readonly target = WASM;
  /** Whether multiply-adds round once, as on the native device. */
  readonly #fused: boolean;
  readonly #heap: Heap;
  readonly #pool: Pool;
  readonly #shared: boolean;
  readonly #numbers = new Map<string, number>([[NORMALS.key, 0]]);
  /** Resolves when all threads have the code sent so far. A failure is permanent: threads without code are useless. */
  #handed: Promise<void> = Promise.resolve();
  /**
   * By kernel key: resolves when the kernel is ready. A kernel whose compilation failed is removed and may be
   * requested again.
   */
  readonly #known = new Map<string, Promise<void>>();
  /**
   * Runs wait for each other and for mail; mail waits for runs. The mail with the core is an exception: the first runs
   * need not wait for it, because every thread reads it first. `#runs` and `#mails` count those in progress.
   */
  #runs = 0;
  #mails = 0;
  #closed = false;
  #ran: Promise<unknown> = Promise.resolve();
  #sent: Promise<unknown> = Promise.resolve();

  private constructor(heap: Heap, shared: boolean, threads: number, fused: boolean) {
    const scratches = Array.from({ length: threads }, () => heap.alloc(SCRATCH).address);
    this.#heap = heap;
    this.#shared = shared;
    this.#fused = fused;
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
      // float64 functions such as exp are those of base/math64.ts, on the native device those of the C library.
      exact: DTYPES.filter((t) => t !== 'float64' && (fused || ['int32', 'uint32', 'bool'].includes(t))),
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
    device.#handed = device.#pool.send({ core });
    device.#handed.catch(() => undefined);
    return device;
  }

  alloc(bytes: number): Memory {
    return this.#heap.alloc(bytes);
  }
  free(memory: Memory): void {
    this.#heap.free(memory);
  }
  write(place: Place, data: TypedArray): void {
    this.#heap.write(place, data);
  }
  read(reads: readonly Read[]): Promise<void> {
    for (const { place, into } of reads) this.#heap.read(place, into);
    return Promise.resolve();
  }

  /** Free bytes. */
  get left(): number {
    return this.#heap.left;
  }

  /** Compiles while the caller and steps continue; threads receive the code between two steps. */
  compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    const fresh = new Map<string, CpuKernel>();
    for (const k of kernels) if (!isNormals(k) && !this.#known.has(k.key)) fresh.set(k.key, forCpu(k.kernel));
    if (fresh.size > 0) this.#make([...fresh]);
    // The kernel of initial values is in the core: it is used before the threads have started.
    if (kernels.every(isNormals)) return Promise.resolve();
    return Promise.all([this.#handed, ...kernels.map((k) => this.#known.get(k.key))]).then(() => undefined);
  }

  #make(fresh: readonly (readonly [string, CpuKernel])[]): void {
    const { bytes, shapes } = emitModule(
      fresh.map(([, k]) => k),
      { fused: this.#fused, memory: { shared: this.#shared, pages: this.#heap.pages }, scratch: LAYOUT.own },
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

  bind(steps: readonly BoundStep[]): WasmTable {
    const numbered = onlyKernels(steps, this.info.name).map((step) => {
      const number = this.#numbers.get(step.kernel);
      if (number === undefined) throw new Error(`kernel ${step.kernel} was not compiled`);
      return { number, step };
    });
    return new WasmTable(this.#heap, LAYOUT, (...args) => this.#run(...args), numbered);
  }

  #run(table: number, counters: Block, from: number, to: number, times: number): Promise<void> {
    if (this.#closed) return Promise.reject(new Error('the wasm device is closed'));
    const start = async (): Promise<void> => {
      this.#heap.bytes.fill(0, counters.address, counters.address + counters.bytes);
      // The word before the steps' counters is not 0 after a thread has failed.
      await this.#pool.run(table, counters.address + 8, from, to, times);
    };
    const begun = this.#runs + this.#mails === 0 ? start() : Promise.all([this.#ran, this.#sent]).then(start),
      ended = begun.finally(() => {
        this.#runs--;
      });
    this.#runs++;
    this.#ran = ended.catch(() => undefined);
    return ended;
  }

  #send(mail: Mail): Promise<void> {
    const sent = this.#runs === 0 ? this.#pool.send(mail) : this.#ran.then(() => this.#pool.send(mail)),
      arrived = sent
        .catch(() => undefined)
        .then(() => {
          this.#mails--;
        });
    this.#mails++;
    this.#sent = Promise.all([this.#sent, arrived]);
    return sent;
  }

  async close(): Promise<void> {
    this.#closed = true;
    await Promise.all([this.#ran, this.#sent]);
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
