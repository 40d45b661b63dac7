// One mixture-of-experts layer as a program, which `dynamoe bench layer`, `bench memory` and bench/compare time. In:
// sizes; out: steps on a device. A training step is the forward pass, the backward pass with the gradient to the
// layer's input (which a layer inside a model must compute), and the optimiser's update. The loss is the mean squared
// error to a random target. Input, target and weights are random.
import { convert } from '../base/convert.ts';
import type { DType } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { hostTensor } from '../base/tensor.ts';
import { differentiate } from '../grad/differentiate.ts';
import { cast } from '../graph/ops/elementwise/cast.ts';
import { gelu } from '../graph/ops/elementwise/gelu.ts';
import { matmul } from '../graph/ops/matmul/matmul.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { relu } from '../graph/ops/elementwise/relu.ts';
import { silu } from '../graph/ops/elementwise/silu.ts';
import { ops } from '../graph/ops/index.ts';
import type { Graph } from '../graph/graph.ts';
import { verifyGraph } from '../graph/verify.ts';
import type { Tensor } from '../graph/tensor.ts';
import { sizes } from '../base/shape.ts';
import { Linear } from '../nn/linear.ts';
import { meanSquaredError } from '../nn/loss.ts';
import type { Activation } from '../nn/moe/experts.ts';
import { MoE } from '../nn/moe/moe.ts';
import type { Overflow } from '../nn/moe/routing.ts';
import type { Dispatch } from '../nn/moe/strategies.ts';
import { addUpdates } from '../optim/updates.ts';
import { adam } from '../optim/adam.ts';
import type { Optimizer } from '../optim/optimizer.ts';
import { sgd } from '../optim/sgd.ts';
import { compileGraph, traceGraph, type Compiled } from '../pipeline.ts';
import { ProgramExecutor, type LoadedProgram } from '../run/program.ts';
import { node } from '../session/node.ts';
import type { DeviceName, Precision } from '../session/platform.ts';
import { withActivations, withSaved, withStates } from '../session/rounding.ts';
import type { Model } from '../session/step.ts';
import { nameParameters } from '../trace/module.ts';
import { initialParts, Parameter } from '../trace/parameter.ts';
import { call } from '../trace/trace.ts';
import { byKernel, type KernelTime } from './kernel-times.ts';
import { skewedBias } from './skewed-router.ts';

export const OPTIMIZERS = ['sgd', 'adam'] as const;
export const PASSES = ['train', 'forward'] as const;

export interface LayerWork {
  readonly tokens: number;
  readonly dModel: number;
  /** Hidden size of an expert. */
  readonly dFf: number;
  /** 0: a dense feed-forward network of hidden size topK * dFf, which has the same active FLOPs. */
  readonly experts: number;
  readonly topK: number;
  /** Capacity as a factor on the even share of rows. */
  readonly capacity: 'dropless' | number;
  /** What happens to choices beyond the capacity. */
  readonly overflow: Overflow;
  readonly dispatch: Dispatch;
  /** The router's bias for expert e (0, 1, ...) is -skew ln(e + 1), so that loads follow a power law. */
  readonly skew: number;
  readonly activation: Activation;
  readonly optimizer: (typeof OPTIMIZERS)[number];
  /** Whether updates are fused with gradients: see Optimizer.eager. */
  readonly eager: boolean;
  readonly pass: (typeof PASSES)[number];
  /** What is stored in 16 bits; default: nothing. */
  readonly precision?: Precision;
  /** The knobs of the layer with these names. */
  readonly recompute?: boolean;
  readonly chunks?: number;
}

/**
 * Useful FLOPs of a step with `kept` pairs of a token and an expert: 4 d ff in the forward pass, 12 d ff in training
 * with the gradient to the input (SwiGLU: 6 and 18). Router, activation, optimiser and padding are not counted.
 */
export const usefulFlops = ({ dModel, dFf, activation, pass }: LayerWork, kept: number): number =>
  kept * dModel * dFf * (activation === 'swiglu' ? 6 : 4) * (pass === 'train' ? 3 : 1);

/** act(x W1) W2, or (silu(x W1) * (x W3)) W2. */
class Dense {
  readonly up: Linear;
  readonly gate: Linear | null;
  readonly down: Linear;
  readonly #activation: Activation;
  constructor(width: number, hidden: number, activation: Activation) {
    const linear = (inputs: number, outputs: number): Linear => new Linear(inputs, outputs, { bias: false });
    this.up = linear(width, hidden);
    this.gate = activation === 'swiglu' ? linear(width, hidden) : null;
    this.down = linear(hidden, width);
    this.#activation = activation;
  }

  forward(x: Tensor): Tensor {
    const h = call(this.up, x);
    return call(
      this.down,
      this.gate ? mul(silu(h), call(this.gate, x)) : this.#activation === 'relu' ? relu(h) : gelu(h),
    );
  }
}

export function layerOf({
  dModel,
  dFf,
  experts,
  topK,
  activation,
  capacity,
  overflow,
  dispatch,
  recompute,
  chunks,
}: LayerWork): Model {
  if (experts === 0 && (recompute === true || (chunks ?? 1) > 1))
    throw new UserError(
      'a dense network has no experts whose hidden values could be computed again',
      'leave out --recompute and --chunks',
    );
  if (experts === 0) return new Dense(dModel, topK * dFf, activation);
  // No auxiliary losses: the layers of other systems, with which this one is compared, have none.
  return new MoE({
    dModel,
    experts,
    topK,
    hidden: dFf,
    activation,
    capacity,
    ...(capacity !== 'dropless' && { overflow }),
    dispatch,
    balance: 0,
    zLoss: 0,
    ...(recompute !== undefined && { recompute }),
    ...(chunks !== undefined && { chunks }),
  });
}

const TARGET = 'target',
  INPUT = 'x',
  INPUT_GRAD = 'x.grad',
  ROUTER = 'router.weight';

/**
 * The graph of a step. Input and target are states, because inside a model they would already be on the device, in 16
 * bits if activations are stored so.
 */
export function layerGraph(model: Model, work: LayerWork, optimizer: Optimizer): Graph {
  const named = nameParameters(model),
    { precision = 'float32' } = work,
    dtype: DType = precision === 'float32' ? precision : 'bfloat16',
    type = { dtype, shape: [work.tokens, work.dModel] },
    training = work.pass === 'train';
  // Traced for training in both passes, because a layer outputs its loads only then.
  const traced = traceGraph(named, true, (t) => {
    const y = call(model, cast(t.state(INPUT, type), 'float32')),
      loss = meanSquaredError(y, cast(t.state(TARGET, type), 'float32'));
    t.output('loss', loss);
    t.output('total', loss);
    for (const s of t.stats) t.output(s.name.slice(s.name.lastIndexOf('/') + 1), s.value);
    if (training) t.state(INPUT_GRAD, type);
  });
  const forward = withActivations(traced, named, precision);
  if (!training) return withStates(forward, named, precision);
  const graph = differentiate(forward, ops, 'total', [INPUT, ...named.parameters.keys()]),
    isInput = ({ name }: { readonly name: string }): boolean => name === `grad/${INPUT}`;
  // The gradient to the input is stored on the device: in a model, the layer before needs it before the step commits.
  const updates = graph.outputs
    .filter(isInput)
    .map(({ value }) => ({ state: graph.inputs.find((i) => i.name === INPUT_GRAD)?.value ?? -1, value, unless: null }));
  const step = addUpdates({ ...graph, outputs: graph.outputs.filter((o) => !isInput(o)) }, ops, optimizer);
  const whole = withSaved({ ...step, updates: [...step.updates, ...updates] }, precision);
  return verifyGraph(withStates(whole, named, precision), ops, 'optim');
}

/** The matrix products of the layer's step alone, with equal loads: a lower bound for the time of the step. */
export function productsGraph({ tokens, dModel: d, dFf: hidden, experts, topK, activation, pass }: LayerWork): Graph {
  const groups = Math.max(1, experts),
    rows = experts === 0 ? tokens : Math.ceil((tokens * topK) / experts),
    inner = experts === 0 ? hidden * topK : hidden;
  const up = activation === 'swiglu' ? 2 * inner : inner,
    none = { parameters: new Map(), paths: new Map() };
  return traceGraph(none, false, (t) => {
    const given = (name: string, ...shape: number[]): Tensor =>
      t.state(name, { dtype: 'float32', shape: [groups, ...shape] });
    const x = given('x', rows, d),
      w1 = given('w1', d, up),
      h = given('h', rows, inner),
      w2 = given('w2', inner, d);
    const made: [string, Tensor][] = [
      ['h.made', matmul(x, w1)],
      ['y.made', matmul(h, w2)],
    ];
    if (pass === 'train') {
      const dh = given('dh', rows, up),
        dy = given('dy', rows, d);
      made.push(
        ['dh.made', matmul(dy, w2, { transB: true })],
        ['dw2', matmul(h, dy, { transA: true })],
        ['dx', matmul(dh, w1, { transB: true })],
        ['dw1', matmul(x, dh, { transA: true })],
      );
    }
    for (const [name, y] of made) t.update(t.state(name, y.type), y);
  });
}

export interface LayerStep {
  readonly ms: number;
  readonly loss: number;
  /** Number of tokens of each expert; empty for a dense network. */
  readonly load: readonly number[];
  /** Number of pairs of token and expert that were computed. */
  readonly kept: number;
}

export interface OpenLayer {
  readonly device: DeviceName;
  readonly threads: number;
  readonly say: (line: string) => void;
}

async function openDevice(name: DeviceName, threads: number, say: (line: string) => void): Promise<ProgramExecutor> {
  if (name === 'reference') throw new UserError('bench layer: the reference has no kernels', '--device native or wasm');
  return new ProgramExecutor(await node.open(name, { threads, memory: node.freeMemory(), say }));
}

/** A layer on a device, ready to step. */
export class LayerBench {
  readonly work: LayerWork;
  readonly executor: ProgramExecutor;
  /** Time from the model to kernels that are ready to run, without the time for initial values. */
  readonly compileMs: number;
  readonly #loaded: LoadedProgram;
  readonly #optimizer: Optimizer;
  #step = 0;

  private constructor(
    work: LayerWork,
    executor: ProgramExecutor,
    compileMs: number,
    loaded: LoadedProgram,
    optimizer: Optimizer,
  ) {
    this.work = work;
    this.executor = executor;
    this.compileMs = compileMs;
    this.#loaded = loaded;
    this.#optimizer = optimizer;
  }

  /** opened: called when the device is open and nothing of the model exists: memory is measured from here. */
  static async open(
    work: LayerWork,
    { device: name, threads, say }: OpenLayer,
    opened: () => void = () => undefined,
  ): Promise<LayerBench> {
    const model = layerOf(work),
      executor = await openDevice(name, threads, say),
      { device } = executor,
      { eager } = work,
      lr = 1e-3;
    const optimizer = work.optimizer === 'sgd' ? sgd({ lr, eager }) : adam({ lr, eager });
    try {
      opened();
      const start = performance.now(),
        graph = layerGraph(model, work, optimizer),
        compiled = compileGraph(graph, device.target);
      await device.compile(compiled.kernels);
      const compileMs = performance.now() - start;
      checkMemory(compiled);
      setStates(executor, model, work, compiled);
      return new LayerBench(work, executor, compileMs, executor.load(compiled.program), optimizer);
    } catch (error) {
      await executor.close();
      throw error;
    }
  }

  /** Planned bytes: states, intermediate values, inputs and outputs, constants. */
  get plannedBytes(): number {
    const { arena, io, constants } = this.#loaded.bytes;
    return this.executor.stateBytes() + arena + io + constants;
  }

  async step(): Promise<LayerStep> {
    const { tokens, topK } = this.work,
      scalars = Object.entries(this.#optimizer.scalars(this.#step)).map(([k, v]) => [k, Float32Array.of(v)]);
    const inputs = {
      commit: Int32Array.of(1),
      seed: Uint32Array.of(0),
      step: Uint32Array.of(this.#step),
      ...(Object.fromEntries(scalars) as Record<string, Float32Array>),
    };
    const start = performance.now(),
      out = await this.executor.run(this.#loaded, inputs),
      ms = performance.now() - start;
    this.#step++;
    const loss = Number(out['loss'].data[0]),
      dropped = sum(out['dropped']?.data ?? []);
    if (!Number.isFinite(loss)) throw new Error(`step ${this.#step}: the loss is not finite`);
    return { ms, loss, load: Array.from(out['load']?.data ?? []), kept: tokens * topK - dropped };
  }

  /** Mean times of the kernels over several steps, run one after the other. */
  async profile(runs: number): Promise<KernelTime[]> {
    let total = new Float64Array(this.#loaded.program.steps.length);
    for (let i = 0; i < runs; i++) {
      const { ns } = await this.#loaded.bound.profile();
      total = total.map((t, k) => t + ns[k]);
    }
    return byKernel(this.#loaded, total, runs);
  }

  close(): Promise<void> {
    return this.executor.close();
  }
}

/** The layer's matrix products on a device. */
export class ProductsBench {
  readonly executor: ProgramExecutor;
  readonly #loaded: LoadedProgram;
  private constructor(executor: ProgramExecutor, loaded: LoadedProgram) {
    this.executor = executor;
    this.#loaded = loaded;
  }

  static async open(work: LayerWork, { device: name, threads, say }: OpenLayer): Promise<ProductsBench> {
    const executor = await openDevice(name, threads, say);
    try {
      const compiled = compileGraph(productsGraph(work), executor.device.target);
      await executor.device.compile(compiled.kernels);
      checkMemory(compiled);
      for (const { name, value } of compiled.graph.inputs) {
        const type = compiled.graph.types[value];
        executor.setState(name, type, null);
        for (const { at, data } of initialParts(
          new Parameter(sizes(type.shape), { kind: 'uniform', bound: 1 }),
          name,
          0,
        ))
          executor.setPart(name, at, data);
      }
      return new ProductsBench(executor, executor.load(compiled.program));
    } catch (error) {
      await executor.close();
      throw error;
    }
  }

  /** Milliseconds of all products, run one after the other. */
  async step(): Promise<number> {
    const start = performance.now();
    await this.executor.run(this.#loaded, {});
    return performance.now() - start;
  }

  close(): Promise<void> {
    return this.executor.close();
  }
}

/** The error's text if the machine has too little memory. */
export const NO_MEMORY = 'bench layer: the layer needs more memory than is free';

function checkMemory({ program: { states, tensors, slabs } }: Compiled): void {
  const need = sum(states.map((s) => tensors[s.tensor].bytes)) + slabs.arena + slabs.io + slabs.constants,
    free = node.freeMemory();
  if (need > free) throw new UserError(`${NO_MEMORY}: ${need} bytes, there are ${free}`, 'fewer experts or tokens');
}

function setStates(executor: ProgramExecutor, model: Model, work: LayerWork, { graph, program }: Compiled): void {
  const { parameters } = nameParameters(model);
  executor.reserve(program);
  for (const { name, value, kind } of graph.inputs) {
    if (kind !== 'state') continue;
    const type = graph.types[value],
      given = name === INPUT || name === TARGET;
    const p = given ? new Parameter(sizes(type.shape), { kind: 'normal', std: 1 }) : parameters.get(name);
    executor.setState(name, type, null);
    // All other states (moments, the gradient of the input) start at 0.
    if (p) for (const { at, data } of initialParts(p, name, 0, type.dtype)) executor.setPart(name, at, data);
  }
  if (work.skew === 0 || !parameters.has(ROUTER)) return;
  // Column 0 of x is 1, so row 0 of the router's weight acts as its bias.
  const one = convert(hostTensor('float32', [1], [1]), executor.typeOf(INPUT).dtype).data;
  for (let t = 0; t < work.tokens; t++) executor.setPart(INPUT, t * work.dModel, one);
  executor.setPart(ROUTER, 0, skewedBias(work.experts, work.skew));
}

const sum = (values: Iterable<number>): number => {
  let n = 0;
  for (const v of values) n += v;
  return n;
};
