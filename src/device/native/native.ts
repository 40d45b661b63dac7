// The native CPU device: kernels are C, compiled by the system's compiler and run by the driver's thread pool. A run
// is one foreign call.
import type { TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import { TABLES } from '../../base/trig.ts';
import type { Bound, BoundStep, Device, DeviceInfo, Draw, KernelSource, Memory, StepTimes } from '../device.ts';
import { loadDriver, type Driver } from './driver.ts';
import { KernelLibrary, type NativeKernel } from './library.ts';
import { NativeMemory } from './memory.ts';
import { findToolchain } from './toolchain.ts';

const STEP_WORDS = 8; // dm_step in driver.h: tasks, run, buffers, integers, skip_if, flags, groups, offsets
const BARRIER = 1n;

/**
 * If its last run took less than this, a table runs on this thread, after a turn of the event loop. Handing a run to
 * another thread and back takes 0.1 to 0.2 ms, a third of a small model's step.
 */
const QUICK_MS = 2;

/** A table in device memory: steps, then their arguments. ms: duration of the last complete run. */
interface NativeBound extends Bound {
  readonly table: Memory;
  ms: number;
}

function checkCode(code: number): void {
  if (code !== 0) throw new Error(`the native driver returned ${code}`);
}

const turn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });

export class NativeDevice implements Device {
  readonly info: DeviceInfo;
  readonly #driver: Driver;
  readonly #library: KernelLibrary;
  readonly #memory: NativeMemory;
  readonly #pool: number;
  /** Runs in progress on other threads: while there are some, a run on this thread would block on the pool. */
  #runsElsewhere = 0;

  private constructor(driver: Driver, library: KernelLibrary, pool: number, threads: number, compiler: string) {
    this.#driver = driver;
    this.#library = library;
    this.#memory = new NativeMemory(driver);
    this.#pool = pool;
    this.info = {
      name: 'native',
      threads,
      description: `CPU, C kernels by ${compiler}, ${threads} ${threads === 1 ? 'thread' : 'threads'}`,
    };
  }

  /** Throws UserError if no C compiler is found, CC is not a compiler, or threads cannot be started. */
  static async open(threads: number, say: (line: string) => void = console.warn): Promise<NativeDevice> {
    const tool = await findToolchain();
    if (!tool) throw new UserError('no C compiler found', 'install gcc or clang, set CC, or use --device wasm');
    const driver = await loadDriver(tool, say);
    const pool = driver.poolCreate(threads);
    if (pool === 0) {
      throw new UserError(
        `device native: ${threads} ${threads === 1 ? 'thread' : 'threads'} could not be started: ${driver.error()}`,
        'ask for fewer threads (--threads), or raise the limits on processes and memory (ulimit -u, ulimit -v)',
      );
    }
    return new NativeDevice(driver, new KernelLibrary(tool, driver), pool, threads, tool.version);
  }

  alloc(bytes: number): Memory {
    return this.#memory.alloc(bytes);
  }
  free(memory: Memory): void {
    this.#memory.free(memory);
  }
  write(address: number, data: TypedArray): void {
    this.#memory.write(address, data);
  }
  read(address: number, into: TypedArray): void {
    this.#memory.read(address, into);
  }

  compile(kernels: readonly KernelSource[]): Promise<void> {
    return this.#library.add(kernels);
  }

  /** Uses code in the driver, not a kernel: compiling a kernel would delay the first step. */
  async draw(draws: readonly Draw[]): Promise<void> {
    const memory = this.alloc(TABLES.byteLength),
      code = this.#driver.normals;
    try {
      this.write(memory.address, TABLES);
      const bound = this.#bind(
        draws.map(({ address, count, seed, name, std }) => ({
          code,
          step: {
            buffers: [address, memory.address],
            ints: [count, seed, name, new BigInt64Array(Float64Array.of(std).buffer)[0]],
            barrier: false,
            unless: null,
          },
        })),
      );
      await this.run(bound).finally(() => {
        this.release(bound);
      });
    } finally {
      this.free(memory);
    }
  }

  bind(steps: readonly BoundStep[]): NativeBound {
    return this.#bind(steps.map((step) => ({ code: this.#library.get(step.kernel), step })));
  }

  #bind(
    steps: readonly {
      readonly code: NativeKernel;
      readonly step: Pick<BoundStep, 'buffers' | 'barrier' | 'unless' | 'runsGroupwiseAfterPrevious'> & {
        readonly ints: readonly (number | bigint)[];
      };
    }[],
  ): NativeBound {
    const size = steps.reduce((n, { step: s }) => n + STEP_WORDS + s.buffers.length + s.ints.length, 0);
    const words = new BigInt64Array(size),
      table = this.alloc(words.byteLength);
    let tail = steps.length * STEP_WORDS;
    const put = (values: readonly (number | bigint)[]): bigint => {
      const at = table.address + tail * 8;
      for (const v of values) words[tail++] = BigInt(v);
      return BigInt(at);
    };
    steps.forEach(({ code: { tasks, run }, step: s }, i) => {
      words.set(
        [
          BigInt(tasks),
          BigInt(run),
          put(s.buffers),
          put(s.ints),
          BigInt(s.unless ?? 0),
          s.barrier ? BARRIER : 0n,
          BigInt(s.runsGroupwiseAfterPrevious?.groups ?? 0),
          BigInt(s.runsGroupwiseAfterPrevious?.offsets ?? 0),
        ],
        i * STEP_WORDS,
      );
    });
    this.#driver.copyIn(table.address, words, words.byteLength);
    return { steps: steps.length, table, ms: Infinity };
  }

  async run(bound: Bound, from = 0, to = bound.steps): Promise<void> {
    const b = bound as NativeBound,
      args: Parameters<Driver['run']> = [this.#pool, b.table.address, from, to, 0];
    if (b.ms < QUICK_MS) await turn();
    const start = performance.now(),
      code =
        b.ms < QUICK_MS && this.#runsElsewhere === 0 ? this.#driver.runNow(...args) : await this.#runElsewhere(args);
    if (to - from === b.steps) b.ms = performance.now() - start;
    checkCode(code);
  }

  async #runElsewhere(args: Parameters<Driver['run']>): Promise<number> {
    this.#runsElsewhere++;
    try {
      return await this.#driver.run(...args);
    } finally {
      this.#runsElsewhere--;
    }
  }

  async profile(bound: Bound): Promise<StepTimes> {
    const { table, steps } = bound as NativeBound,
      memory = this.alloc(steps * 16);
    const raw = new BigInt64Array(steps * 2);
    try {
      checkCode(await this.#runElsewhere([this.#pool, table.address, 0, steps, memory.address]));
      this.#driver.copyOut(raw, memory.address, raw.byteLength);
    } finally {
      this.free(memory);
    }
    const pick = (k: number): Float64Array => Float64Array.from({ length: steps }, (_, i) => Number(raw[2 * i + k]));
    return { ns: pick(0), tasks: pick(1) };
  }

  release(bound: Bound): void {
    this.free((bound as NativeBound).table);
  }

  /** GFLOP/s of float32 fused multiply-adds that this machine reaches on the device's threads. */
  fmaPeak(seconds = 0.2): Promise<number> {
    return this.#driver.fmaPeak(this.info.threads, seconds);
  }

  /** GB/s that these threads read from and write to memory; 0: could not be measured. */
  memoryPeak(): Promise<number> {
    return this.#driver.memoryPeak(this.info.threads);
  }

  close(): void {
    this.#driver.poolDestroy(this.#pool);
  }
}
