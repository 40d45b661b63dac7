// Which memory a call uses, before values have offsets: by the value or the state that lies there.
import type { ValueId } from '../graph/graph.ts';
import type { Call, Lowered } from '../lower/lowered.ts';

/** By memory, whether the call writes it. */
export type Uses = ReadonlyMap<ValueId, boolean>;

export interface MemoryOf {
  memory(v: ValueId): ValueId;
  uses(c: Call): Uses;
  /** Whether two calls use the same memory, at least one of them writing. */
  conflict(a: Call, b: Call): boolean;
}

export function memoryOf({ graph, alias, inPlaceUpdates }: Lowered): MemoryOf {
  const stateOf = new Map(graph.updates.filter((u) => inPlaceUpdates.has(u.value)).map((u) => [u.value, u.state])),
    known = new Map<Call, Uses>();
  const memory = (v: ValueId): ValueId => {
    const home = alias.get(v) ?? v;
    return stateOf.get(home) ?? home;
  };
  const uses = (c: Call): Uses => {
    const found = known.get(c);
    if (found) return found;
    const made = new Map<ValueId, boolean>();
    c.buffers.forEach((v, i) => {
      const written =
        c.kind === 'copy' ? i === 0 : c.kind === 'collective' ? c.writes[i] : c.kernel.buffers[i].access !== 'read';
      made.set(memory(v), written || made.get(memory(v)) === true);
    });
    if (c.unless !== null && !made.has(memory(c.unless))) made.set(memory(c.unless), false);
    known.set(c, made);
    return made;
  };
  const writes = (a: Uses, b: Uses): boolean => [...a].some(([m, written]) => written && b.has(m));
  return {
    memory,
    uses,
    conflict: (a, b) => writes(uses(a), uses(b)) || writes(uses(b), uses(a)),
  };
}
