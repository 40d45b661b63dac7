// Adam (Kingma & Ba 2015, algorithm 1) and AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).
import { fixedCopy } from '../base/fixed.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { div } from '../graph/ops/elementwise/div.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { sqrt } from '../graph/ops/elementwise/sqrt.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { Groups } from './groups.ts';
import {
  checkOptimizer,
  commonOf,
  decayOf,
  rateAt,
  type Optimizer,
  type Schedule,
  type UpdateCall,
  type Updated,
} from './optimizer.ts';

export interface AdamOptions {
  readonly lr: Schedule;
  /** Decay of the first and second moment; default 0.9, 0.999. */
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  /** AdamW only. Weights, embeddings, routers and heads decay; biases and gains do not (`Parameter.role`). Default
   * 0.01. */
  readonly weightDecay?: number;
  /**
   * Scales all gradients down so that their joint Euclidean norm is at most this. Frozen parameters are not counted; a
   * tied parameter is counted once.
   */
  readonly clip?: number;
  /** See Optimizer.eager: less memory, a weaker guarantee. Not with clip. */
  readonly eager?: boolean;
  /** Settings of some parameters, chosen by path and role: learning-rate multiplier, decay, freezing. */
  readonly groups?: Groups;
}

/** p -= lr m' / (sqrt(v') + eps) with bias-corrected moments m', v', each by its own age: the number of steps that
 * updated it. */
export const adam = (options: Omit<AdamOptions, 'weightDecay'>): Optimizer => build('adam', options, null);

/** Adam, and in addition p -= lr weightDecay p for parameters whose role decays. */
export const adamW = (options: AdamOptions): Optimizer => build('adamW', options, 0.01);

/** defaultDecay: the weight decay if none is given; null: the optimiser has no weight decay. */
function build(name: string, options: AdamOptions, defaultDecay: number | null): Optimizer {
  checkOptimizer(name, options, ['betas', 'eps', ...(defaultDecay === null ? [] : ['weightDecay'])]);
  const { lr, betas = [0.9, 0.999], eps = 1e-8, weightDecay = defaultDecay ?? 0 } = options,
    [beta1, beta2] = betas,
    rule = adamRule({ betas, eps, weightDecay });
  return fixedCopy<Optimizer>({
    ...commonOf(name, options, { beta1, beta2, eps, weightDecay }),
    decay: defaultDecay === null ? null : weightDecay,
    corrected: ADAM_CORRECTED,
    moments: ADAM_MOMENTS,
    scalars: (step, age = step) => rule.scalars(rateAt(lr, step), age),
    update: rule.update,
  });
}

export const ADAM_MOMENTS = ['m', 'v'],
  ADAM_CORRECTED = ['lr', 'correction'];

/** Scalars and update of Adam with decoupled decay, for optimisers that treat some parameters in this way. */
export function adamRule({
  betas: [b1, b2],
  eps,
  weightDecay,
}: {
  readonly betas: readonly [number, number];
  readonly eps: number;
  readonly weightDecay: number;
}): { scalars(rate: number, age: number): Record<string, number>; update(call: UpdateCall): Updated } {
  return {
    scalars(rate, age) {
      const t = age + 1;
      return { lr: rate / (1 - b1 ** t), correction: 1 / (1 - b2 ** t), decay: rate * weightDecay, rate };
    },
    update({ parameter: p, gradient: g, moment, scalar, lr: multiplier, ...call }) {
      const m = add(mul(moment('m'), b1), mul(g, 1 - b1));
      const v = add(mul(moment('v'), b2), mul(mul(g, g), 1 - b2));
      const rate = multiplier === 1 ? scalar('lr') : mul(scalar('lr'), multiplier),
        decay = decayOf(call, weightDecay);
      const step = div(mul(m, rate), add(sqrt(mul(v, scalar('correction'))), eps));
      const decayFactor = (): Tensor =>
        decay === weightDecay && multiplier === 1 ? scalar('decay') : mul(scalar('rate'), decay * multiplier);
      return { parameter: sub(decay === 0 ? p : sub(p, mul(p, decayFactor())), step), moments: { m, v } };
    },
  };
}
