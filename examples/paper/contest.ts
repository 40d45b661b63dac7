// Runs all rows of one table with one seed, in turns. In: a workload, rows, a seed. Out: how fast each row trained, and
// how well.
//
// In each turn, every row steps until its own clock reaches the same mark, the default row first. The distance between
// marks is the usual time of some steps of the default row. So other work on the machine affects all rows alike. (Turns
// with equal numbers of steps would not do: a row that is delayed in its turn would be judged by its slowest moments, a
// row with equal time by its average.) When the default has done its steps, all rows run until their clocks reach the
// default's clock. They have then had the same time T, and their quality at equal time is measured. Rows that have done
// fewer steps then continue to the same number of steps. The clock counts the time of `step`, including the cost of
// recompilations. It does not count compiling before the first step, making batches, and evaluation.
import { compile, metrics, UserError, type Batch, type DeviceName, type Session } from 'dynamoe';
import type { RecompileEvent } from 'dynamoe/recompile';
import type { LayerSettings } from './models.ts';
import { DEFAULT, DROPLESS, type Row } from './rows.ts';
import type { Source } from './sources.ts';
import type { Workload } from './workloads.ts';

/**
 * Quality on held-out data, with the layer in its current state: it drops choices as in training. `undropped` is the
 * loss of the same parameters if every choice is computed.
 */
export interface Quality {
  readonly steps: number;
  readonly loss: number;
  readonly undropped: number;
  readonly accuracy: number | null;
}

export interface Result {
  readonly row: string;
  readonly seed: number;
  /** Units (samples, tokens) per second, over T. */
  readonly rate: number;
  /** T in milliseconds, to the precision of a step. */
  readonly ms: number;
  /** Share of all choices in the first `steps` steps that no expert computed. */
  readonly dropped: number;
  /** Bytes that stay in memory between steps: parameters, optimiser state, caches. */
  readonly stateBytes: number;
  /**
   * Bytes planned for a training step in addition (intermediate values, inputs and outputs, constants): the maximum,
   * and the value of the last plan.
   */
  readonly planBytes: { readonly most: number; readonly last: number };
  readonly equalSteps: Quality;
  readonly equalTime: Quality;
  /** Events of the row's rules, including changes that were not kept. */
  readonly decisions: readonly RecompileEvent[];
}

/** The reason why a row could not be run to its end. */
export interface Failure {
  readonly row: string;
  readonly seed: number;
  readonly error: string;
}

export interface ContestOptions {
  readonly workload: Workload;
  readonly rows: readonly Row[];
  readonly source: Source;
  readonly seed: number;
  readonly steps: number;
  readonly rate: number;
  /** Milliseconds between two marks of the clocks. */
  readonly turnMs: number;
  readonly device: DeviceName;
  readonly threads?: number;
  readonly stop: AbortSignal;
  /** Called with the share of the work that is done. */
  progress(share: number): void;
}

/** Returns null if it was stopped. */
export async function contest(options: ContestOptions): Promise<(Result | Failure)[] | null> {
  const { workload, rows, steps, turnMs, stop, progress } = options,
    failures: Failure[] = [];
  let running: Contestant[] = [];
  /** An error in a row ends only that row. */
  const each = async (work: (c: Contestant) => Promise<void>, list: readonly Contestant[]): Promise<void> => {
    for (const c of list) {
      if (stop.aborted || !running.includes(c)) continue;
      try {
        await work(c);
      } catch (error) {
        if (!(error instanceof UserError)) throw error;
        failures.push({ row: c.row.name, seed: options.seed, error: error.message });
        running = running.filter((other) => other !== c);
        await c.close();
      }
    }
  };
  try {
    running = rows.map((row) => new Contestant(row, options));
    const all = running,
      lead = all.find(({ row }) => row.name === DEFAULT);
    if (!lead) throw new Error('a contest needs the default row');
    await each((c) => c.open(), all);
    if (!running.includes(lead)) return failures;
    for (let turn = 0; lead.steps < steps && !stop.aborted; turn++) {
      const mark = (turn + 1) * turnMs;
      await each((c) => c.until(mark, steps), [lead]);
      if (!running.includes(lead)) return failures;
      const others = running.filter((c) => c !== lead),
        first = turn % Math.max(1, others.length),
        end = lead.steps === steps ? lead.ms : mark;
      await each((c) => c.until(end), [...others.slice(first), ...others.slice(0, first)]);
      progress((0.9 * lead.steps) / steps);
    }
    await each((c) => c.endOfTime(), all);
    const slow = (): Contestant[] => running.filter((c) => c.steps < steps);
    for (let left = slow(), most = left.length; left.length > 0 && !stop.aborted; left = slow()) {
      await each((c) => c.run(Math.min(workload.slice, steps - c.steps)), left);
      progress(0.9 + 0.1 * (1 - left.length / most));
    }
    if (stop.aborted) return null;
    const order = rows.map(({ name }) => name);
    return [...running.map((c) => c.result()), ...failures].sort((a, b) => order.indexOf(a.row) - order.indexOf(b.row));
  } finally {
    for (const c of running) await c.close();
  }
}

/** A session for the options of a contest. Without an optimizer, it only evaluates. */
function opened(
  { workload, seed, device, threads }: Pick<ContestOptions, 'workload' | 'seed' | 'device' | 'threads'>,
  layer: LayerSettings,
  optimizer?: ReturnType<Workload['optimizer']>,
  events?: (event: RecompileEvent) => void,
): Promise<Session> {
  return compile(workload.model(layer), {
    loss: workload.loss,
    ...(optimizer && { optimizer }),
    seed,
    device,
    ...(threads !== undefined && { threads }),
    ...(events && { events }),
    say: () => undefined,
  });
}

const total = (list: Iterable<number | bigint>): number => {
  let n = 0;
  for (const v of list) n += Number(v);
  return n;
};

/** One row: a session that trains, its clock, and its results. */
class Contestant {
  readonly row: Row;
  readonly #options: ContestOptions;
  readonly #events: RecompileEvent[] = [];
  #session: Session | null = null;
  steps = 0;
  ms = 0;
  #planned = 0;
  #choices = 0;
  #dropped = 0;
  #time = { ms: NaN, rate: NaN };
  #equalSteps: Quality | null = null;
  #equalTime: Quality | null = null;

  constructor(row: Row, options: ContestOptions) {
    this.row = row;
    this.#options = options;
  }

  async open(): Promise<void> {
    const { workload, source, seed, steps, rate } = this.#options,
      { experts, recurs } = workload,
      session = (this.#session = await opened(this.#options, this.row.layer, workload.optimizer(rate), (event) => {
        this.#events.push(event);
      }));
    for (const rule of this.row.rules({ experts, recurs, steps })) session.recompile(rule);
    const { bytes } = await session.prepare(await source.batch(seed, 0));
    this.#planned = bytes.arena + bytes.io + bytes.constants;
    workload.begin?.(session);
  }

  get #open(): Session {
    if (!this.#session) throw new Error(`${this.row.name} is not open`);
    return this.#session;
  }

  async run(steps: number): Promise<void> {
    for (let i = 0; i < steps && !this.#options.stop.aborted; i++) await this.#step();
  }
  /** Runs steps until the given milliseconds are used up or the given number of steps is done. */
  async until(ms: number, steps = Infinity): Promise<void> {
    while (this.ms < ms && this.steps < steps && !this.#options.stop.aborted) await this.#step();
  }

  async #step(): Promise<void> {
    const { source, seed, steps } = this.#options,
      batch = await source.batch(seed, this.steps),
      start = performance.now(),
      { stats } = await this.#open.step(batch);
    this.ms += performance.now() - start;
    if (this.steps < steps) {
      for (const [name, { data }] of Object.entries(stats)) {
        if (name.endsWith('/load')) {
          this.#choices += total(data);
        }
        if (name.endsWith('/dropped')) this.#dropped += total(data);
      }
    }
    this.steps++;
    if (this.steps === steps) this.#equalSteps = await this.#evaluate();
  }

  /** All rows have had the same time: measures quality and speed at equal time. */
  async endOfTime(): Promise<void> {
    const { steps, workload } = this.#options;
    this.#time = { ms: this.ms, rate: (1000 * this.steps * workload.units) / this.ms };
    this.#equalTime = this.steps === steps && this.#equalSteps ? this.#equalSteps : await this.#evaluate();
  }

  async #evaluate(): Promise<Quality> {
    const { workload } = this.#options,
      { loss, accuracy } = await this.#held(this.#open);
    return {
      steps: this.steps,
      loss,
      undropped: await this.#undropped(loss),
      accuracy: workload.accuracy ? accuracy : null,
    };
  }

  /**
   * The loss of the row's parameters in a session that computes every choice. The row's own session keeps its settings:
   * a setting that is written to the model would replace what the row's rules have set.
   */
  async #undropped(loss: number): Promise<number> {
    const from = this.#open;
    if (this.row.layer === DROPLESS) return loss;
    const session = await opened(this.#options, DROPLESS);
    try {
      for (const { name, dtype, shape } of session.states())
        session.executor.setState(name, { dtype, shape }, (await from.executor.getState(name)).data);
      return (await this.#held(session)).loss;
    } finally {
      await session.close();
    }
  }

  async #held(session: Session): Promise<{ readonly loss: number; readonly accuracy: number }> {
    const {
      source: { held },
      workload,
    } = this.#options;
    let loss = 0,
      right = 0;
    for (const batch of held) {
      const out = await session.forward(batch);
      loss += Number(out['loss'].data[0]) / held.length;
      if (workload.accuracy) right += metrics.accuracy(out['output'], batch) / held.length;
    }
    return { loss, accuracy: right };
  }

  result(): Result {
    if (!this.#equalSteps || !this.#equalTime) throw new Error(`${this.row.name} is not at its end`);
    const planned = [this.#planned, ...this.#events.filter((e) => e.kept).map((e) => e.after.bytes)];
    return {
      row: this.row.name,
      seed: this.#options.seed,
      ...this.#time,
      dropped: this.#dropped / this.#choices,
      stateBytes: this.#open.executor.stateBytes(),
      planBytes: { most: Math.max(...planned), last: planned[planned.length - 1] },
      equalSteps: this.#equalSteps,
      equalTime: this.#equalTime,
      decisions: this.#events,
    };
  }

  async close(): Promise<void> {
    await this.#session?.close();
    this.#session = null;
  }
}

/** Milliseconds of a step of the default row, and of opening it, to estimate the time of a run. */
export async function trial(
  options: Omit<ContestOptions, 'progress' | 'turnMs'>,
): Promise<{ readonly openMs: number; readonly stepMs: number; readonly evaluateMs: number }> {
  const row = options.rows.find(({ name }) => name === DEFAULT);
  if (!row) throw new Error('a trial needs the default row');
  const { workload, source, seed, rate } = options,
    WARM = 3,
    STEPS = 8,
    batches: Batch[] = [];
  for (let i = 0; i < WARM + STEPS; i++) batches.push(await source.batch(seed, i));
  const open = async (): Promise<Session> => {
    const session = await opened(options, row.layer, workload.optimizer(rate));
    await session.prepare(batches[0]);
    return session;
  };
  await (await open()).close(); // kernels that no run has compiled yet take seconds, once
  const before = performance.now(),
    session = await open();
  try {
    const openMs = performance.now() - before,
      ms: number[] = [];
    for (const batch of batches) {
      const start = performance.now();
      await session.step(batch);
      ms.push(performance.now() - start);
    }
    await session.forward(source.held[0]);
    const start = performance.now();
    await session.forward(source.held[0]);
    return {
      openMs,
      stepMs: ms.slice(WARM).sort((a, b) => a - b)[STEPS >> 1],
      evaluateMs: (performance.now() - start) * source.held.length,
    };
  } finally {
    await session.close();
  }
}
