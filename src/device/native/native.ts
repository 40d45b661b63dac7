// The native CPU device: kernels are C, compiled by the system's compiler and run by the driver's thread pool. A run
// is one foreign call.
import { DTYPES, type TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import type { Bound, BoundStep, Device, DeviceInfo, KernelSource, Memory, Place, Read } from '../device.ts';
import type { NormalsSource } from '../normals.ts';
import { NATIVE, type CpuTarget } from '../../schedule/target.ts';
import { panelsOf } from '../../passes/panels.ts';
import { loadDriver, type Driver } from './driver.ts';
import { KernelLibrary } from './library.ts';
import { NativeMemory } from './memory.ts';
import { NativePool } from './pool.ts';
import { NativeTable } from './table.ts';
import { findToolchain } from './toolchain.ts';

export class NativeDevice implements Device {
  readonly info: DeviceInfo;
  readonly target: CpuTarget;
  readonly #driver: Driver;
  readonly #library: KernelLibrary;
  readonly #memory: NativeMemory;
  readonly #pool: NativePool;

  private constructor(driver: Driver, library: KernelLibrary, pool: number, threads: number, compiler: string) {
    this.#driver = driver;
    this.target = { ...NATIVE, limits: { ...NATIVE.limits, panels: panelsOf(driver.panel) } };
    this.#library = library;
    this.#memory = new NativeMemory(driver);
    this.#pool = new NativePool(driver, pool);
    this.info = {
      name: 'native',
      threads,
      exact: DTYPES,
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
  write(place: Place, data: TypedArray): void {
    this.#memory.write(place, data);
  }
  read(reads: readonly Read[]): Promise<void> {
    for (const { place, into } of reads) this.#memory.read(place, into);
    return Promise.resolve();
  }

  compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void> {
    return this.#library.add(kernels);
  }

  bind(steps: readonly BoundStep[]): Bound {
    return new NativeTable(
      this.#memory,
      this.#pool,
      steps.map((step) => ({ code: this.#library.get(step.kernel), step })),
    );
  }

  /** GFLOP/s of float32 fused multiply-adds that this machine reaches on the device's threads. */
  fmaPeak(seconds = 0.2): Promise<number> {
    return this.#driver.fmaPeak(this.info.threads, seconds);
  }

  /** GB/s that these threads read from and write to memory; 0: could not be measured. */
  memoryPeak(): Promise<number> {
    return this.#driver.memoryPeak(this.info.threads);
  }

  close(): Promise<void> {
    return this.#pool.close();
  }
}
