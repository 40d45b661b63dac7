// Statistics of a run, as rules see them: loads of experts, drops, gates, time. In: the result of each step; out:
// numbers by layer. Rules see the statistics of step n from step n + 2 on, on every device and with any number of
// processes, so that a decision does not depend on when a result was read.
import { UserError } from '../base/errors.ts';
import type { HostTensor } from '../base/tensor.ts';
import { median, quantile } from './quantile.ts';
import { slope } from './trend.ts';

const WINDOW = 64; // quantiles and medians are over this many steps (for loads: parts of batches)
const KEEP = 0.95; // weight of the old value in a moving average, at each step
const KEEP_AGREEMENT = 0.99; // the same for agreement with remembered choices (Kossmann et al. 2022)
const FIRST = 64; // number of samples of the first batch that are checked for recurrence
const DELAY = 1; // number of latest steps whose results rules do not see yet

/** The result of one step: statistics by name ('blocks.0.moe/load'), loss, and time in ms. */
export interface StepReport {
  readonly step: number;
  readonly loss: number;
  readonly stats: Readonly<Record<string, HostTensor>>;
  /**
   * If the batch was split into parts: the statistics of each. Loads count by part, because capacities are per part.
   */
  readonly parts?: readonly Readonly<Record<string, HostTensor>>[];
  /** Ids of the batch's samples, if it has any; null: samples are not remembered (inference). */
  readonly ids?: ArrayLike<number> | null;
  readonly ms: number;
}

/** Statistics of sample ids. */
export interface SampleStats {
  /** Number of steps whose batch had ids, and of those whose batch had none. */
  readonly steps: number;
  readonly without: number;
  /** The largest id so far; -1: none. */
  readonly largest: number;
  /** How often samples of the first batch with ids (64 of them at most) came again. */
  readonly again: number;
}

/** One MoE layer. Lists have one number for each expert. */
export interface LayerStats {
  readonly path: string;
  readonly experts: number;
  /** Choices of each expert in the last visible step (in the last part, if the batch was split), before drops. */
  readonly load: readonly number[];
  /** Their moving averages (0.95 a step). */
  readonly loadEma: readonly number[];
  /** A quantile of each expert's load over the last 64 steps. */
  quantile(q: number): number[];
  /**
   * A quantile of each expert's load divided by the even share of its step: the capacity factor that holds it, for any
   * batch size. `half`: only every second step, 0 or 1, so that what one half suggests can be tested on the other.
   */
  factor(q: number, half?: 0 | 1): number[];
  /** By how much each expert's factor rises from load to load (least squares), if that is significant; else 0. */
  trend(): number[];
  /** Choices dropped in the last step, and spilled. */
  readonly dropped: number;
  readonly spilled: number;
  /** Since the run began. */
  readonly droppedTotal: number;
  /** Mean entropy of the gate's distribution, in nats; NaN where the router has none. */
  readonly gateEntropy: number;
  /**
   * Mean weight of second choices; with one expert a token, the weight that a second choice would have. NaN if the
   * router has none.
   */
  readonly secondGateWeight: number;
  /** Its moving average (0.95 a step). */
  readonly secondGateWeightEma: number;
  /**
   * While choices are remembered: the share of compared choices that are still among the router's own ones, in the last
   * step that compared any; NaN before.
   */
  readonly agreement: number;
  /** Its moving average (0.99 a step) over the steps that compared any. */
  readonly agreementEma: number;
}

interface Layer {
  loads: (readonly number[])[];
  ema: readonly number[];
  dropped: number;
  spilled: number;
  droppedTotal: number;
  gateEntropy: number;
  secondGateWeight: number;
  secondGateWeightEma: number;
  agreement: number;
  /** Weighted sum of agreements, and the sum of the weights: `agreementEma` is their quotient. */
  agreed: number;
  weight: number;
}

/** The statistics of a step that rules do not see yet, as plain JSON. */
interface DelayedStep {
  readonly step: number;
  readonly loss: number;
  readonly parts: readonly Readonly<Record<string, readonly number[]>>[];
  readonly ids?: readonly number[] | null;
}

/** The state that a resumed run needs, as plain JSON. */
export interface StatsState {
  readonly steps: number;
  readonly loss: number;
  readonly layers: Readonly<Record<string, Layer>>;
  readonly late: readonly DelayedStep[];
  readonly samples?: SampleStats & { readonly first: readonly number[] };
}

const NO_SAMPLES: SampleStats & { readonly first: readonly number[] } = {
  steps: 0,
  without: 0,
  largest: -1,
  again: 0,
  first: [],
};

export class RunStats {
  #steps = 0;
  #loss = NaN;
  #layers = new Map<string, Layer>();
  #late: DelayedStep[] = [];
  #samples = NO_SAMPLES;
  readonly #ms: number[] = [];
  #clockRead = false;

  /** Number of steps whose results rules can see. */
  get step(): number {
    return this.#steps;
  }
  /** The main loss of the last step whose results rules can see. */
  get loss(): number {
    return this.#loss;
  }

  /** Median milliseconds of the last 64 steps. A rule that reads this clock may only make changes that keep results. */
  get ms(): number {
    this.readClock();
    return this.usualMs();
  }

  /** The same as `ms`, but is not recorded as reading the clock: for the engine, which may read it. */
  usualMs(): number {
    return median(this.#ms);
  }

  /** Whether batches have sample ids, and how often samples came again. */
  get samples(): SampleStats {
    return this.#samples;
  }

  get layers(): LayerStats[] {
    return [...this.#layers.keys()].map((path) => this.layer(path));
  }

  layer(path: string): LayerStats {
    const found = this.#layers.get(path);
    if (!found) {
      const known = [...this.#layers.keys()];
      throw new UserError(
        `no layer at "${path}" has reported its load`,
        known.length > 0 ? `known: ${known.join(', ')}` : 'statistics of a step are seen two steps later',
      );
    }
    const { loads, ema, agreed, weight, ...numbers } = found;
    const shares = loads.map(
      (load) =>
        Math.max(
          1,
          load.reduce((a, b) => a + b, 0),
        ) / ema.length,
    );
    return {
      path,
      experts: ema.length,
      load: loads[loads.length - 1] ?? [],
      loadEma: ema,
      ...numbers,
      agreementEma: agreed / weight,
      quantile: (q) =>
        ema.map((_, e) =>
          quantile(
            loads.map((l) => l[e]),
            q,
          ),
        ),
      trend: () => ema.map((_, e) => slope(loads.map((l, i) => l[e] / shares[i]))),
      factor: (q, half) =>
        ema.map((_, e) =>
          quantile(
            loads.flatMap((l, i) => (half === undefined || i % 2 === half ? [l[e] / shares[i]] : [])),
            q,
          ),
        ),
    };
  }

  /** Records that a value was read that may be different in another run. */
  readClock(): void {
    this.#clockRead = true;
  }

  /** Whether a clock was read since the last call. */
  clockWasRead(): boolean {
    const was = this.#clockRead;
    this.#clockRead = false;
    return was;
  }

  show({ step, loss, stats, parts = [stats], ids, ms }: StepReport): void {
    this.#ms.push(ms);
    if (this.#ms.length > WINDOW) this.#ms.shift();
    this.#late.push({
      step,
      loss,
      parts: parts.map((part) => Object.fromEntries(Object.entries(part).map(([name, t]) => [name, [...t.data]]))),
      ...(ids !== undefined && { ids: ids && Array.from(ids) }),
    });
    while (this.#late.length > DELAY) this.#see(this.#late.shift());
  }

  #see(shown: DelayedStep | undefined): void {
    if (!shown) return;
    this.#steps = shown.step;
    this.#loss = shown.loss;
    shown.parts.forEach((part, i) => {
      this.#seePart(part, i === 0);
    });
    for (const [path, layer] of this.#layers)
      this.#seeAgreement(
        layer,
        shown.parts.map((part) => part[`${path}/agreement`] ?? [0, 0]),
      );
    this.#seeSamples(shown.ids);
  }

  #seeAgreement(layer: Layer, counts: readonly (readonly number[])[]): void {
    const of = (i: number): number => counts.reduce((n, c) => n + c[i], 0),
      compared = of(1);
    if (compared === 0) return;
    layer.agreement = of(0) / compared;
    layer.agreed = KEEP_AGREEMENT * layer.agreed + (1 - KEEP_AGREEMENT) * layer.agreement;
    layer.weight = KEEP_AGREEMENT * layer.weight + (1 - KEEP_AGREEMENT);
  }

  #seeSamples(ids: readonly number[] | null | undefined): void {
    if (ids === null) return;
    const { steps, without, largest, again, first } = this.#samples;
    if (!ids) {
      this.#samples = { ...this.#samples, without: without + 1 };
      return;
    }
    this.#samples = {
      steps: steps + 1,
      without,
      largest: ids.reduce((a, b) => Math.max(a, b), largest),
      first: steps === 0 ? ids.slice(0, FIRST) : first,
      again: again + (steps === 0 ? 0 : ids.filter((id) => first.includes(id)).length),
    };
  }

  #seePart(part: DelayedStep['parts'][number], first: boolean): void {
    for (const [name, load] of Object.entries(part)) {
      if (!name.endsWith('/load')) continue;
      const path = name.slice(0, -'/load'.length),
        of = (what: string): readonly number[] => part[`${path}/${what}`] ?? [];
      const total = (list: readonly number[]): number => list.reduce((a, b) => a + b, 0);
      const before = this.#layers.get(path),
        same = before?.ema.length === load.length ? before : undefined;
      const dropped = total(of('dropped')),
        second = of('secondGateWeight')[0] ?? NaN,
        average = before?.secondGateWeightEma ?? NaN;
      const earlierParts = first ? undefined : before; // counts of earlier parts of this step
      this.#layers.set(path, {
        // Rules get these lists, and must not sort them in place.
        loads: [...(same?.loads ?? []).slice(1 - WINDOW), Object.freeze([...load])],
        ema: Object.freeze(load.map((n, e) => (same ? KEEP * same.ema[e] + (1 - KEEP) * n : n))),
        dropped: (earlierParts?.dropped ?? 0) + dropped,
        spilled: (earlierParts?.spilled ?? 0) + total(of('spilled')),
        droppedTotal: (before?.droppedTotal ?? 0) + dropped,
        gateEntropy: of('gateEntropy')[0] ?? NaN,
        secondGateWeight: second,
        secondGateWeightEma:
          Number.isNaN(average) || Number.isNaN(second) ? second : KEEP * average + (1 - KEEP) * second,
        agreement: before?.agreement ?? NaN,
        agreed: before?.agreed ?? 0,
        weight: before?.weight ?? 0,
      });
    }
  }

  state(): StatsState {
    return {
      steps: this.#steps,
      loss: this.#loss,
      layers: Object.fromEntries(this.#layers),
      late: [...this.#late],
      samples: this.#samples,
    };
  }

  restore({ steps, loss, layers, late, samples = NO_SAMPLES }: StatsState): void {
    // JSON has no NaN: it comes back as null.
    const nan = (x: number | null): number => x ?? NaN;
    this.#steps = steps;
    this.#loss = nan(loss);
    this.#layers = new Map(
      Object.entries(layers).map(([path, l]) => [
        path,
        {
          ...l,
          loads: l.loads.map((load) => Object.freeze([...load])),
          ema: Object.freeze([...l.ema]),
          gateEntropy: nan(l.gateEntropy),
          secondGateWeight: nan(l.secondGateWeight),
          secondGateWeightEma: nan(l.secondGateWeightEma),
          agreement: nan(l.agreement),
          agreed: nan(l.agreed) || 0,
          weight: nan(l.weight) || 0,
        },
      ]),
    );
    this.#samples = samples;
    this.#late = late.map((l) => ({ ...l, loss: nan(l.loss) }));
  }
}
