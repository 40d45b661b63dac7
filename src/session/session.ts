// A Session: a model with its values on a device. It compiles a program for each shape of batch when it first meets
// one, and it trains, evaluates, predicts and saves.
import { checkBatch, type Batch, type HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import type { Rule } from '../recompile/rule.ts';
import type { Caches, Runnable } from '../run/executor.ts';
import type { Reference } from '../run/reference.ts';
import { Knobs, SESSION, type Settings } from '../trace/knobs.ts';
import { nameParameters, type Named } from '../trace/module.ts';
import { PublicState } from '../trace/public-state.ts';
import type { Trace } from '../trace/trace.ts';
import type { Checkpoint, CheckpointMeta } from '../io/checkpoint.ts';
import type { Assignments } from '../nn/moe/memory.ts';
import { readAssignments } from './assignments.ts';
import type { Backend } from './backend.ts';
import { Batching } from './batching.ts';
import { Copies, type Loan } from './copies.ts';
import type { Source } from './graphs.ts';
import { Inference } from './inference.ts';
import { batchesOf, meanOverBatches } from './means.ts';
import type { Evaluation, KnownShares, Measured } from './means.ts';
import type { Lazy } from '../base/lazy.ts';
import type { Checkpoints, Recompilers, Rounding } from './needs.ts';
import { Order } from './order.ts';
import { rounds } from './precision.ts';
import { Programs } from './programs.ts';
import { Recompiling, type PlanState } from './recompiling.ts';
import { StepParts } from './parts.ts';
import { TrainingMemory } from './room.ts';
import { RowPrograms } from './rows.ts';
import { States, type StateView, type Value } from './states.ts';
import {
  splitStats,
  checkFinite,
  closedError,
  resultOf,
  type RanPart,
  type CompileOptions,
  type Model,
  type Phase,
  type StepResult,
} from './step.ts';
import { clearStates, type Resumed } from './values.ts';
import { Saving, type Progress } from './saving.ts';
import { Updating, type UpdatingState } from './updating.ts';
import { isSum, type Inputs, type Outputs, type Part } from './watch.ts';

export type { PlanState };

/** What a session may load (extras.ts); what rounds its graphs is there, if its precision is not float32. */
export type Extras = Recompilers & Checkpoints & Reference & Lazy<Rounding>;

/**
 * A model with its values on a device. Calls need not be awaited: they run one at a time in the order in which they
 * were made. Arrays passed to a call may be refilled as soon as it has returned.
 */
export class Session {
  readonly #source: Source;
  readonly #options: CompileOptions;
  readonly #batching: Batching;
  readonly #backend: Backend;
  readonly #programs: Programs;
  readonly #knobs: Knobs;
  readonly #progress: Progress;
  readonly #inference: Inference;
  readonly #saving: Saving;
  readonly #updating: Updating;
  readonly #parts: StepParts;
  readonly #room: TrainingMemory;
  readonly #recompiling: Recompiling;
  readonly #states: States;
  readonly #order = new Order();
  readonly #copies = new Copies();
  #closed: Promise<void> | null = null;
  /** Whether the executor is closed: `close` was called and all calls before it are done. */ #executorClosed = false;

  constructor(model: Model, given: CompileOptions, backend: Backend, extras: Extras) {
    const named = nameParameters(model),
      options = (this.#options = Object.freeze({ ...given })),
      { accumulate = 1, split = 1, optimizer } = options;
    this.#backend = backend;
    const batching = (this.#batching = new Batching({ accumulate, split, eager: optimizer?.eager === true }));
    const knobs = (this.#knobs = new Knobs(named, new Map([[batching, SESSION]]))),
      updating = (this.#updating = new Updating(named, optimizer, knobs));
    const state = new PublicState(model, named, { optimizer }),
      rounding = rounds(options.precision) ? extras.here : null;
    if (rounds(options.precision) && !rounding) throw new Error('what rounds graphs is not loaded');
    this.#source = { model, named, options, knobs, updating, state, rounding };
    this.#progress = { steps: 0, seed: options.seed ?? 0 };
    const rows = new RowPrograms(model, knobs, (line) => {
      (options.say ?? console.warn)(line);
    });
    this.#parts = new StepParts(this.#source, batching, rows, () => this.#observed, extras);
    this.#room = new TrainingMemory(named, options, updating, backend);
    this.#states = new States(
      named,
      backend.executor,
      () => this.#progress.seed,
      options.precision,
      backend.group?.placement ?? null,
    );
    const programs = (this.#programs = new Programs(backend, this.#source, this.#states)),
      watched = { model, named, batching, knobs, programs, executor: backend.executor, updating, group: backend.group };
    this.#recompiling = new Recompiling(
      watched,
      () => this.#progress.steps,
      () => this.#inference.runs,
      { ...options, ...(backend.group && { agreement: backend.group.agreement }) },
      extras,
    );
    this.#inference = new Inference({
      source: this.#source,
      options,
      rows,
      copies: this.#copies,
      order: this.#order,
      recompiling: this.#recompiling,
      counters: () => this.#counters(),
    });
    this.#saving = new Saving({
      session: this,
      backend,
      order: this.#order,
      progress: this.#progress,
      states: this.#states,
      updating,
      recompiling: this.#recompiling,
      checkpoints: extras,
    });
  }

  get model(): Model {
    return this.#source.model;
  }
  /** Names of the model's parameters, and paths of its modules. */
  get named(): Named {
    return this.#source.named;
  }
  /** The options of `compile`: a frozen copy. */
  get options(): CompileOptions {
    return this.#options;
  }
  /** `batching.split` may be set between steps. `settings('@session')` shows the value that a rule has set. */
  get batching(): Batching {
    return this.#batching;
  }
  /** Number of steps committed so far. */
  get steps(): number {
    return this.#progress.steps;
  }
  get executor(): Backend['executor'] {
    return this.#backend.executor;
  }
  get seed(): number {
    return this.#progress.seed;
  }
  get #observed(): boolean {
    return this.#recompiling.training.engine !== null || this.options.observe === true;
  }

  /** One optimiser step. Throws NonFiniteError, having changed nothing, if the loss or a gradient is not finite. */
  async step(batch: Batch): Promise<StepResult> {
    this.#check(batch);
    return this.#copies.ofBatch(batch, (own, loan) => this.#order.run(() => this.#step(own, loan), { writes: true }));
  }

  async #step(batch: Batch, loan: Loan): Promise<StepResult> {
    let result: StepResult | undefined;
    const known: KnownShares = new Map();
    const several = this.#parts.count(batch) > 1;
    this.#room.check(several);
    if (several && !this.#parts.reference.here) await this.#parts.reference.load();
    const check = (...part: RanPart): Promise<never> | null =>
      checkFinite(this.executor, this.#progress.steps + 1, part);
    const work = {
      shape: this.#parts.shape(batch),
      programs: () => this.#parts.programs(batch),
      parts: (): Part[] =>
        this.#parts.of(batch, { steps: this.#progress.steps, inputs: (part) => this.#inputs(part), known, loan }),
    };
    try {
      await this.#recompiling.training.run(work, check, (outputs, [{ frozen }]) => {
        const stats = outputs.map((out) => splitStats(out).stats);
        result = resultOf(++this.#progress.steps, outputs, stats);
        if (frozen) this.#updating.countStep(frozen);
        return { ...result, parts: stats, ...(batch.ids && { ids: batch.ids }) };
      });
    } catch (error) {
      // Discards the gradients that earlier micro-batches of the failed step have accumulated.
      try {
        clearStates(this.executor, isSum);
      } catch {
        /* the device is lost; `error` says why */
      }
      throw error;
    }
    return result as StepResult;
  }

  #check(batch: Batch): void {
    if (this.#closed) throw closedError();
    checkBatch(batch);
  }

  /**
   * Adds a rule that recompiles the run. Between steps, `rule.trigger` decides whether to act, and `rule.alter` sets
   * knobs of a draft of the model. The new plan is compiled while steps continue with the old one, verified on a real
   * batch, put into force between two steps, and measured. Every decision is reported to `events` of CompileOptions.
   * during 'inference': the rule acts between calls of forward, predict, evaluate and generate, and only changes that
   * keep results identical are made. The rule acts from the next call of a step on; its settings are read now. A rule
   * that throws does not fail the step: `say` is called once, `events` each time. Throws UserError for a second rule
   * of the same name, and for unknown or invalid settings.
   */
  recompile<M extends object = Model>(rule: Rule<M>, during: 'training' | 'inference' = 'training'): void {
    const own = this.#recompiling.admit(rule, during);
    const { part } = this.#recompiling,
      added = this.#order.change(() => {
        this.#recompiling.add(own, during);
      }, part);
    if (!part.here)
      added.catch((error: unknown) => {
        this.#recompiling.notAdded(own, error);
      });
  }

  /**
   * The knobs of the module at `path` ('blocks.0.moe'; '' for the model, '@session' for the session) as steps use
   * them: what rules of this session have set, otherwise what the user wrote on the module. Throws UserError for a
   * path without knobs.
   */
  settings(path: string): Settings {
    return this.#knobs.settings(path);
  }

  /**
   * Writes the settings of this session onto the modules, in the order of calls. They then hold for every session of
   * the model.
   */
  keepSettings(): Promise<void> {
    return this.#order.change(() => {
      this.#knobs.keep();
    });
  }

  /**
   * Knobs, memory of rules and decisions as plain JSON. Checkpoints store it, so that a resumed run makes the same
   * decisions.
   */
  plan(): PlanState {
    return this.#recompiling.plan();
  }

  /**
   * Restores a result of `plan`, in the order of calls; if the session is idle, before this returns. what
   * 'parameters': restores the knobs only. The caller adds the rules again, under the same names. Throws UserError,
   * with nothing changed, for settings that the model refuses.
   */
  restorePlan(plan: PlanState, what: 'all' | 'parameters' = 'all'): Promise<void> {
    return this.#order.change(
      () => {
        this.#recompiling.restore(plan, what);
      },
      this.#recompiling.needs(plan, what),
    );
  }

  /**
   * Mean loss over batches, weighted by what the loss counts in each batch, or by samples if it declares no counts.
   * Dropout is off and nothing is stored. count: what was counted; throws UserError if that is 0. A list of batches is
   * copied when `evaluate` is called. Batches of an iterator are copied when they come, so an array may be refilled
   * once the next batch is requested. Steps that are called meanwhile wait until the evaluation ends, so the iterator
   * must not wait for them or for later calls.
   */
  async evaluate(
    batches: AsyncIterable<Batch> | readonly Batch[],
    progress?: (samples: number) => void,
  ): Promise<Evaluation> {
    const own = batchesOf(batches, checkBatch);
    return this.#order.read(() => meanOverBatches(own, (batch) => this.#inference.measure(batch, true), progress));
  }

  /** Loss and model output for one batch, dropout off: { loss: [], output: [batch, ...] }. */
  async forward(batch: Batch): Promise<Outputs> {
    return (await this.measure(batch)).outputs;
  }

  /** The same, with the terms and counts of the loss, from which `MeanLoss` joins batches. */
  async measure(batch: Batch): Promise<Measured> {
    if (this.#closed) throw closedError();
    return this.#inference.measure(batch);
  }

  /** The model's output for an input, dropout off. */
  async predict(x: HostTensor): Promise<HostTensor> {
    this.#check({ x, y: x });
    return this.#inference.predict(x);
  }

  /**
   * Compiles the programs of a step for batches of this shape without running them. Returns the program that updates.
   */
  async prepare(batch: Batch): Promise<Runnable> {
    this.#check(batch);
    return this.#order.run(
      async () => {
        this.#room.check(this.#parts.count(batch) > 1);
        this.#recompiling.training.before(this.#parts.shape(batch), () => this.#parts.programs(batch));
        const all = new Map(this.#parts.programs(batch).map((part) => [part.family, part]));
        let last: Runnable | undefined;
        for (const { family, graph } of all.values()) last = await this.#programs.get(family, graph);
        return last as Runnable;
      },
      { writes: true }, // a rule may change settings
    );
  }

  /**
   * Runs a graph of the caller's own over this session's states, for generation or probes. Compiled once per key.
   * caches: those of one sequence (`openCaches`); by default all runs share one cache of each name.
   */
  runGraph(key: string, build: (t: Trace) => void, inputs: Inputs, caches?: Caches): Promise<Outputs> {
    return this.#inference.runGraph(key, build, inputs, caches);
  }

  /**
   * Opens caches of keys and values for one sequence, so that several sequences can be generated at once. They take
   * memory from their first run until they are closed.
   */
  openCaches(): Caches {
    if (this.#closed) throw closedError();
    return this.executor.openCaches();
  }

  /** The complete graph of a training step. phase: for one of `batches` micro-batches. */
  trainGraph(batch: Batch, phase?: Phase, batches = this.options.accumulate ?? 1): Graph {
    return this.#parts.graph(batch, phase, batches);
  }

  /** The graph of a forward pass with the loss. */
  evaluationGraph(batch: Batch): Graph {
    return this.#inference.evaluationGraph(batch);
  }

  /** Bytes of the largest program's arena, of the parameters, and of the optimiser's state. */
  bytes(): { readonly arena: number; readonly params: number; readonly optimiser: number } {
    this.states();
    return {
      arena: this.#programs.arena,
      params: this.#states.bytes((name) => this.named.parameters.has(name)),
      optimiser: this.#states.bytes((name) => name.startsWith('optim/')),
    };
  }

  #inputs({ x, y, ids }: Batch): Inputs {
    return { ...this.#counters(), x: x.data, y: y.data, ...(ids && { ids }) };
  }

  #counters(): Inputs {
    return { seed: Uint32Array.of(this.#progress.seed), step: Uint32Array.of(this.#progress.steps) };
  }

  /**
   * All states: parameters and optimiser moments. Creates the parameters if nothing has run yet. `read` and
   * `readAsync` give a state's value; during a step they fail with a UserError, because some values are already updated
   * and some are not: await the step, or use `serialize`, which waits.
   */
  states(): StateView[] {
    if (this.#executorClosed) throw closedError();
    return this.#states.all(() => this.#recompiling.training.moving);
  }

  /**
   * Sets values by name and the number of committed steps, in the order of calls; if the session is idle, before this
   * returns. whole: what else a checkpoint with all values holds. Moments without a value start from 0. Throws
   * UserError, with nothing changed, for names and shapes that the model does not have.
   */
  restore(step: number, values: Iterable<Value>, whole?: Resumed): Promise<void> {
    return this.#saving.restore(step, values, whole);
  }

  /**
   * Sets values, steps and plan from an open checkpoint, in the order of calls, and closes it. what: 'all' to continue
   * training, 'parameters' to use the model only. Returns the checkpoint's metadata. Rejects with a UserError, with
   * nothing changed, if the checkpoint does not fit the model.
   */
  restoreCheckpoint(checkpoint: Checkpoint, what: 'all' | 'parameters' = 'all'): Promise<CheckpointMeta> {
    return this.#saving.restoreCheckpoint(checkpoint, what);
  }

  /** The optimiser state that a checkpoint holds besides moments. */
  updating(): UpdatingState {
    return this.#updating.state();
  }

  /**
   * Writes parameters, optimiser state and the number of steps to a safetensors file, atomically. Steps that were
   * called before are included; later ones wait.
   */
  save(path: string): Promise<void> {
    return this.#saving.save(path);
  }

  /**
   * Continues from a file that `save` or `dynamoe train` wrote for the same model, with its seed: the next step has the
   * bits that it would have had in that run. `say` receives a line if the optimiser, its settings or its groups differ.
   */
  load(path: string): Promise<void> {
    return this.#saving.load(path);
  }

  /** The bytes that `save` writes, for platforms without files: to store in IndexedDB, to send or to download. */
  serialize(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#saving.serialize();
  }

  /** Continues from the bytes of a checkpoint, as `load` does from a file. */
  deserialize(bytes: Uint8Array): Promise<void> {
    return this.#saving.deserialize(bytes);
  }

  /**
   * The choices of experts that the MoE layer at `path` remembers for each sample, after all earlier calls; null while
   * its `routing` is 'live'.
   */
  assignments(path: string): Promise<Assignments | null> {
    return this.#order.run(() => readAssignments(this.#knobs, this.executor, path));
  }

  /**
   * Waits for all earlier calls, then frees memory and threads. Later calls are refused; closing again does nothing.
   */
  close(): Promise<void> {
    this.#closed ??= this.#order.close(async () => {
      this.#recompiling.close();
      await this.executor.idle(); // calls made on the executor directly, such as a profile
      this.#executorClosed = true;
      await this.executor.close();
    });
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
