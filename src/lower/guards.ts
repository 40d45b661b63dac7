// Guards of updates. The guard of an update is an int32 value (`unless`): the update is skipped if it is not 0. A
// kernel whose results are needed only by updates with one guard is skipped together with these updates.
import { dimValues, type ValueId } from '../graph/graph.ts';
import type { Storage, Uses } from './scope.ts';
import { readInputs } from './store.ts';

/** The guard of each value that only updates with that guard need, by the value's home (Storage.home). */
export type Guards = ReadonlyMap<ValueId, ValueId>;

export function guardsOf({ graph, ops, home, uses }: Storage): Guards {
  const guards = new Map<ValueId, ValueId>();
  /** Values that are needed whatever the guards are, or under more than one guard. */
  const always = new Set<ValueId>([...graph.outputs.map((o) => home(o.value)), ...graph.types.flatMap(dimValues)]);
  const need = (v: ValueId, guard: ValueId | undefined): void => {
    const before = guards.get(home(v));
    if (guard === undefined || (before !== undefined && before !== guard)) always.add(home(v));
    else guards.set(home(v), guard);
  };
  const guardOf = (v: ValueId): ValueId | undefined => (always.has(home(v)) ? undefined : guards.get(home(v)));

  for (const { value, unless } of graph.updates) {
    need(value, unless ?? undefined);
    if (unless !== null) always.add(home(unless));
  }
  // From the last node to the first: the readers of a value come before the node that computes it.
  for (const node of [...graph.nodes].reverse()) {
    if (!node.outputs.some((v) => uses.needed.has(v))) continue;
    const guard = commonGuard(node.outputs, uses, guardOf);
    for (const v of readInputs(node, ops)) need(v, guard ?? undefined);
  }
  for (const v of always) guards.delete(v);
  return guards;
}

/** The one guard of all those values that are needed; null if there is none, or more than one. */
export function commonGuard(
  values: readonly ValueId[],
  uses: Uses,
  guardOf: (v: ValueId) => ValueId | undefined,
): ValueId | null {
  const guards = new Set(values.filter((v) => uses.needed.has(v)).map(guardOf));
  const [first] = guards;
  return guards.size === 1 ? (first ?? null) : null;
}
