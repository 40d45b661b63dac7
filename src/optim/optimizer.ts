// What an optimiser is: hyper-parameters that the host computes for each step, and an update rule that builds graph.
import { UserError } from '../base/errors.ts';
import type { Tensor } from '../graph/tensor.ts';

/** The learning rate of a step (0, 1, ...): a number, or a function of the step. */
export type Schedule = number | ((step: number) => number);

/** Throws UserError where it is no finite number: such a rate would make every parameter NaN. */
export function rateAt(schedule: Schedule, step: number): number {
  const rate: unknown = typeof schedule === 'function' ? schedule(step) : schedule;
  if (typeof rate === 'number' && Number.isFinite(rate)) return rate;
  throw new UserError(`the learning rate of step ${step + 1} must be a finite number, got ${String(rate)}`, 'lr: 1e-3, or a function of the step (0, 1, ...)');
}

/** What TypeScript or a look at the paper would have refused: throws UserError for a setting that is no number, or out of its range. */
export function checkOptimizer(name: string, { lr, ...rest }: { readonly lr: Schedule; readonly [setting: string]: unknown }): void {
  const refuse = (what: string, range: string, got: unknown): never => { throw new UserError(`optim.${name}: ${what} must be ${range}, got ${String(got)}`, `optim.${name}({ lr: 1e-3 })`); };
  if (typeof lr !== 'function' && !(typeof lr === 'number' && Number.isFinite(lr) && lr >= 0)) refuse('lr', 'a number of at least 0, or a function of the step (0, 1, ...)', lr);
  for (const [key, value] of Object.entries(rest)) {
    const share = key === 'momentum' || key.startsWith('beta'), above = key === 'eps' || key === 'clip';
    if (value === undefined) continue;
    if (!(typeof value === 'number' && Number.isFinite(value) && value >= 0 && (!share || value < 1) && (!above || value > 0))) {
      refuse(key, share ? 'a number from 0 to below 1' : `a number ${above ? 'above' : 'of at least'} 0`, value);
    }
  }
}

export interface UpdateCall {
  readonly parameter: Tensor;
  readonly gradient: Tensor;
  /** A moment of this parameter: a state of its shape that starts at 0. */
  moment(name: string): Tensor;
  /** A hyper-parameter of this step: a float32 scalar. */
  scalar(name: string): Tensor;
}

export interface Updated { readonly parameter: Tensor; readonly moments: Readonly<Record<string, Tensor>> }

export interface Optimizer {
  readonly name: string;
  /** Scalars of step 0, 1, ...: given to each run. */
  scalars(step: number): Record<string, number>;
  /** The learning rate of step 0, 1, ..., for logs. */
  rate?(step: number): number;
  update(call: UpdateCall): Updated;
  /** Scales all gradients down so that their joint Euclidean norm is at most this. Keeps every gradient until all are known. */
  readonly clip?: number;
  /** Updates each parameter as soon as its gradient is there, which then is never stored. Saves as many bytes as the parameters
   * have; but a gradient that is not finite is not seen before its update, only in the loss of the next step. */
  readonly eager?: boolean;
  /** Settings for checkpoints and logs. */
  readonly settings: Readonly<Record<string, number | string | boolean>>;
}
