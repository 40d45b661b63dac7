// What lowering gives to planning: kernel calls, in an order in which every value is computed before it is read.
import type { Collective } from '../base/collective.ts';
import type { Kernel } from '../kernel/kernel.ts';
import type { Graph, ValueId } from '../graph/graph.ts';
import type { Group } from './group.ts';
import type { Storage } from './scope.ts';

interface AnyCall {
  /** The values that are read and written: for a kernel, those behind its buffers. */
  readonly buffers: readonly ValueId[];
  /** The call runs only if this int32 value is 0; its stores are updates of states. */
  readonly unless: ValueId | null;
  /** Ops and module scope, for messages and profiles. */
  readonly ops: readonly string[];
  readonly scope: string;
  /** Useful floating-point operations, for fixed sizes (bounds for the others). */
  readonly flops: number;
}

/** Runs a kernel. */
export interface KernelCall extends AnyCall {
  readonly kind: 'kernel';
  readonly kernel: Kernel;
  /** Hash of the kernel's text: calls with equal keys run the same code. */
  readonly key: string;
  /** The kernel's run-time integers. */
  readonly ints: readonly number[];
  /**
   * Pairs [written buffer, read buffer] that may share memory: each element is read only at the index at which it is
   * written.
   */
  readonly inPlace: readonly (readonly [number, number])[];
  /** The exchange whose rows come or go while the product computes group by group (plan/exchanges.ts). */
  readonly bySlot?: { readonly begin: CollectiveCall; readonly slots: 'come' | 'go' };
}

/** Copies a value: `buffers` are the copy and the original. */
export interface CopyCall extends AnyCall {
  readonly kind: 'copy';
}

/** Exchanges data with other ranks: `buffers` are what the op reads, then what it writes. */
export interface CollectiveCall extends AnyCall {
  readonly kind: 'collective';
  readonly collective: Collective;
  readonly writes: readonly boolean[];
  readonly ints: readonly number[];
  /** Planning divides an exchange into two calls (plan/exchanges.ts). `begunBy`: of 'wait', the call that begins it. */
  readonly phase?: 'begin' | 'wait';
  readonly slots?: 'come' | 'go';
  readonly begunBy?: CollectiveCall;
}

export type Call = KernelCall | CopyCall | CollectiveCall;

export interface Lowered {
  readonly graph: Graph;
  /** What was decided about storage: `lowerAgain` uses it for graphs that differ only in their bounds. */
  readonly storage: Storage;
  readonly groups: readonly Group[];
  /** One for each group, then the copies of updates. */
  readonly calls: readonly Call[];
  /**
   * The value in whose memory another value lies: that of a reshape, or the operand that an op overwrites
   * (Op.inPlaceOf).
   */
  readonly alias: ReadonlyMap<ValueId, ValueId>;
  /** State updates whose kernel writes the new value straight to the state; the others are copied at the end. */
  readonly inPlaceUpdates: ReadonlySet<ValueId>;
}
