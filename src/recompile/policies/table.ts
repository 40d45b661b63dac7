// The built-in policies by name, as `--recompile` takes them.
import { UserError } from '../../base/errors.ts';
import { adaptCapacity, isBoundByLoad } from './adaptCapacity.ts';
import { cacheAssignments } from './cacheAssignments.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { chooseDispatch } from './chooseDispatch.ts';
import { expertLifecycle } from './expertLifecycle.ts';
import { fitMemory } from './fitMemory.ts';
import { modulesOf } from './modules.ts';
import { specialise } from './specialise.ts';
import type { Rule } from '../rule.ts';
import { sparsify } from './sparsify.ts';

type Options = Readonly<Record<string, number>>;
/** A row for each: how it is made, its options that are numbers, and whether loads alone tell what it would do. */
interface Policy {
  readonly make: (options?: Options) => Rule<object>;
  readonly options: readonly string[];
  readonly lab: boolean;
}
const POLICIES: Readonly<Record<string, Policy>> = {
  adaptCapacity: { make: adaptCapacity, options: ['quantile', 'margin', 'price', 'horizon', 'cooldown'], lab: true },
  chooseDispatch: { make: chooseDispatch, options: ['padding', 'cooldown'], lab: true },
  fitMemory: { make: fitMemory, options: ['budget', 'margin', 'horizon', 'cooldown'], lab: true },
  specialise: { make: specialise, options: ['hysteresis', 'cooldown'], lab: true },
  sparsify: { make: sparsify, options: ['below', 'above', 'cooldown'], lab: true },
  expertLifecycle: {
    make: expertLifecycle,
    options: ['prune', 'merge', 'split', 'freeze', 'keep', 'cooldown'],
    lab: false,
  },
  cacheAssignments: { make: () => cacheAssignments(), options: [], lab: false },
};
/** What `policies` knows. */
export const POLICY_NAMES = Object.keys(POLICIES);
/** What the lab can try: where tokens go when experts come and go, and which samples come again, loads do not tell. */
export const LAB_NAMES = POLICY_NAMES.filter((name) => POLICIES[name].lab);

/**
 * The same, but with 'auto' only policies that can do something in this model: a layer that is ragged and dropless
 * wastes no work, so that only its kernels (`specialise`) and its memory (`fitMemory`) are left to decide.
 */
export function policiesFor(model: object, names: string): Rule<object>[] {
  const layers = [...modulesOf(model, 'dispatch').values()] as MoE[],
    open = layers.some(({ dispatch, capacity }) => dispatch !== 'ragged' || capacity !== 'dropless');
  return policies(names).filter(
    ({ name }) => names !== 'auto' || open || ((name === 'specialise' || name === 'fitMemory') && layers.length > 0),
  );
}

/** Why a policy can never change anything in a model with these layers; null where it can. */
function idle(name: string, layers: readonly MoE[]): string | null {
  if (name === 'fitMemory') return null;
  if (layers.length === 0) return 'the model has no mixture-of-experts layer';
  switch (name) {
    case 'adaptCapacity':
      return layers.some(isBoundByLoad)
        ? null
        : 'no layer has a capacity that its loads ' + 'decide; capacity and dispatch give it one';
    case 'sparsify':
      return layers.some((layer) => layer.topK > 1) ? null : 'a token goes to one expert already';
    case 'expertLifecycle':
      return layers.some(({ router }) => router.expertAxes) ? null : 'no router lets experts ' + 'come and go';
    case 'cacheAssignments':
      return layers.some(({ router }) => router.remembers)
        ? null
        : 'choices of these ' + 'routers cannot be remembered';
    default:
      return null;
  }
}

/** Throws UserError for a policy that is named and can never change anything in the model. */
export function checkPolicies(model: object, names: string): void {
  if (names === 'auto' || names === 'off') return;
  const layers = [...modulesOf(model, 'dispatch').values()] as MoE[];
  for (const name of names.split(',')) {
    const reason = idle(name, layers);
    if (reason !== null) throw new UserError(`recompile ${name} has no effect here: ${reason}`, `leave ${name} out`);
  }
}

/** Those of which every change is one of results. */
const RESULTS: readonly string[] = ['cacheAssignments'];

/**
 * 'auto': every policy, but only changes that keep results identical; 'off': none; else names with commas between,
 * which may change results.
 */
export function policies(names: string): Rule<object>[] {
  if (names === 'off') return [];
  if (names === 'auto')
    return Object.entries(POLICIES)
      .filter(([name]) => !RESULTS.includes(name))
      .map(([, { make }]) => ({ ...make(), only: 'N' }));
  return names.split(',').map((name) => {
    if (!Object.hasOwn(POLICIES, name))
      throw new UserError(`no policy named ` + `"${name}"`, `auto, off, or some of ${POLICY_NAMES.join(',')}`);
    return POLICIES[name].make();
  });
}

/** A policy for the lab, with options: adaptCapacity,quantile=0.9,horizon=128. */
export function policyWith(text: string): Rule<object> {
  const [name, ...given] = text.split(',');
  if (!Object.hasOwn(POLICIES, name))
    throw new UserError(`no policy named ` + `"${name}"`, `one of ${LAB_NAMES.join(', ')}`);
  if (!LAB_NAMES.includes(name))
    throw new UserError(
      `${name} cannot be tried in the lab: loads alone do not tell ` + `what it would do`,
      `one of ${LAB_NAMES.join(', ')}`,
    );
  const { make, options: known } = POLICIES[name];
  return make(
    Object.fromEntries(
      given.map((option) => {
        const [key, value = ''] = option.split('='),
          number = value.trim() === '' ? NaN : Number(value);
        if (!known.includes(key))
          throw new UserError(
            `${name} has no option named ` + `"${key}"`,
            known.length > 0 ? `it has ${known.join(', ')}` : 'it has none',
          );
        if (!Number.isFinite(number) || number < 0)
          throw new UserError(
            `${name}: ${key} must be a number of at least ` + `0, got "${value}"`,
            `${name},${key}=1`,
          );
        return [key, number];
      }),
    ),
  );
}
