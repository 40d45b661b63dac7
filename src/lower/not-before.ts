// Kernels that wait for earlier parts of the graph (Node.notBefore), although their operands are ready. A value is
// recomputed in order to need little memory: if its kernel ran as soon as it can, the result would lie in memory until
// it is read, and nothing would be saved.
import type { Node, ValueId } from '../graph/graph.ts';

/** A kernel: the values it computes, and the kernels that must run before for another reason than its operands. */
interface Waiting<K> {
  readonly members: readonly ValueId[];
  readonly after: Set<K>;
}

/**
 * Adds to `after` of the kernels that wait. `kernels`: in the order of the graph; `before`: the kernels that one
 * directly follows.
 */
export function waitForNotBefore<K extends Waiting<K>>(
  kernels: readonly K[],
  producers: readonly (Node | undefined)[],
  before: (k: K) => readonly K[],
): void {
  // Kernels are named by their place in `kernels`. The kernels of one part have the same `notBefore`.
  const parts = new Map<number, number[]>(),
    place = new Map(kernels.map((k, i) => [k, i]));
  kernels.forEach((k, i) => {
    const part = k.members.map((v) => producers[v]?.notBefore).find((n) => n !== undefined);
    if (part !== undefined) parts.set(part, [...(parts.get(part) ?? []), i]);
  });
  if (parts.size === 0) return;
  const follows = kernels.map((k) => before(k).map((b) => place.get(b) ?? 0)),
    latest = new Array<number>(kernels.length).fill(-1);
  /** The last kernel in the order of the graph that kernel i depends on, directly or not (or i itself). */
  const last = (i: number): number => {
    if (latest[i] < 0) {
      latest[i] = i;
      latest[i] = follows[i].reduce((n, b) => Math.max(n, last(b)), i);
    }
    return latest[i];
  };
  kernels.forEach((_, i) => last(i));
  for (const part of parts.values()) {
    // Kernels that come before this part and depend on none of it. The part waits for those that no other of them
    // follows: the rest runs before these anyway.
    const first = Math.min(...part),
      earlier = kernels.map((_, i) => i).filter((i) => latest[i] < first),
      followed = new Set(earlier.flatMap((i) => follows[i]));
    const ends = earlier.filter((i) => !followed.has(i));
    for (const i of part) for (const e of ends) kernels[i].after.add(kernels[e]);
  }
}
