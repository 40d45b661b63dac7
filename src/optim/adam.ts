// Adam (Kingma & Ba 2015, algorithm 1) and AdamW with decoupled weight decay (Loshchilov & Hutter 2019, algorithm 2).
import { add } from '../graph/ops/add.ts';
import { div } from '../graph/ops/div.ts';
import { mul } from '../graph/ops/mul.ts';
import { sqrt } from '../graph/ops/sqrt.ts';
import { sub } from '../graph/ops/sub.ts';
import { checkOptimizer, rateAt, type Optimizer, type Schedule } from './optimizer.ts';

export interface AdamOptions {
  readonly lr: Schedule;
  /** Decay of the first and second moment; default 0.9, 0.999. */
  readonly betas?: readonly [number, number];
  readonly eps?: number;
  /** AdamW only; applies to parameters with two or more dimensions. Default 0.01. */
  readonly weightDecay?: number;
  readonly clip?: number;
  /** See Optimizer.eager: less memory, a weaker guarantee. Not with clip. */
  readonly eager?: boolean;
}

/** p -= lr m' / (sqrt(v') + eps) with bias-corrected moments m', v'. */
export const adam = (options: Omit<AdamOptions, 'weightDecay'>): Optimizer => build('adam', { ...options, weightDecay: 0 });

/** Adam with p -= lr weightDecay p beside it. */
export const adamW = (options: AdamOptions): Optimizer => build('adamW', options);

function build(name: string, { lr, betas: [b1, b2] = [0.9, 0.999], eps = 1e-8, weightDecay = 0.01, clip, eager = false }: AdamOptions): Optimizer {
  checkOptimizer(name, { lr, beta1: b1, beta2: b2, eps, weightDecay, clip });
  return {
    name, ...(clip !== undefined && { clip }), eager,
    settings: { beta1: b1, beta2: b2, eps, weightDecay, ...(clip !== undefined && { clip }), ...(typeof lr === 'number' && { lr }) },
    rate: (step) => rateAt(lr, step),
    scalars(step) {
      const rate = rateAt(lr, step), t = step + 1;
      return { lr: rate / (1 - b1 ** t), correction: 1 / (1 - b2 ** t), decay: rate * weightDecay };
    },
    update({ parameter: p, gradient: g, moment, scalar }) {
      const m = add(mul(moment('m'), b1), mul(g, 1 - b1));
      const v = add(mul(moment('v'), b2), mul(mul(g, g), 1 - b2));
      const step = div(mul(m, scalar('lr')), add(sqrt(mul(v, scalar('correction'))), eps));
      const kept = weightDecay !== 0 && p.shape.length >= 2 ? sub(p, mul(p, scalar('decay'))) : p;
      return { parameter: sub(kept, step), moments: { m, v } };
    },
  };
}
