// A Program: memory planned to the byte and a table of steps. Plain JSON: it can be printed, compared, sent and
// replayed.
import type { TensorType } from '../base/shape.ts';
import type { DType } from '../base/dtype.ts';

/**
 * arena: intermediate values, reused. io: inputs and outputs of a run. constants: data of the graph. state: by name,
 * owned by the executor.
 */
export type Slab = 'arena' | 'io' | 'constants' | 'state';

export interface PlannedTensor {
  readonly id: number; // the graph's value
  readonly name: string;
  readonly type: TensorType;
  readonly slab: Slab;
  /** Bytes from the slab's start, a multiple of 256; 0 for states, whose place the executor knows by `name`. */
  readonly offset: number;
  readonly bytes: number;
  /** First and last step that touch it. */
  readonly first: number;
  readonly last: number;
}

export interface Step {
  /** Key of the kernel that runs. */
  readonly kernel: string;
  /** Tensors (indices into `tensors`) behind the kernel's buffers. */
  readonly buffers: readonly number[];
  readonly writes: readonly boolean[];
  readonly ints: readonly number[];
  /** Waits for all steps before it; without it the step may run beside those of its wave. */
  readonly barrier: boolean;
  /**
   * It may be computed group by group with the step before, instead of after it: `groups` of them, between the
   * `offsets` of that tensor.
   */
  readonly runsGroupwiseAfterPrevious?: { readonly groups: number; readonly offsets: number };
  /** Tensor of an int32 scalar: the step runs only if it is 0. Stores to states are guarded so. */
  readonly unless: number | null;
  /** It goes on with what an earlier step left in the memory that it writes. */
  readonly readsDestination?: boolean;
  readonly ops: readonly string[];
  readonly scope: string;
  readonly flops: number;
}

/** `type`: as the graph has it; the tensor may be another view of the same bytes. */
export interface Port {
  readonly name: string;
  readonly tensor: number;
  readonly type: TensorType;
}

export interface Program {
  readonly tensors: readonly PlannedTensor[];
  readonly steps: readonly Step[];
  readonly slabs: { readonly arena: number; readonly io: number; readonly constants: number };
  readonly inputs: readonly Port[];
  readonly outputs: readonly Port[];
  readonly states: readonly Port[];
  readonly constants: readonly { readonly tensor: number; readonly dtype: DType; readonly data: readonly number[] }[];
}
