// The table of built-in policies: what each may do, whether `auto` has it, and the names that `--recompile` takes.
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

export interface Policy {
  readonly make: (options?: Options) => Rule<object>;
  /** Names of its options, all numbers: what `dynamoe lab --policy NAME,option=1` takes. */
  readonly options: readonly string[];
  /** Whether it may change results. Where false, `ruleOfPolicy` makes its rule with `only: 'N'`. */
  readonly mayChangeResults: boolean;
  /** Whether `auto` has it. `auto` makes every rule with `only: 'N'`. */
  readonly auto: boolean;
  /** Whether the lab can try it: whether the loads of experts are all that it looks at. */
  readonly lab: boolean;
  /** Whether it can act where all MoE layers are ragged and dropless, which compute no empty rows. */
  readonly actsWithoutEmptyRows: boolean;
  /** Why it can never change anything in a model with these MoE layers; null where it can. */
  readonly idle: (layers: readonly MoE[]) => string | null;
}

const noLayer = (layers: readonly MoE[]): string | null =>
  layers.length === 0 ? 'the model has no mixture-of-experts layer' : null;
/** `idle` of a policy that can act only if some layer fits; `otherwise` is the reason if no layer does. */
const needs =
  (fits: (layer: MoE) => boolean, otherwise: string) =>
  (layers: readonly MoE[]): string | null =>
    noLayer(layers) ?? (layers.some(fits) ? null : otherwise);

/** The built-in policies. A new policy is a file in this folder and a row here. */
export const POLICIES: Readonly<Record<string, Policy>> = {
  adaptCapacity: {
    make: adaptCapacity,
    options: ['quantile', 'margin', 'price', 'horizon', 'cooldown'],
    mayChangeResults: true,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: false,
    idle: needs(
      isBoundByLoad,
      'no layer has a capacity that depends on loads; set capacity, and dispatch where needed',
    ),
  },
  chooseDispatch: {
    make: chooseDispatch,
    options: ['padding', 'cooldown'],
    mayChangeResults: false,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: false,
    idle: noLayer,
  },
  fitMemory: {
    make: fitMemory,
    options: ['budget', 'margin', 'horizon', 'cooldown'],
    mayChangeResults: true,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: true,
    idle: () => null,
  },
  specialise: {
    make: specialise,
    options: ['hysteresis', 'cooldown'],
    mayChangeResults: false,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: true,
    idle: noLayer,
  },
  sparsify: {
    make: sparsify,
    options: ['below', 'above', 'cooldown'],
    mayChangeResults: true,
    auto: true,
    lab: true,
    actsWithoutEmptyRows: false,
    idle: needs(({ topK }) => topK > 1, 'every token goes to one expert already'),
  },
  expertLifecycle: {
    make: expertLifecycle,
    options: ['prune', 'merge', 'split', 'freeze', 'keep', 'cooldown'],
    mayChangeResults: true,
    auto: true,
    lab: false,
    actsWithoutEmptyRows: false,
    idle: needs(({ router }) => router.expertAxes !== undefined, 'no router supports adding and removing experts'),
  },
  cacheAssignments: {
    make: () => cacheAssignments(),
    options: [],
    mayChangeResults: true,
    auto: false,
    lab: false,
    actsWithoutEmptyRows: false,
    idle: needs(({ router }) => router.remembers === true, 'choices of these routers cannot be remembered'),
  },
};
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
  for (const name of names.split(',')) {
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
 * names separated by commas; these policies may change results where their row says so.
 */
export function policies(names: string): Rule<object>[] {
  if (names === 'off') return [];
  if (names === 'auto')
    return Object.values(POLICIES)
      .filter(({ auto }) => auto)
      .map((policy) => ({ ...policy.make(), only: 'N' }));
  return names
    .split(',')
    .map((name) => ruleOfPolicy(policyNamed(name, `auto, off, or some of ${POLICY_NAMES.join(',')}`)));
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
  const options = given.map((option) => {
    const [key, value = ''] = option.split('='),
      number = value.trim() === '' ? NaN : Number(value);
    if (!policy.options.includes(key))
      throw new UserError(
        `${name} has no option named "${key}"`,
        policy.options.length > 0 ? `it has ${policy.options.join(', ')}` : 'it has none',
      );
    if (!Number.isFinite(number) || number < 0)
      throw new UserError(`${name}: ${key} must be a number of at least 0, got "${value}"`, `${name},${key}=1`);
    return [key, number] as const;
  });
  return ruleOfPolicy(policy, Object.fromEntries(options));
}
