// A Program: a memory plan with every byte offset, and a table of steps. Plain JSON: it can be printed, compared, sent
// and run again.
import type { Collective } from '../base/collective.ts';
import type { TensorType } from '../base/shape.ts';
import type { StateSpec } from '../graph/state.ts';
import type { DType } from '../base/dtype.ts';

/**
 * arena: intermediate values, whose memory is reused. io: inputs and outputs of a run. constants: data of the graph.
 * state: kept by the executor, by name.
 */
export type Slab = 'arena' | 'io' | 'constants' | 'state';

export interface PlannedTensor {
  readonly id: number; // the graph's value
  readonly name: string;
  readonly type: TensorType;
  readonly slab: Slab;
  /** Bytes from the start of the slab, a multiple of 256; 0 for states, which the executor finds by `name`. */
  readonly offset: number;
  readonly bytes: number;
  /** The first and the last step that use the tensor. */
  readonly first: number;
  readonly last: number;
}

/** What every step has, so that planning, verification and printing treat all kinds alike. */
interface AnyStep {
  /** Tensors (indices into `tensors`) that the step reads and writes: for a kernel, those behind its buffers. */
  readonly buffers: readonly number[];
  readonly writes: readonly boolean[];
  /**
   * The step waits for all steps before it. Without a barrier it may run at the same time as the other steps of its
   * wave.
   */
  readonly barrier: boolean;
  /** Tensor of an int32 scalar: the step runs only if it is 0. Steps that store to states have such a guard. */
  readonly unless: number | null;
  /** The step also reads the memory that it writes: it adds to what an earlier step left there. */
  readonly readsDestination?: boolean;
  readonly ops: readonly string[];
  readonly scope: string;
  readonly flops: number;
}

/** A product that computes group by group while an exchange goes on. */
export interface BySlot {
  /** The step that has begun the exchange. */
  readonly exchange: number;
  /** come: group z runs when the rows of slot z have come. go: after group z, the rows of slot z are sent. */
  readonly slots: 'come' | 'go';
  readonly groups: number;
}

export interface KernelStep extends AnyStep {
  readonly kind: 'kernel';
  /** Key of the kernel that runs. */
  readonly kernel: string;
  readonly ints: readonly number[];
  /**
   * The step may run group by group with the step before it, instead of after it. `groups`: their number; `offsets`:
   * the tensor with their offsets. A schedule for a CPU decides this (schedule/steps.ts).
   */
  readonly runsGroupwiseAfterPrevious?: { readonly groups: number; readonly offsets: number };
  readonly bySlot?: BySlot;
}

/** Copies a tensor into another one of the same type: `buffers` are the copy and the original. */
export interface CopyStep extends AnyStep {
  readonly kind: 'copy';
}

/**
 * Exchanges values with the other ranks. `buffers` are the inputs, then the outputs; sizes that the ranks need are
 * `ints` (device/native/mpi.c says which). It runs alone: it has a barrier, and so has the step after it.
 */
export interface CollectiveStep extends AnyStep {
  readonly kind: 'collective';
  readonly collective: Collective;
  readonly ints: readonly number[];
  /**
   * 'begin': the exchange goes on while the steps after this one run. 'wait': the step waits for the exchange that the
   * step `begunBy` has begun; its buffers are the same. No step between them writes them or reads the outputs.
   */
  readonly phase?: 'begin' | 'wait';
  readonly begunBy?: number;
  /** Of 'begin': a product reads, or writes, the rows of each slot while the exchange goes on (KernelStep.bySlot). */
  readonly slots?: 'come' | 'go';
}

/** Calls a function of a library, such as a product of cuBLASLt. */
export interface CallStep extends AnyStep {
  readonly kind: 'call';
  readonly library: string;
  readonly function: string;
}

export type Step = KernelStep | CopyStep | CollectiveStep | CallStep;

/** `type`: the type in the graph. The tensor may be another view of the same bytes. */
export interface Port {
  readonly name: string;
  readonly tensor: number;
  readonly type: TensorType;
  /** Of an output whose rows an input counts: element `at` of that input. The other rows need not be read. */
  readonly rows?: { readonly input: string; readonly at: number };
}

/** `layout`: how the program's kernels expect the state to lie in memory. */
export type StatePort = Port & StateSpec;

export interface Program {
  readonly tensors: readonly PlannedTensor[];
  readonly steps: readonly Step[];
  readonly slabs: { readonly arena: number; readonly io: number; readonly constants: number };
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly states: readonly StatePort[];
  readonly constants: readonly { readonly tensor: number; readonly dtype: DType; readonly data: readonly number[] }[];
}
