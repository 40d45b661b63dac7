// Functions for a rule's `alter` that prune, merge and split experts of a draft's MoE layer. They set the knob `slots`.
// Parameter values are moved when the change takes effect; until then the model stays as it is.
import { UserError } from '../../base/errors.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { activeOf, changeSlots, checkChoices, readSlots, type SlotChange } from '../../nn/moe/slots.ts';
import { expertPairs } from '../../nn/moe/transfer.ts';
import { originalOf } from '../draft.ts';

function change(moe: MoE, what: SlotChange): void {
  const original = originalOf(moe);
  if (!original)
    throw new UserError(
      `${what.does}: this layer does not belong to a draft, so its parameter values could not be moved`,
      "call it in a rule's alter(model), with a layer of that model",
    );
  const slots = changeSlots(original.slots, moe.slots, what);
  if (!original.router.expertAxes)
    throw new UserError(
      `${what.does}: a ${original.router.constructor.name} does not support adding and removing experts`,
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
 * Removes expert `e`: its slot becomes free, and tokens choose among the others. The slot keeps parameters and moments
 * until a split uses it. `moe`: a layer of the draft that a rule's `alter` gets.
 */
export function pruneExpert(moe: MoE, e: number): void {
  change(moe, { does: 'prune', expert: e });
}

/**
 * Merges expert b into a; the slot of b becomes free. Parameters, the router's row and bias, and both moments of the
 * optimiser become the weighted mean of both experts. `share` is the weight of b, from 0 to 1: for example the share of
 * b in the load of both.
 */
export function mergeExperts(moe: MoE, a: number, b: number, share = 0.5): void {
  change(moe, { does: 'merge', expert: b, into: a, share });
}

/**
 * Copies expert e, with its moments and its router row, into a free slot (by default the first); gives the slot.
 * Outputs stay the same: of an expert and its copies, a token chooses at most one, the one with the highest router
 * score. With equal scores, as right after the split, tokens at even positions choose the first copy and the others the
 * last. So the copies get different tokens and become different experts. Dropped choices may change, because each copy
 * has a capacity of its own, with the factor of the original. Dropout within experts that are modules draws new random
 * numbers.
 */
export function splitExpert(moe: MoE, e: number, into = freeSlots(moe).at(0)): number {
  if (into === undefined)
    throw new UserError(
      'split: no slot is free',
      'prune or merge an expert first, or build the layer with more experts than `active`',
    );
  change(moe, { does: 'split', expert: e, into });
  // Settings that are lists of one value for each expert: the copy gets the value of its original.
  const copied = <T>(list: readonly T[]): T[] => list.map((own, slot) => (slot === into ? list[e] : own));
  if (Array.isArray(moe.capacity)) moe.capacity = copied(moe.capacity as readonly number[]);
  moe.frozen = copied(moe.frozen);
  return into;
}
