// Kernels that wait for what the graph has before them (Node.late), though they could begin. What is computed again is
// there to take little memory, and would take as much as if it had been kept where it lay about until something else is
// done.
import type { Node, ValueId } from '../graph/graph.ts';

/** A kernel: the values it computes, and others that it waits for. */
interface Waiting<K> {
  readonly members: readonly ValueId[];
  readonly after: Set<K>;
}

/**
 * Adds to `after` of kernels that come late. `kernels`: in the order of the graph; `before`: those that one directly
 * follows.
 */
export function computeLate<K extends Waiting<K>>(
  kernels: readonly K[],
  producers: readonly (Node | undefined)[],
  before: (k: K) => readonly K[],
): void {
  const parts = new Map<number, number[]>(),
    place = new Map(kernels.map((k, i) => [k, i]));
  kernels.forEach((k, i) => {
    const part = k.members.map((v) => producers[v]?.notBefore).find((n) => n !== undefined);
    if (part !== undefined) parts.set(part, [...(parts.get(part) ?? []), i]);
  });
  if (parts.size === 0) return;
  const follows = kernels.map((k) => before(k).map((b) => place.get(b) ?? 0)),
    latest = new Array<number>(kernels.length).fill(-1);
  /** The place of the last kernel that kernel i, directly or not, waits for. */
  const last = (i: number): number => {
    if (latest[i] < 0) {
      latest[i] = i;
      latest[i] = follows[i].reduce((n, b) => Math.max(n, last(b)), i);
    }
    return latest[i];
  };
  kernels.forEach((_, i) => last(i));
  for (const own of parts.values()) {
    // Those that wait for none of this part.
    const first = Math.min(...own),
      earlier = kernels.map((_, i) => i).filter((i) => latest[i] < first),
      waited = new Set(earlier.flatMap((i) => follows[i]));
    const ends = earlier.filter((i) => !waited.has(i));
    for (const i of own) for (const e of ends) kernels[i].after.add(kernels[e]);
  }
}
