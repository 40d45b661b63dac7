// Metrics of runs for Prometheus, in the text exposition format, version 0.0.4. In: the runs' logs; out: the latest
// values of each run. No client library is used, because such libraries collect counters within a process, and these
// values come from logs.
import type { LogEvent, PlanEvent, StepEvent } from '../train/events.ts';
import { capacityRows, type Capacity } from '../nn/moe/capacity.ts';
import { Follower } from './follow.ts';
import { parsed } from './page/parse.ts';

type Labels = Readonly<Record<string, string>>;
interface Sample {
  readonly labels: Labels;
  readonly value: number;
}

/** name -> [type, help]. Counters count from the start of the run. */
const FAMILIES = {
  dynamoe_run_info: ['gauge', 'A run; 1 while its log exists and does not say that the run has ended.'],
  dynamoe_steps_total: ['counter', 'Optimiser steps done.'],
  dynamoe_steps_planned: ['gauge', 'Optimiser steps that the run will do.'],
  dynamoe_loss: ['gauge', 'Training loss of the last step.'],
  dynamoe_validation_loss: ['gauge', 'Loss of the last validation.'],
  dynamoe_learning_rate: ['gauge', 'Learning rate of the last step.'],
  dynamoe_gradient_norm: ['gauge', 'Norm of all gradients in the last step.'],
  dynamoe_step_seconds: ['gauge', 'Duration of the last step.'],
  dynamoe_throughput: ['gauge', 'Tokens (or samples) per second in the last step.'],
  dynamoe_resident_bytes: ['gauge', 'Resident memory of the training process.'],
  dynamoe_planned_bytes: ['gauge', 'Memory that the current plan takes, by kind.'],
  dynamoe_expert_load: ['gauge', 'Choices that went to an expert in the last step.'],
  dynamoe_expert_capacity: ['gauge', 'Rows that an expert may have; absent for dropless layers.'],
  dynamoe_layer: ['gauge', 'Statistics of an MoE layer in the last step: gate_entropy, dropped, spilled, ...'],
  dynamoe_dropped_total: ['counter', 'Choices dropped by a layer.'],
  dynamoe_spilled_total: ['counter', 'Choices beyond the capacities of a layer that were computed nevertheless.'],
  dynamoe_recompilations_total: ['counter', 'Decisions to recompile, by rule and whether the new plan was kept.'],
} as const satisfies Readonly<Record<string, readonly ['gauge' | 'counter', string]>>;
type Family = keyof typeof FAMILIES;

export class Metrics {
  readonly #runs: readonly { readonly name: string; readonly follower: Follower; run: RunValues }[];

  constructor(runs: readonly { readonly name: string; readonly path: string }[]) {
    this.#runs = runs.map(({ name, path }) => ({ name, follower: new Follower(path), run: new RunValues(name) }));
  }

  /** Reads the new lines of the logs, and returns the metrics as text. */
  async text(): Promise<string> {
    for (const r of this.#runs) {
      for (let got = await r.follower.read(); got; got = await r.follower.read()) {
        if (got.reset) r.run = new RunValues(r.name);
        for (const line of got.lines) r.run.see(parsed(line));
      }
      r.run.setLastStep();
      if (r.follower.gone) r.run.ended();
    }
    const families = (Object.keys(FAMILIES) as Family[]).flatMap((name) => {
      const samples = this.#runs.flatMap(({ run }) => run.samples(name)),
        [type, help] = FAMILIES[name];
      return samples.length === 0
        ? []
        : [
            `# HELP ${name} ${help}`,
            `# TYPE ${name} ${type}`,
            ...samples.map((s) => `${name}${shown(s.labels)} ${number(s.value)}`),
          ];
    });
    return `${families.join('\n')}\n`;
  }
}

const shown = (labels: Labels): string =>
  `{${Object.entries(labels)
    .map(([k, v]) => `${k}="${v.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')}"`)
    .join(',')}}`;
const number = (x: number): string =>
  Number.isNaN(x) ? 'NaN' : x === Infinity ? '+Inf' : x === -Infinity ? '-Inf' : String(x);

/** The latest values of one run. */
class RunValues {
  readonly #name: string;
  readonly #values = new Map<Family, Map<string, Sample>>();
  #layers: PlanEvent['layers'] = {};
  #last: StepEvent | null = null;

  constructor(name: string) {
    this.#name = name;
  }

  samples(family: Family): Sample[] {
    return [...(this.#values.get(family)?.values() ?? [])];
  }

  #set(family: Family, value: number, labels: Labels = {}): void {
    const all = { run: this.#name, ...labels },
      key = JSON.stringify(all);
    if (!this.#values.has(family)) this.#values.set(family, new Map());
    this.#values.get(family)!.set(key, { labels: all, value });
  }

  #count(family: Family, more: number, labels: Labels): void {
    const key = JSON.stringify({ run: this.#name, ...labels });
    this.#set(family, (this.#values.get(family)?.get(key)?.value ?? 0) + more, labels);
  }

  see(e: LogEvent | null): void {
    switch (e?.event) {
      case 'start':
        this.#set('dynamoe_run_info', 1);
        this.#set('dynamoe_steps_planned', e.steps);
        break;
      case 'step':
        this.#last = e;
        for (const [layer, values] of Object.entries(e.layers ?? {})) {
          if (values['dropped'] !== undefined) this.#count('dynamoe_dropped_total', values['dropped'], { layer });
          if (values['spilled'] !== undefined) this.#count('dynamoe_spilled_total', values['spilled'], { layer });
        }
        break;
      case 'eval':
        this.#set('dynamoe_validation_loss', e.val_loss ?? NaN);
        break;
      case 'plan':
        for (const kind of ['arena', 'io', 'constants', 'states'] as const)
          this.#set('dynamoe_planned_bytes', e.bytes[kind], { kind });
        this.#layers = e.layers;
        this.#values.delete('dynamoe_expert_capacity');
        break;
      case 'recompile':
        this.#count('dynamoe_recompilations_total', 1, { rule: e.rule, kept: String(e.kept) });
        break;
      case 'done':
      case 'stopped':
      case 'failed':
        this.ended();
        break;
      default:
        break; // checkpoints, and events of later versions
    }
  }

  /** Marks the run as ended. */
  ended(): void {
    this.#set('dynamoe_run_info', 0);
  }

  /** Sets the values of the last step. */
  setLastStep(): void {
    const e = this.#last;
    if (!e) return;
    this.#set('dynamoe_steps_total', e.step);
    this.#set('dynamoe_loss', e.loss);
    this.#set('dynamoe_gradient_norm', e.grad_norm);
    this.#set('dynamoe_step_seconds', e.ms / 1000);
    this.#set('dynamoe_throughput', e.tokens_per_s);
    if (e.lr !== undefined) this.#set('dynamoe_learning_rate', e.lr);
    if (e.rss !== undefined) this.#set('dynamoe_resident_bytes', e.rss);
    for (const [layer, load] of Object.entries(e.load ?? {})) {
      const { capacity = 'dropless', active } = this.#layers[layer] ?? {},
        rows = capacityRows(
          capacity as Capacity,
          load.length,
          load.reduce((a, b) => a + b, 0),
          active as boolean[] | undefined,
        );
      load.forEach((n, expert) => {
        this.#set('dynamoe_expert_load', n, { layer, expert: String(expert) });
        if (rows) this.#set('dynamoe_expert_capacity', rows[expert], { layer, expert: String(expert) });
      });
    }
    for (const [layer, told] of Object.entries(e.layers ?? {})) {
      for (const [what, value] of Object.entries(told)) this.#set('dynamoe_layer', value, { layer, what });
    }
  }
}
