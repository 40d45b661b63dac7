// A Session: a model with its values on a device. It traces and compiles a program for each shape of batch it meets, steps,
// evaluates, predicts and saves.
import type { DType } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { byteSize } from '../base/shape.ts';
import { checkBatch, type Batch, type HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import { FLAG } from '../optim/updates.ts';
import { traceGraph, trainingGraph } from '../pipeline.ts';
import { Engine, type EngineState } from '../recompile/engine.ts';
import { messageOf } from '../recompile/pending.ts';
import { checkRule, type Rule } from '../recompile/rule.ts';
import type { Runnable } from '../run/executor.ts';
import { Knobs, SESSION, type Settings } from '../trace/knobs.ts';
import { nameParameters, type Named } from '../trace/module.ts';
import { initialParts, type Parameter } from '../trace/parameter.ts';
import type { Trace } from '../trace/trace.ts';
import { decodeCheckpoint, encodeCheckpoint, type CheckpointContent } from '../io/checkpoint.ts';
import type { Assignments } from '../nn/moe/memory.ts';
import { readAssignments } from './assignments.ts';
import { openBackend, type Backend } from './backend.ts';
import { Batching } from './batching.ts';
import { Updating, type UpdatingState } from './updating.ts';
import { lossGraph, outputOf } from './graphs.ts';
import { Programs } from './programs.ts';
import { apart, checkCall, closedError, familyOf, NonFiniteError, phaseOf, resultOf, shapesOf, splitBatch, type CompileOptions, type Model, type Phase, type StepResult } from './step.ts';
import { checkValues, clearStates, contentOf, restoreFrom, type Resumed } from './checkpoint.ts';
import { Watch, type Inputs, type Outputs, type Part } from './watch.ts';
import type { Files, Platform } from './platform.ts';

/** What recompilation has made of a session. Plain JSON. */
export interface PlanState { readonly knobs: Readonly<Record<string, Settings>>; readonly engine: EngineState | null }

/** Builds a session on a platform: `compile` of web.ts and node.ts. */
export async function compileOn(platform: Platform, model: Model, options: CompileOptions): Promise<Session> {
  checkCall(model, options);
  return new Session(model, options, await openBackend(platform, { ...options, device: options.device ?? 'auto' }));
}

export class Session {
  readonly model: Model;
  readonly named: Named;
  readonly options: CompileOptions;
  readonly #backend: Backend;
  readonly #programs: Programs;
  readonly #knobs: Knobs;
  #seed: number;
  /** How steps go through batches; `batching.split` may be set between them. */
  readonly batching: Batching;
  readonly #updating: Updating;
  #step = 0;
  #runs = 0;
  readonly #training: Watch;
  readonly #inference: Watch;
  #last: Promise<unknown> = Promise.resolve();
  #closed: Promise<void> | null = null;
  /** What was called before the closing is done, too. */
  #over = false;

  constructor(model: Model, options: CompileOptions, backend: Backend) {
    this.model = model;
    this.named = nameParameters(model);
    this.options = options;
    this.#backend = backend;
    const { accumulate = 1, split = 1, optimizer } = options;
    this.batching = new Batching({ accumulate, split, eager: optimizer?.eager === true });
    this.#knobs = new Knobs(this.named, new Map([[this.batching, SESSION]]));
    this.#updating = new Updating(this.named, optimizer);
    this.#programs = new Programs(backend, this.#knobs, (graph, now) => this.#createStates(graph, now));
    this.#seed = options.seed ?? 0;
    const watched = { model, named: this.named, batching: this.batching, knobs: this.#knobs, programs: this.#programs, executor: backend.executor, updating: this.#updating };
    this.#training = new Watch(watched, () => this.#step);
    this.#inference = new Watch(watched, () => this.#runs);
  }

  /** Steps committed so far. */
  get steps(): number { return this.#step; }
  get executor(): Backend['executor'] { return this.#backend.executor; }
  get seed(): number { return this.#seed; }
  get #observed(): boolean { return this.#training.engine !== null || this.options.observe === true; }

  /** One optimiser step. Throws NonFiniteError, with nothing stored, if the loss or a gradient is not finite. */
  step(batch: Batch): Promise<StepResult> {
    return this.#inOrder(async () => {
      checkBatch(batch);
      let result: StepResult | undefined;
      const running = this.#training.run(this.#shapes(batch), () => this.#parts(batch), (out, program, inputs) => this.#checkFinite(out, program, inputs), (outputs, [{ frozen }]) => {
        result = resultOf(++this.#step, outputs);
        if (frozen) this.#updating.passed(frozen);
        return { ...result, parts: outputs.map((out) => apart(out).stats), ...(batch.ids && { ids: batch.ids }) };
      });
      // Half of an accumulated gradient is of no use after a failed step.
      await running.catch((error: unknown) => { clearStates(this.executor, (name) => name.startsWith('optim/sum/')); throw error; });
      return result as StepResult;
    });
  }

  #split(batch: Batch): Batch[] { return splitBatch(batch, this.batching.parts(batch.x.shape[0])); }

  #parts(batch: Batch): Part[] {
    const scalars = this.#updating.scalars(this.#step), frozen = this.#updating.frozen();
    return this.#split(batch).map((part, i, { length: parts }) => {
      const phase = phaseOf(i, parts), step = Uint32Array.of(this.#step * parts + i);
      return { family: this.#trainFamily(part, phase, parts), graph: () => this.trainGraph(part, phase, parts), frozen,
        inputs: { ...this.#inputs(part), step, commit: Int32Array.of(1), ...scalars } };
    });
  }

  /**
   * Watches the run and recompiles it: `rule.trigger` is asked at step boundaries, `rule.alter` sets knobs of a draft of the model. The new
   * plan is compiled while steps go on with the old one, verified on a real batch, swapped between steps, and measured. `events` in
   * CompileOptions is told of every decision. `during` 'inference': the same between calls of forward, predict, evaluate and generate,
   * where only what changes no result is done. Throws UserError for a second rule of the same name, and for one that is none.
   */
  recompile<M extends object = Model>(rule: Rule<M>, during: 'training' | 'inference' = 'training'): void {
    checkRule(rule);
    if (!['training', 'inference'].includes(during)) throw new UserError(`recompile: no work named ${String(during)}`, "'training' or 'inference'");
    const engine = this.#engineOf(during);
    if (engine.rules.includes(rule.name)) throw new UserError(`there is a rule named "${rule.name}" already`, 'give each rule a name of its own');
    engine.add(during === 'inference' ? { ...rule, only: 'N' } : rule);
  }

  #engineOf(during: 'training' | 'inference'): Engine {
    const [own, other] = during === 'training' ? [this.#training, this.#inference] : [this.#inference, this.#training];
    // Whoever is told of a decision may fail; the run goes on.
    own.engine ??= new Engine(own.plant, (event) => {
      try {
        this.options.events?.(during === 'training' ? event : { ...event, during });
      } catch (error) { (this.options.say ?? console.warn)(`the listener to recompilations failed: ${messageOf(error)}`); }
    }, { agreement: this.options.agreement, rival: () => other.engine });
    return own.engine;
  }

  /** Knobs, rules' memory and decisions, as plain JSON: what a checkpoint keeps so that a resumed run decides the same. */
  plan(): PlanState {
    const engine = this.#training.engine?.state() ?? null;
    return { knobs: engine?.knobs ?? this.#knobs.all(), engine };
  }

  /** `what` parameters: the knobs alone. Rules are the caller's to add again, by the same names. */
  restorePlan({ knobs, engine }: PlanState, what: 'all' | 'parameters' = 'all'): void {
    // What is under way for inference goes by the knobs of before.
    this.#inference.engine?.close();
    if (engine && what === 'all') this.#engineOf('training').restore(engine);
    else {
      this.#training.engine?.restore(null);
      this.#knobs.restore(knobs);
    }
  }

  async #checkFinite(out: Outputs, program: Runnable, inputs: Inputs): Promise<void> {
    const flag = Number(out['flag'].data[0]);
    if (flag === 0) return;
    const op = await this.executor.diagnose(program, inputs);
    throw new NonFiniteError(this.#step + 1, flag & FLAG.loss ? 'loss' : 'gradient', op);
  }

  /** Mean loss over batches, weighted by their sizes; dropout off, nothing stored. */
  async evaluate(batches: AsyncIterable<Batch>, progress?: (samples: number) => void): Promise<{ loss: number; samples: number }> {
    const given = (batches as object | undefined) ?? {};
    if (!(Symbol.asyncIterator in given || Symbol.iterator in given)) {
      throw new UserError('evaluate: expected batches', 'a dataset gives them: data.pass({ size: 8 }), of text data.windows({ size: 8, context: 32 })');
    }
    let total = 0, samples = 0;
    for await (const batch of batches) {
      const { loss } = await this.forward(batch);
      total += Number(loss.data[0]) * batch.x.shape[0];
      samples += batch.x.shape[0];
      progress?.(samples);
    }
    if (samples === 0) throw new UserError('evaluate: there are no batches');
    return { loss: total / samples, samples };
  }

  /** Loss and model output for one batch, dropout off: { loss: [], output: [batch, ...] }. */
  forward(batch: Batch): Promise<Outputs> {
    return this.#inOrder(() => {
      checkBatch(batch);
      return this.#infer(familyOf('eval', batch), (t) => { lossGraph(t, batch, this.model, this.options.loss); }, this.#inputs(batch));
    });
  }

  /** The model's output for an input, dropout off. */
  async predict(x: HostTensor): Promise<HostTensor> {
    const batch = { x, y: x };
    const out = await this.#inOrder(() => {
      checkBatch(batch);
      return this.#infer(familyOf('predict', batch), (t) => { t.output('output', outputOf(this.model, t.input('input', 'x', x))); }, this.#inputs(batch));
    });
    return out['output'];
  }

  /** Compiles the programs of a step for batches of this shape, without running them; gives the one that updates. */
  prepare(batch: Batch): Promise<Runnable> {
    return this.#inOrder(async () => {
      checkBatch(batch);
      this.#training.before(this.#shapes(batch), () => this.#parts(batch));
      const all = this.#split(batch), get = (phase: Phase): Promise<Runnable> => this.#trainProgram(all[0], phase, all.length);
      if (all.length > 1) await get('add');
      return get(phaseOf(all.length - 1, all.length));
    });
  }

  /** A program of the caller's own over this session's states: generation, probes. Compiled once per key. */
  runGraph(key: string, build: (t: Trace) => void, inputs: Inputs): Promise<Outputs> {
    return this.#inOrder(() => this.#infer(`run ${key}`, build, { ...this.#common(), ...inputs }));
  }

  async #infer(purpose: string, build: (t: Trace) => void, inputs: Inputs): Promise<Outputs> {
    const watch = this.#inference, family = watch.engine ? `observed ${purpose}` : purpose;
    let outputs: Outputs = {};
    await watch.run(family, () => [{ family, graph: () => this.#traced(false, build), inputs }], () => Promise.resolve(), ([out]) => {
      const { plain, stats } = apart(out);
      outputs = plain;
      return { step: ++this.#runs, loss: Number(plain['loss']?.data[0] ?? NaN), stats, ids: null };
    });
    return outputs;
  }

  /** The graph of a training step, as it goes into the compiler; with a phase, of one of `batches` micro-batches. */
  trainGraph(batch: Batch, phase?: Phase, batches = this.options.accumulate ?? 1): Graph {
    const { optimizer } = this.options;
    if (!optimizer) throw new UserError('this session has no optimizer', 'compile(model, { loss, optimizer: optim.adamW({ lr }) })');
    const forward = this.#traced(true, (t) => {
      t.samples = batch.ids ? batch.x.shape[0] : null;
      lossGraph(t, batch, this.model, this.options.loss);
    });
    const { trained, ...options } = this.#updating.options();
    return trainingGraph(forward, optimizer, trained, { ...options, ...(phase && { accumulate: { batches, phase } }) });
  }

  evaluationGraph(batch: Batch): Graph { return this.#traced(false, (t) => lossGraph(t, batch, this.model, this.options.loss)); }

  #traced(training: boolean, build: (t: Trace) => void): Graph {
    return traceGraph(this.named, training, (t) => {
      t.observed = training ? this.#observed : this.#inference.engine !== null;
      build(t);
      if (training || t.observed) for (const s of t.stats) t.output(`stat:${s.name}`, s.value);
    });
  }

  #trainProgram(batch: Batch, phase: Phase, parts: number): Promise<Runnable> {
    return this.#programs.get(this.#trainFamily(batch, phase, parts), () => this.trainGraph(batch, phase, parts));
  }

  #trainFamily(batch: Batch, phase: Phase, parts: number): string { return `train ${this.#observed ? 'observed ' : ''}${phase ? `${phase} of ${parts}` : ''} ${this.#shapes(batch)} ${this.#updating.key()}`; }

  /** Layers that may remember what samples chose look at whether samples have ids. */
  #shapes(batch: Batch): string { return shapesOf(batch) + (batch.ids && this.#knobs.has('routing') ? ' ids' : ''); }

  /** Bytes of the largest program's arena, of the parameters, and of the optimiser's state. */
  bytes(): { readonly arena: number; readonly params: number; readonly optimiser: number } {
    const of = (pick: (name: string) => boolean): number =>
      this.states().filter(({ name }) => pick(name)).reduce((n, { dtype, shape }) => n + byteSize({ dtype, shape }), 0);
    return { arena: this.#programs.arena, params: of((name) => this.named.parameters.has(name)), optimiser: of((name) => name.startsWith('optim/')) };
  }

  /** Parameters start as their modules say, everything else at 0. now: all is there on return; else the device makes normal numbers meanwhile. */
  async #createStates(graph: Graph, now: boolean): Promise<void> {
    const known = new Set(this.executor.stateNames()), fresh: [string, Parameter][] = [];
    for (const { kind, name, value } of graph.inputs) {
      if (kind !== 'state' || known.has(name)) continue;
      this.executor.setState(name, graph.types[value], null);
      const p = this.named.parameters.get(name);
      if (p) fresh.push([name, p]);
    }
    const drawn = now ? [] : fresh.flatMap(([name, p]) => (p.init.kind === 'normal' ? [{ name, std: p.init.std }] : []));
    // A device that fails says so when it runs.
    const made = drawn.length > 0 && await this.executor.draw(drawn, this.#seed).then(() => true, () => false);
    for (const [name, p] of fresh) if (!made || p.init.kind !== 'normal') this.#start(name, p);
  }

  #start(name: string, p: Parameter): void {
    for (const { at, data } of initialParts(p, name, this.#seed)) this.executor.setPart(name, at, data);
  }

  #inputs({ x, y, ids }: Batch): Inputs { return { ...this.#common(), x: x.data, y: y.data, ...(ids && { ids }) }; }

  #common(): Inputs { return { seed: Uint32Array.of(this.#seed), step: Uint32Array.of(this.#step) }; }

  /** Programs share one arena: calls run one after the other, also when they are not awaited. */
  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    if (this.#closed) return Promise.reject(closedError());
    const next = this.#last.then(work, work);
    this.#last = next.catch(() => undefined);
    return next;
  }

  /** Values of all states by name: parameters, optimiser moments. Creates the parameters if nothing ran yet. */
  states(): { name: string; dtype: DType; shape: readonly number[]; read: () => HostTensor }[] {
    if (this.#over) throw closedError();
    this.#createParameters();
    return this.executor.stateNames().filter((n) => !n.startsWith('cache/')).map((name) => {
      const { dtype, shape } = this.executor.getState(name);
      return { name, dtype, shape, read: () => this.executor.getState(name) };
    });
  }

  #createParameters(): void {
    const known = new Set(this.executor.stateNames());
    for (const [name, p] of this.named.parameters) {
      if (known.has(name)) continue;
      this.executor.setState(name, { dtype: p.dtype, shape: p.shape }, null);
      this.#start(name, p);
    }
  }

  /** Sets values by name and the number of steps done: what a checkpoint restores. whole: what goes with all of its
   * values. Moments that are in neither start anew. */
  restore(step: number, values: Iterable<{ name: string; value: HostTensor }>, whole?: Resumed): void {
    const all = [...values], given = new Set(all.map(({ name }) => name));
    checkValues(this, all);
    for (const { name, value } of all) this.executor.setState(name, { dtype: value.dtype, shape: value.shape }, value.data);
    const known = new Set(this.executor.stateNames());
    if (whole) {
      // What it lacks (moments, before the first step) is 0.
      clearStates(this.executor, (name) => !given.has(name) && !this.named.parameters.has(name));
      this.#seed = whole.seed;
    }
    this.#updating.restore(this.#step, step, (state) => (given.has(state) ? 'given' : known.has(state) && !whole ? 'kept' : 'none'), whole?.updating);
    this.#step = step;
  }

  /** What a checkpoint keeps of the optimiser beside moments. */
  updating(): UpdatingState { return this.#updating.state(); }

  /** Writes parameters, optimiser state and step to a safetensors file, atomically; steps called before are in it, later ones wait. */
  save(path: string): Promise<void> {
    return this.#inOrder(() => this.#files('save', 'serialize').save(path, this.#content()));
  }

  /** Goes on from a file that `save` or `dynamoe train` wrote for the same model, with its seed: the next step has the
   * bits it would have had. Another optimiser, other settings or groups are told to `say`. */
  load(path: string): Promise<void> {
    return this.#inOrder(async () => { await restoreFrom(this, await this.#files('load', 'deserialize').load(path), 'all'); });
  }

  /** The bytes that `save` writes: where there are no files, to be kept in IndexedDB, sent away, downloaded. */
  serialize(): Promise<Uint8Array<ArrayBuffer>> {
    return this.#inOrder(async () => {
      const chunks: Uint8Array[] = [];
      for await (const chunk of encodeCheckpoint(this.#content())) chunks.push(chunk);
      const bytes = new Uint8Array(chunks.reduce((n, c) => n + c.length, 0));
      let at = 0;
      for (const chunk of chunks) { bytes.set(chunk, at); at += chunk.length; }
      return bytes;
    });
  }

  /** Goes on from the bytes of a checkpoint, as `load` does from a file. */
  deserialize(bytes: Uint8Array): Promise<void> {
    return this.#inOrder(async () => { await restoreFrom(this, await decodeCheckpoint(bytes, 'the checkpoint'), 'all'); });
  }

  #content(): CheckpointContent { return contentOf(this, { config: null, data: null }); }

  #files(method: string, instead: string): Files {
    const { files } = this.#backend;
    if (!files) throw new UserError(`session.${method}: there are no files here`, `session.${instead} works with the same bytes in memory`);
    return files;
  }

  /** What the MoE layer at `path` remembers of its samples' choices, as steps called before left it; null while its `routing` is live. */
  assignments(path: string): Promise<Assignments | null> {
    return this.#inOrder(() => Promise.resolve(readAssignments(this.#knobs, this.executor, path)));
  }

  /** Waits for what was called before, then gives memory and threads back. What is called after it is refused; closing again does nothing. */
  close(): Promise<void> {
    this.#closed ??= this.#last.then(() => { this.#over = true; this.#training.engine?.close(); this.#inference.engine?.close(); this.executor.close(); });
    return this.#closed;
  }

  async [Symbol.asyncDispose](): Promise<void> { await this.close(); }
}
