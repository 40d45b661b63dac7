// Training: steps, validations and checkpoints in order, reported as events. In: an experiment and the path of a run
// folder; out: how the run ended. A run that is stopped or killed at any moment and started again with `resume` gives
// the same numbers as one without the break.
import { createRequire } from 'node:module';
import { basename, join } from 'node:path';
import { UserError } from '../base/errors.ts';
import type { Batch } from '../base/tensor.ts';
import { TextDataset, type TextBatchOptions } from '../data/text.ts';
import { windowsShape } from '../data/windows.ts';
import type { CheckpointContent } from '../io/checkpoint.ts';
import { loadCheckpoint } from '../io/checkpoint-file.ts';
import type { Json } from '../io/json.ts';
import type { Ranks } from '../device/ranks.ts';
import { openRun, refuseRun, type RunFolder } from '../io/run-folder.ts';
import type { DeviceName } from '../session/platform.ts';
import type { Session } from '../session/session.ts';
import { NonFiniteError, type StepResult } from '../session/step.ts';
import { agreedError } from '../session/ranks.ts';
import type { Configured } from './configure.ts';
import type { DoneEvent, PeakBytes, StepEvent } from './events.ts';
import type { TrainingData } from './experiment.ts';
import { finiteContent, firstNotFinite, NotFiniteError } from './finite.ts';
import { policiesFor } from '../recompile/policies/select.ts';
import type { RecompileEvent } from '../recompile/rule.ts';
import { Loggers, type Logger } from './logger.ts';
import { initialise } from './init.ts';
import { checkTraining, openSession } from './open.ts';
import { planEvent } from './plan-event.ts';
import { ConfigError } from './config-error.ts';
import {
  NO_PROGRESS,
  progressIn,
  snapshot,
  validatedIn,
  type DataMark,
  type LastValidation,
  type Progress,
} from './snapshot.ts';
import { RunRanks } from './ranks.ts';
import { checkResume, dataMark } from './resume.ts';
import { round, stepEvent } from './step-event.ts';
import { heldOut, validate } from './validate.ts';

export interface TrainOptions extends Configured {
  readonly out: string;
  readonly resume?: boolean;
  /** Gets every event, after the run's own log. */
  readonly loggers: readonly Logger[];
  /** Gets lines for the user that are no events. */
  readonly say: (line: string) => void;
  /** The device, in place of the one in the settings. */
  readonly device?: DeviceName;
  /** Called while something other than a step takes time. */
  readonly busy?: (what: string, share?: number) => void;
  /** Stops after the step that runs, and saves. */
  readonly stop?: AbortSignal;
  /** The processes that train together, of which this is one; null: it trains alone. */
  readonly ranks?: Ranks | null;
}

const SAVE_MS = 10_000; // least time between checkpoints, if no number of steps is set
const LOOK_MS = 2000; // least time between checks that the run folder still exists
const SAVE_SHARE = 50; // the time between checkpoints is at least this many times that of writing one

const SLOW_TENSORS = 2000; // number of parameter tensors above which compiling may take minutes

const { version } = createRequire(import.meta.url)('../../package.json') as { version: string };

export async function train(options: TrainOptions): Promise<DoneEvent | null> {
  const { experiment, out, resume = false, ranks = null } = options,
    together = new RunRanks(ranks, options.stop);
  const data = await together.agreed(async () => {
    await refuseRun(out, resume).catch((error: unknown) => {
      throw error instanceof UserError ? new ConfigError(error.message.split('\n')[0], error.hint, error) : error;
    });
    checkTraining(experiment, ranks);
    return experiment.data(options.say);
  });
  const earlyDecisions: RecompileEvent[] = []; // decisions before the log is open
  let onDecision = (event: RecompileEvent): void => {
    earlyDecisions.push(event);
  };
  const session = await openSession(experiment, {
    device: options.device ?? experiment.config.device,
    say: options.say,
    observe: true,
    ranks,
    events: (event) => {
      onDecision(event);
    },
  });
  try {
    for (const rule of policiesFor(experiment.model, experiment.config.recompile)) session.recompile(rule);
    for (const rule of experiment.rules) session.recompile(rule);
    await initialise(session, options, together);
    options.busy?.('compiling');
    const { size: tensors } = session.named.parameters;
    if (tensors > SLOW_TENSORS)
      options.say(`compiling a model of ${tensors} parameter tensors, which may take minutes`);
    const { batch: size, seed } = experiment.config;
    await session.prepare(await together.agreed(() => firstBatch(data, { size, seed, context: experiment.context })));
    const mark = await together.agreed(() => dataMark(data));
    together.same('the data', mark.fingerprint);
    const run = await together.openRun(() =>
      openRun(out, {
        resume,
        say: options.say,
        settings: JSON.parse(JSON.stringify(options.settings)) as Json,
        renew: true, // what a resumed run changed, such as its last step, holds when it is resumed again
        check: (checkpoint) => checkResume({ out, config: experiment.config }, checkpoint, mark),
      }),
    );
    try {
      const training = new Training(options, { session, data, mark, run, together });
      onDecision = (event) => {
        training.recompiled(event);
      };
      // A resumed run continues with its earlier plan, so decisions for the initial plan are not logged, only errors.
      return await training.run(resume ? earlyDecisions.filter((e) => e.error !== undefined) : earlyDecisions);
    } finally {
      await run.close();
    }
  } finally {
    await session.close();
  }
}

/**
 * The first batch, for which a step is compiled. For text, only a batch of that shape is made, so that a batch that is
 * too large is refused at once.
 */
async function firstBatch(data: TrainingData, options: TextBatchOptions): Promise<Batch> {
  const batches = data.batches(options);
  if (!(data instanceof TextDataset)) return batches.at(0);
  await batches.samples(); // throws if there is too little text, before anything is compiled
  return windowsShape(options.size, options.context);
}

interface Opened {
  readonly session: Session;
  readonly data: TrainingData;
  readonly mark: DataMark;
  readonly run: RunFolder;
  readonly together: RunRanks;
}

interface Saved {
  readonly path: string;
  readonly step: number;
}

class Training {
  readonly #options: TrainOptions;
  readonly #session: Session;
  readonly #data: TrainingData;
  readonly #run: RunFolder;
  readonly #loggers: Loggers;
  /** The first step of a plan whose event is not written yet. */
  #planFrom: number | null = null;
  readonly #began = performance.now();
  readonly #mark: DataMark;
  #validated: LastValidation | null = null;
  #progress: Progress = NO_PROGRESS;
  #saved: Saved | undefined;
  #lookedAt = performance.now();
  #savedAt = performance.now();
  #saveMs = 0;
  readonly #together: RunRanks;

  constructor(options: TrainOptions, { session, data, mark, run, together }: Opened) {
    this.#options = options;
    this.#session = session;
    this.#data = data;
    this.#mark = mark;
    this.#run = run;
    this.#together = together;
    this.#saved = run.checkpoint;
    this.#loggers = new Loggers(
      [...options.loggers, ...(together.leads ? options.experiment.loggers : [])],
      (event) => {
        run.append(event);
      },
      options.say,
    );
  }

  /** Handles a decision of the engine, which may come during a step or between two. */
  recompiled(event: RecompileEvent): void {
    this.#loggers.log(event);
    // While its time was measured, steps alternated with the old plan. From now on all steps use the new one.
    if (event.kept && event.effect !== null) this.#planFrom = event.ratio ? this.#session.steps + 1 : event.effect;
  }

  /** early: events of decisions before the log was open. Gives null if the run was stopped. */
  async run(early: readonly RecompileEvent[]): Promise<DoneEvent | null> {
    try {
      const done = await this.#train(early);
      await this.#loggers.finish(null);
      return done;
    } catch (error) {
      // Over ranks the others may wait for this one elsewhere: nothing more can be saved.
      if (!this.#together.ranks) await this.#rescue();
      await this.#loggers.fail(this.#session.steps, error instanceof Error ? error : new Error(String(error)));
      throw error;
    }
  }

  async #train(early: readonly RecompileEvent[]): Promise<DoneEvent | null> {
    const { config, context } = this.#options.experiment,
      together = this.#together;
    await this.#begin();
    for (const event of early) this.recompiled(event);
    const from = this.#session.steps,
      { batch: size, seed, steps } = config;
    await this.#validateIfDue();
    together.asksToStop();
    let mark = performance.now();
    for await (const batch of this.#data.batches({ size, seed, context, from, limit: Math.max(0, steps - from) })) {
      if (together.stopping || this.#hasStalled()) break;
      const result = await this.#step(batch),
        ms = performance.now() - mark,
        all = together.ranks && together.afterStep(ms, together.leads && (await this.#due()));
      this.#loggers.log({ ...this.#stepEvent(result, batch, ms), ...(all && { ranks: all.times }) });
      await this.#logPlan(batch);
      await this.#validateIfDue();
      if (all ? all.save : await this.#due()) await this.#save();
      mark = performance.now();
    }
    const { path: checkpoint } = await this.#save();
    const { validated } = this.#state(),
      { best } = this.#progress,
      stalled = this.#session.steps < steps && this.#hasStalled();
    if ((this.#session.steps < steps && !stalled) || validated?.step !== this.#session.steps) {
      this.#loggers.log({ event: 'stopped', step: this.#session.steps, checkpoint });
      return null;
    }
    const { val_loss, metrics } = validated;
    const done: DoneEvent = {
      event: 'done',
      step: this.#session.steps,
      val_loss,
      ...(metrics && { metrics }),
      ...(best && { best }),
      ...(stalled && { early: true }),
      checkpoint,
      seconds: round((performance.now() - this.#began) / 1000, 3),
      peak_bytes: together.largest(this.#peakBytes()),
    };
    this.#loggers.log(done);
    return done;
  }

  #state(): { readonly validated: LastValidation | null; readonly saved: Saved | undefined } {
    return { validated: this.#validated, saved: this.#saved };
  }

  async #begin(): Promise<void> {
    const {
      experiment: { config, context },
      settings,
      say,
      out,
    } = this.#options;
    this.#run.damaged.forEach((reason) => {
      say(`passed over a damaged checkpoint: ${reason}`);
    });
    const { checkpoint } = this.#run;
    if (checkpoint) {
      const opened = await this.#together.agreed(() => loadCheckpoint(checkpoint.path)),
        meta = await this.#session.restoreCheckpoint(opened);
      this.#validated = validatedIn(meta);
      this.#progress = progressIn(meta);
    }
    const { executor, named, steps } = this.#session,
      { ranks } = this.#together;
    this.#planFrom = steps + 1;
    await this.#loggers.init({ folder: out, settings, step: steps });
    this.#loggers.log({
      event: 'start',
      version,
      config,
      device: `${executor.description}${ranks ? `; ${ranks.description}` : ''}`,
      threads: executor.threads,
      parameters: [...named.parameters.values()].reduce((n, p) => n + p.size, 0),
      steps: config.steps,
      resumed_from: steps,
      out,
      unit: this.#data instanceof TextDataset ? 'tokens' : 'samples',
      train_samples: await this.#data.batches({ size: 1, context }).samples(),
      validation_samples: await heldOut(this.#data, context),
      ...(ranks && { ranks: ranks.size }),
    });
    // From now on the checkpoint that the run started from is not needed.
    if (config.init && !checkpoint) await this.#save();
  }

  async #step(batch: Batch): Promise<StepResult> {
    try {
      return await this.#session.step(batch);
    } catch (error) {
      if (!(error instanceof NonFiniteError)) throw error;
      const [message] = error.message.split('\n');
      throw agreedError(
        new UserError(
          `${message}; ${this.#session.steps === 0 ? 'no step was done before it' : await this.#lastGood()}`,
          error.hint,
          error,
        ),
      );
    }
  }

  /**
   * Writes a checkpoint if all values are finite. The loss of the last step does not tell: it was computed before the
   * step's update.
   */
  async #lastGood(): Promise<string> {
    const bad = await firstNotFinite(this.#snapshot(), this.#trained);
    return bad === null
      ? `the last good checkpoint is ${(await this.#save()).path} (step ${this.#session.steps})`
      : this.#unsaved(bad);
  }

  /** The error for values that are not saved. */
  #unsaved(bad: NotFiniteError): string {
    const step = this.#session.steps,
      saved = this.#saved && this.#saved.step < step ? this.#saved : undefined;
    const same = this.#saved?.step === step ? `, also in ${this.#saved.path}` : '';
    return (
      `after step ${step} ${bad.message}${same}; ` +
      `${saved ? `the last good checkpoint is ${saved.path} (step ${saved.step})` : 'there is no good checkpoint'}`
    );
  }

  /** Whether steps change the state, so that its values must be finite. */
  readonly #trained = (name: string): boolean =>
    name.startsWith('optim/') || this.#session.named.parameters.get(name)?.trained === true;

  #stepEvent(result: StepResult, { x }: Batch, ms: number): StepEvent {
    const count = this.#data instanceof TextDataset ? x.data.length : x.shape[0];
    return stepEvent(result, {
      ms,
      count,
      lr: this.#options.experiment.optimizer.rate?.(result.step - 1),
      rss: process.memoryUsage.rss(),
    });
  }

  /** Writes the event of a plan that has run its first step; its program is loaded. */
  async #logPlan(batch: Batch): Promise<void> {
    const from = this.#planFrom;
    if (from === null || this.#session.steps < from) return;
    this.#planFrom = null;
    this.#loggers.log(await planEvent(this.#session, await this.#session.prepare(batch), from));
  }

  async #validateIfDue(): Promise<void> {
    const { experiment, busy, say } = this.#options,
      together = this.#together,
      { steps, evalEvery = Math.max(100, Math.ceil(steps / 4)) } = experiment.config;
    const step = this.#session.steps,
      start = performance.now();
    const due = step > 0 && (step === steps || (evalEvery > 0 && step % evalEvery === 0));
    if (!due || this.#validated?.step === step || together.asksToStop()) return;
    const found = await validate(
      this.#session,
      experiment,
      this.#data,
      () => together.asksToStop(),
      (share) => busy?.('validating', share),
    );
    if (!found && together.stopping) return;
    if (!found) {
      if (step === steps) say('there is too little held-out data to validate on');
      this.#validated = { step, val_loss: null };
      return;
    }
    const val_loss = Number.isFinite(found.loss) ? found.loss : null;
    const metrics = Object.keys(found.metrics).length > 0 ? { metrics: found.metrics } : {};
    this.#validated = { step, val_loss, ...metrics };
    this.#loggers.log({ event: 'eval', step, val_loss, ...metrics, ms: round(performance.now() - start, 1) });
    await this.#compare(step, val_loss);
  }

  /** Whether a validation is the best so far, which is saved if `keep` says so. */
  async #compare(step: number, val_loss: number | null): Promise<void> {
    const { best, worse } = this.#progress,
      { keep, patience } = this.#options.experiment.config;
    if (val_loss !== null && (best === null || val_loss < best.val_loss)) {
      this.#progress = { best: { step, val_loss }, worse: 0 };
      if (keep === 'best,last') await this.#write('saveBest');
      return;
    }
    this.#progress = { best, worse: worse + 1 };
    if (this.#hasStalled())
      this.#options.say(
        `no validation was better than that of step ${best?.step ?? 0} (${best?.val_loss.toFixed(4) ?? 'none'}) in ` +
          `${patience} validations: the run ends (patience ${patience})`,
      );
  }

  /** Whether validations have not improved for so long that the run ends. */
  #hasStalled(): boolean {
    const { patience } = this.#options.experiment.config;
    return patience !== undefined && this.#progress.worse >= patience;
  }

  async #due(): Promise<boolean> {
    return this.#saveDue() || this.#folderLost();
  }

  #saveDue(): boolean {
    const { saveEvery } = this.#options.experiment.config;
    if (saveEvery !== undefined) return saveEvery > 0 && this.#session.steps % saveEvery === 0;
    return performance.now() - this.#savedAt > Math.max(SAVE_MS, SAVE_SHARE * this.#saveMs);
  }

  /** Whether the folder of checkpoints is gone, checked every LOOK_MS; then a checkpoint is written at once. */
  async #folderLost(): Promise<boolean> {
    if (performance.now() - this.#lookedAt < LOOK_MS) return false;
    this.#lookedAt = performance.now();
    return this.#saved !== undefined && this.#keep();
  }

  async #keep(): Promise<boolean> {
    const lost = await this.#run.keep();
    if (this.#saved)
      this.#saved = lost ? undefined : { ...this.#saved, path: join(this.#run.path, basename(this.#saved.path)) };
    return lost;
  }

  /** Called for an error from outside of steps, such as the log: saves steps that are not saved yet. */
  async #rescue(): Promise<void> {
    const step = this.#session.steps;
    if (step === 0 || this.#saved?.step === step) return;
    try {
      await this.#save();
    } catch {
      /* only the first error is reported */
    }
    const { saved } = this.#state();
    if (saved?.step === step) this.#options.say(`step ${step} is saved: ${saved.path}`);
  }

  async #save(): Promise<Saved> {
    const step = this.#session.steps,
      start = performance.now();
    const together = this.#together;
    await together.agreed(() => this.#keep());
    if (together.decided(this.#saved?.step === step)) return this.#saved ?? { path: this.#run.path, step };
    this.#saved = { path: await this.#write('save'), step };
    this.#savedAt = performance.now();
    this.#saveMs = this.#savedAt - start;
    return this.#saved;
  }

  /** Writes a checkpoint, and its event. Returns its path. */
  async #write(as: 'save' | 'saveBest'): Promise<string> {
    const step = this.#session.steps,
      start = performance.now();
    this.#loggers.flush();
    const content = finiteContent(this.#snapshot(), this.#trained);
    const checkpoint = await this.#together.save(this.#run, content, as).catch((error: unknown) => {
      if (!(error instanceof NotFiniteError)) throw error;
      throw agreedError(new UserError(this.#unsaved(error), 'lower the learning rate, or clip gradients', error));
    });
    const best = as === 'saveBest' && { best: true as const };
    this.#loggers.log({ event: 'checkpoint', step, checkpoint, ...best, ms: round(performance.now() - start, 1) });
    return checkpoint;
  }

  #snapshot(): CheckpointContent {
    return snapshot(this.#session, {
      settings: this.#options.settings,
      data: this.#mark,
      validated: this.#validated,
      progress: this.#progress,
    });
  }

  #peakBytes(): PeakBytes {
    return { ...this.#session.bytes(), rss: process.resourceUsage().maxRSS * 1024 };
  }
}
