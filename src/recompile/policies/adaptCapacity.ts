// The policy adaptCapacity: sets each expert's capacity to a quantile of its loads over the last 64 steps (Kossmann et
// al. 2022 set such capacities by hand for each epoch). Results change if the layer drops choices, and stay if it
// spills them.
//
// All costs are in rows of an expert, so that no clock is read and every run decides the same: a planned row costs 1, a
// dropped choice costs so much that the quantile is the cheapest capacity, and a recompilation costs some steps.
// Capacities change only if the change saves more than its cost within the horizon, which gives hysteresis. Capacities
// are derived from one half of the steps and their saving is measured on the other half, so that a layer with few rows
// does not follow random loads.
import { UserError } from '../../base/errors.ts';
import type { KeysOf } from '../../base/options.ts';
import { aNumber } from '../../base/kinds.ts';
import type { LayerStats } from '../../observe/run-stats.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { ExpertBank } from '../../nn/moe/experts.ts';
import { checkPolicy, expertCount, factorsOf, layersOf, timeToLook } from './modules.ts';
import type { Rule } from '../rule.ts';

export interface AdaptCapacityOptions {
  /**
   * The quantile of each expert's loads over the last 64 steps that its capacity holds; default 0.95, which values a
   * dropped choice at 1 / (1 - 0.95) = 20 rows.
   */
  readonly quantile?: number;
  /** Additional capacity as a share; default 0. docs/policy-lab.md shows what it costs. */
  readonly margin?: number;
  /** What a recompilation costs, in steps; default 2 (the engine's goal is 1.5). */
  readonly price?: number;
  /** Steps within which a change must save more than its price; default 128. */
  readonly horizon?: number;
  /** Steps between two changes; default 64. */
  readonly cooldown?: number;
}

const KEYS: KeysOf<AdaptCapacityOptions> = {
  quantile: aNumber,
  margin: aNumber,
  price: aNumber,
  horizon: aNumber,
  cooldown: aNumber,
};
const STEP = 16; // capacity factors are multiples of 1/16, so that compiled plans can be used again
/** The default quantile of loads for a layer that drops. */
export const QUANTILE = 0.95;
const POINTS = 16; // quantiles that approximate a distribution of loads
// Cost of a spilled row, which is computed apart from the others. With cost 2 the median of loads is the cheapest
// capacity.
const SPILL = 2;

const total = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);

/** The smallest multiple of 1/16 that is at least `shares`. */
export const factorFor = (shares: number): number => Math.ceil(shares * STEP) / STEP;

/** Capacity factors that hold each expert's quantile of loads; with `half`, of every second step only. */
export function neededFactors(
  layer: LayerStats,
  { quantile = QUANTILE, margin = 0 }: Pick<AdaptCapacityOptions, 'quantile' | 'margin'> = {},
  half?: 0 | 1,
): number[] {
  return layer.factor(quantile, half).map((f) => factorFor(f * (1 + margin)));
}

/** The quantile of loads that a layer's capacity should hold. */
export function quantileFor(moe: MoE, quantile: number): number {
  if (moe.overflow === 'spill') return 1 - 1 / SPILL;
  return isShared(moe) ? 1 : quantile;
}

/** Whether experts share planned rows: a ragged bank plans at most as many rows as there are choices in all. */
const isShared = ({ dispatch, experts }: MoE): boolean => dispatch === 'ragged' && experts instanceof ExpertBank;

/**
 * Whether a better capacity for the loads would save work. This is false for a ragged layer that spills: it computes
 * exactly the rows that came, and its capacity only limits memory, which has no price here. It is also false if experts
 * choose tokens: then loads are always even.
 */
export const isBoundByLoad = (moe: MoE): boolean =>
  moe.capacity !== 'dropless' &&
  !(moe.dispatch === 'ragged' && moe.overflow === 'spill') &&
  moe.router.expertsChoose !== true;

/**
 * The cost of a step with these capacity factors, in even shares of rows: planned rows, at most `most`, plus `beyond`
 * for each choice beyond the factors.
 */
export function costOf(
  layer: LayerStats,
  factors: readonly number[],
  beyond: number,
  most = Infinity,
  half?: 0 | 1,
): number {
  let excess = 0;
  for (let i = 0; i < POINTS; i++)
    excess += total(layer.factor((i + 0.5) / POINTS, half).map((load, e) => Math.max(0, load - factors[e])));
  return Math.min(most, total(factors)) + (beyond * excess) / POINTS;
}

/**
 * Sets the capacity of layers that have one to what the loads of their experts need, if that saves time. Results change
 * in layers with `overflow: 'drop'`.
 */
export function adaptCapacity(options: AdaptCapacityOptions = {}): Rule<object> {
  checkPolicy('adaptCapacity', options, KEYS);
  const { quantile = QUANTILE, margin = 0, price = 2, horizon = 128, cooldown = 64 } = options;
  if (!(quantile >= 0 && quantile <= 1))
    throw new UserError(`adaptCapacity: quantile must be from 0 to 1, got ${quantile}`);
  let grows = false; // whether the last change by `alter` raised the sum of capacities
  return {
    name: 'adaptCapacity',
    cooldown,
    trigger: timeToLook,
    alter(model, run) {
      let costs = 0,
        gains = 0,
        room = 0;
      const better: (() => void)[] = [];
      for (const [moe, layer] of layersOf(model, run)) {
        const has = factorsOf(moe, layer.experts),
          spills = moe.overflow === 'spill';
        if (!has || !isBoundByLoad(moe)) continue;
        const shared = isShared(moe),
          beyond = spills ? SPILL : 1 / (1 - Math.min(quantile, 0.999));
        const experts = expertCount(moe),
          need = (half?: 0 | 1): number[] =>
            neededFactors(layer, { quantile: quantileFor(moe, quantile), margin }, half);
        const cost = (factors: readonly number[], half?: 0 | 1): number =>
          (total(layer.load) / experts) * costOf(layer, factors, beyond, shared ? experts : Infinity, half);
        costs += cost(has);
        // Factors from one half of the steps are priced on the other half, where factors that fit noise save nothing.
        const gain = (cost(has, 1) - cost(need(0), 1) + cost(has, 0) - cost(need(1), 0)) / 2;
        if (gain <= 0) continue;
        gains += gain;
        room += total(need()) - total(has);
        better.push(() => {
          moe.capacity = need();
        });
      }
      if (gains * horizon <= price * costs) return;
      grows = room > 0;
      for (const change of better) change();
    },
    reason(run) {
      const beyond = (['dropped', 'spilled'] as const)
        .map((what) => ({ what, n: total(run.layers.map((l) => l[what])) }))
        .filter(({ n }) => n > 0);
      const counts = beyond.map(({ what, n }) => `${n} choices ${what}`).join(', ') || 'no choice dropped or spilled';
      return `experts have ${grows ? 'less' : 'more'} room than they need: ${counts} in step ${run.step}`;
    },
  };
}
