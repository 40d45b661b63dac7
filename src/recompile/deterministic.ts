// Translates between two sets of settings: the current ones, and the deterministic ones, which the run would have
// without any change of class N (such changes depend on clocks and compilers). Rules that may change results are asked
// about the deterministic settings, so that every run decides the same; their changes are applied to the current ones.
import type { Change, Knobs } from '../trace/knobs.ts';

/**
 * Changes of class R that were decided on the deterministic settings, as changes of the current settings. What changes
 * of class N have set in a module stays, if it keeps every bit together with these changes, too; else it goes back.
 */
export function rebaseOntoCurrent(knobs: Knobs, changes: readonly Change[], toDecided: readonly Change[]): Change[] {
  const others = toDecided.filter((o) => !changes.some((c) => c.path === o.path && c.knob === o.knob)),
    stays = new Set<string>();
  knobs.with([...others, ...changes], () => {
    for (const path of new Set(others.map((o) => o.path))) {
      const own = others.filter((o) => o.path === path).map((o): Change => ({ ...o, from: o.to, to: o.from }));
      if (canBe(knobs, own) && knobs.classify(own) === 'N') stays.add(path);
    }
  });
  return fromCurrent(knobs, [...changes, ...others.filter((o) => !stays.has(o.path))]);
}

/** The same, but all knobs that changes of class N have set go back. */
export const revertNeutral = (knobs: Knobs, changes: readonly Change[], toDecided: readonly Change[]): Change[] =>
  fromCurrent(knobs, [
    ...changes,
    ...toDecided.filter((o) => !changes.some((c) => c.path === o.path && c.knob === o.knob)),
  ]);

const fromCurrent = (knobs: Knobs, changes: readonly Change[]): Change[] =>
  changes
    .map((c): Change => ({ ...c, from: knobs.settings(c.path)[c.knob] }))
    .filter((c) => JSON.stringify(c.from) !== JSON.stringify(c.to));

/**
 * Changes from the current to the deterministic settings; none if a setter refuses them, because of a knob that the
 * user has set since.
 */
export function toDeterministic(knobs: Knobs): readonly Change[] {
  const changes = knobs.toDeterministic();
  return canBe(knobs, changes) ? changes : [];
}

function canBe(knobs: Knobs, changes: readonly Change[]): boolean {
  try {
    knobs.settled(changes);
    return true;
  } catch {
    return false; // a setter refuses
  }
}
