// Routers by which tokens choose experts by their logits: top-k softmax, noisy top-k, sigmoid with a bias, Sinkhorn.
import { UserError } from '../../base/errors.ts';
import { fixedCopy } from '../../base/fixed.ts';
import { refuseUnused, type KeysOf } from '../../base/options.ts';
import { aFinite, anObject, aText, atLeast0, aWhole } from '../../base/kinds.ts';
import { boundOf } from '../../base/shape.ts';
import { scalar, type Tensor } from '../../graph/tensor.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { cos } from '../../graph/ops/elementwise/cos.ts';
import { div } from '../../graph/ops/elementwise/div.ts';
import { erf } from '../../graph/ops/elementwise/erf.ts';
import { exp } from '../../graph/ops/elementwise/exp.ts';
import { less } from '../../graph/ops/elementwise/less.ts';
import { log } from '../../graph/ops/elementwise/log.ts';
import { matmul } from '../../graph/ops/matmul/matmul.ts';
import { max } from '../../graph/ops/reduce/max.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { sigmoid } from '../../graph/ops/elementwise/sigmoid.ts';
import { slice } from '../../graph/ops/shape/slice.ts';
import { softmax } from '../../graph/ops/reduce/softmax.ts';
import { softplus } from '../../graph/ops/elementwise/softplus.ts';
import { sqrt } from '../../graph/ops/elementwise/sqrt.ts';
import { stopGradient } from '../../graph/ops/elementwise/stopGradient.ts';
import { sub } from '../../graph/ops/elementwise/sub.ts';
import { mean, sum } from '../../graph/ops/reduce/sum.ts';
import { takeAlong } from '../../graph/ops/shape/takeAlong.ts';
import { topK } from '../../graph/ops/reduce/topK.ts';
import { where } from '../../graph/ops/elementwise/where.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { Parameter } from '../../trace/parameter.ts';
import { traceOf, use } from '../../trace/trace.ts';
import { countOf, quotient } from '../rows.ts';
import { activeSlots, closed, eligible, meanOfActive } from './eligible.ts';
import type { OpenSlots } from './slots.ts';
import {
  checkGroups,
  limitGroups,
  LinearRouter,
  PLAIN_KEYS,
  random,
  ROUTER_KEYS,
  secondOf,
  type Choice,
  type GroupLimit,
  type PlainRouterOptions,
  type RouteCall,
  type RouterOptions,
} from './router.ts';

export interface TopKRouterOptions extends RouterOptions {
  /**
   * Softmax over all experts, then the k largest ('before', the default), or over the logits of the k largest alone
   * ('after').
   */
  readonly softmax?: 'before' | 'after';
  readonly groups?: GroupLimit;
}
const TOP_K_KEYS: KeysOf<TopKRouterOptions> = { ...ROUTER_KEYS, softmax: aText, groups: anObject };

const ORDERS: readonly string[] = ['before', 'after'];

/**
 * Top-k of a softmax. With k = 1 and raw weights it is the Switch router (Fedus et al. 2022): expert output times its
 * probability.
 */
export class TopKRouter extends LinearRouter {
  readonly #own: TopKRouterOptions;
  constructor(options: TopKRouterOptions) {
    super(options, TOP_K_KEYS);
    const { softmax: order = 'before' } = options;
    if (!ORDERS.includes(order))
      throw new UserError(`TopKRouter: softmax must be one of ${ORDERS.join(', ')}, got ${String(order)}`);
    refuseUnused('TopKRouter', options, {
      normalise: order === 'after' && 'a softmax over the chosen alone sums to 1',
    });
    if (options.groups !== undefined) checkGroups(options.groups, options.experts);
    this.#own = fixedCopy(options);
  }

  get remembers(): boolean {
    return true;
  }
  /** Absent with groups: groups are neighbouring slots, so free slots would change which groups can be chosen. */
  get expertAxes(): Readonly<Record<string, number>> | undefined {
    return this.#own.groups ? undefined : { weight: 1 };
  }

  choose(x: Tensor, call: RouteCall): Choice {
    const { softmax: order = 'before', groups } = this.#own,
      { k, slots, pick } = call;
    const all = this.logits(x),
      open = slots ? eligible(all, slots) : null,
      logits = open ? closed(all, open) : all,
      probs = softmax(logits);
    if (order === 'after') {
      const indices = this.best(groups ? limitGroups(logits, groups, k) : logits, call),
        values = takeAlong(logits, indices);
      return {
        indices,
        weights: softmax(values),
        scores: takeAlong(probs, indices),
        probs,
        logits,
        second: () => secondOf(this.weights(topK(probs, 2).values, { k: 2 })),
      };
    }
    const second = (): Tensor => secondOf(this.weights(topK(probs, 2).values, call));
    // A probability may round to 0, like those of slots that cannot be chosen.
    const scored = groups ? limitGroups(probs, groups, k) : open ? closed(probs, open) : probs;
    if (groups || pick) {
      const indices = this.best(scored, call),
        values = takeAlong(probs, indices);
      return { indices, weights: this.weights(values, call), scores: values, probs, logits, second };
    }
    const { indices, values } = topK(scored, k);
    return { indices, weights: this.weights(values, call), scores: values, probs, logits, second };
  }
}

/** The normal distribution's cumulative function. */
const phi = (x: Tensor): Tensor => mul(add(erf(mul(x, Math.SQRT1_2)), 1), 0.5);

/**
 * Noisy top-k (Shazeer et al. 2017, equations 3 to 5): H = x W + normal * softplus(x W_noise) while training, softmax
 * over the k largest. Its `load` is equation 9: the chance of each expert to be among the k with fresh noise for
 * itself.
 */
export class NoisyTopKRouter extends LinearRouter {
  readonly noise: Parameter; // [dModel, experts]
  constructor(options: PlainRouterOptions) {
    super(options, PLAIN_KEYS);
    this.noise = new Parameter([options.dModel, options.experts], { kind: 'constant', value: 0 }, { role: 'router' });
  }

  get remembers(): boolean {
    return true;
  }

  choose(x: Tensor, call: RouteCall): Choice {
    const { k } = call,
      seen = this.seen(x),
      clean = matmul(seen, use(x, this.weight)),
      training = traceOf(x).training;
    const spread = add(softplus(matmul(seen, use(x, this.noise))), 1e-2);
    const noisy = training ? add(clean, mul(this.#normal(clean), spread)) : clean;
    const indices = this.best(noisy, call),
      probs = softmax(noisy);
    const choice = {
      indices,
      weights: softmax(takeAlong(noisy, indices)),
      scores: takeAlong(probs, indices),
      probs,
      logits: clean,
      second: (): Tensor => secondOf(this.weights(topK(probs, 2).values, { k: 2 })),
    };
    if (!training || k === this.experts) return choice;
    // The k-th largest of the others: the k+1-st of all for an expert that is in, the k-th for one that is out.
    const { values } = topK(noisy, k + 1),
      inside = slice(values, 1, k, k + 1),
      outside = slice(values, 1, k - 1, k);
    const chance = where(
      less(inside, noisy),
      phi(div(sub(clean, inside), spread)),
      phi(div(sub(clean, outside), spread)),
    );
    return { ...choice, load: sum(chance, [0]) };
  }

  /** Standard normal numbers (Box-Muller). */
  #normal(like: Tensor): Tensor {
    const radius = sqrt(mul(log(sub(scalar(like, 1), random(like, this, 'radius'))), -2));
    return mul(radius, cos(mul(random(like, this, 'angle'), 2 * Math.PI)));
  }
}

export interface SigmoidRouterOptions extends RouterOptions {
  readonly groups?: GroupLimit;
  /** How far the bias moves in a step; default 0.001. 0: no balancing by bias. */
  readonly biasRate?: number;
  /** Multiplies the normalised weights; default 1 (DeepSeek-V3 has 2.5). */
  readonly scale?: number;
}
const SIGMOID_KEYS: KeysOf<SigmoidRouterOptions> = {
  ...ROUTER_KEYS,
  groups: anObject,
  biasRate: atLeast0,
  scale: aFinite,
};

/**
 * Sigmoid scores, balanced without an auxiliary loss (DeepSeek-V3, section 2.1.2; Wang et al. 2024): experts are chosen
 * by score + bias, weights come from scores alone. After each step the bias of an expert with less than the mean load
 * rises by biasRate, of one with more falls.
 */
export class SigmoidRouter extends LinearRouter {
  readonly bias: Parameter; // [experts], not trained
  readonly #own: SigmoidRouterOptions;
  constructor(options: SigmoidRouterOptions) {
    super(options, SIGMOID_KEYS);
    if (options.groups !== undefined) checkGroups(options.groups, options.experts);
    this.#own = fixedCopy(options);
    this.bias = new Parameter([options.experts], { kind: 'constant', value: 0 }, { trained: false });
  }

  get remembers(): boolean {
    return true;
  }
  get expertAxes(): Readonly<Record<string, number>> | undefined {
    return this.#own.groups ? undefined : { weight: 1, bias: 0 };
  }

  choose(x: Tensor, call: RouteCall): Choice {
    const { k, slots } = call,
      { groups, scale = 1 } = this.#own,
      every = this.logits(x),
      sigmoids = sigmoid(every),
      sums = add(stopGradient(sigmoids), use(x, this.bias));
    const open = slots ? eligible(sums, slots) : null,
      [logits, scores, biased] = open
        ? [closed(every, open), closed(sigmoids, open, 0), closed(sums, open)]
        : [every, sigmoids, sums];
    const indices = this.best(groups ? limitGroups(biased, groups, k) : biased, call),
      values = takeAlong(scores, indices);
    const total = reshape(sum(scores, [1]), [boundOf(scores.shape[0]), 1]);
    const weighed = (own: Tensor): Tensor => mul(this.weights(own, call), scale);
    return {
      indices,
      weights: weighed(values),
      scores: values,
      probs: div(scores, total),
      logits,
      second: () => secondOf(weighed(takeAlong(scores, topK(biased, 2).indices))),
    };
  }

  observe(load: Tensor, slots: OpenSlots | null): void {
    const trace = traceOf(load),
      { biasRate = 0.001 } = this.#own;
    if (!trace.training || biasRate === 0) return;
    const own = cast(load, this.bias.dtype),
      even = slots ? meanOfActive(own, slots) : mean(own);
    const count = slots ? where(activeSlots(own, slots), own, even) : own; // the bias of a free slot stays
    const step = (over: Tensor, under: Tensor): Tensor =>
      where(less(over, under), scalar(count, biasRate), scalar(count, 0));
    trace.updateParameter(this.bias, (bias) => sub(add(bias, step(count, even)), step(even, count)));
  }
}

export interface SinkhornRouterOptions extends RouterOptions {
  /** Rounds of normalisation; default 8. */
  readonly rounds?: number;
}
const SINKHORN_KEYS: KeysOf<SinkhornRouterOptions> = { ...ROUTER_KEYS, rounds: aWhole(1, 1000) };

/**
 * Balanced assignment (BASE layers, Lewis et al. 2021, by Sinkhorn's algorithm as in Clark et al. 2022): while
 * training, experts are chosen from e^logits scaled until rows and columns have nearly equal sums, otherwise by logits.
 * No gradient flows through the scaling. Weights are sigmoid(logit) in a layer that was built with topK 1, else the
 * softmax over all experts.
 */
export class SinkhornRouter extends LinearRouter {
  readonly #rounds: number;
  constructor(options: SinkhornRouterOptions) {
    super(options, SINKHORN_KEYS, false);
    const { rounds = 8 } = options;
    this.#rounds = rounds;
  }

  choose(x: Tensor, call: RouteCall): Choice {
    const { k, built = k } = call,
      logits = this.logits(x),
      probs = softmax(logits),
      by = traceOf(x).training ? this.#balanced(stopGradient(logits)) : logits;
    const { indices } = topK(by, k),
      gates = built === 1 ? sigmoid(logits) : probs,
      values = takeAlong(gates, indices);
    return {
      indices,
      weights: this.weights(values, call),
      scores: values,
      probs,
      logits,
      second: () => secondOf(this.weights(takeAlong(gates, topK(by, 2).indices), call)),
    };
  }

  #balanced(logits: Tensor): Tensor {
    const [tokens, experts] = logits.shape.map(boundOf);
    const even = quotient(logits, countOf(logits), experts);
    let plan = exp(sub(logits, reshape(max(logits, [1]), [tokens, 1])));
    for (let i = 0; i < this.#rounds; i++) {
      plan = mul(div(plan, add(sum(plan, [0]), 1e-20)), even);
      plan = div(plan, reshape(add(sum(plan, [1]), 1e-20), [tokens, 1]));
    }
    return plan;
  }
}
