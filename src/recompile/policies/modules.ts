// Finds what policies look at in a model or a draft: modules that have a certain knob, and MoE layers with their
// statistics.
import { UserError } from '../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../base/options.ts';
import type { LayerStats, RunStats } from '../../observe/run-stats.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { activeOf, readSlots } from '../../nn/moe/slots.ts';
import { knobRules } from '../../trace/knobs.ts';
import { modulesWhere } from '../draft.ts';

export const modulesOf = (model: object, knob: string): Map<string, object> =>
  modulesWhere(model, (module) => Object.hasOwn(knobRules(module) ?? {}, knob));

/**
 * Checks the options of a policy. Throws UserError for an unknown option and for a value that is no number of at least
 * 0 (`cooldown`: a whole number), except options in `others`. The policy checks what else values must be.
 */
export function checkPolicy<T extends object>(
  policy: string,
  options: T,
  keys: KeysOf<T>,
  others: readonly (keyof T)[] = [],
): void {
  checkOptions(policy, options, keys);
  for (const [name, value] of Object.entries(options) as [string, unknown][]) {
    if (value === undefined || others.includes(name as keyof T)) continue;
    const whole = name === 'cooldown',
      fine = typeof value === 'number' && value >= 0 && (!whole || value === Infinity || Number.isInteger(value));
    if (!fine)
      throw new UserError(
        `${policy}: ${name} must be a ${whole ? 'whole ' : ''}number of at least 0, got ` +
          `${typeof value === 'number' ? value : (JSON.stringify(value) ?? typeof value)}`,
      );
  }
}

const EVERY = 16; // policies look at loads every 16 steps

/** Whether policies look at loads at this step. */
export const timeToLook = (run: RunStats): boolean => run.step > 0 && run.step % EVERY === 0;

/**
 * The MoE layers that have reported loads, with their statistics. `factor` is relative to the even share among slots
 * that hold an expert, and 0 for free slots.
 */
export function layersOf(model: object, run: RunStats): (readonly [MoE, LayerStats])[] {
  const found = modulesOf(model, 'capacity');
  return run.layers.flatMap((layer) => {
    const moe = found.get(layer.path) as MoE | undefined;
    return moe ? [[moe, amongExperts(moe, layer)] as const] : [];
  });
}

const heldBy = ({ slots }: MoE): readonly boolean[] => activeOf(readSlots(slots).families);

/** How many experts a layer has. */
export const expertCount = (moe: MoE): number => heldBy(moe).filter((held) => held).length;

function amongExperts(moe: MoE, layer: LayerStats): LayerStats {
  const held = heldBy(moe),
    scale = expertCount(moe) / layer.experts;
  return scale === 1
    ? layer
    : { ...layer, factor: (q, half) => layer.factor(q, half).map((f, e) => (held[e] ? scale * f : 0)) };
}

/** A factor for each slot, 0 for a free one; null for dropless. */
export function factorsOf(moe: MoE, slots: number): readonly number[] | null {
  const { capacity } = moe,
    held = heldBy(moe);
  if (capacity === 'dropless') return null;
  return (typeof capacity === 'number' ? new Array<number>(slots).fill(capacity) : capacity).map((f, e) =>
    held[e] ? f : 0,
  );
}
