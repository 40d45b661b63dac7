// What an optimiser is: hyper-parameters that the host computes for each step, and an update rule that builds graph.
import { UserError } from '../base/errors.ts';
import { anything } from '../base/kinds.ts';
import { checkOptions } from '../base/options.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { Role } from '../trace/parameter.ts';
import { checkGroups, type Groups } from './groups.ts';

/** The learning rate of a step (0, 1, ...): a number, or a function of the step. */
export type Schedule = number | ((step: number) => number);

/** Throws UserError for a rate that is no finite number of at least 0: others give NaN or increase the loss. */
export function rateAt(schedule: Schedule, step: number): number {
  const refuse = (what: string, cause?: unknown): never => {
    throw new UserError(
      `the learning rate of step ${step + 1} ${what}`,
      'lr: 1e-3, or a function of the step (0, 1, ...)',
      cause,
    );
  };
  let rate: unknown = schedule;
  try {
    if (typeof schedule === 'function') rate = schedule(step);
  } catch (error) {
    refuse(`could not be computed: ${error instanceof Error ? error.message : String(error)}`, error);
  }
  return typeof rate === 'number' && isFloat32(rate) && rate >= 0
    ? rate
    : refuse(`must be a finite number of at least 0, got ${String(rate)}`);
}

/** Whether x is still finite when it is rounded to float32. */
const isFloat32 = (x: number): boolean => Number.isFinite(Math.fround(x));

type Check = (value: unknown) => string | null;
const number =
  (least: number, fits: (x: number) => boolean, range: string): Check =>
  (value) =>
    typeof value === 'number' && isFloat32(value) && value >= least && fits(value) ? null : range;
const atLeast0 = number(0, () => true, 'a number of at least 0'),
  share = number(0, (x) => x < 1, 'a number from 0 to below 1');
/** A number above 0 that does not become 0 when it is rounded to float32. */
const above0 = number(0, (x) => Math.fround(x) > 0, 'a number above 0'),
  flag: Check = (value) => (typeof value === 'boolean' ? null : 'true or false');

const CHECKS: Readonly<Record<string, Check>> = {
  lr: (value) =>
    typeof value === 'function' || atLeast0(value) === null
      ? null
      : 'a number of at least 0, or a function of the step (0, 1, ...)',
  betas: (value) =>
    Array.isArray(value) && value.length === 2 && value.every((beta) => share(beta) === null)
      ? null
      : 'two numbers from 0 to below 1',
  momentum: share,
  eps: above0,
  clip: above0,
  weightDecay: atLeast0,
  nesterov: flag,
  eager: flag,
  iterations: (value) =>
    Number.isInteger(value) && (value as number) >= 1 && (value as number) <= 100
      ? null
      : 'a whole number from 1 to 100',
};

/**
 * Throws UserError for an option that the optimiser does not have, and for a value that is not in its range.
 * hasOwnRate: the optimiser has a learning rate if none is given.
 */
export function checkOptimizer(name: string, options: object, known: readonly string[], hasOwnRate = false): void {
  const example = `optim.${name}({ lr: 1e-3 })`,
    given = ((options as object | undefined) ?? {}) as Readonly<Record<string, unknown>>;
  const keys = Object.fromEntries(['lr', ...known, 'clip', 'eager', 'groups'].map((key) => [key, anything]));
  checkOptions(`optim.${name}`, given, keys as never);
  for (const [key, check] of Object.entries(CHECKS)) {
    const range = given[key] === undefined && (key !== 'lr' || hasOwnRate) ? null : check(given[key]);
    if (range === null) continue;
    const value = given[key],
      got = Array.isArray(value) ? `[${value.map(String).join(', ')}]` : String(value);
    throw new UserError(`optim.${name}: ${key} must be ${range}, got ${got}`, example);
  }
  if (given['groups'] !== undefined) checkGroups(name, given['groups']);
  if (given['eager'] === true && given['clip'] !== undefined)
    throw new UserError(
      `optim.${name}: an eager optimiser cannot clip gradients: that needs all of them`,
      'leave out eager or clip',
    );
}

/** Settings that all optimisers have, as fields of an Optimizer. settings: the others, for checkpoints and logs. */
export function commonOf(
  name: string,
  { lr, clip, eager = false, groups }: Partial<Record<'lr', Schedule>> & Pick<Optimizer, 'clip' | 'eager' | 'groups'>,
  settings: Optimizer['settings'],
): Pick<Optimizer, 'name' | 'clip' | 'eager' | 'groups' | 'settings' | 'rate'> {
  return {
    name,
    eager,
    ...(clip !== undefined && { clip }),
    ...(groups !== undefined && { groups }),
    settings: { ...settings, ...(clip !== undefined && { clip }), ...(typeof lr === 'number' && { lr }) },
    ...(lr !== undefined && { rate: (step: number) => rateAt(lr, step) }),
  };
}

/** x times a factor that is known when the graph is built. */
export const scaled = (x: Tensor, factor: number): Tensor => (factor === 1 ? x : mul(x, factor));

/** What decides which moments a parameter has. experts: its first dimension goes over the experts of a layer. */
export interface MomentOwner {
  readonly shape: readonly number[];
  readonly role: Role;
  readonly experts: boolean;
}

export interface UpdateCall {
  readonly parameter: Tensor;
  readonly gradient: Tensor;
  /** The parameter's role: 'weight', 'bias' and so on. */
  readonly role: Role;
  /** Whether its first dimension goes over the experts of a layer: each is then a parameter of its own. */
  readonly experts: boolean;
  /** The multiplier of the learning rate from `groups`; 1 if no group sets it. */
  readonly lr: number;
  /**
   * From `groups`: the weight decay, or whether the optimiser's weight decay applies. undefined: no group sets it, and
   * the role decides.
   */
  readonly decay?: number | boolean | undefined;
  /** A moment of this parameter: a state of its shape that starts at 0. */
  moment(name: string): Tensor;
  /**
   * A hyper-parameter of this step: a scalar of the parameter's dtype. If parts of the parameter have moments of
   * different ages, those named in `corrected` have one value for each part, in a shape that broadcasts.
   */
  scalar(name: string): Tensor;
}

/** Roles with weight decay; biases and gains have none. */
const DECAYS: readonly Role[] = ['weight', 'embedding', 'router', 'head'];

/** The weight decay of a parameter, from that of the optimiser. */
export const decayOf = (
  { role, decay = DECAYS.includes(role) }: Pick<UpdateCall, 'role' | 'decay'>,
  weightDecay: number,
): number => (typeof decay === 'number' ? decay : decay ? weightDecay : 0);

export interface Updated {
  readonly parameter: Tensor;
  readonly moments: Readonly<Record<string, Tensor>>;
}

export interface Optimizer {
  readonly name: string;
  /**
   * Hyper-parameters of step 0, 1, ...: inputs of the step's program. `age`: how often the moments were updated before.
   * It is the step, unless a parameter was frozen for some steps or its moments were not loaded.
   */
  scalars(step: number, age?: number): Record<string, number>;
  /** Scalars that follow from the age of moments; default none. */
  readonly corrected?: readonly string[];
  /** Names of its moments. If given, moments of other optimisers in a checkpoint are not loaded. */
  readonly moments?: readonly string[];
  /**
   * The moments that a parameter has, by name, with their shape, that of the parameter. Default: all of `moments`. With
   * it, the gradient of frozen parts of a parameter is 0 in `update`.
   */
  momentShapes?(parameter: MomentOwner): Readonly<Record<string, readonly number[]>>;
  /** The learning rate of step 0, 1, ..., for logs. */
  rate?(step: number): number;
  update(call: UpdateCall): Updated;
  /**
   * Scales all gradients down so that their joint Euclidean norm is at most this. All gradients are then kept until the
   * last one is known.
   */
  readonly clip?: number;
  /** Updates each parameter as soon as its gradient is computed, so that the gradient is never stored. Saves as many
   * bytes as the parameters have. But a gradient that is not finite is found only after its update, by the loss of the
   * next step. */
  readonly eager?: boolean;
  /**
   * Settings of some parameters. Read, or called, once, when a session is compiled; `update` gets the result as `lr`
   * and `decay`.
   */
  readonly groups?: Groups;
  /** The weight decay; null or not given: the optimiser has none. */
  readonly decay?: number | null;
  /** Settings for checkpoints and logs. */
  readonly settings: Readonly<Record<string, number | string | boolean>>;
}
