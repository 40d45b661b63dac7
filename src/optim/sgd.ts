// Stochastic gradient descent with momentum (Polyak 1964) and Nesterov's variant (Sutskever et al. 2013, as PyTorch writes it).
import { add } from '../graph/ops/add.ts';
import { mul } from '../graph/ops/mul.ts';
import { sub } from '../graph/ops/sub.ts';
import { checkOptimizer, rateAt, type Optimizer, type Schedule, type Updated } from './optimizer.ts';

export interface SgdOptions {
  readonly lr: Schedule;
  readonly momentum?: number;
  readonly nesterov?: boolean;
  readonly weightDecay?: number;
  readonly clip?: number;
  /** See Optimizer.eager: less memory, a weaker guarantee. Not with clip. */
  readonly eager?: boolean;
}

/** v = momentum v + g; p -= lr v (Nesterov: p -= lr (g + momentum v)). */
export function sgd({ lr, momentum = 0, nesterov = false, weightDecay = 0, clip, eager = false }: SgdOptions): Optimizer {
  checkOptimizer('sgd', { lr, momentum, weightDecay, clip });
  return {
    name: 'sgd', ...(clip !== undefined && { clip }), eager,
    settings: { momentum, nesterov, weightDecay, ...(typeof lr === 'number' && { lr }) },
    rate: (step) => rateAt(lr, step),
    scalars: (step) => ({ lr: rateAt(lr, step) }),
    update({ parameter: p, gradient, moment, scalar }): Updated {
      const g = weightDecay === 0 ? gradient : add(gradient, mul(p, weightDecay));
      if (momentum === 0) return { parameter: sub(p, mul(g, scalar('lr'))), moments: {} };
      const v = add(mul(moment('momentum'), momentum), g);
      const direction = nesterov ? add(g, mul(v, momentum)) : v;
      return { parameter: sub(p, mul(direction, scalar('lr'))), moments: { momentum: v } };
    },
  };
}
