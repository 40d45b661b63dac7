// What lowering gives to planning: kernel calls in an order in which every value is made before it is read.
import type { Kernel } from '../kernel/kernel.ts';
import type { Graph, ValueId } from '../graph/graph.ts';
import type { Group } from './group.ts';
import type { Storage } from './scope.ts';

export interface KernelCall {
  readonly kernel: Kernel;
  /** Structural key: calls with equal keys run the same code. */
  readonly key: string;
  /** The value behind each buffer of the kernel. */
  readonly buffers: readonly ValueId[];
  /** The kernel's run-time integers. */
  readonly ints: readonly number[];
  /** [written buffer, read buffer]: they may share memory, since each element is read only where it is written. */
  readonly inPlace: readonly (readonly [number, number])[];
  /** Runs only if this int32 value is 0: its stores are updates of states. */
  readonly unless: ValueId | null;
  /** Ops and module scope, for people. */
  readonly ops: readonly string[];
  readonly scope: string;
  /** Useful floating-point operations, for fixed sizes (bounds for the others). */
  readonly flops: number;
}

export interface Lowered {
  readonly graph: Graph;
  /** How it came about: for lowering again what differs by its bounds alone. */
  readonly storage: Storage;
  readonly groups: readonly Group[];
  /** One for each group, then copies. */
  readonly calls: readonly KernelCall[];
  /** Value -> the value whose memory it is: reshapes, and what goes on with it (Op.inPlaceOf). */
  readonly alias: ReadonlyMap<ValueId, ValueId>;
  /** State updates whose kernel writes the new value straight to the state; the others are copied at the end. */
  readonly inPlaceUpdates: ReadonlySet<ValueId>;
}
