// The policy fitMemory: a run stays within a budget of bytes. It asks the compiler what plans come to: the one that runs, and the one that will be needed
// if capacities go on to follow loads as they rise. Where that is too much it sets knobs that take less memory and more time (ladder.ts), as few as
// will do; when there is room again, it takes them back, the last first. It reads bytes and loads, and a clock only where nobody gave a budget.
import { UserError } from '../base/errors.ts';
import type { MoE } from '../nn/moe/moe.ts';
import type { LayerStats, RunStats } from '../observe/run-stats.ts';
import { showBytes } from '../plan/print.ts';
import { isBoundByLoad, neededFactors, quantileFor } from './adaptCapacity.ts';
import { ladderOf } from './ladder.ts';
import { factorsOf, layersOf, timeToLook } from './modules.ts';
import type { Outlook, Rule } from './rule.ts';

export interface FitMemoryOptions {
  /** Bytes that states and plans may take together; default: what the session may (`memory` of CompileOptions, or what is free). */
  readonly budget?: number;
  /** Share of the budget that must be left for something to be taken back; default 0.1. */
  readonly margin?: number;
  /** Loads (steps, or parts of batches) for which their trend is taken to go on; default 128. */
  readonly horizon?: number;
  /** Steps between two changes; default 64. */
  readonly cooldown?: number;
}

const QUANTILE = 0.95; // adaptCapacity's own default
const STEP = 16; // and its factors are sixteenths

/** The capacity factors that a layer will need after so many more loads, at least those that it has. */
export function forecastFactors(moe: MoE, layer: LayerStats, horizon: number): number[] | null {
  const has = factorsOf(moe, layer.experts);
  if (!has || !isBoundByLoad(moe)) return null;
  const need = neededFactors(layer, { quantile: quantileFor(moe, QUANTILE) }), trend = layer.trend();
  // No expert gets more than each token once.
  return has.map((f, e) => Math.max(f, Math.min(layer.experts / moe.topK, Math.ceil((need[e] + Math.max(0, trend[e]) * horizon) * STEP) / STEP)));
}

/** Sets `recompute` and `chunks` of layers and blocks so that plans fit the budget. Class N. */
export function fitMemory({ budget, margin = 0.1, horizon = 128, cooldown = 64 }: FitMemoryOptions = {}): Rule<object> {
  if (budget !== undefined && !(budget > 0)) throw new UserError(`fitMemory: budget must be a number of bytes above 0, got ${budget}`);
  let told = '';
  return {
    name: 'fitMemory', cooldown, first: true, only: 'N',
    // It is there to save memory: whether it saves time is not asked.
    measure: false,
    trigger: timeToLook,
    alter(model, run, outlook: Outlook) {
      const limit = budget ?? outlook.budget(), ladder = ladderOf(model, outlook.initial), bytesAt = forecast(model, run, outlook, ladder, horizon);
      const { height } = ladder, now = bytesAt(null);
      if (now > limit) {
        const found = lowest(bytesAt, height, ladder.rungs, limit);
        ladder.climb(found);
        told = `${showBytes(now)} would be needed, there may be ${showBytes(limit)}; this takes ${showBytes(bytesAt(found))}${bytesAt(found) > limit ? ', the least that it can' : ''}`;
      } else if (!outlook.first && height > 0 && bytesAt(height - 1) <= (1 - margin) * limit) {
        const found = lowest(bytesAt, 0, height - 1, (1 - margin) * limit);
        ladder.climb(found);
        told = `there is room again: ${showBytes(bytesAt(found))} of ${showBytes(limit)}`;
      } else ladder.leave();
    },
    reason: () => told,
  };
}

/** What plans will need, by height (null: as things are). */
function forecast(model: object, run: RunStats, outlook: Outlook, ladder: ReturnType<typeof ladderOf>, horizon: number): (height: number | null) => number {
  const known = new Map<number | null, number>(), follows = !outlook.first && outlook.rules.includes('adaptCapacity');
  const coming = follows ? layersOf(model, run).flatMap(([moe, layer]) => { const factors = forecastFactors(moe, layer, horizon); return factors ? [{ moe, factors, has: moe.capacity }] : []; }) : [];
  return (height) => {
    const found = known.get(height);
    if (found !== undefined) return found;
    if (height === null) ladder.leave(); else ladder.climb(height);
    for (const { moe, factors } of coming) moe.capacity = factors;
    const bytes = outlook.bytes();
    for (const { moe, has } of coming) moe.capacity = has;
    known.set(height, bytes);
    return bytes;
  };
}

/** The lowest height that fits, as far as more rungs take less; where none fits, the one of those asked that takes least. */
function lowest(bytesAt: (height: number) => number, from: number, to: number, limit: number): number {
  const asked = new Map<number, number>(), fits = (height: number): boolean => { asked.set(height, bytesAt(height)); return bytesAt(height) <= limit; };
  if (!fits(to)) {
    for (let part = 0; part < 4; part++) fits(from + Math.round((part * (to - from)) / 4));
    const [[best]] = [...asked].sort(([a, x], [b, y]) => x - y || a - b);
    return best;
  }
  let low = from, high = to;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (fits(middle)) high = middle; else low = middle + 1;
  }
  return high;
}
