// Rules of built-in policies by name, for `--recompile`, configs and the lab.
import { UserError } from '../../base/errors.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { modulesOf } from './modules.ts';
import type { Options, Policy } from './policy.ts';
import type { Rule } from '../rule.ts';
import POLICIES from './table.ts';

/** Names that `policies` accepts. */
export const POLICY_NAMES = Object.keys(POLICIES);
/** Names of policies that the lab can try. */
export const LAB_NAMES = POLICY_NAMES.filter((name) => POLICIES[name].lab);

/** The rule of a policy. The row decides whether it may change results, whatever the rule itself says. */
export function ruleOfPolicy({ make, mayChangeResults }: Policy, options?: Options): Rule<object> {
  const rule = make(options);
  return mayChangeResults ? rule : { ...rule, only: 'N' };
}

const moeLayers = (model: object): MoE[] => [...modulesOf(model, 'dispatch').values()] as MoE[];

/**
 * Rules for `names` as in `policies`. With 'auto', only policies that can act in this model: where all MoE layers are
 * ragged and dropless, those that set kernels (`specialise`) and memory (`fitMemory`).
 */
export function policiesFor(model: object, names: string): Rule<object>[] {
  const layers = moeLayers(model),
    emptyRows = layers.some(({ dispatch, capacity }) => dispatch !== 'ragged' || capacity !== 'dropless');
  return policies(names).filter(
    ({ name }) => names !== 'auto' || emptyRows || (POLICIES[name].actsWithoutEmptyRows && layers.length > 0),
  );
}

/** Throws UserError for a policy in `names` that can never change anything in the model. */
export function checkPolicies(model: object, names: string): void {
  if (names === 'auto' || names === 'off') return;
  const layers = moeLayers(model);
  for (const { name } of asked(names)) {
    const reason = Object.hasOwn(POLICIES, name) ? POLICIES[name].idle(layers) : null;
    if (reason !== null) throw new UserError(`recompile ${name} has no effect here: ${reason}`, `leave ${name} out`);
  }
}

/** Throws UserError for a name that is not in the table. */
function policyNamed(name: string, hint: string): Policy {
  if (!Object.hasOwn(POLICIES, name)) throw new UserError(`no policy named "${name}"`, hint);
  return POLICIES[name];
}

/**
 * 'auto': the policies whose row says `auto`, restricted to changes that keep results identical. 'off': none. Else
 * names separated by commas, each with options if need be: adaptCapacity{quantile=0.9,horizon=128},chooseDispatch.
 * These policies may change results where their row says so. Throws UserError for what is no policy or option.
 */
export function policies(names: string): Rule<object>[] {
  if (names === 'off') return [];
  if (names === 'auto')
    return Object.values(POLICIES)
      .filter(({ auto }) => auto)
      .map((policy) => ({ ...policy.make(), only: 'N' }));
  return asked(names).map(({ name, options }) => {
    const policy = policyNamed(name, `auto, off, or some of ${POLICY_NAMES.join(',')}`);
    return ruleOfPolicy(policy, optionsOf(name, policy, options));
  });
}

/** Names with their options, as text. */
function asked(names: string): { readonly name: string; readonly options: readonly string[] }[] {
  return names.split(/,(?![^{]*\})/).map((text) => {
    const [, name, options] = /^([^{}]*)(?:\{([^{}]*)\})?$/.exec(text) ?? [];
    if (name === undefined)
      throw new UserError(`"${text}" is no policy with options`, 'adaptCapacity{quantile=0.9,horizon=128}');
    return { name, options: options === undefined || options === '' ? [] : options.split(',') };
  });
}

/** The rule of a policy for the lab, with options, from text such as adaptCapacity,quantile=0.9,horizon=128. */
export function policyWith(text: string): Rule<object> {
  const [name, ...given] = text.split(','),
    policy = policyNamed(name, `one of ${LAB_NAMES.join(', ')}`);
  if (!policy.lab)
    throw new UserError(
      `${name} cannot be tried in the lab: loads alone do not tell what it would do`,
      `one of ${LAB_NAMES.join(', ')}`,
    );
  return ruleOfPolicy(policy, optionsOf(name, policy, given));
}

/** Options from text: quantile=0.9. Throws UserError for one that the policy does not have. */
function optionsOf(name: string, policy: Policy, given: readonly string[]): Options {
  return Object.fromEntries(
    given.map((option) => {
      const [key, value = ''] = option.split('='),
        number = value.trim() === '' ? NaN : Number(value);
      if (!policy.options.includes(key))
        throw new UserError(
          `${name} has no option named "${key}"`,
          policy.options.length > 0 ? `it has ${policy.options.join(', ')}` : 'it has none',
        );
      if (!Number.isFinite(number) || number < 0)
        throw new UserError(`${name}: ${key} must be a number of at least 0, got "${value}"`, `${name}{${key}=1}`);
      return [key, number] as const;
    }),
  );
}
