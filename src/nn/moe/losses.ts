// Losses that keep experts evenly used, by name. In: what the router chose; out: one number each, to be added with a
// coefficient.
import { UserError } from '../../base/errors.ts';
import { boundOf } from '../../base/shape.ts';
import { add } from '../../graph/ops/elementwise/add.ts';
import { cast } from '../../graph/ops/elementwise/cast.ts';
import { div } from '../../graph/ops/elementwise/div.ts';
import { logSumExp } from '../../graph/ops/reduce/logSumExp.ts';
import { maximum } from '../../graph/ops/elementwise/maximum.ts';
import { mul } from '../../graph/ops/elementwise/mul.ts';
import { oneHot } from '../../graph/ops/create/oneHot.ts';
import { reshape } from '../../graph/ops/shape/reshape.ts';
import { slice } from '../../graph/ops/shape/slice.ts';
import { sub } from '../../graph/ops/elementwise/sub.ts';
import { mean, sum, variance } from '../../graph/ops/reduce/sum.ts';
import { where } from '../../graph/ops/elementwise/where.ts';
import { scalar, type Tensor } from '../../graph/tensor.ts';
import { countOf, meanOfRows, quotient } from '../rows.ts';
import { activeSlots, meanOfActive, numberOf } from './eligible.ts';
import { gatesOf } from './operators.ts';
import type { Choice } from './router.ts';
import type { OpenSlots } from './slots.ts';

export const LOSSES = ['balance', 'gshard', 'importance', 'load', 'z'] as const;
export type LossName = (typeof LOSSES)[number];

/**
 * Switch Transformer (Fedus et al. 2022), equation 4: experts * sum_e (share of choices)_e * (mean probability)_e; 1
 * when even. probs [tokens, experts], load int32 [experts] of `choices` choices (int32 [] where that is known only at
 * run time). slots: where not every slot holds an expert of its own, here and below; means are over experts.
 */
export function balanceLoss(
  probs: Tensor,
  load: Tensor,
  choices: number | Tensor,
  slots: OpenSlots | null = null,
): Tensor {
  const some = typeof choices === 'number' ? choices : maximum(choices, 1),
    share = mul(cast(load, probs.dtype), quotient(probs, 1, some));
  return mul(sum(mul(share, meanOfRows(probs, [0]))), slots ? numberOf(probs, slots.active) : boundOf(load.shape[0]));
}

/**
 * GShard (Lepikhin et al. 2020), Algorithm 1: mean over experts of (share of first choices)_e * (mean probability)_e; 1
 * / experts^2 when even. indices int32 [tokens, k].
 */
export function gshardLoss(probs: Tensor, indices: Tensor, slots: OpenSlots | null = null): Tensor {
  const [tokens, experts] = probs.shape.map(boundOf);
  const first = cast(oneHot(reshape(slice(indices, 1, 0, 1), [tokens]), experts), probs.dtype);
  const product = mul(meanOfRows(first, [0]), meanOfRows(probs, [0]));
  return slots ? meanOfActive(product, slots) : mean(product);
}

/**
 * Squared coefficient of variation, (standard deviation / mean)^2, over experts: of importance (Shazeer et al. 2017,
 * equation 7: sum of an expert's gate weights) or of load (equation 11). x [experts].
 */
export function squaredVariation(x: Tensor, slots: OpenSlots | null = null): Tensor {
  const even = slots ? meanOfActive(x, slots) : mean(x);
  return div(slots ? varianceOfActive(x, even, slots) : variance(x), add(mul(even, even), 1e-10));
}

function varianceOfActive(x: Tensor, even: Tensor, slots: OpenSlots): Tensor {
  const away = sub(x, even);
  return meanOfActive(where(activeSlots(x, slots), mul(away, away), scalar(x, 0)), slots);
}

/** ST-MoE (Zoph et al. 2022), equation 5: mean of (log sum exp of the logits)^2. */
export function zLoss(logits: Tensor): Tensor {
  const z = logSumExp(logits);
  return meanOfRows(mul(z, z));
}

/** The loss of that name for a layer's choice; throws where the router has not what it needs. */
export function lossOf(name: LossName, choice: Choice, load: Tensor, slots: OpenSlots | null = null): Tensor {
  const need = <T>(value: T | null | undefined, what: string): T => {
    if (value === null || value === undefined)
      throw new UserError(`MoE: the ${name} loss needs ${what}, which this router has not`, `set its coefficient to 0`);
    return value;
  };
  const { indices, weights } = choice;
  switch (name) {
    case 'balance':
      return balanceLoss(need(choice.probs, 'probabilities'), load, countOf(indices, boundOf(indices.shape[1])), slots);
    case 'gshard':
      return gshardLoss(need(choice.probs, 'probabilities'), indices, slots);
    case 'importance':
      return squaredVariation(sum(gatesOf(indices, weights, boundOf(load.shape[0])), [0]), slots);
    case 'load':
      return squaredVariation(need(choice.load, 'noise (a NoisyTopKRouter with k < experts)'), slots);
    case 'z':
      return zLoss(need(choice.logits, 'logits'));
  }
}
