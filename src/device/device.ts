// The interface of a device: it manages memory, compiles kernels and runs tables of steps. It knows nothing of graphs
// and ops. Memory is named by place (a block and an offset); only a device knows addresses.
import type { DType, TypedArray } from '../base/dtype.ts';
import type { NormalsSource } from './normals.ts';
import type { Scheduled } from '../schedule/schedule.ts';
import type { Target } from '../schedule/target.ts';

/** A block of device memory. */
export interface Memory {
  readonly bytes: number;
  /**
   * Copies the bytes from `offset` on into `into`, before it returns. Only devices whose memory the host sees have it:
   * others can read only with `Device.read`.
   */
  readonly peek?: ((offset: number, into: TypedArray) => void) | undefined;
}

/** Device memory from `offset` bytes after the start of a block. */
export interface Place {
  readonly memory: Memory;
  readonly offset: number;
}

/** A copy from device memory to the host. */
export interface Read {
  readonly place: Place;
  readonly into: TypedArray;
}

/** A launch of a kernel on buffers. */
export interface BoundStep {
  readonly kernel: string;
  readonly buffers: readonly Place[];
  readonly ints: readonly number[];
  readonly barrier: boolean;
  /**
   * If set, a device may run this step group by group together with the step before it: the groups are the same.
   * offsets: int32[groups + 1], the first row of each group.
   */
  readonly runsGroupwiseAfterPrevious?: { readonly groups: number; readonly offsets: Place };
  readonly unless: Place | null; // an int32: the step is skipped if it is not 0
}

/** The time of each step in nanoseconds, and its number of tasks. */
export interface StepTimes {
  readonly ns: Float64Array;
  readonly tasks: Float64Array;
}

/** A table of steps whose places the device has resolved. */
export interface Bound {
  /** Runs steps from..to of the table, off the main thread; by default all. */
  run(from?: number, to?: number): Promise<void>;
  /** Runs all steps, one at a time. */
  profile(): Promise<StepTimes>;
  /** Frees the table. It must not be running. */
  dispose(): void;
}

export interface KernelSource {
  readonly key: string;
  readonly kernel: Scheduled;
}

export interface DeviceInfo {
  readonly name: string;
  readonly threads: number;
  readonly description: string;
  /** The storage types for which results have the bits of the native device. */
  readonly exact: readonly DType[];
  /** The most memory that the device can use, if the machine may have more. */
  readonly limit?: { readonly bytes: number; readonly why: string };
}

export interface Device {
  readonly info: DeviceInfo;
  /** What the compiler knows of the machine. */
  readonly target: Target;
  /** Allocates zeroed memory, aligned to 256 bytes. Throws UserError if there is too little. */
  alloc(bytes: number): Memory;
  free(memory: Memory): void;
  /** Copies `data` before it returns. Runs that begin later see it; memory that a run uses must not be written. */
  write(place: Place, data: TypedArray): void;
  /**
   * Copies the memory as it is now, in order with writes, runs and `free`: what is called later does not change what is
   * read. The arrays have their values when the promise resolves. Memory that a run may write must not be read.
   */
  read(reads: readonly Read[]): Promise<void>;
  /** Compiles kernels. Kernels that the device already has are skipped. */
  compile(kernels: readonly (KernelSource | NormalsSource)[]): Promise<void>;
  /** Makes a table of steps. Their kernels must be compiled. */
  bind(steps: readonly BoundStep[]): Bound;
  /** Waits until nothing is running, then gives back threads and memory. Later calls are refused. */
  close(): Promise<void>;
}
