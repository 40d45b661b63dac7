// Losses: from a model's output and the targets to one number, which is a mean over some count. Parts of a batch
// (`accumulate`, `split`) and batches of an evaluation are weighted by these counts. Options are a third argument:
// `loss: (o, t) => loss.crossEntropy(o, t, { labelSmoothing: 0.1 })`.
import { hostTensor } from '../base/tensor.ts';
import { isFloat } from '../base/dtype.ts';
import { ShapeError, UserError } from '../base/errors.ts';
import { checkOptions, shown, type KeysOf } from '../base/options.ts';
import { aList, anObject, aNumber, atLeast0, either } from '../base/kinds.ts';
import { boundOf, sameShape, showType } from '../base/shape.ts';
import { emit, scalar, type Tensor } from '../graph/tensor.ts';
import { abs } from '../graph/ops/elementwise/abs.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { squeeze, unsqueeze } from '../graph/ops/shape/arrange.ts';
import { cast } from '../graph/ops/elementwise/cast.ts';
import { div } from '../graph/ops/elementwise/div.ts';
import { equal } from '../graph/ops/elementwise/equal.ts';
import { zerosLike } from '../graph/ops/create/fill.ts';
import { gather } from '../graph/ops/shape/gather.ts';
import { less } from '../graph/ops/elementwise/less.ts';
import { log } from '../graph/ops/elementwise/log.ts';
import { maximum } from '../graph/ops/elementwise/maximum.ts';
import { minimum } from '../graph/ops/elementwise/minimum.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { neg } from '../graph/ops/elementwise/neg.ts';
import { relu } from '../graph/ops/elementwise/relu.ts';
import { softplus } from '../graph/ops/elementwise/softplus.ts';
import { norm } from '../graph/ops/reduce/statistics.ts';
import { stopGradient } from '../graph/ops/elementwise/stopGradient.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import { mean, sum } from '../graph/ops/reduce/sum.ts';
import { takeAlong } from '../graph/ops/shape/takeAlong.ts';
import { where } from '../graph/ops/elementwise/where.ts';
import { traceOf } from '../trace/trace.ts';
import { meanOfRows, rowsIn } from './rows.ts';

/** One number from a model's output and the targets. A user's own loss is weighted by samples, unless it is composed of
 * losses of this module or `meanOver`, or `counted` gives its count. */
export type Loss = (output: Tensor, target: Tensor) => Tensor;

/**
 * Declares that `mean`, one float number, is a mean over `count` things (a number, or a tensor []), and gives it back.
 * If a batch is split into parts, gradient and value are those of the mean over the whole batch: the sum of count *
 * mean over parts, divided by the sum of counts. A sum of such means with factors is weighted term by term. For
 * anything else (a root of a mean, a product of two means) this holds only to first order in the means. If the batch is
 * split, `count` must depend only on x and y.
 */
export function counted(mean: Tensor, count: Tensor | number): Tensor {
  if (mean.shape.length !== 0 || !isFloat(mean.dtype)) {
    throw new ShapeError(`counted: a mean is one float number, got ${mean.toString()}`);
  }
  if (typeof count !== 'number' && count.shape.length !== 0) {
    throw new ShapeError(`counted: a count is one number, got ${count.toString()}`);
  }
  if (typeof count === 'number' && !(Number.isFinite(count) && count >= 0)) {
    throw new UserError(`counted: a count is a number of at least 0, got ${count}`);
  }
  const dtype = mean.dtype === 'float64' ? 'float64' : 'float32';
  traceOf(mean).addMean(mean, typeof count === 'number' ? count : stopGradient(cast(count, dtype)));
  return mean;
}

/**
 * The mean of all elements of `each`; with `weights` (numbers of at least 0, such as a mask of 0 and 1, broadcast to
 * the shape of `each`): sum(weights * each) / sum(weights). If all weights are 0, the mean and its gradient are 0.
 */
export function meanOver(each: Tensor, weights?: Tensor): Tensor {
  if (weights) {
    const all = add(cast(weights, each.dtype), zerosLike(each)),
      total = sum(all),
      zero = scalar(each, 0);
    if (!sameShape(all.shape, each.shape)) {
      throw new ShapeError(`meanOver: weights ${showType(weights.type)} do not fit ${showType(each.type)}`);
    }
    // Elements with weight 0 may be NaN or infinite.
    return counted(ratio(sum(where(equal(all, 0), zero, mul(all, each))), total), total);
  }
  const [rows] = each.shape,
    fixed = each.shape.reduce<number>((n, d) => n * (typeof d === 'number' ? d : 1), 1);
  if (each.shape.every((d) => typeof d === 'number')) return counted(mean(each), fixed);
  return counted(meanOfRows(each), mul(cast(rowsIn(each, rows), 'float32'), fixed));
}

/** total / count; 0 if count is 0. */
const ratio = (total: Tensor, count: Tensor): Tensor => div(total, where(equal(count, 0), scalar(count, 1), count));

/** Throws ShapeError for different shapes: broadcasting [n, 1] with [n] would compare every row with every other. */
function checkSameShape(name: string, output: Tensor, target: Tensor): void {
  if (!isFloat(output.dtype) || output.dtype !== target.dtype || !sameShape(output.shape, target.shape)) {
    throw new ShapeError(
      `${name}: output ${showType(output.type)} and target ${showType(target.type)} must be floats of one shape`,
    );
  }
}

export interface CrossEntropyOptions {
  /** This share of the target goes in equal parts to all classes (Szegedy et al. 2016, section 7); default 0. */
  readonly labelSmoothing?: number;
  /** Rows with this target are ignored. If all rows are, the loss and its gradient are 0; the optimiser still updates,
   * so that moments and weights decay. */
  readonly ignoreIndex?: number;
  /**
   * [classes]: weights of the classes; the loss is divided by the sum of the targets' weights, which is also its count.
   * If that sum is 0 (all targets are of classes of weight 0), only smoothed labels give a loss, which is divided by 1.
   */
  readonly classWeights?: Tensor | readonly number[];
}
const CROSS_ENTROPY: KeysOf<CrossEntropyOptions> = {
  labelSmoothing: aNumber,
  ignoreIndex: aNumber,
  classWeights: either(aList, anObject),
};

/** Mean over all rows of -log softmax(logits)[target], in nats. logits [..., classes], targets int32 [...]. A
 * target that is no class gives NaN. */
export function crossEntropy(logits: Tensor, targets: Tensor, options: CrossEntropyOptions = {}): Tensor {
  checkOptions('crossEntropy', options, CROSS_ENTROPY);
  const { labelSmoothing = 0, ignoreIndex, classWeights } = options;
  if (!(labelSmoothing >= 0 && labelSmoothing <= 1)) {
    throw new UserError(`crossEntropy: labelSmoothing must be from 0 to 1, got ${labelSmoothing}`);
  }
  if (ignoreIndex !== undefined && (ignoreIndex | 0) !== ignoreIndex) {
    throw new UserError(`crossEntropy: ignoreIndex must be a whole number (int32), as targets are, got ${ignoreIndex}`);
  }
  const ignored = ignoreIndex === undefined ? null : equal(targets, ignoreIndex);
  const known = ignored ? where(ignored, scalar(targets, 0), targets) : targets,
    last = logits.shape.length - 1;
  const [rows, logSum] = emit('crossEntropy', [logits, known]); // [...] each
  const weights = classWeights === undefined ? null : weightsOf(logits, classWeights),
    own = weights && gather(weights, known);
  let loss = own ? mul(rows, own) : rows;
  if (labelSmoothing > 0) {
    // The mean over classes of weight * (log sum exp - logit).
    const even = weights
      ? sub(mul(logSum, mean(weights)), mean(mul(logits, weights), [last]))
      : sub(logSum, mean(logits, [last]));
    loss = add(mul(loss, 1 - labelSmoothing), mul(even, labelSmoothing));
  }
  if (!ignored && !own) return meanOver(loss);
  const kept = (x: Tensor): Tensor => (ignored ? where(ignored, scalar(logits, 0), x) : x);
  const count = sum(kept(own ?? scalar(logits, 1)));
  return counted(ratio(sum(kept(loss)), count), count);
}

function weightsOf(logits: Tensor, weights: Tensor | readonly number[]): Tensor {
  if (!('shape' in weights) && !Array.isArray(weights) && !ArrayBuffer.isView(weights)) {
    throw new UserError(`crossEntropy: classWeights must be a list of numbers or a tensor, got ${shown(weights)}`);
  }
  const wrong = 'shape' in weights ? undefined : Array.from<unknown>(weights).find((w) => atLeast0(w) !== null);
  if (wrong !== undefined) {
    throw new UserError(`crossEntropy: weights of classes must be numbers of at least 0, got ${shown(wrong)}`);
  }
  const classes = boundOf(logits.shape[logits.shape.length - 1]),
    given = 'shape' in weights ? weights.shape : [weights.length];
  if (!sameShape(given, [classes]))
    throw new ShapeError(
      `crossEntropy: ${classes} classes need ${classes} weights, got ${given.map(boundOf).join(' x ')}`,
    );
  return 'shape' in weights
    ? weights
    : traceOf(logits).constant(
        { dtype: logits.dtype, shape: [classes] },
        hostTensor(logits.dtype, [classes], weights).data,
      );
}

/** Mean over all rows of -logProbabilities[target], in nats. logProbabilities [..., classes] (`ops.logSoftmax`
 * makes them), targets int32 [...]. */
export const nll: Loss = (logProbabilities, targets) =>
  meanOver(neg(squeeze(takeAlong(logProbabilities, unsqueeze(targets, -1)), [-1])));

export interface BinaryOptions {
  /** Weight of the positive class; default 1. */
  readonly positiveWeight?: number;
}
const BINARY: KeysOf<BinaryOptions> = { positiveWeight: aNumber };

/** Mean over all elements of -(y log p + (1 - y) log(1 - p)) with p = sigmoid(logits), in nats. logits and targets
 * (0 to 1) of one shape. */
export function binaryCrossEntropyWithLogits(logits: Tensor, targets: Tensor, options: BinaryOptions = {}): Tensor {
  checkOptions('binaryCrossEntropyWithLogits', options, BINARY);
  const { positiveWeight = 1 } = options;
  if (!(Number.isFinite(positiveWeight) && positiveWeight >= 0)) {
    const where = 'binaryCrossEntropyWithLogits: positiveWeight';
    throw new UserError(`${where} must be a number of at least 0, got ${positiveWeight}`);
  }
  checkSameShape('binaryCrossEntropyWithLogits', logits, targets);
  // -log p = softplus(-x), and -log(1 - p) = x + softplus(-x).
  const weight = add(mul(targets, positiveWeight - 1), 1);
  return meanOver(add(mul(sub(scalar(targets, 1), targets), logits), mul(weight, softplus(neg(logits)))));
}

/** Mean over all rows of sum(target (log target - logProbabilities)), in nats. logProbabilities and target
 * (probabilities) [..., n]. */
export const klDivergence: Loss = (logProbabilities, target) => {
  checkSameShape('klDivergence', logProbabilities, target);
  const some = less(scalar(target, 0), target); // 0 log 0 is 0
  const each = mul(target, sub(log(where(some, target, scalar(target, 1))), logProbabilities));
  return meanOver(sum(where(some, each, scalar(each, 0)), [each.shape.length - 1]));
};

/** Mean squared difference of two tensors of one shape. */
export const meanSquaredError: Loss = (output, target) => {
  checkSameShape('meanSquaredError', output, target);
  const d = sub(output, target);
  return meanOver(mul(d, d));
};

/** Mean absolute difference of two tensors of one shape; its gradient is 0 where they are equal. */
export const meanAbsoluteError: Loss = (output, target) => {
  checkSameShape('meanAbsoluteError', output, target);
  return meanOver(abs(sub(output, target)));
};

export interface HuberOptions {
  /** The absolute difference at which the loss changes from quadratic to linear; default 1. */
  readonly delta?: number;
}
const HUBER: KeysOf<HuberOptions> = { delta: aNumber };

/**
 * Mean of d^2 / 2 for differences |d| up to `delta`, and of delta (|d| - delta / 2) for larger ones (Huber 1964). Two
 * tensors of one shape.
 */
export function huber(output: Tensor, target: Tensor, options: HuberOptions = {}): Tensor {
  checkOptions('huber', options, HUBER);
  const { delta = 1 } = options;
  checkSameShape('huber', output, target);
  if (!(Number.isFinite(delta) && delta > 0)) throw new UserError(`huber: delta must be above 0, got ${delta}`);
  const size = abs(sub(output, target)),
    within = minimum(size, delta);
  return meanOver(add(mul(mul(within, within), 0.5), mul(sub(size, within), delta)));
}

/** Mean of max(0, 1 - target * output); targets are -1 or 1, of the output's shape. */
export const hinge: Loss = (output, target) => {
  checkSameShape('hinge', output, target);
  return meanOver(relu(sub(scalar(output, 1), mul(target, output))));
};

/** Mean over all rows of 1 - cosine of the angle between output and target, both [..., n]; a row of zeros counts
 * as a right angle. */
export const cosineSimilarity: Loss = (output, target) => {
  checkSameShape('cosineSimilarity', output, target);
  const axis = [output.shape.length - 1],
    lengths = mul(norm(output, axis), norm(target, axis));
  return meanOver(sub(scalar(output, 1), div(sum(mul(output, target), axis), maximum(lengths, 1e-8))));
};
