// The policy fitMemory: keeps a run within a budget of bytes. It asks the compiler how many bytes two plans need: the
// current one, and the one that will be needed if loads, and the capacities that follow them, continue their trend. If
// that is too much, it sets as few knobs as needed that save memory and cost time (ladder.ts). When memory is free
// again, it takes them back, the last first. It reads planned bytes and loads; free memory only if no budget is given.
import { UserError } from '../../base/errors.ts';
import type { KeysOf } from '../../base/options.ts';
import { aNumber } from '../../base/kinds.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import type { LayerStats, RunStats } from '../../observe/run-stats.ts';
import { showBytes } from '../../plan/print.ts';
import { factorFor, isBoundByLoad, neededFactors, QUANTILE, quantileFor } from './adaptCapacity.ts';
import { ladderOf, type Ladder } from './ladder.ts';
import { checkPolicy, factorsOf, layersOf, modulesOf, timeToLook } from './modules.ts';
import type { Outlook, Rule } from '../rule.ts';

export interface FitMemoryOptions {
  /**
   * Memory limit for weights, optimizer and activations in bytes; default: `memory` of CompileOptions, or what is free.
   */
  readonly budget?: number;
  /** Share of the budget that must stay free after a setting is taken back; default 0.1. */
  readonly margin?: number;
  /** For how many more loads (steps, or parts of batches) the trend is extrapolated; default 128. */
  readonly horizon?: number;
  /** Steps between two changes; default 64. */
  readonly cooldown?: number;
}

const KEYS: KeysOf<FitMemoryOptions> = { budget: aNumber, margin: aNumber, horizon: aNumber, cooldown: aNumber };

/** The capacity factors that a layer will need after `horizon` more loads, at least its current ones. */
export function forecastFactors(moe: MoE, layer: LayerStats, horizon: number): number[] | null {
  const has = factorsOf(moe, layer.experts);
  if (!has || !isBoundByLoad(moe)) return null;
  const need = neededFactors(layer, { quantile: quantileFor(moe, QUANTILE) }),
    trend = layer.trend();
  // An expert gets each token at most once.
  return has.map((f, e) =>
    Math.max(f, Math.min(layer.experts / moe.topK, factorFor(need[e] + Math.max(0, trend[e]) * horizon))),
  );
}

/**
 * Sets `recompute` and `chunks` of layers and blocks so that plans fit the budget; results stay identical. Where that
 * is not enough, results may change and the budget is given, it also splits the batch, which changes results.
 */
export function fitMemory(options: FitMemoryOptions = {}): Rule<object> {
  checkPolicy('fitMemory', options, KEYS, ['budget']);
  const { budget, margin = 0.1, horizon = 128, cooldown = 64 } = options;
  if (budget !== undefined && !(budget > 0))
    throw new UserError(`fitMemory: budget must be a number of bytes above 0, got ${budget}`);
  let reason = '';
  return {
    name: 'fitMemory',
    cooldown,
    first: true,
    // Its changes save memory and may cost time, so their time is not compared.
    measure: false,
    trigger: timeToLook,
    alter(model, run, outlook: Outlook) {
      const limit = budget ?? outlook.budget(),
        session = budget !== undefined || outlook.fixed ? outlook.session : null;
      const ladder = ladderOf(model, outlook.initial, session),
        { height, neutral } = ladder,
        coming = outlook.first ? [] : comingCapacities(model, run, outlook, horizon);
      const say = (bytes: number, needed: number | null): void => {
        reason =
          needed === null
            ? `there is room again: the new plan needs ${showBytes(bytes)} of ${showBytes(limit)}`
            : `the plan would need ${showBytes(needed)}, the limit is ${showBytes(limit)}; with this change it needs ` +
              `${showBytes(bytes)}${bytes > limit ? ', which is the least' : ''}`;
      };
      if (outlook.first) {
        const bytesAt = bytesByHeight(outlook, ladder, coming),
          now = bytesAt(null);
        ladder.leave();
        if (now <= limit) return;
        const found = lowest(bytesAt, height, ladder.rungs, limit);
        say(bytesAt(found), now);
        ladder.climb(found);
        return;
      }
      if (session && ladder.rungs > neutral && split(model, run, outlook, ladder, { limit, margin, horizon, say }))
        return;
      const splitSteps = ladder.splitSteps > 0,
        bytesAt = bytesByHeight(outlook, ladder, coming, session?.split),
        now = bytesAt(null);
      const low = Math.min(height, neutral);
      let found: number | null = null;
      if (now > limit) found = lowest(bytesAt, low, neutral, limit);
      // A split of the batch, which changes results, is taken back before any of the rungs below it.
      else if (!splitSteps && low > 0 && bytesAt(low - 1) <= (1 - margin) * limit)
        found = lowest(bytesAt, 0, low - 1, (1 - margin) * limit);
      if (found !== null) say(bytesAt(found), now > limit ? now : null);
      if (found === null) ladder.leave();
      else climb(ladder, found, session);
    },
    reason: () => reason,
  };
}

/** Sets `height` of the rungs that keep results identical, and leaves the split of the batch as it is. */
function climb(ladder: Ladder, height: number, session: { split: number } | null, split = session?.split): void {
  ladder.climb(height);
  if (session && split !== undefined) session.split = split;
}

interface ComingCapacity {
  readonly moe: MoE;
  readonly factors: readonly number[];
}

/** Capacities that the policy adaptCapacity will set; none if the session does not have it. */
function comingCapacities(model: object, run: RunStats, { rules }: Outlook, horizon: number): ComingCapacity[] {
  if (!rules.includes('adaptCapacity')) return [];
  return layersOf(model, run).flatMap(([moe, layer]) => {
    const factors = forecastFactors(moe, layer, horizon);
    return factors ? [{ moe, factors }] : [];
  });
}

/**
 * Gives the bytes that a plan will need with `height` rungs (null: with the current settings). Plans each only once.
 */
function bytesByHeight(
  outlook: Outlook,
  ladder: Ladder,
  coming: readonly ComingCapacity[],
  split?: number,
): (height: number | null) => number {
  const known = new Map<number | null, number>();
  return (height) => {
    const found = known.get(height);
    if (found !== undefined) return found;
    if (height === null) ladder.leave();
    else climb(ladder, height, split === undefined ? null : outlook.session, split);
    const before = coming.map(({ moe }) => moe.capacity);
    for (const { moe, factors } of coming) moe.capacity = factors;
    const bytes = outlook.bytes();
    coming.forEach(({ moe }, i) => {
      moe.capacity = before[i];
    });
    known.set(height, bytes);
    return bytes;
  };
}

interface Splitting {
  readonly limit: number;
  readonly margin: number;
  readonly horizon: number;
  readonly say: (bytes: number, needed: number | null) => void;
}

/**
 * Sets another split of the batch if one is needed; gives whether it did. A split changes results, so it must not
 * depend on clocks, which decide when changes of class N take effect. So it is decided for the model with the user's
 * settings and all rungs that keep results identical, and by loads.
 */
function split(
  model: object,
  run: RunStats,
  outlook: Outlook,
  ladder: Ladder,
  { limit, margin, horizon, say }: Splitting,
): boolean {
  const { initial } = outlook,
    { neutral } = ladder,
    paths = new Map([...modulesOf(model, 'capacity')].map(([path, moe]) => [moe, path]));
  const own = (moe: MoE): Pick<MoE, 'capacity' | 'dispatch' | 'expertRows'> =>
    initial(paths.get(moe) ?? '') as Pick<MoE, 'capacity' | 'dispatch' | 'expertRows'>;
  // A change of the capacity of such a layer keeps results identical.
  const capacityIsNeutral = (moe: MoE): boolean => moe.overflow === 'spill' && moe.capacity !== 'dropless';
  const moes = [...paths.keys()] as MoE[],
    before = moes.map(({ capacity, dispatch, expertRows }) => ({ capacity, dispatch, expertRows }));
  const restore = (): void => {
    moes.forEach((moe, i) => Object.assign(moe, before[i]));
  };
  for (const moe of moes)
    Object.assign(moe, {
      dispatch: own(moe).dispatch,
      expertRows: own(moe).expertRows,
      ...(capacityIsNeutral(moe) && { capacity: own(moe).capacity }),
    });
  const now = neutral + ladder.splitSteps,
    bytesAt = bytesByHeight(outlook, ladder, comingCapacities(model, run, outlook, horizon));
  let found = now;
  try {
    // Usually the model fits with the user's settings, whose plan exists already.
    if (now === neutral && bytesAt(0) <= limit) found = now;
    else if (bytesAt(now) > limit) found = lowest(bytesAt, now, ladder.rungs, limit);
    else if (now > neutral && bytesAt(now - 1) <= (1 - margin) * limit)
      found = lowest(bytesAt, neutral, now - 1, (1 - margin) * limit);
    if (found !== now) say(bytesAt(found), found > now ? bytesAt(now) : null);
  } finally {
    restore();
  }
  if (found === now) ladder.leave();
  else ladder.climb(found);
  return found !== now;
}

/**
 * The smallest number of rungs that fits, by bisection, assuming that more rungs need less memory. If none fits: of the
 * numbers tried, the one that needs least.
 */
function lowest(bytesAt: (height: number) => number, from: number, to: number, limit: number): number {
  const tried = new Map<number, number>(),
    fits = (height: number): boolean => {
      tried.set(height, bytesAt(height));
      return bytesAt(height) <= limit;
    };
  if (!fits(to)) {
    for (let part = 0; part < 4; part++) fits(from + Math.round((part * (to - from)) / 4));
    const [[best]] = [...tried].sort(([a, x], [b, y]) => x - y || a - b);
    return best;
  }
  let low = from,
    high = to;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (fits(middle)) high = middle;
    else low = middle + 1;
  }
  return high;
}
