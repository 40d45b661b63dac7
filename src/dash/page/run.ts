// The state of one run, from its log. In: events in order; out: columns by step, layers, recompilations, plans,
// status. It does not touch the page.
import type { LogEvent, PlanEvent, StartEvent, StepEvent } from '../../train/events.ts';
import type { RecompileEvent } from '../../recompile/rule.ts';
import { Bins } from './bins.ts';
import { Column, Smooth } from './columns.ts';

export type Status = 'waiting' | 'running' | 'done' | 'stopped' | 'failed';
type Capacity = 'dropless' | number | readonly number[];

export interface Layer {
  readonly path: string;
  bins: Bins;
  load: readonly number[];
  /** By name ('gate_entropy'), a value for each of the run's steps; NaN where a step has none. */
  readonly stats: Map<string, Column>;
}

/** Of each rank, means over some steps: ms of a step, ms of them in which it waited, bytes that it sent. */
export interface RankMeans {
  readonly steps: number;
  readonly ms: readonly number[];
  readonly waited: readonly number[];
  readonly sent: readonly number[];
}

/** Over how many of the last steps what ranks do is averaged. */
const RANK_STEPS = 50;

export class Run {
  readonly name: string;
  status: Status = 'waiting';
  error: string | null = null;
  /** Whether the log has disappeared. */
  gone = false;
  start: StartEvent | null = null;
  seconds: number | null = null;
  readonly step = new Column();
  /** Seconds of training since the start of the run, without breaks. */
  readonly elapsed = new Column();
  readonly loss = new Column();
  readonly smooth = new Smooth(this.loss);
  readonly rate = new Column();
  readonly smoothRate = new Smooth(this.rate);
  readonly norm = new Column();
  readonly rss = new Column();
  readonly planned = new Column();
  readonly evalStep = new Column();
  readonly evalElapsed = new Column();
  readonly evalLoss = new Column();
  readonly layers = new Map<string, Layer>();
  readonly recompiles: RecompileEvent[] = [];
  readonly plans: PlanEvent[] = [];
  /** What each rank did in each of the last steps. */
  readonly #ranks: NonNullable<StepEvent['ranks']>[] = [];
  lr = NaN;
  peak = 0;
  #clock = 0;
  #last: number | null = null;
  #bytes = NaN;

  constructor(name: string) {
    this.name = name;
  }

  add(e: LogEvent): void {
    // A break between two processes of a run is not counted.
    const time = typeof e.time === 'number' ? e.time : null;
    if (time !== null) this.#clock += e.event === 'start' || this.#last === null ? 0 : Math.max(0, time - this.#last);
    else if (e.event === 'step') this.#clock += e.ms / 1000;
    this.#last = time === null || e.event === 'start' ? (time ?? this.#last) : Math.max(this.#last ?? time, time);
    switch (e.event) {
      case 'start':
        this.start = e;
        this.status = 'running';
        this.error = null;
        break;
      case 'step':
        this.#addStep(e);
        break;
      case 'eval':
        this.evalStep.push(e.step);
        this.evalElapsed.push(this.#clock);
        this.evalLoss.push(e.val_loss ?? NaN);
        break;
      case 'recompile':
        this.recompiles.push(e);
        break;
      case 'plan':
        this.plans.push(e);
        this.#bytes = e.bytes.arena + e.bytes.io + e.bytes.constants + e.bytes.states;
        break;
      case 'done':
        this.status = 'done';
        this.seconds = e.seconds;
        this.peak = Math.max(this.peak, e.peak_bytes.rss);
        break;
      case 'stopped':
        this.status = 'stopped';
        break;
      case 'failed':
        this.status = 'failed';
        this.error = e.error;
        break;
      default:
        break; // checkpoints, and events of later versions
    }
  }

  #addStep(e: StepEvent): void {
    if (this.status === 'waiting') this.status = 'running';
    this.step.push(e.step);
    this.elapsed.push(this.#clock);
    this.loss.push(e.loss);
    this.rate.push(e.tokens_per_s);
    this.norm.push(e.grad_norm);
    this.rss.push(e.rss ?? NaN);
    this.planned.push(this.#bytes);
    if (e.rss !== undefined) this.peak = Math.max(this.peak, e.rss);
    if (e.lr !== undefined) this.lr = e.lr;
    if (e.ranks) this.#addRanks(e.ranks);
    for (const [path, load] of Object.entries(e.load ?? {})) {
      const layer = this.#layer(path, load.length);
      layer.load = load;
      layer.bins.add(e.step, load);
    }
    for (const [path, told] of Object.entries(e.layers ?? {})) {
      const layer = this.layers.get(path);
      for (const [name, value] of Object.entries(told)) if (layer) this.#told(layer, name).push(value);
    }
    for (const layer of this.layers.values())
      for (const column of layer.stats.values()) if (column.length < this.step.length) column.push(NaN);
  }

  #addRanks(ranks: NonNullable<StepEvent['ranks']>): void {
    // The run may have been resumed on another number of ranks.
    if (this.#ranks[0]?.ms.length !== ranks.ms.length) this.#ranks.length = 0;
    this.#ranks.push(ranks);
    if (this.#ranks.length > RANK_STEPS) this.#ranks.shift();
  }

  /** null: the run is one process. */
  rankMeans(): RankMeans | null {
    const all = this.#ranks,
      steps = all.length;
    if (steps === 0) return null;
    const mean = (of: (r: NonNullable<StepEvent['ranks']>) => readonly number[]): number[] =>
      of(all[0]).map((_, rank) => all.reduce((sum, r) => sum + of(r)[rank], 0) / steps);
    return { steps, ms: mean((r) => r.ms), waited: mean((r) => r.waited_ms), sent: mean((r) => r.sent) };
  }

  #layer(path: string, experts: number): Layer {
    const found = this.layers.get(path);
    if (found?.bins.experts === experts) return found;
    const made: Layer = { path, bins: new Bins(experts), load: [], stats: new Map() };
    this.layers.set(path, made);
    return made;
  }

  #told(layer: Layer, name: string): Column {
    let column = layer.stats.get(name);
    if (!column) {
      layer.stats.set(name, (column = new Column()));
      while (column.length < this.step.length - 1) column.push(NaN);
    }
    return column;
  }

  /** The plan that a step used. */
  planAt(step: number): PlanEvent | undefined {
    return this.plans.findLast((p) => p.from <= step) ?? this.plans[0];
  }

  /** Rows that each expert of a layer may have in a step of this load; null: no limit. */
  rowsAt(path: string, step: number, load: readonly number[]): number[] | null {
    const knobs = this.planAt(step)?.layers[path],
      capacity = knobs?.['capacity'] as Capacity | undefined,
      active = knobs?.['active'] as readonly boolean[] | undefined;
    if (capacity === undefined || capacity === 'dropless') return null;
    const choices = load.reduce((a, b) => a + b, 0),
      factor = (e: number): number => (typeof capacity === 'number' ? capacity : capacity[e]);
    const experts = active?.filter((held) => held).length ?? load.length;
    return load.map((_, e) =>
      active?.[e] === false ? 0 : Math.min(choices, Math.ceil((factor(e) * choices) / experts)),
    );
  }

  /** The position of an event of a step on an axis of seconds. */
  elapsedAt(step: number): number {
    const i = this.step.indexOf(step);
    return i < this.step.length ? this.elapsed.at(i) : this.elapsed.last;
  }
}
