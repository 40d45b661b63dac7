// A Session: a model with its values on a device. It traces and compiles a program for each shape of batch it meets,
// steps, evaluates, predicts and saves.
import { UserError } from '../base/errors.ts';
import { checkBatch, type Batch, type HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import type { Rule } from '../recompile/rule.ts';
import type { Caches, Runnable } from '../run/executor.ts';
import { Knobs, SESSION, type Settings } from '../trace/knobs.ts';
import { nameParameters, type Named } from '../trace/module.ts';
import { PublicState } from '../trace/public-state.ts';
import type { Trace } from '../trace/trace.ts';
import {
  checkpointBytes,
  decodeCheckpoint,
  type Checkpoint,
  type CheckpointContent,
  type CheckpointMeta,
} from '../io/checkpoint.ts';
import type { Assignments } from '../nn/moe/memory.ts';
import { readAssignments } from './assignments.ts';
import type { Backend } from './backend.ts';
import { Batching } from './batching.ts';
import { Copies, type Loan } from './copies.ts';
import { lossGraph, outputOf, sessionGraph, type Source } from './graphs.ts';
import { batchesOf, meanOverBatches, measured } from './means.ts';
import type { Evaluation, KnownShares, Measured } from './means.ts';
import { Order } from './order.ts';
import { Programs } from './programs.ts';
import { Recompiling, type PlanState } from './recompiling.ts';
import { StepParts } from './parts.ts';
import { RoomToTrain } from './room.ts';
import { States, type StateView } from './states.ts';
import {
  apart,
  checkFinite,
  closedError,
  familyOf,
  phaseOf,
  resultOf,
  type Ran,
  type CompileOptions,
  type Model,
  type Phase,
  type StepResult,
} from './step.ts';
import { checkValues, clearStates, contentOf, restoreFrom, takeUp, type Resumed, type Value } from './checkpoint.ts';
import { Updating, type UpdatingState } from './updating.ts';
import { isSum, type Inputs, type Outputs, type Part } from './watch.ts';
import type { Files } from './platform.ts';

export type { PlanState };

/**
 * A model with its values on a device. Calls need not be awaited: each has the session to itself, in the order in which
 * they came, and arrays that it was given may be filled again once it has returned.
 */
export class Session {
  readonly #source: Source;
  readonly #options: CompileOptions;
  readonly #batching: Batching;
  readonly #backend: Backend;
  readonly #programs: Programs;
  readonly #knobs: Knobs;
  #seed: number;
  readonly #updating: Updating;
  readonly #parts: StepParts;
  readonly #room: RoomToTrain;
  #steps = 0;
  #runs = 0;
  readonly #recompiling: Recompiling;
  readonly #states: States;
  readonly #order = new Order();
  readonly #copies = new Copies();
  #closed: Promise<void> | null = null;
  /** What was called before the closing is done, too. */
  #over = false;

  constructor(model: Model, given: CompileOptions, backend: Backend) {
    const named = nameParameters(model),
      options = (this.#options = Object.freeze({ ...given })),
      { accumulate = 1, split = 1, optimizer } = options;
    this.#backend = backend;
    const batching = (this.#batching = new Batching({ accumulate, split, eager: optimizer?.eager === true }));
    const knobs = (this.#knobs = new Knobs(named, new Map([[batching, SESSION]]))),
      updating = (this.#updating = new Updating(named, optimizer, knobs));
    this.#source = { model, named, options, knobs, updating, state: new PublicState(model, named, { optimizer }) };
    this.#seed = options.seed ?? 0;
    this.#parts = new StepParts(this.#source, batching, () => this.#observed);
    this.#room = new RoomToTrain(named, optimizer, updating, backend);
    this.#states = new States(named, backend.executor, () => this.#seed);
    const programs = (this.#programs = new Programs(backend, this.#source, this.#states)),
      watched = { model, named, batching, knobs, programs, executor: backend.executor, updating };
    this.#recompiling = new Recompiling(
      watched,
      () => this.#steps,
      () => this.#runs,
      options,
    );
  }

  get model(): Model {
    return this.#source.model;
  }
  /** Names of the model's parameters, and paths of its modules. */
  get named(): Named {
    return this.#source.named;
  }
  /** What was given to `compile`: a copy, which cannot be changed. */
  get options(): CompileOptions {
    return this.#options;
  }
  /** `batching.split` may be set between steps. What a rule has set of it is in `settings('@session')`. */
  get batching(): Batching {
    return this.#batching;
  }
  /** Steps committed so far. */
  get steps(): number {
    return this.#steps;
  }
  get executor(): Backend['executor'] {
    return this.#backend.executor;
  }
  get seed(): number {
    return this.#seed;
  }
  get #observed(): boolean {
    return this.#recompiling.training.engine !== null || this.options.observe === true;
  }

  /** One optimiser step. Throws NonFiniteError, with nothing stored, if the loss or a gradient is not finite. */
  async step(batch: Batch): Promise<StepResult> {
    this.#check(batch);
    return this.#copies.ofBatch(batch, (own, loan) => this.#order.run(() => this.#step(own, loan), { writes: true }));
  }

  async #step(batch: Batch, loan: Loan): Promise<StepResult> {
    let result: StepResult | undefined;
    const known: KnownShares = new Map();
    this.#room.check(this.#parts.count(batch) > 1);
    const check = (...part: Ran): Promise<void> => checkFinite(this.executor, this.#steps + 1, ...part);
    const work = {
      shape: this.#parts.shapes(batch),
      programs: () => this.#parts.programs(batch),
      parts: (): Part[] =>
        this.#parts.of(batch, { steps: this.#steps, inputs: (part) => this.#inputs(part), known, loan }),
    };
    const running = this.#recompiling.training.run(work, check, (outputs, [{ frozen }]) => {
      result = resultOf(++this.#steps, outputs);
      if (frozen) this.#updating.passed(frozen);
      return { ...result, parts: outputs.map((out) => apart(out).stats), ...(batch.ids && { ids: batch.ids }) };
    });
    await running.catch((error: unknown) => {
      // A failed step leaves no part of an accumulated gradient.
      try {
        clearStates(this.executor, isSum);
      } catch {
        /* the device is gone: the error says why */
      }
      throw error;
    });
    return result as StepResult;
  }

  #check(batch: Batch): void {
    if (this.#closed) throw closedError();
    checkBatch(batch);
  }

  /**
   * Watches the run and recompiles it: `rule.trigger` is asked at step boundaries, `rule.alter` sets knobs of a draft
   * of the model. The new plan is compiled while steps go on with the old one, verified on a real batch, swapped
   * between steps, and measured. `events` in CompileOptions is told of every decision. `during` 'inference': the same
   * between calls of forward, predict, evaluate and generate, where only changes that keep results identical are made.
   * It comes into force in the order of calls: for the steps that are called after it. A rule that throws costs no
   * step: `say` is told once, `events` each time. Its settings are read here. Throws UserError for a second rule of the
   * same name, and for settings that are unknown or wrong.
   */
  recompile<M extends object = Model>(rule: Rule<M>, during: 'training' | 'inference' = 'training'): void {
    const own = this.#recompiling.admit(rule, during);
    void this.#order.change(() => {
      this.#recompiling.add(own, during);
    });
  }

  /**
   * The knobs of the module at `path` ('blocks.0.moe'; '' for the model, '@session' for the session) as steps take
   * them: what rules of this session have set, else what the user wrote, which is what the module itself has. Throws
   * UserError for a path without knobs.
   */
  settings(path: string): Settings {
    return this.#knobs.settings(path);
  }

  /**
   * Writes the settings of this session on the modules, as their user could, in the order of calls: then they hold for
   * every session of the model.
   */
  keepSettings(): Promise<void> {
    return this.#order.change(() => {
      this.#knobs.keep();
    });
  }

  /**
   * Knobs, rules' memory and decisions, as plain JSON: what a checkpoint keeps so that a resumed run decides the same.
   */
  plan(): PlanState {
    return this.#recompiling.plan();
  }

  /**
   * What `plan` gave comes into force in the order of calls: for the steps that are called after it, before it returns
   * where nothing is under way. `what` parameters: the knobs alone. Rules are the caller's to add again, by the same
   * names. Throws UserError, with nothing changed, for settings that the model refuses.
   */
  restorePlan(plan: PlanState, what: 'all' | 'parameters' = 'all'): Promise<void> {
    return this.#order.change(() => {
      this.#recompiling.restore(plan, what);
    });
  }

  /**
   * Mean loss over batches, weighted by what the loss counts in each, or by samples where it does not say; dropout off,
   * nothing stored. count: what was counted; throws UserError where that is nothing. A list of batches is copied when
   * `evaluate` is called; an iterator's batches are copied one by one as they come, so that an array may be filled
   * again once the next batch is asked for, not before. Steps that are called meanwhile wait for its end: the batches
   * must not wait for them, nor for what was called after them.
   */
  async evaluate(
    batches: AsyncIterable<Batch> | readonly Batch[],
    progress?: (samples: number) => void,
  ): Promise<Evaluation> {
    const own = batchesOf(batches, checkBatch);
    return this.#order.read(() => meanOverBatches(own, (batch) => this.#measure(batch, true), progress));
  }

  /** Loss and model output for one batch, dropout off: { loss: [], output: [batch, ...] }. */
  async forward(batch: Batch): Promise<Outputs> {
    return (await this.measure(batch)).outputs;
  }

  /** The same, with what the loss is a mean over, by which `MeanLoss` joins batches. */
  async measure(batch: Batch): Promise<Measured> {
    if (this.#closed) throw closedError();
    return this.#measure(batch);
  }

  async #measure(batch: Batch, within = false): Promise<Measured> {
    checkBatch(batch);
    return measured(
      batch,
      await this.#copies.ofBatch(batch, (own, loan) =>
        this.#order.run(
          () =>
            this.#infer(
              familyOf('eval', own),
              (t) => {
                lossGraph(t, own, this.model, this.options.loss);
              },
              this.#inputs(own),
              loan,
            ),
          { within },
        ),
      ),
    );
  }

  /** The model's output for an input, dropout off. */
  async predict(x: HostTensor): Promise<HostTensor> {
    this.#check({ x, y: x });
    const out = await this.#copies.ofBatch({ x, y: x }, (own, loan) =>
      this.#order.run(() =>
        this.#infer(
          familyOf('predict', own),
          (t) => {
            t.output('output', outputOf(this.model, t.input('input', 'x', own.x)));
          },
          this.#inputs(own),
          loan,
        ),
      ),
    );
    return out['output'];
  }

  /** Compiles the programs of a step for batches of this shape, without running them; gives the one that updates. */
  async prepare(batch: Batch): Promise<Runnable> {
    this.#check(batch);
    return this.#order.run(
      async () => {
        this.#room.check(this.#parts.count(batch) > 1);
        this.#recompiling.training.before(this.#parts.shapes(batch), () => this.#parts.programs(batch));
        const all = this.#parts.split(batch),
          [first] = all,
          n = all.length;
        const get = (phase: Phase): Promise<Runnable> => {
          const { family, graph } = this.#parts.program(first, phase, n);
          return this.#programs.get(family, graph);
        };
        if (n > 1) await get('add');
        return get(phaseOf(n - 1, n));
      },
      { writes: true },
    ); // a rule may be asked
  }

  /**
   * A program of the caller's own over this session's states: generation, probes. Compiled once per key. caches: of one
   * sequence (`openCaches`); else runs share one cache of each name.
   */
  runGraph(key: string, build: (t: Trace) => void, inputs: Inputs, caches?: Caches): Promise<Outputs> {
    return this.#copies.of(inputs, (loan) =>
      this.#order.run(() => this.#infer(`run ${key}`, build, { ...this.#common(), ...loan.arrays }, loan, caches)),
    );
  }

  /**
   * Caches of keys and values for one sequence, so that several can be generated at once. They take memory from their
   * first run until they are closed.
   */
  openCaches(): Caches {
    if (this.#closed) throw closedError();
    return this.executor.openCaches();
  }

  async #infer(
    purpose: string,
    build: (t: Trace) => void,
    inputs: Inputs,
    loan: Loan,
    caches?: Caches,
  ): Promise<Outputs> {
    const watch = this.#recompiling.inference,
      family = watch.engine ? `observed ${purpose}` : purpose;
    let outputs: Outputs = {};
    const program = { family, graph: () => this.#traced(false, build) };
    const work = {
      shape: family,
      programs: () => [program],
      parts: () => [{ ...program, inputs: loan.note(inputs), fed: loan.done, caches }],
    };
    await watch.run(
      work,
      () => Promise.resolve(),
      ([out]) => {
        const { plain, stats } = apart(out);
        outputs = plain;
        return { step: ++this.#runs, loss: Number(plain['loss']?.data[0] ?? NaN), stats, ids: null };
      },
    );
    return outputs;
  }

  /** The graph of a training step, as it goes into the compiler; with a phase, of one of `batches` micro-batches. */
  trainGraph(batch: Batch, phase?: Phase, batches = this.options.accumulate ?? 1): Graph {
    return this.#parts.graph(batch, phase, batches);
  }

  evaluationGraph(batch: Batch): Graph {
    return this.#traced(false, (t) => {
      lossGraph(t, batch, this.model, this.options.loss);
    });
  }

  #traced(training: boolean, build: (t: Trace) => void): Graph {
    return sessionGraph(
      this.#source,
      training,
      training ? this.#observed : this.#recompiling.inference.engine !== null,
      build,
    );
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
    return { ...this.#common(), x: x.data, y: y.data, ...(ids && { ids }) };
  }

  #common(): Inputs {
    return { seed: Uint32Array.of(this.#seed), step: Uint32Array.of(this.#steps) };
  }

  /**
   * All states by name: parameters, optimiser moments. Creates the parameters if nothing ran yet. `read` gives a
   * state's value; it throws UserError while a step is under way, of which it would see a part: await the step, or
   * `serialize`, which waits for its turn.
   */
  states(): StateView[] {
    if (this.#over) throw closedError();
    return this.#states.all(() => this.#recompiling.training.moving);
  }

  /**
   * Sets values by name and the number of steps done, in the order of calls: before it returns where nothing is under
   * way. whole: what goes with all values of a checkpoint. Moments that are in neither start anew. Throws UserError,
   * with nothing changed, for names and shapes that are not the model's.
   */
  restore(step: number, values: Iterable<Value>, whole?: Resumed): Promise<void> {
    if (!Number.isSafeInteger(step) || step < 0)
      throw new UserError(`restore: steps done must be a whole number of at least 0, got ${step}`);
    const all = [...values];
    checkValues(this, all);
    const own = this.#order.idle
      ? all
      : all.map(({ name, value }) => ({ name, value: { ...value, data: value.data.slice() } }));
    return this.#order.change(() => {
      checkValues(this, own); // states may have been made since
      this.#restore(step, own, whole);
    });
  }

  /** `plan` comes into force with the values. */
  #restore(step: number, values: readonly Value[], whole?: Resumed, plan: () => void = () => undefined): void {
    const given = new Set(values.map(({ name }) => name)),
      before = new Set(this.executor.stateNames());
    this.#states.set(values, plan);
    if (whole) {
      // What it lacks (moments, before the first step) is 0.
      clearStates(this.executor, (name) => !given.has(name) && !this.named.parameters.has(name));
      this.#seed = whole.seed;
    }
    this.#updating.restore(
      this.#steps,
      step,
      (state) => (given.has(state) ? 'given' : before.has(state) && !whole ? 'kept' : 'none'),
      whole?.updating,
    );
    this.#steps = step;
  }

  /**
   * Sets values, steps and plan to an open checkpoint's, in the order of calls, and closes it: all of them to train on,
   * the parameters alone to use the model. Gives what the checkpoint says of itself. Rejects with a UserError, with
   * nothing changed, where it does not fit the model.
   */
  restoreCheckpoint(checkpoint: Checkpoint, what: 'all' | 'parameters' = 'all'): Promise<CheckpointMeta> {
    return this.#order.run(() => this.#restoreFrom(checkpoint, what), { writes: true });
  }

  #restoreFrom(checkpoint: Checkpoint, what: 'all' | 'parameters'): Promise<CheckpointMeta> {
    return restoreFrom(this, checkpoint, what, (values, { step, plan }, whole) => {
      const restore = (p: PlanState, w: 'all' | 'parameters'): void => {
        this.#recompiling.restore(p, w);
      };
      this.#restore(step, values, whole, () => {
        if (plan !== undefined) takeUp(this, restore, plan, what, checkpoint.file.where);
      });
    });
  }

  /** What a checkpoint keeps of the optimiser beside moments. */
  updating(): UpdatingState {
    return this.#updating.state();
  }

  /**
   * Writes parameters, optimiser state and step to a safetensors file, atomically; steps called before are in it, later
   * ones wait.
   */
  save(path: string): Promise<void> {
    return this.#order.run(() => this.#files('save', 'serialize').save(path, this.#content()));
  }

  /** Goes on from a file that `save` or `dynamoe train` wrote for the same model, with its seed: the next step has the
   * bits it would have had. Another optimiser, other settings or groups are told to `say`. */
  async load(path: string): Promise<void> {
    const files = this.#files('load', 'deserialize');
    await this.#order.run(async () => this.#restoreFrom(await files.load(path), 'all'), { writes: true });
  }

  /** The bytes that `save` writes: where there are no files, to be kept in IndexedDB, sent away, downloaded. */
  serialize(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#order.run(() => checkpointBytes(this.#content()));
  }

  /** Goes on from the bytes of a checkpoint, as `load` does from a file. */
  async deserialize(bytes: Uint8Array): Promise<void> {
    const own = Uint8Array.from(bytes);
    await this.#order.run(async () => this.#restoreFrom(await decodeCheckpoint(own, 'the checkpoint'), 'all'), {
      writes: true,
    });
  }

  #content(): CheckpointContent {
    return contentOf(this, { config: null, data: null });
  }

  #files(method: string, instead: string): Files {
    const { files } = this.#backend;
    if (!files)
      throw new UserError(
        `session.${method}: there are no files here`,
        `session.${instead} works with the same bytes in memory`,
      );
    return files;
  }

  /**
   * What the MoE layer at `path` remembers of its samples' choices, as steps called before left it; null while its
   * `routing` is live.
   */
  assignments(path: string): Promise<Assignments | null> {
    return this.#order.run(() => readAssignments(this.#knobs, this.executor, path));
  }

  /**
   * Waits for what was called before, then gives memory and threads back. What is called after it is refused; closing
   * again does nothing.
   */
  close(): Promise<void> {
    this.#closed ??= this.#order.close(async () => {
      this.#recompiling.close();
      await this.executor.idle(); // of what was called on the executor itself, such as a profile
      this.#over = true;
      this.executor.close();
    });
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}
