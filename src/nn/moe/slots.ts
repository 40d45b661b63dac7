// Which experts a layer has. The number of slots, and their memory, is fixed when the layer is built; a slot holds an
// expert or is free. In: the value of the knob `slots`, which is plain JSON; out: its checked meaning, and the value
// after one more change.
//
// The value: for each slot 'on', 'off' (free) or 'like 3' (a copy of the expert in slot 3, made by a split: one
// family), as it was before the last change; then the number of that change, and what it did: 'prune 5', 'merge 5 into
// 2 by 0.25', 'split 3 into 5', in this order.
import { UserError } from '../../base/errors.ts';
import type { KnobValue } from '../../trace/knobs.ts';

export type SlotsValue = readonly (string | number)[];

/**
 * For each slot the family of its expert (an expert and its copies), named by the family's first slot; null: free. A
 * token chooses at most one expert of a family.
 */
export type Families = readonly (number | null)[];

/** share: the weight of the merged expert in the weighted mean. */
export type SlotChange =
  | { readonly does: 'prune'; readonly expert: number }
  | { readonly does: 'merge'; readonly expert: number; readonly into: number; readonly share: number }
  | { readonly does: 'split'; readonly expert: number; readonly into: number };

export interface Slots {
  /** Before the last change, and after it. */
  readonly before: Families;
  readonly families: Families;
  /** Changes so far. */
  readonly count: number;
  readonly changes: readonly SlotChange[];
}

/** What a router knows of the slots: families, and how many slots hold an expert. */
export interface OpenSlots {
  readonly families: Families;
  readonly active: number;
}

const HINT = "splitExpert, mergeExperts and pruneExpert of dynamoe/recompile set it in a rule's alter";
const refuse = (what: string): never => {
  throw new UserError(`MoE: slots: ${what}`, HINT);
};

/** The value for a new layer: every slot holds an expert of its own, or only the first `active` slots do. */
export const freshSlots = (slots: number, active = slots): SlotsValue =>
  Array.from({ length: slots }, (_, e) => (e < active ? 'on' : 'off'));

/** Reads and checks a value of the knob. slots: how many slots the layer has; default as many as the value lists. */
export function readSlots(value: unknown, slots = slotsIn(value)): Slots {
  if (!Array.isArray(value) || value.length < slots)
    return refuse(
      `the value must be a list with an entry for each of the ${slots} slots, got ${JSON.stringify(value)}`,
    );
  const list = value as readonly unknown[],
    before = list.slice(0, slots).map((text, e) => familyIn(list, text, e)),
    [count = 0, ...rest] = list.slice(slots);
  if (typeof count !== 'number' || !Number.isSafeInteger(count) || count > 0 !== rest.length > 0 || count < 0)
    return refuse(
      `after ${slots} slots come the number of a change and what it did, got ${JSON.stringify(list.slice(slots))}`,
    );
  const changes = rest.map(readChange),
    families = changes.reduce(after, before);
  if (choicesOf(before) === 0 || choicesOf(families) === 0) return refuse('no slot holds an expert');
  return { before, families, count, changes };
}

function slotsIn(value: unknown): number {
  const list = Array.isArray(value) ? value : [],
    end = list.findIndex((x) => typeof x === 'number');
  return end < 0 ? list.length : end;
}

function familyIn(list: readonly unknown[], text: unknown, e: number): number | null {
  if (text === 'on') return e;
  if (text === 'off') return null;
  const first = typeof text === 'string' ? Number(/^like (\d+)$/.exec(text)?.[1] ?? NaN) : NaN;
  return first < e && list[first] === 'on'
    ? first
    : refuse(`slot ${e} is 'on', 'off' or 'like' an earlier one that is on, got ${JSON.stringify(text)}`);
}

function readChange(text: unknown): SlotChange {
  const words =
    typeof text === 'string'
      ? /^(?:prune (\d+)|merge (\d+) into (\d+) by ([\d.e+-]+)|split (\d+) into (\d+))$/.exec(text)
      : null;
  if (!words) return refuse(`${JSON.stringify(text)} is no change`);
  const [, pruned, merged, target, share, split, free] = words;
  if (pruned !== undefined) return { does: 'prune', expert: Number(pruned) };
  if (merged !== undefined)
    return { does: 'merge', expert: Number(merged), into: Number(target), share: Number(share) };
  return { does: 'split', expert: Number(split), into: Number(free) };
}

const written = (c: SlotChange): string =>
  c.does === 'prune'
    ? `prune ${c.expert}`
    : `${c.does} ${c.expert} into ${c.into}${c.does === 'merge' ? ` by ${c.share}` : ''}`;

/** Families after a change. Throws UserError for an impossible change. */
function after(families: Families, change: SlotChange): Families {
  const { expert } = change,
    next = [...families],
    held = (e: number): boolean => families[e] !== null && families[e] !== undefined;
  if (!held(expert)) return refuse(`${written(change)}: slot ${expert} holds no expert`);
  switch (change.does) {
    case 'prune':
      next[expert] = null;
      break;
    case 'merge':
      if (!held(change.into) || change.into === expert)
        return refuse(`${written(change)}: slot ${change.into} holds no other expert`);
      if (!(change.share >= 0 && change.share <= 1)) return refuse(`${written(change)}: a share is from 0 to 1`);
      next[expert] = null;
      break;
    case 'split':
      if (families[change.into] !== null) return refuse(`${written(change)}: slot ${change.into} is not free`);
      next[change.into] = families[expert];
      break;
  }
  // A family is named by its first slot, which may have become free.
  return next.map((family) => (family === null ? null : next.indexOf(family)));
}

/**
 * Which slots hold an expert, from the value of the knob `slots` of a layer or of a session's settings. Throws
 * UserError for an invalid value.
 */
export const activeSlots = (slots: KnobValue): boolean[] => activeOf(readSlots(slots).families);

/** How many experts a token can choose: one of each family. */
export const choicesOf = (families: Families): number => new Set(families.filter((family) => family !== null)).size;

/** Slots that hold an expert. */
export const activeOf = (families: Families): boolean[] => families.map((family) => family !== null);

export function checkChoices(topK: number, families: Families): void {
  const choices = choicesOf(families),
    active = activeOf(families).filter((held) => held).length;
  if (topK > choices)
    throw new UserError(
      `MoE: topK ${topK} needs as many experts to choose from, and there are ` +
        `${choices}${active > choices ? ` (${active}, but copies of one another count once)` : ''}`,
      'lower topK first, or keep more experts',
    );
}

/** What routers need; null if every slot holds an expert of its own, so that all can be chosen. */
export function openSlots(families: Families): OpenSlots | null {
  return families.every((family, e) => family === e)
    ? null
    : { families, active: activeOf(families).filter((held) => held).length };
}

/** The value after one more change. `base`: the layer's value; `now`: the draft's, with earlier changes of the rule. */
export function changeSlots(base: SlotsValue, now: SlotsValue, change: SlotChange): SlotsValue {
  const { families, count } = readSlots(base),
    begun = JSON.stringify(base) === JSON.stringify(now) ? [] : readSlots(now).changes;
  const value = [
    ...families.map((family, e) => (family === null ? 'off' : family === e ? 'on' : `like ${family}`)),
    count + 1,
    ...[...begun, change].map(written),
  ];
  readSlots(value);
  return value;
}
