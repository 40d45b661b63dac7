// The policy adaptCapacity: each expert gets the room that its load needs, from quantiles of what it got (the paper's author set such
// capacities by hand, epoch by epoch). It changes results where the layer drops, and none where it spills.
import type { LayerStats } from '../observe/run-stats.ts';
import { ExpertBank } from '../nn/moe/experts.ts';
import type { MoE } from '../nn/moe/moe.ts';
import { factorsOf, layersOf, timeToLook } from './modules.ts';
import type { Rule } from './rule.ts';

export interface AdaptCapacityOptions {
  /** Of each expert's loads over the last 64 steps; default 0.95. */
  readonly quantile?: number;
  /** Room beyond it, as a share; default 0.05. */
  readonly margin?: number;
  /** Capacities are lowered when that saves at least this share of a layer's rows; default 0.1. They are raised when an expert needs more than it has. */
  readonly saves?: number;
  /** Steps between two changes; default 100. */
  readonly cooldown?: number;
}

const STEP = 16; // capacity factors are multiples of 1/16: plans recur

/** The factor on its even share that holds each expert's quantile. */
export function neededFactors(layer: LayerStats, { quantile = 0.95, margin = 0.05 }: AdaptCapacityOptions): number[] {
  const choices = layer.load.reduce((a, b) => a + b, 0), share = Math.max(1, choices) / layer.experts;
  return layer.quantile(quantile).map((rows) => Math.ceil(((rows * (1 + margin)) / share) * STEP) / STEP);
}

/** For layers with a capacity; those that are dropless have what they need. */
export function adaptCapacity(options: AdaptCapacityOptions = {}): Rule<object> {
  const { saves = 0.1, cooldown = 100 } = options;
  const wanted = (moe: MoE, layer: LayerStats): number[] | null => {
    // Ragged modules that spill compute the rows that came, whatever their bound. A bank computes spilled rows twice, and plans for the bound.
    const has = factorsOf(moe, layer.experts);
    if (!has || (moe.dispatch === 'ragged' && moe.overflow === 'spill' && !(moe.experts instanceof ExpertBank))) return null;
    const need = neededFactors(layer, options);
    const total = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
    return need.some((n, e) => n > has[e]) || total(need) < (1 - saves) * total(has) ? need : null;
  };
  return {
    name: 'adaptCapacity', cooldown,
    trigger: timeToLook,
    alter(model, run) {
      for (const [moe, layer] of layersOf(model, run)) {
        const next = wanted(moe, layer);
        if (next) moe.capacity = next;
      }
    },
    reason: (run) => `dropped ${run.layers.reduce((n, l) => n + l.dropped, 0)}, spilled ${run.layers.reduce((n, l) => n + l.spilled, 0)} choices in step ${run.step}`,
  };
}
