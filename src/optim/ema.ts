// Averages of parameters over the steps of a run (Polyak & Juditsky 1992), with exponentially falling weights: they
// smooth the noise of single steps.
import { UserError } from '../base/errors.ts';
import { fixedCopy } from '../base/fixed.ts';
import { aNumber } from '../base/kinds.ts';
import { checkOptions } from '../base/options.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import type { Optimizer, Updated } from './optimizer.ts';

export interface EmaOptions {
  /** From 0 to below 1; default 0.999. The averages go over about the last 1 / (1 - decay) steps. */
  readonly decay?: number;
}

/** The moment that holds the average of a parameter. */
export const AVERAGE = 'average';
const SHARE = 'averageShare';

/**
 * The same optimiser, which also keeps an average of every trained parameter, in a state of its size: after each update
 * a += (1 - d) (p - a), with d = min(decay, (1 + t) / (10 + t)) after t earlier steps, and a = p after the first. The
 * warm-up is that of TensorFlow's ExponentialMovingAverage with `num_updates`. Training has the same bits as without.
 * `averagesOf(session)` reads the averages; checkpoints contain them. If a checkpoint without averages is loaded, they
 * start anew, and so do corrections of the optimiser's moments by their age. Throws UserError for a decay out of range.
 */
export function ema(optimizer: Optimizer, options: EmaOptions = {}): Optimizer {
  const example = 'optim.ema(optim.adamW({ lr: 1e-3 }), { decay: 0.999 })';
  checkOptions('optim.ema', options, { decay: aNumber });
  const { decay = 0.999 } = options;
  if (typeof (optimizer as Partial<Optimizer> | undefined)?.update !== 'function')
    throw new UserError('optim.ema: the first argument must be an optimizer', example);
  if (!(decay >= 0 && decay < 1))
    throw new UserError(`optim.ema: decay must be a number from 0 to below 1, got ${decay}`, example);
  if (optimizer.moments?.includes(AVERAGE) === true)
    throw new UserError('optim.ema: the optimizer keeps averages already', example);
  return fixedCopy<Optimizer>({
    ...optimizer,
    name: optimizer.name,
    settings: { ...optimizer.settings, 'ema.decay': decay },
    corrected: [...(optimizer.corrected ?? []), SHARE],
    ...(optimizer.moments && { moments: [...optimizer.moments, AVERAGE] }),
    ...(optimizer.momentShapes && {
      momentShapes: (p): Record<string, readonly number[]> => ({ ...optimizer.momentShapes?.(p), [AVERAGE]: p.shape }),
    }),
    ...(optimizer.rate && { rate: (step: number) => optimizer.rate?.(step) ?? NaN }),
    scalars: (step, age = step) => ({
      ...optimizer.scalars(step, age),
      [SHARE]: age === 0 ? 1 : 1 - Math.min(decay, (1 + age) / (10 + age)),
    }),
    update(call): Updated {
      const { parameter, moments } = optimizer.update(call),
        average = call.moment(AVERAGE);
      return {
        parameter,
        moments: { ...moments, [AVERAGE]: add(average, mul(sub(parameter, average), call.scalar(SHARE))) },
      };
    },
  });
}
