// The built-in policies by name, as `--recompile` takes them.
import { UserError } from '../base/errors.ts';
import { adaptCapacity } from './adaptCapacity.ts';
import type { MoE } from '../nn/moe/moe.ts';
import { chooseDispatch } from './chooseDispatch.ts';
import { modulesOf } from './modules.ts';
import { specialise } from './specialise.ts';
import type { Rule } from './rule.ts';
import { sparsify } from './sparsify.ts';

const POLICIES: Readonly<Record<string, () => Rule<object>>> = {
  adaptCapacity: () => adaptCapacity(), chooseDispatch: () => chooseDispatch(), specialise: () => specialise(), sparsify: () => sparsify() };
/** What `policies` knows. */
export const POLICY_NAMES = Object.keys(POLICIES);

/** The same, but with 'auto' only those that a layer of the model leaves something to decide: one that is ragged and dropless computes no row
 * in vain, but may get many or few of them. */
export function policiesFor(model: object, names: string): Rule<object>[] {
  const layers = [...modulesOf(model, 'dispatch').values()] as MoE[], open = layers.some(({ dispatch, capacity }) => dispatch !== 'ragged' || capacity !== 'dropless');
  return policies(names).filter(({ name }) => names !== 'auto' || open || (name === 'specialise' && layers.length > 0));
}

/** 'auto': every policy, as far as no result changes; 'off': none; else names with commas between, which may change results. */
export function policies(names: string): Rule<object>[] {
  if (names === 'off') return [];
  if (names === 'auto') return Object.values(POLICIES).map((make) => ({ ...make(), only: 'N' }));
  return names.split(',').map((name) => {
    const make = Object.hasOwn(POLICIES, name) ? POLICIES[name] : undefined;
    if (!make) throw new UserError(`no policy named "${name}"`, `auto, off, or some of ${POLICY_NAMES.join(',')}`);
    return make();
  });
}
