// The cost of a step of a layer with a plan, in rows of an expert. In: settings and a load; out: computed rows, empty
// rows among them, and choices beyond the capacities.
import type { KeysOf } from '../../base/options.ts';
import { atLeast0, needed } from '../../base/kinds.ts';
import { capacityRows } from '../../nn/moe/capacity.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import type { TracedLayer } from './trace.ts';

export type Plan = Pick<MoE, 'capacity' | 'overflow' | 'dispatch'>;

export interface Outcome {
  readonly computed: number;
  /** The empty ones among the computed rows. */
  readonly padded: number;
  readonly dropped: number;
  readonly spilled: number;
}

/**
 * drop: price of a dropped choice, in rows. spill: price of a spilled choice, in rows, in addition to its own row.
 * recompilation: price of a recompilation, in steps of even load.
 */
export interface Prices {
  readonly drop: number;
  readonly spill: number;
  readonly recompilation: number;
}
export const PRICE_KEYS: KeysOf<Prices> = {
  drop: needed(atLeast0),
  spill: needed(atLeast0),
  recompilation: needed(atLeast0),
};
/** The default prices of adaptCapacity. */
export const PRICES: Prices = { drop: 20, spill: 1, recompilation: 2 };

export const tokensOf = (load: readonly number[], { k }: Pick<TracedLayer, 'k'>): number =>
  Math.round(load.reduce((a, b) => a + b, 0) / k);

/** The most rows that each expert may have; null: no limit. */
export function limitsOf(
  { capacity }: Pick<Plan, 'capacity'>,
  { experts, k }: TracedLayer,
  tokens: number,
): number[] | null {
  return capacityRows(capacity, experts, tokens * k)?.map((rows) => Math.min(rows, tokens)) ?? null;
}

export function outcomeOf(plan: Plan, layer: TracedLayer, load: readonly number[]): Outcome {
  const tokens = tokensOf(load, layer),
    limits = limitsOf(plan, layer, tokens),
    all = load.reduce((a, b) => a + b, 0);
  if (plan.dispatch === 'dense')
    return { computed: layer.experts * tokens, padded: layer.experts * tokens - all, dropped: 0, spilled: 0 };
  const beyond = limits ? load.reduce((n, own, e) => n + Math.max(0, own - limits[e]), 0) : 0,
    spills = plan.overflow === 'spill' && plan.dispatch !== 'einsum';
  const held =
    plan.dispatch === 'ragged' ? all - beyond : (limits?.reduce((a, b) => a + b, 0) ?? layer.experts * tokens);
  const computed = held + (spills ? beyond : 0);
  return {
    computed,
    padded: computed - all + (spills ? 0 : beyond),
    dropped: spills ? 0 : beyond,
    spilled: spills ? beyond : 0,
  };
}

export const costOf = ({ computed, dropped, spilled }: Outcome, { drop, spill }: Prices): number =>
  computed + drop * dropped + spill * spilled;
