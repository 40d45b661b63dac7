// Lion (Chen et al. 2023, "Symbolic Discovery of Optimization Algorithms", algorithm 2): updates by the sign of a
// momentum.
import { fixedCopy } from '../base/fixed.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { sign } from '../graph/ops/functions.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import type { Groups } from './groups.ts';
import { checkOptimizer, commonOf, decayOf, rateAt, scaled, type Optimizer, type Schedule } from './optimizer.ts';

export interface LionOptions {
  /** The paper takes a rate 3 to 10 times smaller than that of AdamW: every element moves by it in every step. */
  readonly lr: Schedule;
  /** beta1: share of the momentum in the sign; beta2: decay of the momentum. Default 0.9, 0.99. */
  readonly betas?: readonly [number, number];
  /** Weights, embeddings, routers and heads decay; biases and gains do not (`Parameter.role`). Default 0. The paper
   * takes a decay 3 to 10 times larger than that of AdamW. */
  readonly weightDecay?: number;
  /** Scales all gradients down so that their joint norm is at most this. Frozen parameters are not counted. */
  readonly clip?: number;
  /** See Optimizer.eager: less memory, a weaker guarantee. Not with clip. */
  readonly eager?: boolean;
  /** Settings of some parameters, chosen by path and role: learning-rate multiplier, decay, freezing. */
  readonly groups?: Groups;
}

/** p -= lr (sign(beta1 m + (1 - beta1) g) + weightDecay p); then m = beta2 m + (1 - beta2) g. One moment, `m`. */
export function lion(options: LionOptions): Optimizer {
  checkOptimizer('lion', options, ['betas', 'weightDecay']);
  const { lr, betas: [b1, b2] = [0.9, 0.99], weightDecay = 0 } = options;
  return fixedCopy<Optimizer>({
    ...commonOf('lion', options, { beta1: b1, beta2: b2, weightDecay }),
    decay: weightDecay,
    moments: ['m'],
    scalars: (step) => ({ lr: rateAt(lr, step) }),
    update({ parameter: p, gradient: g, moment, scalar, lr: times, ...call }) {
      const m = moment('m'),
        direction = sign(add(mul(m, b1), mul(g, 1 - b1))),
        decay = decayOf(call, weightDecay),
        rate = scaled(scalar('lr'), times);
      return {
        parameter: sub(p, mul(decay === 0 ? direction : add(direction, mul(p, decay)), rate)),
        moments: { m: add(mul(m, b2), mul(g, 1 - b2)) },
      };
    },
  });
}
