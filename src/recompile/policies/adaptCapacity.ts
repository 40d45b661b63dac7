// The policy adaptCapacity: each expert gets the room that its load needs, from quantiles of what it got (the paper's
// author set such capacities by hand, epoch by epoch). It changes results where the layer drops, and none where it
// spills.
//
// Everything is priced in rows of an expert, so that no clock is read and a run decides the same wherever it runs: a
// row that is planned and computed costs 1, a choice that is dropped costs as much as makes the quantile the best
// capacity, and a recompilation costs some steps. Capacities change when the loads of the last 64 steps say that this
// pays within the horizon: that is the hysteresis. Whether it pays is asked of steps that had no say in what is asked
// for, so that a layer of few rows does not follow chance.
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
   * Of each expert's loads over the last 64 steps; default 0.95: a dropped choice is worth 1 / (1 - 0.95) = 20 rows.
   */
  readonly quantile?: number;
  /** Room beyond it, as a share; default 0: docs/policy-lab.md shows what it costs. */
  readonly margin?: number;
  /** What a recompilation costs, in steps; default 2 (the engine's goal is 1.5). */
  readonly price?: number;
  /** Steps within which a change must have earned its price; default 128. */
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
const STEP = 16; // capacity factors are multiples of 1/16: plans recur
/** The quantile of loads that there is room for, where a layer drops and nobody asks for another. */
export const QUANTILE = 0.95;
const POINTS = 16; // quantiles that stand for a distribution
// A spilled row is computed all the same, but apart from the others. Half of the loads within capacity is then the
// best.
const SPILL = 2;

const total = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);

/** The factor from which on there is room for so many even shares. */
export const factorFor = (shares: number): number => Math.ceil(shares * STEP) / STEP;

/** The capacity factors that hold each expert's quantile (of every other step, with `half`). */
export function neededFactors(
  layer: LayerStats,
  { quantile = QUANTILE, margin = 0 }: Pick<AdaptCapacityOptions, 'quantile' | 'margin'> = {},
  half?: 0 | 1,
): number[] {
  return layer.factor(quantile, half).map((f) => factorFor(f * (1 + margin)));
}

/** Which quantile of its loads a layer should have room for. */
export function quantileFor(moe: MoE, quantile: number): number {
  if (moe.overflow === 'spill') return 1 - 1 / SPILL;
  return isShared(moe) ? 1 : quantile;
}

/** A ragged bank never plans for more rows than there are choices: within that, room for all of them costs nothing. */
const isShared = ({ dispatch, experts }: MoE): boolean => dispatch === 'ragged' && experts instanceof ExpertBank;

/**
 * A ragged layer that spills computes the rows that came, whatever their bound: that is there for memory, which is not
 * priced here. Where experts choose, capacity says what the layer computes, and the load is even whatever comes.
 */
export const isBoundByLoad = (moe: MoE): boolean =>
  moe.capacity !== 'dropless' &&
  !(moe.dispatch === 'ragged' && moe.overflow === 'spill') &&
  moe.router.expertsChoose !== true;

/**
 * What a step costs with these factors, in even shares of rows: those that are planned, `most` at most, and choices
 * beyond the factors at `beyond` rows each.
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

/** For layers with a capacity; those that are dropless have what they need. */
export function adaptCapacity(options: AdaptCapacityOptions = {}): Rule<object> {
  checkPolicy('adaptCapacity', options, KEYS);
  const { quantile = QUANTILE, margin = 0, price = 2, horizon = 128, cooldown = 64 } = options;
  if (!(quantile >= 0 && quantile <= 1))
    throw new UserError(`adaptCapacity: quantile must be from 0 to 1, got ${quantile}`);
  let grows = false; // what `alter` did last: more room in all
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
        // What one half of the steps asks for is tried on the other: what fits chance does not pay there.
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
