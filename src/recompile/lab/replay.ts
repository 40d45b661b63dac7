// Replays a trace with the real engine and real rules, without training. The model is a placeholder whose layers have
// the knobs of the trace; the time of a step is its cost in rows. In: a trace and rules; out: counts, costs, and every
// decision.
import { UserError } from '../../base/errors.ts';
import { checkOptions } from '../../base/options.ts';
import { hostTensor, type HostTensor } from '../../base/tensor.ts';
import { meanSquaredError } from '../../nn/loss.ts';
import type { MoE } from '../../nn/moe/moe.ts';
import { sgd } from '../../optim/sgd.ts';
import { compileGraph, traceGraph, trainingGraph } from '../../pipeline.ts';
import { Knobs, type Change } from '../../trace/knobs.ts';
import { nameParameters } from '../../trace/module.ts';
import { call } from '../../trace/trace.ts';
import { draftOf } from '../draft.ts';
import { Engine } from '../engine.ts';
import type { EngineHost, Prepared } from '../engine-host.ts';
import type { RecompileEvent, Rule } from '../rule.ts';
import { clairvoyant } from './clairvoyant.ts';
import { costOf, outcomeOf, PRICE_KEYS, PRICES, tokensOf, type Outcome, type Prices } from './cost.ts';
import { placeholderModel } from './placeholder.ts';
import type { Trace, TracedLayer } from './trace.ts';

const SETTLED = 128; // steps after which loads are known and the first change is in force

/** Counts are sums over steps and layers. */
export interface Replayed {
  readonly steps: number;
  readonly choices: number;
  readonly dropped: number;
  readonly spilled: number;
  /** Computed rows, and the empty ones among them. */
  readonly computed: number;
  readonly padded: number;
  /**
   * Bytes beside states of the largest plan: the sum over layers of what the compiler plans for each layer as a bank,
   * at its largest batch.
   */
  readonly bytes: number;
  /** The mean over steps. */
  readonly meanBytes: number;
  /** Recompilations that were kept. */
  readonly recompilations: number;
  /** All costs, in rows of an expert. `clairvoyant`: the costs of the cheapest capacities with perfect foresight. */
  readonly cost: number;
  readonly clairvoyant: { readonly cost: number; readonly recompilations: number };
  /** Extra cost compared with perfect foresight, as a share of that cost: of the best capacities that never change. */
  readonly constant: number;
  /** Extra cost compared with perfect foresight, as a share of that cost: of the whole run, and from step 128 on. */
  readonly regret: number;
  readonly settled: number;
  readonly events: readonly RecompileEvent[];
}

const sum = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);

/** Planned bytes of a training step of one layer beside its states; 0 for a layer that gets no tokens. */
function plannedBytes(moe: MoE, tokens: number, dModel: number): number {
  if (tokens === 0) return 0;
  const named = nameParameters({ moe }),
    type = { dtype: 'float32' as const, shape: [tokens, dModel] };
  const forward = traceGraph(named, true, (t) => {
    const loss = meanSquaredError(call(moe, t.input('input', 'x', type)), t.input('input', 'y', type));
    t.output('loss', loss);
    t.output('total', loss);
  });
  const { arena, io, constants } = compileGraph(
    trainingGraph(forward, sgd({ lr: 1e-3, eager: true }), [...named.parameters.keys()]),
  ).program.slabs;
  return arena + io + constants;
}

/**
 * Replays a trace with the real engine and these rules: returns counts, costs, and every decision. Rejects with a
 * UserError that begins with `trace.where` if the trace describes layers for which no plan can be made.
 */
export async function replay(trace: Trace, rules: readonly Rule<object>[], prices: Prices = PRICES): Promise<Replayed> {
  checkOptions('replay: prices', prices, PRICE_KEYS);
  try {
    return await replayed(trace, rules, prices);
  } catch (error) {
    if (error instanceof UserError && trace.where !== undefined) error.message = `${trace.where}: ${error.message}`;
    throw error;
  }
}

async function replayed(trace: Trace, rules: readonly Rule<object>[], prices: Prices): Promise<Replayed> {
  const { layers, loads } = trace,
    { model, named, moes } = placeholderModel(layers),
    knobs = new Knobs(named),
    events: RecompileEvent[] = [];
  const most = layers.map((layer, l) => loads.reduce((n, s) => Math.max(n, tokensOf(s[l], layer)), 0)),
    known = new Map<string, number>();
  const bytes = (): number =>
    knobs.onModules(() =>
      sum(
        moes.map((moe, l) => {
          const key = `${l} ${JSON.stringify(knobs.settings(layers[l].path))}`,
            found = known.get(key) ?? plannedBytes(moe, most[l], layers[l].dModel);
          known.set(key, found);
          return found;
        }),
      ),
    );
  let step = 0,
    largest = 0,
    byteSteps = 0;
  const sizes = (): string => loads[step].map((load, l) => tokensOf(load, layers[l])).join(' ');
  const plan = (changes: readonly Change[]): Prepared => {
    const needs = knobs.with(changes, bytes);
    return {
      cached: false,
      ready: Promise.resolve(),
      has: () => true,
      load: () => undefined,
      bytes: () => needs,
      kernels: () => null,
      drop: () => undefined,
    };
  };
  const carry = async (changes: readonly Change[]): Promise<() => void> => {
    if (changes.some((c) => c.knob === 'slots'))
      throw new UserError(
        'loads do not tell where tokens go when experts are added or removed',
        'expertLifecycle can act only in a run, not in the lab',
      );
    return Promise.resolve(() => undefined);
  };
  const host: EngineHost = {
    knobs,
    next: () => step + 1,
    shape: sizes,
    draft: () => draftOf(model, named),
    prepare: plan,
    resize: plan,
    bytes,
    kernels: () => null,
    carry,
    ready: () => step > 0,
    needs: (changes) => knobs.with(changes, bytes),
    budget: () => ({ bytes: Infinity, given: true }),
    trim: () => undefined,
  };
  const engine = new Engine(host, (event) => {
    events.push(event);
  });
  for (const rule of rules) engine.add(rule);
  const totals = { choices: 0, dropped: 0, spilled: 0, computed: 0, padded: 0 },
    costs: number[] = [],
    recompilationsAt = new Map<number, number>();
  for (; step < loads.length; step++) {
    const { verify } = await engine.begin(),
      eventsBefore = events.length;
    engine.during();
    // `onModules` gives the layers the settings of the plan of this step.
    const [outcomes, stats] = knobs.onModules(() => {
      const all = moes.map((moe, l) => outcomeOf(moe, layers[l], loads[step][l]));
      return [all, Object.fromEntries(layers.flatMap((layer, l) => statsOf(layer, loads[step][l], all[l], moes[l])))];
    });
    const cost = sum(outcomes.map((o) => costOf(o, prices)));
    largest = Math.max(largest, bytes());
    byteSteps += bytes();
    costs.push(cost);
    totals.choices += sum(loads[step].flat());
    for (const o of outcomes)
      for (const key of ['dropped', 'spilled', 'computed', 'padded'] as const) totals[key] += o[key];
    const compared = verify && { equal: true, finite: true, loss: 0, dryLoss: 0, ms: 0, differs: null };
    await engine.end({ step: step + 1, loss: 0, ms: cost, stats }, compared);
    engine.settle();
    // Each plan that was compiled and tried is paid for, also if it was not kept.
    for (let e = eventsBefore; e < events.length; e++)
      recompilationsAt.set(step, (recompilationsAt.get(step) ?? 0) + 1);
  }
  engine.close();
  for (const [at, times] of recompilationsAt) costs[at] += times * prices.recompilation * sum(loads[at].flat());
  const best = clairvoyant(trace, prices),
    above = (from: number): number => sum(costs.slice(from)) / sum(best.costs.slice(from)) - 1;
  return {
    steps: loads.length,
    ...totals,
    bytes: largest,
    meanBytes: byteSteps / loads.length,
    recompilations: events.filter((e) => e.kept).length,
    cost: sum(costs),
    clairvoyant: { cost: sum(best.costs), recompilations: best.recompilations },
    constant: best.constant / sum(best.costs) - 1,
    regret: above(0),
    settled: loads.length > SETTLED ? above(SETTLED) : NaN,
    events,
  };
}

/** The statistics that the layer itself would have reported for the step. */
function statsOf(
  { path }: TracedLayer,
  load: readonly number[],
  { dropped, spilled }: Outcome,
  { capacity, overflow }: MoE,
): [string, HostTensor][] {
  const int = (...list: readonly number[]): HostTensor => hostTensor('int32', [list.length], Int32Array.from(list));
  return [
    [`${path}/load`, int(...load)],
    ...(capacity === 'dropless'
      ? []
      : [
          [
            `${path}/${overflow === 'spill' ? 'spilled' : 'dropped'}`,
            int(overflow === 'spill' ? spilled : dropped),
          ] as [string, HostTensor],
        ]),
  ];
}
