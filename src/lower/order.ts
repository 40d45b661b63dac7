// The order of kernels: each runs after those it depends on; among such orders one is taken that keeps few bytes alive
// at a time. Takes, for each kernel, what it depends on, writes and reads; gives the order and its peak, the largest
// number of bytes that are alive at one time.
import type { ValueId } from '../graph/graph.ts';
import type { Exchanges, Task } from './task.ts';

export interface Ordered<K> {
  readonly order: readonly K[];
  readonly peak: number;
}

/**
 * Tries two orders: that of the graph, and a greedy one that takes, at each place, the kernel that raises the peak
 * least and, among these, adds the fewest bytes. The greedy one is taken only if its peak is lower by the share SAVES.
 */
export function orderTasks<K>(
  given: readonly Task<K>[],
  byteSizeOf: (v: ValueId) => number,
  exchanges?: Exchanges,
): Ordered<K> {
  const tasks = given.map((t) => ({ ...t, reads: [...new Set(t.reads)] })),
    known = new Map<ValueId, number>();
  const bytesOf = (v: ValueId): number => {
    const bytes = known.get(v) ?? byteSizeOf(v);
    known.set(v, bytes);
    return bytes;
  };
  const plain = depthFirst(tasks),
    frugal = fewestBytes(tasks, bytesOf);
  for (const order of [plain, frugal]) digestsFirst(order, bytesOf);
  const [a, b] = [plain, frugal].map((order) => peakOf(order, bytesOf));
  const best = b < (1 - SAVES) * a ? { order: frugal, peak: b } : { order: plain, peak: a },
    order = exchanges?.hide(best.order, (tasks) => peakOf(tasks, bytesOf)) ?? best.order;
  return { order: order.map((t) => t.of), peak: best.peak };
}

const SAVES = 0.02; // a share of the peak

/**
 * A kernel whose result is much smaller than what it reads (a sum of squares of a gradient) runs as soon as it can,
 * while its operands are in the cache. DIGEST: at least so many bytes read for each byte written. MUCH: at least so
 * many bytes read.
 */
const DIGEST = 256,
  MUCH = 16384;

function digestsFirst<K>(order: Task<K>[], bytesOf: (v: ValueId) => number): void {
  const size = (vs: readonly ValueId[]): number => [...new Set(vs)].reduce((n, v) => n + bytesOf(v), 0);
  for (const task of order.filter(
    (t) => t.before.length > 0 && t.makes.length > 0 && size(t.reads) >= Math.max(MUCH, DIGEST * size(t.makes)),
  )) {
    const last = Math.max(...task.before.map((k) => order.findIndex((t) => t.of === k))),
      from = order.indexOf(task);
    order.splice(from, 1);
    order.splice(last + 1, 0, task);
  }
}

/** Depth-first in the order of the graph: each kernel after those it depends on. */
function depthFirst<K>(tasks: readonly Task<K>[]): Task<K>[] {
  const by = new Map(tasks.map((t) => [t.of, t])),
    sorted: Task<K>[] = [],
    done = new Set<Task<K>>();
  const visit = (t: Task<K> | undefined): void => {
    if (!t || done.has(t)) return;
    done.add(t);
    t.before.forEach((k) => {
      visit(by.get(k));
    });
    sorted.push(t);
  };
  tasks.forEach(visit);
  return sorted;
}

/** Counts the bytes that are alive while kernels run one after the other. */
class Alive<K> {
  readonly #bytesOf: (v: ValueId) => number;
  readonly #readers = new Map<ValueId, number>();
  now = 0;
  peak = 0;

  constructor(tasks: readonly Task<K>[], bytesOf: (v: ValueId) => number) {
    this.#bytesOf = bytesOf;
    for (const t of tasks) for (const v of t.reads) this.#readers.set(v, (this.#readers.get(v) ?? 0) + 1);
  }

  /**
   * Bytes that a kernel adds, bytes that nothing needs after it, and how many of its results may overwrite operands.
   */
  #effect({ makes, reads, overwrites }: Task<K>): { made: number; freed: number; over: number } {
    const free: number[] = [];
    let made = 0,
      freed = 0,
      over = 0;
    for (const v of overwrites) if (this.#readers.get(v) === 1) free.push(this.#bytesOf(v));
    for (const v of makes) {
      const bytes = this.#bytesOf(v),
        at = free.indexOf(bytes);
      made += bytes;
      if (!this.#readers.has(v)) freed += bytes;
      if (at >= 0) {
        over += bytes;
        free.splice(at, 1);
      }
    }
    for (const v of reads) if (this.#readers.get(v) === 1) freed += this.#bytesOf(v);
    return { made, freed, over };
  }

  /** The peak if this kernel runs next, and the bytes that it leaves alive. */
  with(task: Task<K>): { peak: number; adds: number } {
    const { made, freed, over } = this.#effect(task);
    return { peak: Math.max(this.peak, this.now + made - over), adds: made - freed };
  }

  do(task: Task<K>): void {
    const { made, freed, over } = this.#effect(task);
    this.peak = Math.max(this.peak, this.now + made - over);
    this.now += made - freed;
    for (const v of task.reads) this.#readers.set(v, (this.#readers.get(v) ?? 0) - 1);
  }
}

function peakOf<K>(order: readonly Task<K>[], bytesOf: (v: ValueId) => number): number {
  const alive = new Alive(order, bytesOf);
  order.forEach((t) => {
    alive.do(t);
  });
  return alive.peak;
}

function fewestBytes<K>(tasks: readonly Task<K>[], bytesOf: (v: ValueId) => number): Task<K>[] {
  const waits = new Map(tasks.map((t) => [t.of, new Set(t.before).size])),
    followers = new Map<K, Task<K>[]>();
  for (const t of tasks) for (const k of new Set(t.before)) followers.set(k, [...(followers.get(k) ?? []), t]);
  const alive = new Alive(tasks, bytesOf),
    order: Task<K>[] = [],
    place = new Map(tasks.map((t, i) => [t, i]));
  const ready = tasks.filter((t) => waits.get(t.of) === 0);
  while (ready.length > 0) {
    let best = 0,
      least = { peak: Infinity, adds: Infinity };
    ready.forEach((t, i) => {
      const found = alive.with(t),
        by = found.peak - least.peak || found.adds - least.adds || (place.get(t) ?? 0) - (place.get(ready[best]) ?? 0);
      if (by < 0) {
        best = i;
        least = found;
      }
    });
    const [task] = ready.splice(best, 1);
    alive.do(task);
    order.push(task);
    for (const f of followers.get(task.of) ?? []) {
      const left = (waits.get(f.of) ?? 0) - 1;
      waits.set(f.of, left);
      if (left === 0) ready.push(f);
    }
  }
  return order;
}
