// Batch normalisation (Ioffe & Szegedy 2015, algorithms 1 and 2) of the last axis: channels of images, columns of rows.
import { UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { boundOf, isDynamic, showType } from '../base/shape.ts';
import { scalar, type Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/add.ts';
import { div } from '../graph/ops/div.ts';
import { less } from '../graph/ops/less.ts';
import { maximum } from '../graph/ops/maximum.ts';
import { mul } from '../graph/ops/mul.ts';
import { rowCount } from '../graph/ops/rowCount.ts';
import { rsqrt } from '../graph/ops/rsqrt.ts';
import { sub } from '../graph/ops/sub.ts';
import { sum } from '../graph/ops/sum.ts';
import { where } from '../graph/ops/where.ts';
import { Parameter, type Role } from '../trace/parameter.ts';
import { traceOf, use } from '../trace/trace.ts';

export interface BatchNormOptions {
  readonly eps?: number;
  /** Share of the batch's statistics in the running ones after a step; default 0.1. */
  readonly momentum?: number;
}
const KEYS: KeysOf<BatchNormOptions> = { eps: 'optional', momentum: 'optional' };

/**
 * (x - mean) / sqrt(variance + eps) * gain + bias for each column of the last axis: [..., width] -> [..., width].
 *
 * Training takes mean and variance of the batch, over all axes but the last; where the first dimension varies at run time, over the
 * rows that are there (of none, the result is none and the running statistics stay). The running statistics, which evaluation takes, are
 * parameters that are not trained: they lie in checkpoints, and change only if the step commits. With `accumulate`, each micro-batch
 * is normalised by its own statistics (n times fewer samples), and the running ones change once a step, by the mean over micro-batches.
 */
export class BatchNorm {
  readonly gain: Parameter; // [width]
  readonly bias: Parameter; // [width]
  readonly runningMean: Parameter; // [width], not trained
  readonly runningVariance: Parameter; // [width], not trained; of the population: the batch's times n / (n - 1)
  readonly #eps: number;
  readonly #momentum: number;

  constructor(width: number, options: BatchNormOptions = {}) {
    checkOptions('BatchNorm', options, KEYS);
    const { eps = 1e-5, momentum = 0.1 } = options;
    if (!(momentum >= 0 && momentum <= 1)) throw new UserError(`BatchNorm: momentum must be from 0 to 1, got ${momentum}`);
    const of = (value: number, role: Role): Parameter =>
      new Parameter([width], { kind: 'constant', value }, { trained: role !== 'running', role });
    this.gain = of(1, 'gain');
    this.bias = of(0, 'bias');
    this.runningMean = of(0, 'running');
    this.runningVariance = of(1, 'running');
    this.#eps = eps;
    this.#momentum = momentum;
  }

  forward(x: Tensor): Tensor {
    const [width] = this.gain.shape, last = x.shape.at(-1);
    if (last !== width || x.shape.length < 2) throw new UserError(`BatchNorm: columns of the last axis must be ${width}, got ${showType(x.type)}`);
    const trace = traceOf(x);
    const apply = (away: Tensor, variance: Tensor): Tensor =>
      add(mul(away, mul(rsqrt(add(variance, this.#eps)), use(x, this.gain))), use(x, this.bias));
    if (!trace.training) return apply(sub(x, use(x, this.runningMean)), use(x, this.runningVariance));

    const count = countOf(x), some = maximum(count, 1);
    const mean = div(overRows(x), some), away = sub(x, mean), variance = div(overRows(mul(away, away)), some);
    const population = mul(variance, div(some, maximum(sub(count, 1), 1)));
    const towards = (p: Parameter, value: Tensor): void => {
      trace.updateParameter(p, (old) => where(less(scalar(count, 0), count), add(mul(old, 1 - this.#momentum), mul(value, this.#momentum)), old));
    };
    towards(this.runningMean, mean);
    towards(this.runningVariance, population);
    return apply(away, variance);
  }
}

/** How many elements a column has in this run. */
function countOf(x: Tensor): Tensor {
  const fixed = x.shape.slice(0, -1).reduce<number>((n, d) => n * (typeof d === 'number' ? boundOf(d) : 1), 1);
  return isDynamic(x.shape) ? mul(rowCount(x), fixed) : scalar(x, fixed);
}

/** Sums of the columns. Those of each row of images come first: threads share them. */
function overRows(x: Tensor): Tensor {
  const inner = x.shape.slice(1, -1).map((_, i) => i + 1);
  return sum(inner.length > 0 ? sum(x, inner) : x, [0]);
}
