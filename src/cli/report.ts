// Reports the events of a run on stdout: as JSON, as plain lines, or on a terminal.
import { effect, outcome, price } from '../dash/page/format.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import type { EvalEvent, StartEvent, StepEvent, TrainEvent } from '../train/events.ts';
import type { Logger } from '../train/logger.ts';
import { shownPath } from '../io/fault.ts';
import { bar, bits, count, duration, fixed, sparkline } from '../base/format.ts';
import { isScreen, Screen } from './screen.ts';

export interface Reporter extends Logger {
  /** Prints a line that is not an event. */
  say(line: string): void;
  busy(what: string, share?: number): void;
  close(): void;
}

export function openReporter(json: boolean): Reporter {
  if (json) return new JsonReporter();
  return isScreen(process.stdout) ? new ScreenReporter(new Screen(process.stdout)) : new LineReporter();
}

/** Says nothing: of a rank that is not the first. */
export const silent: Reporter = {
  log: () => undefined,
  say: () => undefined,
  busy: () => undefined,
  close: () => undefined,
};

/** Writes only JSON to stdout, one object per line. */
class JsonReporter implements Reporter {
  log(event: TrainEvent): void {
    process.stdout.write(`${JSON.stringify(event)}\n`);
  }
  say(line: string): void {
    process.stderr.write(`dynamoe: ${line}\n`);
  }
  busy(): void {
    /* not an event */
  }
  close(): void {
    /* nothing is open */
  }
}

const started = ({
  parameters,
  device,
  out,
  resumed_from: from,
  steps,
  train_samples: train,
  validation_samples: held,
  unit,
}: StartEvent): string[] => [
  `${count(parameters)} parameters, ${device}`,
  `${count(train)} ${unit === 'tokens' ? 'windows' : 'samples'} to train on, ${count(held)} held out`,
  `${stepsText(from, steps)}, run folder ${shownPath(out)}`,
];

function stepsText(from: number, steps: number): string {
  if (from >= steps) return `all ${steps} steps are done already: --steps N continues to more`;
  return from > 0 ? `continues from step ${from} to ${steps}` : `${steps} steps`;
}
const metricsText = (metrics: Readonly<Record<string, number>> = {}): string =>
  Object.entries(metrics)
    .map(([name, value]) => `  ${name} ${fixed(value, 4)}`)
    .join('');

function evaluated({ step, val_loss: loss, metrics }: EvalEvent, unit: StartEvent['unit']): string {
  const perByte = unit === 'tokens' && loss !== null ? ` (${fixed(bits(loss))} bits per byte)` : '';
  return `step ${step}  validation loss ${fixed(loss, 4)}${perByte}${metricsText(metrics)}`;
}

/** One line about a decision: what changed, why, the effect, and the cost. */
export function recompiled(event: RecompileEvent): string {
  const { during, step, effect: from, rule, class: kind, reason, changes, kept, error } = event,
    unit = during === 'inference' ? 'run' : 'step';
  const what = changes.map((c) => `${c.path}.${c.knob}`).join(', '),
    since = kept && error === undefined ? `, from ${unit} ${from ?? step} on` : '';
  return (
    `recompile ${rule} at ${unit} ${step} (${effect(kind)}): ${what || 'nothing'}; ${reason}; ` +
    `${outcome(event)}${since}; ${price(event)}`
  );
}

const auxText = (aux: StepEvent['aux']): string => {
  // blocks.0.moe/balance, blocks.1.moe/balance, ... as one mean
  const byName = new Map<string, number[]>();
  for (const [path, value] of Object.entries(aux)) {
    const name = path.slice(path.lastIndexOf('/') + 1);
    byName.set(name, [...(byName.get(name) ?? []), value]);
  }
  return [...byName]
    .map(([name, values]) => `  ${name} ${fixed(values.reduce((a, b) => a + b, 0) / values.length, 2)}`)
    .join('');
};

class LineReporter implements Reporter {
  #start: StartEvent | undefined;

  log(event: TrainEvent): void {
    switch (event.event) {
      case 'start':
        this.#start = event;
        started(event).forEach((line) => {
          this.#line(line);
        });
        break;
      case 'step': {
        const steps = this.#start?.steps ?? 1,
          every = Math.ceil(steps / 100);
        if (event.step % every !== 0 && event.step !== (this.#start?.resumed_from ?? 0) + 1 && event.step !== steps)
          break;
        this.#line(
          `step ${event.step}/${steps}  loss ${fixed(event.loss, 4)}${auxText(event.aux)}  ` +
            `${count(event.tokens_per_s)} ${this.#start?.unit ?? 'tokens'}/s  ${event.ms.toFixed(1)} ms`,
        );
        break;
      }
      case 'eval':
        this.#line(evaluated(event, this.#start?.unit ?? 'tokens'));
        break;
      case 'recompile':
        this.#line(recompiled(event));
        break;
      case 'plan':
      case 'checkpoint':
      case 'stopped':
      case 'failed':
        break;
      case 'done':
        this.#line(`done in ${duration(event.seconds)}, checkpoint ${shownPath(event.checkpoint)}`);
        break;
    }
  }

  say(line: string): void {
    process.stderr.write(`dynamoe: ${line}\n`);
  }
  busy(): void {
    /* a pipe needs no progress */
  }
  close(): void {
    /* nothing is open */
  }
  #line(text: string): void {
    process.stdout.write(`${text}\n`);
  }
}

const FRAME_MS = 100;
const LAYERS_SHOWN = 12;

class ScreenReporter implements Reporter {
  readonly #screen: Screen;
  #start: StartEvent | undefined;
  #loss = 0;
  #rate = 0; // smoothed throughput
  #weight = 0; // total weight of the smoothed values so far
  #msPerStep = 0;
  #validation: number | null = null;
  readonly #loads = new Map<string, number[]>();
  #drawnAt = 0;

  constructor(screen: Screen) {
    this.#screen = screen;
  }

  log(event: TrainEvent): void {
    switch (event.event) {
      case 'start':
        this.#start = event;
        this.#screen.clear();
        started(event).forEach((line) => {
          this.#screen.print(line);
        });
        break;
      case 'step':
        this.#step(event);
        break;
      case 'eval':
        this.#validation = event.val_loss;
        this.#screen.print(evaluated(event, this.#start?.unit ?? 'tokens'));
        break;
      case 'recompile':
        this.#screen.print(recompiled(event));
        break;
      case 'plan':
      case 'checkpoint':
        break;
      case 'stopped':
      case 'failed':
        this.#screen.clear();
        break;
      case 'done':
        this.#screen.clear();
        this.#screen.print(`done in ${duration(event.seconds)}, checkpoint ${shownPath(event.checkpoint)}`);
        break;
    }
  }

  #step(event: StepEvent): void {
    const keep = 0.95;
    this.#weight = keep * this.#weight + (1 - keep);
    this.#loss = keep * this.#loss + (1 - keep) * event.loss;
    this.#rate = keep * this.#rate + (1 - keep) * event.tokens_per_s;
    this.#msPerStep = keep * this.#msPerStep + (1 - keep) * event.ms;
    for (const [layer, load] of Object.entries(event.load ?? {})) {
      const old = this.#loads.get(layer);
      this.#loads.set(layer, old ? load.map((n, i) => 0.8 * old[i] + 0.2 * n) : [...load]);
    }
    const now = performance.now(),
      last = event.step === this.#start?.steps;
    if (now - this.#drawnAt < FRAME_MS && !last) return;
    this.#drawnAt = now;
    this.#screen.draw([this.#progress(event.step), ...this.#experts()]);
  }

  #progress(step: number): string {
    const steps = this.#start?.steps ?? step,
      left = ((steps - step) * this.#msPerStep) / this.#weight / 1000;
    const val = this.#validation === null ? '' : `  val ${fixed(this.#validation)}`;
    const text =
      `loss ${fixed(this.#loss / this.#weight)}${val}  ${count(this.#rate / this.#weight)} ` +
      `${this.#start?.unit ?? 'tokens'}/s  ${duration(left)} left`;
    const head = `${String(step).padStart(String(steps).length)}/${steps} `;
    const room = this.#screen.columns - 3 - head.length - text.length - 2;
    return `${head}${room >= 8 ? `${bar(step / steps, Math.min(40, room))}  ` : ''}${text}`;
  }

  /** Sparklines of the expert loads of layers, as many per line as fit. */
  #experts(): string[] {
    const lines: string[] = [];
    let line = 'experts';
    for (const [name, load] of [...this.#loads].slice(0, LAYERS_SHOWN)) {
      const layer = /\d+/.exec(name)?.[0] ?? name,
        text = `  ${layer} ${sparkline(load)}`;
      if (line.length + text.length > this.#screen.columns - 1 && line.trim() !== 'experts') {
        lines.push(line);
        line = '       ';
      }
      line += text;
    }
    const more = this.#loads.size - LAYERS_SHOWN;
    return this.#loads.size > 0 ? [...lines, line, ...(more > 0 ? [`        and ${more} layers more`] : [])] : [];
  }

  busy(what: string, share?: number): void {
    const now = performance.now();
    if (now - this.#drawnAt < FRAME_MS && share !== undefined) return;
    this.#drawnAt = now;
    this.#screen.draw([
      share === undefined ? `${what} ...` : `${what} ${bar(share, 20)} ${Math.round(share * 100)}%`,
      ...this.#experts(),
    ]);
  }

  say(line: string): void {
    this.#screen.print(line);
  }
  close(): void {
    this.#screen.close();
  }
}
