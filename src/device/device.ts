// The interface of a device: it manages memory, compiles kernels and runs tables of steps. It knows nothing of graphs
// and ops. Memory is named by place (a block and an offset); only a device knows addresses.
import type { DType, TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import type { Collective } from '../base/collective.ts';
import type { NormalsSource } from './normals.ts';
import type { Scheduled } from '../schedule/schedule.ts';
import type { BySlot } from '../plan/program.ts';
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

interface AnyBound {
  readonly buffers: readonly Place[];
  readonly ints: readonly number[];
  readonly barrier: boolean;
  readonly unless: Place | null; // an int32: the step is skipped if it is not 0
}

/** A launch of a kernel on buffers. */
export interface BoundKernel extends AnyBound {
  readonly kernel: string;
  /**
   * If set, a device may run this step group by group together with the step before it: the groups are the same.
   * offsets: int32[groups + 1], the first row of each group.
   */
  readonly runsGroupwiseAfterPrevious?: { readonly groups: number; readonly offsets: Place };
  /** See KernelStep. */
  readonly bySlot?: BySlot | undefined;
}

/** An exchange with the other ranks. It runs alone, between two barriers. index, scope: of its step, for messages. */
export interface BoundCollective extends AnyBound {
  readonly collective: Collective;
  readonly index: number;
  readonly scope: string;
  /** See CollectiveStep. `begunBy` is a step of the same table. */
  readonly phase?: 'begin' | 'wait' | undefined;
  readonly slots?: 'come' | 'go' | undefined;
  readonly begunBy?: number | undefined;
}

export type BoundStep = BoundKernel | BoundCollective;

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
  /** The most memory that the device can use, if the machine may have more. own: it is not the machine's memory. */
  readonly limit?: { readonly bytes: number; readonly why: string; readonly own?: boolean };
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

/** The steps of a table for a device without ranks: all are kernels. Throws UserError if one is a collective. */
export function onlyKernels(steps: readonly BoundStep[], device: string): readonly BoundKernel[] {
  return steps.map((step) => {
    if ('kernel' in step) return step;
    throw new UserError(
      `step ${step.index} (${step.collective}${step.scope && ` in ${step.scope}`}): ` +
        `the device ${device} was opened without ranks`,
      'only the native device runs over many ranks; start them with mpirun or srun',
    );
  });
}
