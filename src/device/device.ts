// What a device does: memory, kernels, running a table of steps. It never sees a Graph or the name of an op.
import type { TypedArray } from '../base/dtype.ts';
import type { Kernel } from '../kernel/kernel.ts';

/** A block of device memory. */
export interface Memory {
  readonly bytes: number;
  readonly address: number;
}

/** A step with its memory: what runs is `kernel` on the addresses of its buffers. */
export interface BoundStep {
  readonly kernel: string;
  readonly buffers: readonly number[]; // addresses
  readonly ints: readonly number[];
  readonly barrier: boolean;
  /** A device may run it group by group with the step before; `offsets` is the address of int32[groups + 1]. */
  readonly runsGroupwiseAfterPrevious?: { readonly groups: number; readonly offsets: number };
  readonly unless: number | null; // address of an int32
}

/** A table of steps that the device is ready to run. */
export interface Bound {
  readonly steps: number;
}

/** A stretch of float32 that gets `std` times the normal numbers of a stream, from its first on. */
export interface Draw {
  readonly address: number;
  readonly count: number;
  readonly std: number;
  readonly seed: number;
  readonly name: number;
}

export interface KernelSource {
  readonly key: string;
  readonly kernel: Kernel;
}

/** How long each step took, in nanoseconds, and over how many tasks. */
export interface StepTimes {
  readonly ns: Float64Array;
  readonly tasks: Float64Array;
}

export interface DeviceInfo {
  readonly name: string;
  readonly threads: number;
  readonly description: string;
  /** What it can hold at most, where that is less than the machine may have. */
  readonly limit?: { readonly bytes: number; readonly why: string };
}

export interface Device {
  readonly info: DeviceInfo;
  /** Zeroed memory, aligned to 256 bytes. Throws UserError when there is none left. */
  alloc(bytes: number): Memory;
  free(memory: Memory): void;
  write(address: number, data: TypedArray): void;
  /** Copies device memory into `into`. */
  read(address: number, into: TypedArray): void;
  /**
   * Fills memory with starting values (`base/random.ts`), off the main thread; none of it may be used until that is
   * done.
   */
  draw(draws: readonly Draw[]): Promise<void>;
  /** Makes kernels ready; those it already has cost nothing. */
  compile(kernels: readonly KernelSource[]): Promise<void>;
  bind(steps: readonly BoundStep[]): Bound;
  /** Runs steps from..to of the table, off the main thread. */
  run(bound: Bound, from?: number, to?: number): Promise<void>;
  profile(bound: Bound): Promise<StepTimes>;
  release(bound: Bound): void;
  close(): void;
}
