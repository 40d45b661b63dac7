// The best plan that could have been, had all loads been known: capacities for each expert, changed as often as that
// pays, at the same price for a change as everybody else, and in force at once. In: a trace; out: what it costs at each
// step. Dispatch and overflow are the trace's. Changes are at multiples of 16 steps and factors are multiples of 1/16,
// as those of adaptCapacity; found by dynamic programming.
import { costOf, limitsOf, outcomeOf, tokensOf, type Prices } from './cost.ts';
import type { Trace, TracedLayer } from './trace.ts';

const BLOCK = 16,
  STEP = 16;

export interface Clairvoyant {
  /** By step, recompilations included. */
  readonly costs: readonly number[];
  readonly recompilations: number;
  /** What the best plan costs that never changes, from the first step on. */
  readonly constant: number;
}

export function clairvoyant({ layers, loads }: Trace, prices: Prices): Clairvoyant {
  const blocks = Math.ceil(loads.length / BLOCK),
    tables = layers.map((layer, l) =>
      table(
        layer,
        loads.map((s) => s[l]),
        blocks,
        prices,
      ),
    );
  const price = (step: number): number =>
    prices.recompilation * loads[Math.min(step, loads.length - 1)].flat().reduce((a, b) => a + b, 0);
  const kept = loads.map((s) => layers.reduce((n, layer, l) => n + costOf(outcomeOf(layer, layer, s[l]), prices), 0));
  // best[j]: of the first j blocks; from[j]: where its last plan began, -1 for the plan that was there.
  const best = new Array<number>(blocks + 1).fill(Infinity),
    from = new Array<number>(blocks + 1).fill(-1);
  best[0] = 0;
  for (let j = 1, first = 0; j <= blocks; j++) {
    for (let s = (j - 1) * BLOCK; s < Math.min(loads.length, j * BLOCK); s++) first += kept[s];
    best[j] = first;
    for (let i = 0; i < j; i++) {
      const cost = best[i] + price(i * BLOCK) + tables.reduce((n, t) => n + t.cost(i, j), 0);
      if (cost < best[j]) {
        best[j] = cost;
        from[j] = i;
      }
    }
  }
  const costs = [...kept];
  let recompilations = 0;
  for (let j = blocks; j > 0 && from[j] >= 0; j = from[j]) {
    const start = from[j] * BLOCK,
      end = Math.min(loads.length, j * BLOCK),
      plans = tables.map((t) => t.plan(from[j], j));
    for (let s = start; s < end; s++)
      costs[s] = layers.reduce(
        (n, layer, l) => n + costOf(outcomeOf({ ...layer, capacity: plans[l] }, layer, loads[s][l]), prices),
        0,
      );
    costs[start] += price(start);
    recompilations++;
  }
  return { costs, recompilations, constant: price(0) + tables.reduce((n, t) => n + t.cost(0, blocks), 0) };
}

interface Table {
  cost(from: number, to: number): number;
  plan(from: number, to: number): number[];
}

/** Costs of each expert under each factor, summed from the first block to any. */
function table(
  layer: TracedLayer,
  loads: readonly (readonly number[])[],
  blocks: number,
  { drop, spill }: Prices,
): Table {
  const { experts, k, dispatch, overflow } = layer,
    count = Math.ceil((experts / k) * STEP) + 1;
  const spills = overflow === 'spill',
    ragged = dispatch === 'ragged',
    rowOf = (e: number, c: number): number => (e * count + c) * (blocks + 1);
  const sums = new Float64Array(experts * count * (blocks + 1));
  for (let c = 0; c < count; c++) {
    const limits = new Map<number, number>();
    loads.forEach((load, s) => {
      const tokens = tokensOf(load, layer),
        limit = limits.get(tokens) ?? limitsOf({ capacity: c / STEP }, layer, tokens)?.[0] ?? 0,
        block = Math.floor(s / BLOCK);
      limits.set(tokens, limit);
      for (let e = 0; e < experts; e++) {
        const over = Math.max(0, load[e] - limit);
        sums[rowOf(e, c) + block + 1] += (ragged ? load[e] - over : limit) + (spills ? 1 + spill : drop) * over;
      }
    });
    for (let e = 0; e < experts; e++)
      for (let b = 1; b <= blocks; b++) sums[rowOf(e, c) + b] += sums[rowOf(e, c) + b - 1];
  }
  const bestOf = (e: number, from: number, to: number): readonly [cost: number, c: number] => {
    let best = Infinity,
      at = 0;
    for (let c = 0; c < count; c++) {
      const cost = sums[rowOf(e, c) + to] - sums[rowOf(e, c) + from];
      if (cost < best) {
        best = cost;
        at = c;
      }
    }
    return [best, at];
  };
  const each = Array.from({ length: experts }, (_, e) => e);
  return {
    cost: (from, to) => each.reduce((n, e) => n + bestOf(e, from, to)[0], 0),
    plan: (from, to) => each.map((e) => bestOf(e, from, to)[1] / STEP),
  };
}
