// The operators of Kossmann, Jia and Aiken (arXiv 2205.01848) over any experts: groupBy sends tokens to experts,
// aggregate and aggregateSpec bring their outputs back, cache remembers what was assigned. Each for any k, batch and
// number of experts.
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { boundOf, isDynamic } from '../../base/shape.ts';
import { UserError } from '../../base/errors.ts';
import { checkOptions, type KeysOf } from '../../base/options.ts';
import { aFlag, aNumber, needed } from '../../base/kinds.ts';
import { full, scalar, type Tensor } from '../../graph/tensor.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { combineGradWeights } from '../../graph/ops/moe/combineGradWeights.ts';
import { combine } from '../../graph/ops/moe/combine.ts';
import { dispatch } from '../../graph/ops/moe/dispatch.ts';
import { fullRows, rowNumbers } from '../../graph/ops/create/rows.ts';
import { gather } from '../../graph/ops/shape/gather.ts';
import { equal } from '../../graph/ops/elementwise/equal.ts';
import { joinSegments } from '../../graph/ops/moe/joinSegments.ts';
import { less } from '../../graph/ops/elementwise/less.ts';
import { log } from '../../graph/ops/elementwise/log.ts';
import { maximum } from '../../graph/ops/elementwise/maximum.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { neg } from '../../graph/ops/elementwise/neg.ts';
import { oneHot } from '../../graph/ops/create/oneHot.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { readRows } from '../../graph/ops/shape/readRows.ts';
import { softmax } from '../../graph/ops/reduce/softmax.ts';
import { splitSegments } from '../../graph/ops/moe/splitSegments.ts';
import { stopGradient } from '../../graph/ops/elementwise/stopGradient.ts';
import { mean, sum } from '../../graph/ops/reduce/sum.ts';
import { updateRows } from '../../graph/ops/shape/updateRows.ts';
import { where } from '../../graph/ops/elementwise/where.ts';
import { traceOf } from '../../trace/trace.ts';
import { meanOfRows } from '../rows.ts';
import { route, type Routing, type RoutingOptions } from './routing.ts';

/** All experts' rows in one tensor: x [tokens, ...rest] -> [rows in segments, ...rest]. */
export const toRows = (x: Tensor, { rows, k, mayDrop, expertRows }: Routing): Tensor =>
  dispatch(x, rows.order, rows.offsets, rows.inverse, { k, gaps: mayDrop, expertRows });

/**
 * rows [rows in segments, ...rest], weights [tokens, k] -> sum over a token's choices of weight * row: [tokens,
 * ...rest].
 */
export const fromRows = (outputs: Tensor, { rows, mayDrop, expertRows }: Routing, weights: Tensor): Tensor =>
  combine(outputs, rows.inverse, rows.order, weights, { gaps: mayDrop, expertRows });

/** int32 [tokens, k]: the row of each choice, -1 if it was dropped. like: any tensor [tokens, ...]. */
export function placesOf({ rows: { inverse }, k }: Routing, like: Tensor): Tensor {
  const places = reshape(inverse, [boundOf(like.shape[0]), k]);
  return typeof like.shape[0] === 'number' ? places : gather(places, rowNumbers(like));
}

/** Joins the rows of all experts into one tensor. */
export function join(outputs: readonly Tensor[], { rows, experts, bound, usual }: Routing): Tensor {
  if (outputs.length !== experts)
    throw new UserError(`there are ${experts} experts, got the outputs of ${outputs.length}`);
  return joinSegments(outputs, rows.offsets, { rows: bound, usual });
}

/** Splits a tensor of all rows into one tensor for each expert. */
export const split = (rows: Tensor, { bounds, counts }: Routing): Tensor[] => splitSegments(rows, counts(), bounds);

/**
 * x [tokens, ...rest], indices int32 [tokens, k] (`topK`) -> for each expert the rows of the tokens that chose it [at
 * most its capacity, ...rest], and the routing that `aggregate` needs.
 */
export function groupBy(x: Tensor, indices: Tensor, options: RoutingOptions): { rows: Tensor[]; routing: Routing } {
  const routing = route(indices, options);
  return { rows: split(toRows(x, routing), routing), routing };
}

/**
 * Cooperation: each token gets the sum of its experts' outputs, weighted by the gate. outputs: for each expert [its
 * rows, ...rest]; weights [tokens, k] -> [tokens, ...rest].
 */
export const aggregate = (outputs: readonly Tensor[], routing: Routing, weights: Tensor): Tensor =>
  fromRows(join(outputs, routing), routing, weights);

export interface Specialised {
  /** The weighted sum of outputs: [tokens, ...rest]. No gradient flows through it. */
  readonly prediction: Tensor;
  /**
   * Mean over tokens of sum over choices of weight * error (Jacobs et al. 1991, equation 1.2), weights as constants:
   * trains the experts.
   */
  readonly loss: Tensor;
  /**
   * Mean over tokens of the cross-entropy of the gate's weights with softmax(-error) of the token's choices, errors as
   * constants.
   */
  readonly gateLoss: Tensor;
}

/**
 * Specialisation: each expert is trained on its own error, and the gate learns to prefer those that err least. outputs:
 * for each expert [its rows, ...rest]; weights [tokens, k], positive, that sum to 1 for a token; target [tokens,
 * ...any]; error(outputs of some rows, the targets of their tokens) -> one number a row: [rows]. Choices that were
 * dropped take no part; a token without any counts 0.
 */
export function aggregateSpec(
  outputs: readonly Tensor[],
  routing: Routing,
  weights: Tensor,
  target: Tensor,
  error: (rows: Tensor, target: Tensor) => Tensor,
): Specialised {
  const [tokens, k] = weights.shape.map(boundOf),
    { rows, mayDrop } = routing;
  const targets = split(toRows(target, routing), routing);
  const errors = outputs.map((y, e) => {
    const own = error(y, targets[e]);
    if (own.shape.length !== 1)
      throw new UserError(
        `aggregateSpec: the error must be one number a row, got ${own.toString()}`,
        'sum or average over all dimensions but the first',
      );
    return reshape(own, [boundOf(own.shape[0]), 1]);
  });
  // One number a row -> that of each choice: [tokens, k].
  const back = (x: Tensor): Tensor => {
    if (typeof weights.shape[0] !== 'number')
      return combineGradWeights(fullRows(weights, 1, 1), x, rows, weights, { gaps: mayDrop });
    // Each choice is a token of its own, so that its row is returned with weight 1: [tokens * k, 1].
    const ones = full(weights, [tokens * k, 1], 1);
    return reshape(combine(x, rows.inverse, rows.order, ones, { gaps: mayDrop }), [tokens, k]);
  };
  const own = back(join(errors, routing)),
    kept = less(scalar(rows.inverse, -1), placesOf(routing, weights));
  const fixed = stopGradient(weights),
    zero = scalar(weights, 0);
  const loss = meanOfRows(sum(where(kept, mul(fixed, own), zero), [1]));
  const wanted = softmax(where(kept, neg(stopGradient(own)), scalar(weights, -1e30)));
  // log 0 is infinite; 1e-30 is about the smallest value that a float32 softmax gives.
  const gateLoss = meanOfRows(sum(where(kept, neg(mul(wanted, log(maximum(weights, 1e-30)))), zero), [1]));
  return { prediction: stopGradient(aggregate(outputs, routing, weights)), loss, gateLoss };
}

export interface Cached {
  /** The remembered value of this batch, if `use` is set and the batch came before; else the live value. */
  readonly value: Tensor;
  /** float32 []: moving average of the share of elements in which the live value was the remembered one. */
  readonly score: Tensor;
}

export interface CacheOptions {
  /** Batches of an epoch, which come in the same order in each. */
  readonly batches: number;
  /** Whether the remembered value replaces the live one; else they are only compared. */
  readonly use?: boolean;
  /** Of the moving average; default 0.99. */
  readonly gamma?: number;
}
const CACHE_KEYS: KeysOf<CacheOptions> = { batches: needed(aNumber), use: aFlag, gamma: aNumber };

/**
 * Remembers an int32 value (a batch's assignments [tokens, k]) from epoch to epoch, and measures how far the live one
 * still agrees. `owner`: the module whose name the memory bears. Changes only in steps of training that are committed;
 * bytes = batches * size * 4.
 */
export function cache(owner: object, live: Tensor, options: CacheOptions): Cached {
  checkOptions('cache', options, CACHE_KEYS);
  const { batches, use = false, gamma = 0.99 } = options;
  if (live.dtype !== 'int32') throw new UserError(`cache: remembers whole numbers, got ${live.toString()}`);
  if (!Number.isInteger(batches) || batches < 1)
    throw new UserError(`cache: batches must be a whole number of at least 1, got ${batches}`);
  if (!(gamma >= 0 && gamma < 1)) throw new UserError(`cache: gamma must be at least 0 and below 1, got ${gamma}`);
  if (isDynamic(live.shape))
    throw new UserError(
      `cache: a batch whose number of tokens varies cannot be remembered, got ${live.toString()}`,
      'batches of a fixed size',
    );
  const trace = traceOf(live),
    shape = live.shape.map(boundOf),
    path = trace.pathOf(owner);
  const state = (name: string, dtype: 'int32' | 'float32', dims: readonly number[]): Tensor =>
    trace.state(`assigned/${name}/${path}`, { dtype, shape: dims });
  const table = state('table', 'int32', [1, batches, ...shape]),
    score = state('score', 'float32', []);
  const slot = state('slot', 'int32', []),
    seen = state('seen', 'int32', []);
  const rows = reshape(live, [1, 1, ...shape]),
    known = less(scalar(seen, batches - 1), seen);
  const before = reshape(readRows(table, rows, slot), shape);
  const agreement = mean(where(equal(before, live), scalar(score, 1), scalar(score, 0)));
  // In the first epoch there is nothing to compare. The average is corrected as if it had begun with the first
  // comparison.
  const first = equal(seen, scalar(seen, batches));
  const next = where(known, where(first, agreement, add(mul(score, gamma), mul(agreement, 1 - gamma))), score);
  if (trace.training) {
    trace.update(table, updateRows(table, rows, slot));
    trace.update(score, next);
    trace.update(slot, where(equal(slot, scalar(slot, batches - 1)), scalar(slot, 0), add(slot, 1)));
    trace.update(seen, where(less(seen, scalar(seen, batches + 1)), add(seen, 1), seen));
  }
  return { value: use ? where(known, before, live) : live, score: trace.training ? next : score };
}

/** weights [tokens, k] as gates of all experts [tokens, experts], 0 where not chosen. */
export const gatesOf = (indices: Tensor, weights: Tensor, experts: number): Tensor => {
  // [tokens, k, experts]
  const hot = cast(oneHot(indices, experts), weights.dtype),
    [tokens, k] = weights.shape.map(boundOf);
  return sum(mul(hot, reshape(weights, [tokens, k, 1])), [1]);
};
