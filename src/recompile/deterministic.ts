// Between the settings that a run has and those that it would have if clocks and compilers had done nothing. Rules that
// may change results are asked about the latter, so that every run decides the same; what they decide is done to the
// former.
import type { Change, Knobs } from '../trace/knobs.ts';

/**
 * Changes of results that were decided on the decided settings, as changes of the settings of now, without those that
 * change nothing. What changes of no result have set stays, module by module, where with these changes, too, it keeps
 * every bit; else it goes back.
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

/** The same with the decided settings for all else. */
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
 * What leads to the decided settings; nothing where they cannot be any more, because of what somebody else has set
 * since.
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
