// The cheapest sequence of capacities for each expert, with perfect foresight: all loads are known in advance. In: a
// trace; out: the cost of each step. A change has the same price as for policies, but takes effect at once. Dispatch
// and overflow are those of the trace. As with adaptCapacity, changes are at multiples of 16 steps and factors are
// multiples of 1/16. Found by dynamic programming.
import { costOf, limitsOf, outcomeOf, tokensOf, type Prices } from './cost.ts';
import type { Trace, TracedLayer } from './trace.ts';

const BLOCK = 16,
  STEP = 16;

export interface Clairvoyant {
  /** The cost of each step in rows, recompilations included. */
  readonly costs: readonly number[];
  readonly recompilations: number;
  /** The cost of the best capacities that are set before the first step and never change. */
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
  const unchangedCosts = loads.map((s) =>
    layers.reduce((n, layer, l) => n + costOf(outcomeOf(layer, layer, s[l]), prices), 0),
  );
  // best[j]: the least cost of the first j blocks of steps. from[j]: the block at which the last change of that
  // solution is made; -1: the initial capacities stay.
  const best = new Array<number>(blocks + 1).fill(Infinity),
    from = new Array<number>(blocks + 1).fill(-1);
  best[0] = 0;
  for (let j = 1, unchanged = 0; j <= blocks; j++) {
    for (let s = (j - 1) * BLOCK; s < Math.min(loads.length, j * BLOCK); s++) unchanged += unchangedCosts[s];
    best[j] = unchanged;
    for (let i = 0; i < j; i++) {
      const cost = best[i] + price(i * BLOCK) + tables.reduce((n, t) => n + t.cost(i, j), 0);
      if (cost < best[j]) {
        best[j] = cost;
        from[j] = i;
      }
    }
  }
  const costs = [...unchangedCosts];
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

/** Sums of costs from the first block up to each block, for each expert and each capacity factor. */
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
