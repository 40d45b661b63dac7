// Batch normalisation (Ioffe & Szegedy 2015, algorithms 1 and 2) of the last axis: channels of images, columns of
// rows.
import { UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aNumber, atLeast0 } from '../base/kinds.ts';
import { cast } from '../graph/ops/elementwise/cast.ts';
import { boundOf, elements, isDynamic, showType } from '../base/shape.ts';
import { scalar, type Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { div } from '../graph/ops/elementwise/div.ts';
import { less } from '../graph/ops/elementwise/less.ts';
import { maximum } from '../graph/ops/elementwise/maximum.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { rowCount } from '../graph/ops/moe/rowCount.ts';
import { rsqrt } from '../graph/ops/elementwise/rsqrt.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import { sum } from '../graph/ops/reduce/sum.ts';
import { where } from '../graph/ops/elementwise/where.ts';
import { Parameter, type Role } from '../trace/parameter.ts';
import { traceOf, use } from '../trace/trace.ts';

export interface BatchNormOptions {
  readonly eps?: number;
  /** Share of the batch's statistics in the running ones after a step; default 0.1. */
  readonly momentum?: number;
}
const KEYS: KeysOf<BatchNormOptions> = { eps: atLeast0, momentum: aNumber };

/**
 * (x - mean) / sqrt(variance + eps) * gain + bias for each column of the last axis: [..., width] -> [..., width].
 *
 * Training uses mean and variance of the batch, over all axes but the last. They need at least 2 elements a column:
 * fewer give a UserError. If the first dimension varies at run time (rows of an expert), only existing rows count. A
 * single row is normalised by the running statistics. With one row or none, the running statistics do not change.
 * Evaluation uses the running statistics. They are parameters that are not trained: checkpoints hold them, and they
 * change only if the step commits. With `accumulate` and `split`, each micro-batch is normalised by its own statistics
 * (of n times fewer samples), and the running ones change once a step, by the mean over micro-batches.
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
    if (!(momentum >= 0 && momentum <= 1))
      throw new UserError(`BatchNorm: momentum must be from 0 to 1, got ${momentum}`);
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
    const [width] = this.gain.shape,
      last = x.shape.at(-1);
    if (last !== width || x.shape.length < 2)
      throw new UserError(`BatchNorm: columns of the last axis must be ${width}, got ${showType(x.type)}`);
    const trace = traceOf(x);
    const apply = (away: Tensor, variance: Tensor): Tensor =>
      add(mul(away, mul(rsqrt(add(variance, this.#eps)), use(x, this.gain))), use(x, this.bias));
    if (!trace.training) return apply(sub(x, use(x, this.runningMean)), use(x, this.runningVariance));

    const count = countOf(x),
      some = maximum(count, 1),
      enough = isDynamic(x.shape) ? less(scalar(count, 1), count) : null;
    if (!enough) checkRows(x, trace.pathOf(this));
    const own = (value: Tensor, running: Parameter): Tensor => (enough ? where(enough, value, use(x, running)) : value);
    const mean = own(div(overRows(x), some), this.runningMean),
      away = sub(x, mean);
    const spread = div(overRows(mul(away, away)), some),
      variance = own(spread, this.runningVariance);
    const population = mul(variance, div(some, maximum(sub(count, 1), 1)));
    const towards = (p: Parameter, value: Tensor): void => {
      const moved = (old: Tensor): Tensor => add(mul(old, 1 - this.#momentum), mul(value, this.#momentum));
      trace.updateParameter(p, (old) => (enough ? where(enough, moved(old), old) : moved(old)));
    };
    towards(this.runningMean, mean);
    towards(this.runningVariance, population);
    return apply(away, variance);
  }
}

/** Throws UserError if a column has one element, which has no variance. */
function checkRows(x: Tensor, path: string): void {
  const [width] = x.shape.slice(-1),
    rows = elements(x.shape) / boundOf(width);
  if (rows >= 2) return;
  const where = `BatchNorm${path ? ` at ${path}` : ''}`,
    got = showType(x.type);
  throw new UserError(
    `${where}: statistics need at least 2 elements a column in training, got ${got}`,
    'a larger batch (accumulate and split make micro-batches smaller), or LayerNorm, which needs no other rows',
  );
}

/** How many elements a column has at run time. */
function countOf(x: Tensor): Tensor {
  const fixed = x.shape.slice(0, -1).reduce<number>((n, d) => n * (typeof d === 'number' ? boundOf(d) : 1), 1);
  return isDynamic(x.shape) ? mul(cast(rowCount(x), x.dtype), fixed) : scalar(x, fixed);
}

/** Sums of the columns. For images, each row is summed first, so that threads can share the work. */
function overRows(x: Tensor): Tensor {
  const inner = x.shape.slice(1, -1).map((_, i) => i + 1);
  return sum(inner.length > 0 ? sum(x, inner) : x, [0]);
}
