// Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/): the momentum of a matrix is replaced by the
// nearest matrix whose singular values are all about 1, computed by Newton-Schulz iterations. Parameters that are no
// matrices of hidden layers are updated by AdamW, as published.
import { anObject } from '../base/kinds.ts';
import { UserError } from '../base/errors.ts';
import { fixedCopy } from '../base/fixed.ts';
import { boundOf } from '../base/shape.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { div } from '../graph/ops/elementwise/div.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { sqrt } from '../graph/ops/elementwise/sqrt.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import { matmul } from '../graph/ops/matmul/matmul.ts';
import { sum } from '../graph/ops/reduce/sum.ts';
import { reshape } from '../graph/ops/shape/reshape.ts';
import { emit1, type Tensor } from '../graph/tensor.ts';
import { ADAM_CORRECTED, ADAM_MOMENTS, adamRule } from './adam.ts';
import type { Groups } from './groups.ts';
import {
  type MomentOwner,
  checkOptimizer,
  commonOf,
  decayOf,
  rateAt,
  scaled,
  type Optimizer,
  type Schedule,
} from './optimizer.ts';

export interface MuonOptions {
  /** Learning rate of the matrices; the publication uses 0.02. */
  readonly lr: Schedule;
  /** Default 0.95. */
  readonly momentum?: number;
  /** Default true. */
  readonly nesterov?: boolean;
  /** Newton-Schulz iterations in a step; default 5. */
  readonly iterations?: number;
  /** Decoupled decay of matrices, and of embeddings, routers and heads, each times its own rate. Default 0. */
  readonly weightDecay?: number;
  /** For all other parameters. Its lr is by default 0.015 of that of the matrices (3e-4 for 0.02), in every step; betas
   * [0.9, 0.95]; eps 1e-10. */
  readonly adamW?: MuonRest;
  /** Scales all gradients down so that their joint norm is at most this. Frozen parameters are not counted. */
  readonly clip?: number;
  /** See Optimizer.eager: less memory, a weaker guarantee. Not with clip. */
  readonly eager?: boolean;
  /** Settings of some parameters, chosen by path and role: learning-rate multiplier, decay, freezing. */
  readonly groups?: Groups;
}

export interface MuonRest {
  readonly lr?: Schedule;
  readonly betas?: readonly [number, number];
  readonly eps?: number;
}

/** The ratio of the published rates of AdamW and of the matrices. */
const REST_RATE = 3e-4 / 0.02;
/** Coefficients of a Newton-Schulz iteration X -> a X + b (X X') X + c (X X')^2 X, from the publication. */
const [A, B, C] = [3.4445, -4.775, 2.0315];
const NORM_EPS = 1e-7;

/**
 * m = momentum m + g; u = g + momentum m (Nesterov) or m; p -= lr sqrt(max(1, outputs / inputs)) NS(u). This for
 * parameters of the role 'weight' with two dimensions [inputs, outputs] or more (convolutions: [rest, outputs]), and
 * for each expert of a bank [experts, inputs, outputs] by itself; AdamW for all others. Moments: `momentum`, or `m` and
 * `v`.
 */
export function muon(options: MuonOptions): Optimizer {
  checkOptimizer('muon', options, ['momentum', 'nesterov', 'iterations', 'weightDecay', 'adamW']);
  const { lr, momentum = 0.95, nesterov = true, iterations = 5, weightDecay = 0, adamW: rest = {} } = options;
  if (anObject(rest) !== null)
    throw new UserError('optim.muon: adamW must be an object', 'optim.muon({ lr: 0.02, adamW: { lr: 3e-4 } })');
  checkOptimizer('muon: adamW', rest, ['betas', 'eps'], true);
  if (nesterov && momentum === 0)
    throw new UserError('optim.muon: nesterov has no effect without momentum', 'nesterov: false');
  const { betas = [0.9, 0.95], eps = 1e-10 } = rest,
    rule = adamRule({ betas, eps, weightDecay }),
    restRate = (step: number): number => (rest.lr === undefined ? REST_RATE * rateAt(lr, step) : rateAt(rest.lr, step));
  return fixedCopy<Optimizer>({
    ...commonOf('muon', options, {
      momentum,
      nesterov,
      iterations,
      weightDecay,
      'adamW.beta1': betas[0],
      'adamW.beta2': betas[1],
      'adamW.eps': eps,
      ...(typeof rest.lr === 'number' && { 'adamW.lr': rest.lr }),
    }),
    decay: weightDecay,
    corrected: ADAM_CORRECTED,
    moments: ['momentum', ...ADAM_MOMENTS],
    momentShapes: (p): Record<string, readonly number[]> =>
      isMatrix(p) ? { momentum: p.shape } : { m: p.shape, v: p.shape },
    scalars: (step, age = step) => ({ ...rule.scalars(restRate(step), age), matrixLr: rateAt(lr, step) }),
    update(call) {
      const { parameter: p, gradient: g, moment, scalar, role, experts, lr: times } = call;
      if (!isMatrix({ shape: p.shape.map(boundOf), role, experts })) return rule.update(call);
      const m = add(mul(moment('momentum'), momentum), g),
        u = nesterov ? add(g, mul(m, momentum)) : m,
        [inputs, outputs] = sizesOf(p, experts).slice(-2),
        unit = reshape(orthogonal(reshape(u, sizesOf(p, experts)), iterations), p.shape.map(boundOf)),
        rate = scaled(scalar('matrixLr'), times),
        decay = decayOf(call, weightDecay),
        kept = decay === 0 ? p : sub(p, mul(p, mul(rate, decay)));
      return {
        parameter: sub(kept, mul(unit, mul(rate, Math.sqrt(Math.max(1, outputs / inputs))))),
        moments: { momentum: m },
      };
    },
  });
}

const isMatrix = ({ shape, role, experts }: MomentOwner): boolean =>
  role === 'weight' && shape.length >= (experts ? 3 : 2);

/** [inputs, outputs], or [experts, inputs, outputs]. */
function sizesOf({ shape }: Tensor, experts: boolean): number[] {
  const all = shape.map(boundOf),
    product = all.slice(experts ? 1 : 0, -1).reduce((a, b) => a * b, 1);
  return [...(experts ? all.slice(0, 1) : []), product, all[all.length - 1]];
}

/** The last two dimensions orthogonalised: [.., inputs, outputs] -> the same shape. */
function orthogonal(u: Tensor, iterations: number): Tensor {
  const [inputs, outputs] = u.shape.slice(-2).map(boundOf),
    rank = u.shape.length,
    one = [...u.shape.slice(0, -2).map(boundOf), 1, 1],
    norm = sqrt(reshape(sum(sum(mul(u, u), [rank - 1]), [rank - 2]), one));
  let x = div(u, add(norm, NORM_EPS));
  // The smaller of the two squares: X X' X = (X X') X = X (X' X).
  const wide = inputs <= outputs;
  for (let i = 0; i < iterations; i++) {
    const square = emit1('matmul', [x, x], { transA: !wide, transB: wide }),
      poly = add(mul(square, B), mul(matmul(square, square), C));
    x = add(mul(x, A), wide ? matmul(poly, x) : matmul(x, poly));
  }
  return x;
}
