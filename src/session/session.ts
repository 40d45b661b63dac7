// A Session: a model with its values on a device. It traces and compiles a program for each shape of batch it meets, steps,
// evaluates, predicts and saves.
import type { DType, TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { byteSize, sizes } from '../base/shape.ts';
import type { Batch, HostTensor } from '../base/tensor.ts';
import type { Graph } from '../graph/graph.ts';
import type { Tensor } from '../graph/tensor.ts';
import { add } from '../graph/ops/add.ts';
import { mul } from '../graph/ops/mul.ts';
import type { Loss } from '../nn/loss.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { FLAG } from '../optim/updates.ts';
import { traceGraph, trainingGraph } from '../pipeline.ts';
import type { Runnable } from '../run/executor.ts';
import { nameParameters, type Named } from '../trace/module.ts';
import { initialValue } from '../trace/parameter.ts';
import { call, type Trace } from '../trace/trace.ts';
import { decodeCheckpoint, encodeCheckpoint, type CheckpointContent } from '../io/checkpoint.ts';
import { openBackend, type Backend } from './backend.ts';
import { contentOf, restoreFrom } from './checkpoint.ts';
import type { DeviceName, Files, Platform } from './platform.ts';

/** A model that a session can train: one tensor in, one out. */
export interface Model { forward(x: Tensor): Tensor }

export interface CompileOptions {
  readonly loss: Loss;
  /** Needed for `step`. */
  readonly optimizer?: Optimizer;
  /** Default `auto`: native where a C compiler is found, else wasm. The same bits on both. */
  readonly device?: DeviceName;
  readonly threads?: number;
  /** Of the starting values, dropout and noise; default 0. */
  readonly seed?: number;
  /** Splits each batch into this many micro-batches whose gradients are averaged; default 1. */
  readonly accumulate?: number;
  /** Bytes that the session may take; default: what is free. */
  readonly memory?: number;
  /** Told in one line where `auto` found no C compiler; default console.warn. */
  readonly say?: (line: string) => void;
}

export interface StepResult {
  /** Its number: 1 for the first. */
  readonly step: number;
  /** The main loss alone. */
  readonly loss: number;
  /** Auxiliary losses by name, unweighted: { 'blocks.0.moe/balance': 1.02 }. */
  readonly aux: Readonly<Record<string, number>>;
  /** Statistics by name: { 'blocks.0.moe/load': int32 [experts] }. */
  readonly stats: Readonly<Record<string, HostTensor>>;
  readonly gradNorm: number;
}

/** A step whose loss or gradient was not finite; nothing was stored. */
export class NonFiniteError extends UserError {
  override readonly name: string = 'NonFiniteError';
  readonly step: number;
  constructor(step: number, what: string, op: string | null) {
    super(`step ${step}: the ${what} is not finite${op ? `; first produced by ${op}` : ''}; nothing was stored`,
      'lower the learning rate, clip gradients, or look at the data of this step');
    this.step = step;
  }
}

type Inputs = Record<string, TypedArray>;
type Outputs = Record<string, HostTensor>;

/** Builds a session on a platform: `compile` of web.ts and node.ts. */
export async function compileOn(platform: Platform, model: Model, options: CompileOptions): Promise<Session> {
  return new Session(model, options, await openBackend(platform, { ...options, device: options.device ?? 'auto' }));
}

export class Session {
  readonly model: Model;
  readonly named: Named;
  readonly options: CompileOptions;
  readonly #backend: Backend;
  readonly #programs = new Map<string, Promise<Runnable>>();
  readonly #seed: number;
  #step = 0;
  #arena = 0;
  #last: Promise<unknown> = Promise.resolve();

  constructor(model: Model, options: CompileOptions, backend: Backend) {
    this.model = model;
    this.named = nameParameters(model);
    this.options = options;
    this.#backend = backend;
    this.#seed = (options.seed ?? 0) >>> 0;
  }

  /** Steps committed so far. */
  get steps(): number { return this.#step; }
  get executor(): Backend['executor'] { return this.#backend.executor; }
  get seed(): number { return this.#seed; }

  /** One optimiser step. Throws NonFiniteError, with nothing stored, if the loss or a gradient is not finite. */
  step(batch: Batch): Promise<StepResult> {
    return this.#inOrder(async () => {
      const parts = this.options.accumulate ?? 1, micro = splitBatch(batch, parts);
      const results: Outputs[] = [];
      for (const [i, part] of micro.entries()) {
        const phase = parts === 1 ? undefined : i < parts - 1 ? 'add' as const : 'apply' as const;
        const program = await this.#trainProgram(part, phase);
        const inputs = { ...this.#inputs(part), step: Uint32Array.of(this.#step * parts + i), commit: Int32Array.of(1), ...this.#scalars() };
        const out = await this.executor.run(program, inputs);
        await this.#checkFinite(out, program, inputs);
        results.push(out);
      }
      const result = this.#result(results);
      this.#step++;
      return result;
    });
  }

  async #checkFinite(out: Outputs, program: Runnable, inputs: Inputs): Promise<void> {
    const flag = Number(out['flag'].data[0]);
    if (flag === 0) return;
    const op = await this.executor.diagnose(program, inputs);
    this.#dropSums();
    throw new NonFiniteError(this.#step + 1, flag & FLAG.loss ? 'loss' : 'gradient', op);
  }

  /** Half of an accumulated gradient is of no use after a failed step. */
  #dropSums(): void {
    for (const name of this.executor.stateNames().filter((n) => n.startsWith('optim/sum/'))) {
      const { dtype, shape } = this.executor.getState(name);
      this.executor.setState(name, { dtype, shape }, null);
    }
  }

  #result(parts: readonly Outputs[]): StepResult {
    const average = (name: string): number => parts.reduce((n, p) => n + Number(p[name].data[0]), 0) / parts.length;
    const last = parts[parts.length - 1], names = Object.keys(last);
    const under = (prefix: string): string[] => names.filter((n) => n.startsWith(prefix));
    return {
      step: this.#step + 1, loss: average('loss'), gradNorm: Number(last['grad_norm']?.data[0] ?? NaN),
      aux: Object.fromEntries(under('aux:').map((n) => [n.slice(4), average(n)])),
      stats: Object.fromEntries(under('stat:').map((n) => [n.slice(5), last[n]])),
    };
  }

  /** Mean loss over batches, weighted by their sizes; dropout off, nothing stored. */
  async evaluate(batches: AsyncIterable<Batch>, progress?: (samples: number) => void): Promise<{ loss: number; samples: number }> {
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
    return this.#inOrder(async () => this.executor.run(await this.#program('eval', batch, () => this.evaluationGraph(batch)), this.#inputs(batch)));
  }

  /** The model's output for an input, dropout off. */
  async predict(x: HostTensor): Promise<HostTensor> {
    const graph = (): Graph => this.#traced(false, (t) => t.output('output', call(this.model, t.input('input', 'x', x))));
    const out = await this.#inOrder(async () => this.executor.run(await this.#program('predict', { x, y: x }, graph), { ...this.#inputs({ x, y: x }), x: x.data }));
    return out['output'];
  }

  /** Compiles the programs of a step for batches of this shape, without running them; gives the one that updates. */
  prepare(batch: Batch): Promise<Runnable> {
    return this.#inOrder(async () => {
      const parts = this.options.accumulate ?? 1, [part] = splitBatch(batch, parts);
      if (parts > 1) await this.#trainProgram(part, 'add');
      return this.#trainProgram(part, parts === 1 ? undefined : 'apply');
    });
  }

  /** A program of the caller's own over this session's states: generation, probes. Compiled once per key. */
  runGraph(key: string, build: (t: Trace) => void, inputs: Inputs): Promise<Outputs> {
    return this.#inOrder(async () => {
      let program = this.#programs.get(key);
      if (!program) {
        program = this.#load(this.#traced(false, build));
        this.#programs.set(key, program);
      }
      return this.executor.run(await program, { ...this.#common(), ...inputs });
    });
  }

  /** The graph of a training step, as it goes into the compiler. */
  trainGraph(batch: Batch, phase?: 'add' | 'apply'): Graph {
    const { optimizer, accumulate: batches = 1 } = this.options;
    if (!optimizer) throw new UserError('this session has no optimizer', 'compile(model, { loss, optimizer: optim.adamW({ lr }) })');
    const forward = this.#traced(true, (t) => this.#lossGraph(t, batch));
    const trained = [...this.named.parameters].filter(([, p]) => p.trained && p.frozen !== true);
    const frozen = new Map(trained.flatMap(([name, { frozen: f }]) => (typeof f !== 'boolean' && f.some((part) => part) ? [[name, f]] : [])));
    return trainingGraph(forward, optimizer, trained.map(([name]) => name), { frozen, ...(phase && { accumulate: { batches, phase } }) });
  }

  evaluationGraph(batch: Batch): Graph { return this.#traced(false, (t) => this.#lossGraph(t, batch)); }

  #lossGraph(t: Trace, batch: Batch): void {
    const x = t.input('input', 'x', batch.x), y = t.input('input', 'y', batch.y);
    const output = call(this.model, x), loss = this.options.loss(output, y);
    if (loss.shape.length !== 0) throw new UserError(`the loss must be one number, got shape [${sizes(loss.shape).join(', ')}]`, 'take its mean');
    t.output('loss', loss);
    if (!t.training) {
      t.output('output', output);
      return;
    }
    t.output('total', t.losses.reduce((sum, l) => add(sum, mul(l.value, l.coefficient)), loss));
    for (const l of t.losses) t.output(`aux:${l.name}`, l.value);
    for (const s of t.stats) t.output(`stat:${s.name}`, s.value);
  }

  #traced(training: boolean, build: (t: Trace) => void): Graph { return traceGraph(this.named, training, build); }

  #trainProgram(batch: Batch, phase?: 'add' | 'apply'): Promise<Runnable> {
    return this.#program(`train ${phase ?? ''}`, batch, () => this.trainGraph(batch, phase));
  }

  #program(kind: string, { x, y }: Batch, graph: () => Graph): Promise<Runnable> {
    const key = `${kind} ${x.dtype}[${x.shape.join()}] ${y.dtype}[${y.shape.join()}]`;
    const found = this.#programs.get(key);
    if (found) return found;
    const made = this.#load(graph());
    this.#programs.set(key, made);
    made.catch(() => this.#programs.delete(key));
    return made;
  }

  async #load(graph: Graph): Promise<Runnable> {
    const program = await this.#backend.prepare(graph, (g) => this.#createStates(g));
    this.#arena = Math.max(this.#arena, program.bytes.arena);
    return program;
  }

  /** Bytes of the largest program's arena, of the parameters, and of the optimiser's state. */
  bytes(): { readonly arena: number; readonly params: number; readonly optimiser: number } {
    const of = (pick: (name: string) => boolean): number =>
      this.states().filter(({ name }) => pick(name)).reduce((n, { dtype, shape }) => n + byteSize({ dtype, shape }), 0);
    return { arena: this.#arena, params: of((name) => this.named.parameters.has(name)), optimiser: of((name) => name.startsWith('optim/')) };
  }

  /** Parameters start as their modules say, everything else at 0. */
  #createStates(graph: Graph): void {
    const known = new Set(this.executor.stateNames());
    for (const input of graph.inputs) {
      if (input.kind !== 'state' || known.has(input.name)) continue;
      const type = graph.types[input.value], p = this.named.parameters.get(input.name);
      this.executor.setState(input.name, type, p ? initialValue(p, input.name, this.#seed) : null);
    }
  }

  #inputs({ x, y }: Batch): Inputs { return { ...this.#common(), x: x.data, y: y.data }; }

  #common(): Inputs { return { seed: Uint32Array.of(this.#seed), step: Uint32Array.of(this.#step) }; }

  #scalars(): Inputs {
    const scalars = this.options.optimizer?.scalars(this.#step) ?? {};
    return Object.fromEntries(Object.entries(scalars).map(([k, v]) => [k, Float32Array.of(v)]));
  }

  /** Programs share one arena: calls run one after the other, also when they are not awaited. */
  #inOrder<T>(work: () => Promise<T>): Promise<T> {
    const next = this.#last.then(work, work);
    this.#last = next.catch(() => undefined);
    return next;
  }

  /** Values of all states by name: parameters, optimiser moments. Creates the parameters if nothing ran yet. */
  states(): { name: string; dtype: DType; shape: readonly number[]; read: () => HostTensor }[] {
    this.#createParameters();
    return this.executor.stateNames().filter((n) => !n.startsWith('cache/')).map((name) => {
      const { dtype, shape } = this.executor.getState(name);
      return { name, dtype, shape, read: () => this.executor.getState(name) };
    });
  }

  #createParameters(): void {
    const known = new Set(this.executor.stateNames());
    for (const [name, p] of this.named.parameters) {
      if (!known.has(name)) this.executor.setState(name, { dtype: p.dtype, shape: p.shape }, initialValue(p, name, this.#seed));
    }
  }

  /** Sets values by name and the number of steps done: what a checkpoint restores. */
  restore(step: number, values: Iterable<{ name: string; value: HostTensor }>): void {
    for (const { name, value } of values) {
      const p = this.named.parameters.get(name);
      if (p && p.shape.join() !== value.shape.join()) {
        throw new UserError(`${name}: the checkpoint has shape [${value.shape.join(', ')}], the model [${p.shape.join(', ')}]`);
      }
      this.executor.setState(name, { dtype: value.dtype, shape: value.shape }, value.data);
    }
    this.#step = step;
  }

  /** Writes parameters, optimiser state and step to a safetensors file, atomically; steps called before are in it, later ones wait. */
  save(path: string): Promise<void> {
    return this.#inOrder(() => this.#files('save', 'serialize').save(path, this.#content()));
  }

  /** Goes on from a file that `save` or `dynamoe train` wrote for the same model: the next step has the bits it would have had. */
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

  async close(): Promise<void> {
    await this.#last;
    this.executor.close();
  }

  async [Symbol.asyncDispose](): Promise<void> { await this.close(); }
}

function splitBatch(batch: Batch, parts: number): Batch[] {
  if (parts === 1) return [batch];
  const size = batch.x.shape[0];
  if (size % parts !== 0) throw new UserError(`a batch of ${size} cannot be split into ${parts} equal micro-batches (accumulate)`);
  const cut = (t: HostTensor, i: number): HostTensor => {
    const step = t.data.length / parts;
    return { dtype: t.dtype, shape: [size / parts, ...t.shape.slice(1)], data: t.data.slice(i * step, (i + 1) * step) };
  };
  return Array.from({ length: parts }, (_, i) => ({ x: cut(batch.x, i), y: cut(batch.y, i) }));
}
