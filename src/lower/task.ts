// A kernel, as ordering sees it.
import type { Node, ValueId } from '../graph/graph.ts';
import type { Storage } from './scope.ts';

/** What ordering needs to know of a kernel. `K` names the kernel. */
export interface Task<K> {
  readonly of: K;
  /** Kernels that must run before this one. */
  readonly before: readonly K[];
  /** Values that it writes and that live in the arena. */
  readonly makes: readonly ValueId[];
  readonly reads: readonly ValueId[];
  /** Those of `reads` whose memory may hold a result of as many bytes, if nothing reads them later. */
  readonly overwrites: readonly ValueId[];
  /** Over ranks: how long it computes or, of an exchange, how long its messages take: ns. */
  readonly time?: number;
  readonly exchange?: boolean;
}

/** How what exchanges values with other ranks is ordered. Only programs over ranks contain it (schedule/target.ts). */
export interface Exchanges {
  /** How long a kernel or an exchange takes, roughly: ns. */
  timeOf(storage: Storage, runs: Runs): number;
  /** An order in which kernels run while messages are on their way, from one that keeps memory small. */
  hide<K>(order: readonly Task<K>[], peakOf: (order: readonly Task<K>[]) => number): readonly Task<K>[];
}

/** What becomes one kernel (group.ts). */
export interface Runs {
  readonly kind: 'map' | 'matmul' | 'loops' | 'collective';
  readonly node: Node | null;
  readonly reads: Iterable<ValueId>;
  readonly roots: readonly ValueId[];
}
