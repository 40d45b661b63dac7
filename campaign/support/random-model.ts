// Random models as plain JSON: an architecture, its mixture of experts, a loss and an optimiser. In: this JSON. Out:
// the model, and batches for it.
import fc from 'fast-check';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { relu } from '../../src/graph/ops/elementwise/relu.ts';
import { Linear } from '../../src/nn/linear.ts';
import * as losses from '../../src/nn/loss.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { ExpertChoiceRouter, HashRouter } from '../../src/nn/moe/fixed-routers.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import type { Router } from '../../src/nn/moe/router.ts';
import { NoisyTopKRouter, SigmoidRouter, SinkhornRouter, TopKRouter } from '../../src/nn/moe/routers.ts';
import { RMSNorm } from '../../src/nn/norm.ts';
import { SmallCNN } from '../../src/nn/smallCnn.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adam, adamW } from '../../src/optim/adam.ts';
import { ema } from '../../src/optim/ema.ts';
import { lion } from '../../src/optim/lion.ts';
import { muon } from '../../src/optim/muon.ts';
import type { Optimizer } from '../../src/optim/optimizer.ts';
import { sgd } from '../../src/optim/sgd.ts';
import type { Precision } from '../../src/session/platform.ts';
import type { CompileOptions, Model } from '../../src/session/step.ts';
import { call } from '../../src/trace/trace.ts';
import type { Tensor } from '../../src/graph/tensor.ts';

interface Layer {
  readonly experts: number;
  readonly topK: number;
  readonly hidden: number;
  readonly activation: 'relu' | 'gelu' | 'swiglu';
  readonly bias: boolean;
  readonly router: 'topK' | 'after' | 'groups' | 'noisy' | 'sigmoid' | 'sinkhorn' | 'expertChoice' | 'hash' | 'jitter';
  readonly capacity: 'dropless' | number | 'list';
  readonly overflow: 'drop' | 'spill';
  readonly priority: 'position' | 'choice' | 'probs';
  readonly dispatch: 'ragged' | 'padded' | 'einsum' | 'dense';
  readonly recompute: boolean;
  readonly chunks: number;
  readonly shared: number;
  readonly modules: boolean;
  readonly losses: Readonly<Partial<Record<'balance' | 'z' | 'importance' | 'gshard', number>>>;
}

export interface RandomModel {
  readonly kind: 'lm' | 'rows' | 'images';
  readonly seed: number;
  readonly batch: number;
  readonly width: number;
  readonly layers: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly time: number;
  readonly dropout: number;
  readonly tied: boolean;
  readonly recompute: boolean;
  readonly moe: Layer | null;
  readonly loss: 'crossEntropy' | 'smoothed' | 'ignoring' | 'meanSquaredError' | 'huber';
  readonly optimizer:
    'sgd' | 'momentum' | 'nesterov' | 'adam' | 'adamW' | 'eager' | 'clipped' | 'lion' | 'muon' | 'ema';
  readonly accumulate: number;
  readonly split: number;
  /** Absent in cases from before there was a choice. */
  readonly precision?: Precision;
}

const layer: fc.Arbitrary<Layer> = fc.record({
  experts: fc.constantFrom(1, 2, 3, 4, 6, 8),
  topK: fc.constantFrom(1, 2, 2, 3),
  hidden: fc.constantFrom(1, 5, 8, 24),
  activation: fc.constantFrom('relu', 'gelu', 'swiglu'),
  bias: fc.boolean(),
  router: fc.constantFrom(
    'topK',
    'topK',
    'after',
    'groups',
    'noisy',
    'sigmoid',
    'sinkhorn',
    'expertChoice',
    'hash',
    'jitter',
  ),
  capacity: fc.constantFrom<Layer['capacity'][]>('dropless', 0, 0.3, 1, 1.5, 4, 'list'),
  overflow: fc.constantFrom('drop', 'spill'),
  priority: fc.constantFrom('position', 'choice', 'probs'),
  dispatch: fc.constantFrom('ragged', 'ragged', 'padded', 'padded', 'einsum', 'dense'),
  recompute: fc.boolean(),
  chunks: fc.constantFrom(1, 1, 2, 3),
  shared: fc.constantFrom(0, 0, 8),
  modules: fc.constantFrom(false, false, false, true),
  losses: fc.record(
    {
      balance: fc.constantFrom(0.01, 0.5),
      z: fc.constant(0.02),
      importance: fc.constant(0.1),
      gshard: fc.constant(0.3),
    },
    { requiredKeys: [] },
  ),
});

export const randomModel: fc.Arbitrary<RandomModel> = fc.record({
  kind: fc.constantFrom('lm', 'lm', 'rows', 'images'),
  seed: fc.nat(10_000),
  batch: fc.constantFrom(1, 2, 3, 4, 6),
  width: fc.constantFrom(4, 8, 12, 20),
  layers: fc.constantFrom(1, 1, 2),
  heads: fc.constantFrom(1, 2),
  kvHeads: fc.constantFrom(1, 2),
  time: fc.constantFrom(1, 2, 5, 9, 17),
  dropout: fc.constantFrom(0, 0, 0.2),
  tied: fc.boolean(),
  recompute: fc.boolean(),
  moe: fc.option(layer, { nil: null, freq: 9 }),
  loss: fc.constantFrom('crossEntropy', 'smoothed', 'ignoring', 'meanSquaredError', 'huber'),
  optimizer: fc.constantFrom('sgd', 'momentum', 'nesterov', 'adam', 'adamW', 'eager', 'clipped', 'lion', 'muon', 'ema'),
  accumulate: fc.constantFrom(1, 1, 2),
  split: fc.constantFrom(1, 1, 2, 3),
  precision: fc.constantFrom<Precision[]>('float32', 'float32', 'bfloat16', 'bfloat16-weights'),
});

const VOCAB = 11,
  CLASSES = 5,
  SIDE = 6;

function routerOf(m: Layer, dModel: number, seed: number): Router {
  const own = { dModel, experts: m.experts };
  switch (m.router) {
    case 'topK':
      return new TopKRouter(own);
    case 'after':
      return new TopKRouter({ ...own, softmax: 'after' });
    case 'groups':
      return new TopKRouter(
        m.experts % 2 === 0
          ? {
              ...own,
              groups: { groups: 2, limit: m.topK > m.experts / 2 ? 2 : 1, by: seed % 2 === 0 ? 'max' : 'top2' },
            }
          : own,
      );
    case 'noisy':
      return new NoisyTopKRouter(own);
    case 'sigmoid':
      return new SigmoidRouter({ ...own, biasRate: 0.01 });
    case 'sinkhorn':
      return new SinkhornRouter(own);
    case 'expertChoice':
      return new ExpertChoiceRouter(own);
    case 'hash':
      return new HashRouter({ experts: m.experts, seed });
    case 'jitter':
      return new TopKRouter({ ...own, jitter: 0.1 });
  }
}

/** The option `overflow`, if there is a capacity: without one it has no effect and would be refused. */
export function beyond<O extends string, P extends string>(
  capacity: unknown,
  overflow: O,
  priority?: P,
): { readonly overflow?: O; readonly priority?: P } {
  return capacity === 'dropless'
    ? {}
    : { overflow, ...(priority !== undefined && overflow !== 'spill' && { priority }) };
}

/** The options of an MoE layer, for nn.MoE and nn.TransformerLM. */
function layerOptions(m: Layer, dModel: number, seed: number): Omit<ConstructorParameters<typeof MoE>[0], 'dModel'> {
  const { hidden, activation, bias, overflow, priority, dispatch, recompute, shared } = m,
    topK = Math.min(m.topK, m.experts),
    chunks = dispatch === 'einsum' || dispatch === 'dense' ? 1 : m.chunks;
  // Losses that a router does not have are left out; a hash router has none.
  const known =
    m.router === 'hash'
      ? {}
      : m.router === 'expertChoice'
        ? { ...(m.losses.z !== undefined && { z: m.losses.z }) }
        : m.losses;
  const experts = m.modules
    ? {
        experts: Array.from({ length: m.experts }, (_, e) => new MLP([dModel, hidden + (e % 2), dModel])),
        ...(shared > 0 && { activation }),
      }
    : { experts: m.experts, hidden, activation, bias, chunks };
  return {
    ...experts,
    topK,
    router: routerOf(m, dModel, seed),
    capacity: m.capacity === 'list' ? Array.from({ length: m.experts }, (_, e) => 0.5 + (e % 3) / 2) : m.capacity,
    ...(m.router !== 'expertChoice' && beyond(m.capacity, overflow, priority)),
    dispatch,
    recompute,
    ...(shared > 0 && { shared }),
    losses: known,
  };
}

/** A model from rows or images to classes or numbers: a linear layer, layers with a residual, a linear layer. */
class Rows {
  readonly first: Linear | SmallCNN;
  readonly norms: readonly RMSNorm[];
  readonly middle: readonly (MoE | MLP)[];
  readonly last: Linear;
  constructor(r: RandomModel) {
    this.first =
      r.kind === 'images'
        ? new SmallCNN({ image: [SIDE, SIDE, 2], outputs: r.width, widths: [4] })
        : new Linear(r.time, r.width);
    this.norms = Array.from({ length: r.layers }, () => new RMSNorm(r.width));
    this.middle = this.norms.map((_, i) =>
      r.moe
        ? new MoE({ dModel: r.width, ...layerOptions(r.moe, r.width, r.seed + i) })
        : new MLP([r.width, 8, r.width]),
    );
    this.last = new Linear(r.width, CLASSES);
  }

  forward(x: Tensor): Tensor {
    return call(
      this.last,
      relu(this.middle.reduce<Tensor>((h, m, i) => add(h, call(m, call(this.norms[i], h))), call(this.first, x))),
    );
  }
}

export function buildModel(r: RandomModel): Model {
  const { width: dModel, layers, heads, kvHeads, time, dropout, tied, recompute, moe } = r;
  if (r.kind !== 'lm') return new Rows(r);
  return new TransformerLM({
    vocab: VOCAB,
    dModel,
    layers,
    heads,
    kvHeads: heads % kvHeads === 0 ? kvHeads : heads,
    context: time,
    dropout,
    tied,
    recompute,
    ...(moe ? { moe: layerOptions(moe, dModel, r.seed) } : { hidden: 9 }),
  });
}

const REGRESSION = ['meanSquaredError', 'huber'] as const;
export const regression = ({ kind, loss }: RandomModel): boolean =>
  kind !== 'lm' && (REGRESSION as readonly string[]).includes(loss);

export function lossFor(r: RandomModel): losses.Loss {
  if (regression(r)) return r.loss === 'huber' ? (o, t) => losses.huber(o, t, { delta: 0.5 }) : losses.meanSquaredError;
  switch (r.loss) {
    case 'smoothed':
      return (o, t) => losses.crossEntropy(o, t, { labelSmoothing: 0.1 });
    case 'ignoring':
      return (o, t) => losses.crossEntropy(o, t, { ignoreIndex: 1 });
    default:
      return losses.crossEntropy;
  }
}

export function optimizerFor({ optimizer }: RandomModel): Optimizer {
  switch (optimizer) {
    case 'sgd':
      return sgd({ lr: 0.1 });
    case 'momentum':
      return sgd({ lr: 0.05, momentum: 0.9, weightDecay: 0.01 });
    case 'nesterov':
      return sgd({ lr: 0.05, momentum: 0.9, nesterov: true });
    case 'adam':
      return adam({ lr: 0.01 });
    case 'adamW':
      return adamW({ lr: 0.01, weightDecay: 0.1 });
    case 'eager':
      return sgd({ lr: 0.1, eager: true });
    case 'clipped':
      return adamW({ lr: 0.01, clip: 0.5 });
    case 'lion':
      return lion({ lr: 0.002, weightDecay: 0.1 });
    case 'muon':
      return muon({ lr: 0.01, clip: 0.5 });
    case 'ema':
      return ema(adamW({ lr: 0.01 }), { decay: 0.5 });
  }
}

/** The options for `compile`, without device and threads. */
export function optionsFor(r: RandomModel): CompileOptions {
  const eager = r.optimizer === 'eager',
    parts = r.batch % r.accumulate === 0 && !eager ? r.accumulate : 1;
  return {
    loss: lossFor(r),
    optimizer: optimizerFor(r),
    seed: r.seed,
    accumulate: parts,
    split: eager ? 1 : r.split,
    precision: r.precision ?? 'float32',
    memory: 512e6,
    say: () => undefined,
  };
}

/** The batch of a step. */
export function batchFor(r: RandomModel, step: number, size = r.batch): Batch {
  const stream = new Stream(r.seed, 'batch'),
    whole = (n: number, below: number, from: number): Int32Array =>
      Int32Array.from({ length: n }, (_, i) => Math.floor(stream.uniform(step, from + i) * below));
  if (r.kind === 'lm')
    return {
      x: hostTensor('int32', [size, r.time], whole(size * r.time, VOCAB, 0)),
      y: hostTensor('int32', [size, r.time], whole(size * r.time, VOCAB, 1)),
    };
  const shape = r.kind === 'images' ? [size, SIDE, SIDE, 2] : [size, r.time],
    count = shape.reduce((n, d) => n * d, 1),
    x = hostTensor('float32', shape, stream.normals(2 * step, 1, new Float32Array(count)));
  return {
    x,
    y: regression(r)
      ? hostTensor('float32', [size, CLASSES], stream.normals(2 * step + 1, 1, new Float32Array(size * CLASSES)))
      : hostTensor('int32', [size], whole(size, CLASSES, 0)),
  };
}
