// The native CPU device: kernels are C, compiled by the system's compiler and run by the driver's thread pool. A run
// is one foreign call.
import { DTYPES, type TypedArray } from '../../base/dtype.ts';
import { UserError } from '../../base/errors.ts';
import { onlyKernels, type Bound, type BoundKernel, type BoundStep, type Device, type DeviceInfo } from '../device.ts';
import type { KernelSource, Memory, Place, Read } from '../device.ts';
import type { NormalsSource } from '../normals.ts';
import type { Ranks } from '../ranks.ts';
import { NATIVE, type CpuTarget } from '../../schedule/target.ts';
import { panelsOf } from '../../passes/panels.ts';
import { loadDriver, type Driver } from './driver.ts';
import { KernelLibrary } from './library.ts';
import { NativeMemory } from './memory.ts';
import { NativePool } from './pool.ts';
import { rankStages } from './rank-stages.ts';
import { NativeCollectives } from './collectives.ts';
import { NativeTable, type Launch } from './table.ts';
import { findToolchain, noCompiler } from './toolchain.ts';

export class NativeDevice implements Device {
  readonly info: DeviceInfo;
  readonly target: CpuTarget;
  readonly #driver: Driver;
  readonly #library: KernelLibrary;
  readonly #memory: NativeMemory;
  readonly #pool: NativePool;
  readonly #collectives: NativeCollectives | null;

  private constructor(
    driver: Driver,
    library: KernelLibrary,
    pool: number,
    threads: number,
    compiler: string,
    collectives: NativeCollectives | null,
  ) {
    this.#driver = driver;
    this.#collectives = collectives;
    const ranks = collectives?.ranks.size;
    this.target = {
      ...NATIVE,
      limits: { ...NATIVE.limits, panels: panelsOf(driver.panel) },
      ...(ranks !== undefined && { ranks: rankStages(ranks) }),
    };
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

  /**
   * Throws UserError if no C compiler is found, CC is not a compiler, or threads cannot be started. ranks: run the
   * collective steps of programs; all of them open the device, or RanksError says that their machines differ.
   */
  static async open(
    threads: number,
    say: (line: string) => void = console.warn,
    ranks: Ranks | null = null,
  ): Promise<NativeDevice> {
    const tool = await findToolchain();
    if (!tool) throw noCompiler();
    const driver = await loadDriver(tool, say),
      collectives = ranks && NativeCollectives.open(ranks, driver, threads);
    const pool = driver.poolCreate(threads);
    if (pool === 0) {
      throw new UserError(
        `device native: ${threads} ${threads === 1 ? 'thread' : 'threads'} could not be started: ${driver.error()}`,
        'ask for fewer threads (--threads), or raise the limits on processes and memory (ulimit -u, ulimit -v)',
      );
    }
    const library = new KernelLibrary(tool, driver, (ranks?.onHost.rank ?? 0) > 0);
    return new NativeDevice(driver, library, pool, threads, tool.version, collectives);
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
    const add = (): Promise<void> => this.#library.add(kernels);
    return this.#collectives ? this.#collectives.ranks.compiling(add) : add();
  }

  bind(steps: readonly BoundStep[]): Bound {
    const collectives = this.#collectives;
    return new NativeTable(
      this.#memory,
      this.#pool,
      collectives
        ? steps.map((step) =>
            'kernel' in step
              ? { ...this.#launch(step), ...(step.bySlot && { slot: collectives.slot(step.bySlot.slots) }) }
              : { code: collectives.get(step), step },
          )
        : onlyKernels(steps, this.info.name).map((step) => this.#launch(step)),
    );
  }

  #launch(step: BoundKernel): Launch {
    return { code: this.#library.get(step.kernel), step };
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
