// The interface of a device: it manages memory, compiles kernels and runs tables of steps. It knows nothing of graphs
// and ops.
import type { TypedArray } from '../base/dtype.ts';
import type { Kernel } from '../kernel/kernel.ts';

/** A block of device memory. */
export interface Memory {
  readonly bytes: number;
  readonly address: number;
}

/** A launch of a kernel on buffers at given addresses. */
export interface BoundStep {
  readonly kernel: string;
  readonly buffers: readonly number[]; // addresses in bytes
  readonly ints: readonly number[];
  readonly barrier: boolean;
  /**
   * If set, a device may run this step group by group together with the step before it: the groups are the same.
   * offsets: address of int32[groups + 1], the first row of each group.
   */
  readonly runsGroupwiseAfterPrevious?: { readonly groups: number; readonly offsets: number };
  readonly unless: number | null; // address of an int32: the step is skipped if it is not 0
}

/** A table of steps in device memory. */
export interface Bound {
  readonly steps: number;
}

/** Fills float32[count] with `std` times the normal numbers of the random stream of `seed` and `name`. */
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

/** The time of each step in nanoseconds, and its number of tasks. */
export interface StepTimes {
  readonly ns: Float64Array;
  readonly tasks: Float64Array;
}

export interface DeviceInfo {
  readonly name: string;
  readonly threads: number;
  readonly description: string;
  /** The most memory that the device can use, if the machine may have more. */
  readonly limit?: { readonly bytes: number; readonly why: string };
}

export interface Device {
  readonly info: DeviceInfo;
  /** Allocates zeroed memory, aligned to 256 bytes. Throws UserError if there is too little. */
  alloc(bytes: number): Memory;
  free(memory: Memory): void;
  write(address: number, data: TypedArray): void;
  /** Copies device memory into `into`. */
  read(address: number, into: TypedArray): void;
  /**
   * Fills memory with initial values (`base/random.ts`), off the main thread. The memory must not be used until the
   * promise resolves.
   */
  draw(draws: readonly Draw[]): Promise<void>;
  /** Compiles kernels. Kernels that the device already has are skipped. */
  compile(kernels: readonly KernelSource[]): Promise<void>;
  bind(steps: readonly BoundStep[]): Bound;
  /** Runs steps from..to of the table, off the main thread. */
  run(bound: Bound, from?: number, to?: number): Promise<void>;
  profile(bound: Bound): Promise<StepTimes>;
  release(bound: Bound): void;
  close(): void;
}
