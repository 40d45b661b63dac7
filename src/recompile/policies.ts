// The built-in policies by name, as `--recompile` takes them.
import { UserError } from '../base/errors.ts';
import { adaptCapacity } from './adaptCapacity.ts';
import { cacheAssignments } from './cacheAssignments.ts';
import type { MoE } from '../nn/moe/moe.ts';
import { chooseDispatch } from './chooseDispatch.ts';
import { modulesOf } from './modules.ts';
import { specialise } from './specialise.ts';
import type { Rule } from './rule.ts';
import { sparsify } from './sparsify.ts';

type Options = Readonly<Record<string, number>>;
const POLICIES: Readonly<Record<string, (options?: Options) => Rule<object>>> = {
  adaptCapacity: (o) => adaptCapacity(o), chooseDispatch: (o) => chooseDispatch(o), specialise: (o) => specialise(o), sparsify: (o) => sparsify(o),
  cacheAssignments: (o) => cacheAssignments(o && { ...o, freeze: (o['freeze'] ?? 0) > 0 }) };
const OPTIONS: Readonly<Record<string, readonly string[]>> = {
  adaptCapacity: ['quantile', 'margin', 'price', 'horizon', 'cooldown'], chooseDispatch: ['padding', 'cooldown'], specialise: ['hysteresis', 'cooldown'], sparsify: ['below', 'above', 'cooldown'],
  cacheAssignments: ['on', 'off', 'audit', 'samples', 'freeze', 'cooldown', 'patience'] };
/** What `policies` knows. */
export const POLICY_NAMES = Object.keys(POLICIES);

/** The same, but with 'auto' only those that a layer of the model leaves something to decide: one that is ragged and dropless computes no row
 * in vain, but may get many or few of them. */
export function policiesFor(model: object, names: string): Rule<object>[] {
  const layers = [...modulesOf(model, 'dispatch').values()] as MoE[], open = layers.some(({ dispatch, capacity }) => dispatch !== 'ragged' || capacity !== 'dropless');
  return policies(names).filter(({ name }) => names !== 'auto' || open || (name === 'specialise' && layers.length > 0));
}

/** Those of which every change is one of results. */
const RESULTS: readonly string[] = ['cacheAssignments'];

/** 'auto': every policy, as far as no result changes; 'off': none; else names with commas between, which may change results. */
export function policies(names: string): Rule<object>[] {
  if (names === 'off') return [];
  if (names === 'auto') return Object.entries(POLICIES).filter(([name]) => !RESULTS.includes(name)).map(([, make]) => ({ ...make(), only: 'N' }));
  return names.split(',').map((name) => {
    const make = Object.hasOwn(POLICIES, name) ? POLICIES[name] : undefined;
    if (!make) throw new UserError(`no policy named "${name}"`, `auto, off, or some of ${POLICY_NAMES.join(',')}`);
    return make();
  });
}

/** A policy with options: adaptCapacity,quantile=0.9,horizon=128. */
export function policyWith(text: string): Rule<object> {
  const [name, ...given] = text.split(','), known = Object.hasOwn(OPTIONS, name) ? OPTIONS[name] : [];
  if (!Object.hasOwn(POLICIES, name)) throw new UserError(`no policy named "${name}"`, `one of ${POLICY_NAMES.join(', ')}`);
  return POLICIES[name](Object.fromEntries(given.map((option) => {
    const [key, value = ''] = option.split('='), number = value.trim() === '' ? NaN : Number(value);
    if (!known.includes(key)) throw new UserError(`${name} has no option named "${key}"`, known.length > 0 ? `it has ${known.join(', ')}` : 'it has none');
    if (!Number.isFinite(number) || number < 0) throw new UserError(`${name}: ${key} must be a number of at least 0, got "${value}"`, `${name},${key}=1`);
    return [key, number];
  })));
}
