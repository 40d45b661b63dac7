// Stochastic gradient descent with momentum (Polyak 1964) and Nesterov's variant (Sutskever et al. 2013, as PyTorch
// writes it).
import { fixedCopy } from '../base/fixed.ts';
import { UserError } from '../base/errors.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import type { Groups } from './groups.ts';
import { checkOptimizer, commonOf, decayOf, rateAt, type Optimizer, type Schedule, type Updated } from './optimizer.ts';

export interface SgdOptions {
  readonly lr: Schedule;
  readonly momentum?: number;
  /** Needs momentum. */
  readonly nesterov?: boolean;
  /** Adds weightDecay p to the gradient of weights, embeddings, routers and heads; biases and gains do not decay
   * (`Parameter.role`). Default 0. */
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

/** v = momentum v + g; p -= lr v (Nesterov: p -= lr (g + momentum v)). */
export function sgd(options: SgdOptions): Optimizer {
  checkOptimizer('sgd', options, ['momentum', 'nesterov', 'weightDecay']);
  const { lr, momentum = 0, nesterov = false, weightDecay = 0 } = options;
  if (nesterov && momentum === 0)
    throw new UserError(
      'optim.sgd: nesterov has no effect without momentum',
      'optim.sgd({ lr: 0.1, momentum: 0.9, nesterov: true })',
    );
  return fixedCopy<Optimizer>({
    ...commonOf('sgd', options, { momentum, nesterov, weightDecay }),
    decay: weightDecay,
    moments: momentum === 0 ? [] : ['momentum'],
    scalars: (step) => ({ lr: rateAt(lr, step) }),
    update({ parameter: p, gradient, moment, scalar, lr: times, ...call }): Updated {
      const decay = decayOf(call, weightDecay),
        g = decay === 0 ? gradient : add(gradient, mul(p, decay));
      const rate = times === 1 ? scalar('lr') : mul(scalar('lr'), times);
      if (momentum === 0) return { parameter: sub(p, mul(g, rate)), moments: {} };
      const v = add(mul(moment('momentum'), momentum), g);
      const direction = nesterov ? add(g, mul(v, momentum)) : v;
      return { parameter: sub(p, mul(direction, rate)), moments: { momentum: v } };
    },
  });
}
