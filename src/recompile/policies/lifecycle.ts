// Experts that come and go, as a rule's `alter` writes it on a draft: which slots of an MoE layer hold an expert.
// Values go along when the change takes effect; until then nothing of the model changes.
import { UserError } from '../../base/errors.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { activeOf, changeSlots, checkChoices, readSlots, type SlotChange } from '../../nn/moe/slots.ts';
import { expertPairs } from '../../nn/moe/transfer.ts';
import { originalOf } from '../draft.ts';

function change(moe: MoE, what: SlotChange): void {
  const original = originalOf(moe);
  if (!original)
    throw new UserError(
      `${what.does}: this layer is no draft's, and values would not go along`,
      "call it in a rule's alter(model), with a layer of that model",
    );
  const slots = changeSlots(original.slots, moe.slots, what);
  if (!original.router.expertAxes)
    throw new UserError(
      `${what.does}: a ${original.router.constructor.name} cannot do without an expert`,
      'TopKRouter and SigmoidRouter can, without groups',
    );
  checkChoices(moe.topK, readSlots(slots).families);
  moe.slots = slots;
}

/** The slots of a layer, or of a draft of it, that hold no expert. */
export const freeSlots = (moe: MoE): number[] =>
  activeOf(readSlots(moe.slots).families).flatMap((held, e) => (held ? [] : [e]));

/**
 * Whether one slot can hold a copy of what another holds: always in a bank, and of modules whose parameters are of the
 * same shapes.
 */
export function canCopy(moe: MoE, a: number, b: number): boolean {
  try {
    expertPairs(originalOf(moe) ?? moe, a, b);
    return true;
  } catch (error) {
    if (error instanceof UserError) return false;
    throw error;
  }
}

/**
 * Expert `e` leaves: its slot is free, and tokens choose among the others. The slot keeps parameters and moments until
 * a split uses it. `moe`: a layer of the draft that a rule's `alter` gets, as in the two functions below.
 */
export function pruneExpert(moe: MoE, e: number): void {
  change(moe, { does: 'prune', expert: e });
}

/**
 * Expert b goes into a, and its slot is free. Parameters, the router's row and bias, and the optimiser's moments, first
 * and second alike, become the mean of both, in which b has the given share (from 0 to 1, by default half): its part of
 * the load of both, say.
 */
export function mergeExperts(moe: MoE, a: number, b: number, share = 0.5): void {
  change(moe, { does: 'merge', expert: b, into: a, share });
}

/**
 * Expert e gets a copy, with its moments and its router row, in a free slot (by default the first); gives the slot.
 * Outputs stay as they are: of an expert and its copies a token chooses one at most, the one that its router scores
 * highest, and where they score the same, as at first, tokens of even number the first of them and others the last. So
 * each gets tokens of its own, and they part. What is dropped may change, since a capacity is each copy's own, with the
 * factor of the original, and dropout within experts that are modules draws for each anew.
 */
export function splitExpert(moe: MoE, e: number, into = freeSlots(moe).at(0)): number {
  if (into === undefined)
    throw new UserError(
      'split: no slot is free',
      'prune or merge an expert first, or build the layer with more experts than `active`',
    );
  change(moe, { does: 'split', expert: e, into });
  // Where experts have settings of their own, a copy has its original's.
  const copied = <T>(list: readonly T[]): T[] => list.map((own, slot) => (slot === into ? list[e] : own));
  if (Array.isArray(moe.capacity)) moe.capacity = copied(moe.capacity as readonly number[]);
  moe.frozen = copied(moe.frozen);
  return into;
}
