// Tests the options objects of all exports of the package: an unknown key must be an error that names the key. OPTIONS
// lists the exports that take options, with valid options; NONE lists those that take none. An export that is in
// neither list must at least refuse an unknown option.
import assert from 'node:assert/strict';
import test from 'node:test';
import { inspect } from 'node:util';
import fc from 'fast-check';
import * as data from 'dynamoe/data';
import * as layers from 'dynamoe/layers';
import * as log from 'dynamoe/log';
import * as recompile from 'dynamoe/recompile';
import * as core from 'dynamoe';
import { loss, metrics, nn, ops, optim, type Tensor } from 'dynamoe';
import { closest } from '../src/base/options.ts';
import { ops as table } from '../src/graph/ops/index.ts';
import { Trace } from '../src/trace/trace.ts';

/** A tensor in a new trace. */
function tensor(shape: readonly number[], dtype: 'float32' | 'int32' = 'float32'): Tensor {
  return new Trace(table, { parameters: new Map(), paths: new Map() }, true).input('input', 'x', { dtype, shape });
}
/** A second tensor in the same trace. */
const beside = (x: Tensor, shape: readonly number[], dtype: 'float32' | 'int32' = 'float32'): Tensor =>
  (x.builder as Trace).input('input', 'y', { dtype, shape });

/** `also`: values that are not objects and are valid, too. */
interface Case {
  readonly options: object;
  readonly call: (options: never) => unknown;
  readonly also: readonly unknown[];
}
const takes = <T extends object>(options: T, call: (options: T) => unknown, ...also: readonly unknown[]): Case => ({
  options,
  call: call,
  also,
});
const maker = <T extends object>(type: new (options: T) => unknown, options: NoInfer<T>): Case =>
  takes(options, (o) => new type(o));

const rows = {
  x: core.hostTensor('float32', [4, 2], new Float32Array(8)),
  y: core.hostTensor('int32', [4], new Int32Array(4)),
};
const moeTensors = new Map([
  ['moe.router.weight', core.hostTensor('float32', [2, 2], new Float32Array(4))],
  ['moe.experts.w1', core.hostTensor('float32', [2, 2, 3], new Float32Array(12))],
  ['mlp.up.weight', core.hostTensor('float32', [2, 3], new Float32Array(6))],
  ['mlp.down.weight', core.hostTensor('float32', [3, 2], new Float32Array(6))],
]);
/** Options of generate. */
const SAMPLED = {
  tokens: 1,
  temperature: 0.5,
  topK: 2,
  topP: 0.9,
  minP: 0.1,
  repetitionPenalty: 1.1,
  stop: [6],
  seed: 1,
};
const model = new nn.TransformerLM({ vocab: 7, dModel: 4, layers: 1, heads: 1, context: 4 });
const linear = (): nn.Linear => new nn.Linear(2, 2);
const step = { step: 1, loss: 1, aux: {}, stats: {}, gradNorm: 1 };

/** Paths of exports, each with valid calls. */
const OPTIONS: Readonly<Record<string, readonly Case[]>> = {
  arrays: [takes({ train: 2 }, (o) => core.arrays(rows, o)), takes(rows, (o) => core.arrays(o))],
  compile: [
    takes(
      {
        loss: loss.crossEntropy,
        optimizer: optim.sgd({ lr: 1 }),
        device: 'reference' as const,
        seed: 1,
        accumulate: 1,
        split: 1,
        memory: 1e9,
        observe: true,
        threads: 1,
      },
      async (o) => {
        await (await core.compile(linear(), o)).close();
      },
    ),
  ],
  generate: [
    takes(SAMPLED, async (o) => {
      const session = await core.compile(model, { loss: loss.crossEntropy, device: 'reference' });
      try {
        for await (const token of core.generate(session, [1], o)) assert.ok(token >= 0);
      } finally {
        await session.close();
      }
    }),
  ],
  generateLogprobs: [
    takes({ ...SAMPLED, logprobs: 2 }, async (o) => {
      const session = await core.compile(model, { loss: loss.crossEntropy, device: 'reference' });
      try {
        for await (const { logprob } of core.generateLogprobs(session, [1], o)) assert.ok(logprob <= 0);
      } finally {
        await session.close();
      }
    }),
  ],
  Parameter: [
    takes(
      { dtype: 'float32' as const, trained: false, role: 'running' as const },
      (o) => new core.Parameter([2], { kind: 'constant', value: 0 }, o),
    ),
    takes({ kind: 'normal' as const, std: 1 }, (o) => new core.Parameter([2], o)),
    takes({ kind: 'uniform' as const, bound: 1 }, (o) => new core.Parameter([2], o)),
  ],
  evaluateTask: [
    takes({ encode: () => [], progress: () => undefined, stops: () => false }, (o) =>
      core.evaluateTask(null as never, [], o).catch((error: unknown) => {
        if (!(error instanceof TypeError)) throw error; // there is no session: the options were right
      }),
    ),
  ],
  initFrom: [
    takes({ rename: { 'a.*': 'b.*' }, skip: ['b.*'], where: 'there' }, (o) =>
      core.initFrom(null as never, new Map(), o).catch((error: unknown) => {
        if (!(error instanceof TypeError)) throw error; // there is no session: the options were right
      }),
    ),
  ],
  readSafetensors: [
    takes({ say: () => undefined }, (o) => core.readSafetensors(Uint8Array.of(2, 0, 0, 0, 0, 0, 0, 0, 0x7b, 0x7d), o)),
  ],
  textFrom: [
    takes({ split: { validation: 0.2 }, say: () => undefined }, (o) => core.textFrom('text', o)),
    takes({ validation: 0.2 }, (split) => core.textFrom('text', { split })),
    takes({ size: 1, context: 2, seed: 1, from: 1, limit: 2, split: 'train' as const }, (o) =>
      core.textFrom('a text of some length').batches(o),
    ),
    takes({ size: 1, context: 2, split: 'validation' as const }, (o) => core.textFrom('a text of some length').pass(o)),
  ],

  'nn.AvgPool2d': [takes({ stride: 1, padding: 1, padded: true }, (o) => new nn.AvgPool2d(2, o))],
  'nn.BatchNorm': [takes({ eps: 1e-3, momentum: 0.2 }, (o) => new nn.BatchNorm(2, o))],
  'nn.CausalSelfAttention': [
    maker(nn.CausalSelfAttention, { dModel: 8, heads: 2, kvHeads: 1, context: 4, outStd: 1, ropeBase: 100 }),
  ],
  'nn.Conv2d': [
    takes({ bias: false, std: 1, stride: 1, padding: 0, dilation: 1, groups: 1 }, (o) => new nn.Conv2d(2, 2, 3, o)),
  ],
  'nn.Embedding': [takes({ std: 1 }, (o) => new nn.Embedding(2, 2, o))],
  'nn.ExpertBank': [
    maker(nn.ExpertBank, { experts: 2, dModel: 2, hidden: 2, activation: 'relu', bias: true, outStd: 1 }),
  ],
  'nn.ExpertChoiceRouter': [maker(nn.ExpertChoiceRouter, { dModel: 2, experts: 2, jitter: 0.1 })],
  'nn.HashRouter': [maker(nn.HashRouter, { experts: 2, vocab: 3, seed: 1 })],
  'nn.LayerNorm': [takes({ eps: 1e-3 }, (o) => new nn.LayerNorm(2, o))],
  'nn.Linear': [takes({ bias: false, std: 1, role: 'head' as const }, (o) => new nn.Linear(2, 2, o))],
  'nn.LinearRouter': [
    takes(
      { dModel: 2, experts: 2, jitter: 0.1, normalise: true },
      (o) =>
        new (class extends nn.LinearRouter {
          choose(): never {
            throw new Error('unused');
          }
        })(o),
    ),
  ],
  'nn.MLP': [takes({ activation: ops.gelu, bias: false }, (o) => new nn.MLP([2, 3, 2], o))],
  'nn.MaxPool2d': [takes({ stride: 1, padding: 1 }, (o) => new nn.MaxPool2d(2, o))],
  'nn.MoE': [
    maker(nn.MoE, {
      dModel: 2,
      experts: 4,
      active: 3,
      topK: 2,
      hidden: 2,
      activation: 'relu',
      bias: true,
      capacity: 1,
      overflow: 'drop',
      priority: 'probs',
      dispatch: 'padded',
      expertRows: 16,
      routing: 'watched',
      remember: 4,
      audit: 2,
      recompute: true,
      chunks: 2,
      shared: 2,
      normalise: true,
      balance: 0.1,
      zLoss: 0.1,
      outStd: 1,
    }),
    maker(nn.MoE, {
      dModel: 2,
      experts: [linear(), linear()],
      topK: 1,
      router: new nn.TopKRouter({ dModel: 2, experts: 2 }),
      losses: { z: 0.1 },
    }),
  ],
  'nn.MultiHeadAttention': [
    maker(nn.MultiHeadAttention, {
      dModel: 8,
      heads: 2,
      kvHeads: 1,
      memoryWidth: 8,
      causal: true,
      rope: true,
      bias: true,
      outStd: 1,
    }),
    takes({}, (o) => {
      const x = tensor([1, 2, 4]);
      return ops.attention(...([1, 2, 3].map(() => ops.reshape(x, [1, 2, 2, 2])) as [Tensor, Tensor, Tensor]), 0, {
        causal: false,
        ...o,
      });
    }),
  ],
  'nn.NoisyTopKRouter': [maker(nn.NoisyTopKRouter, { dModel: 2, experts: 2, jitter: 0.1 })],
  'nn.RMSNorm': [takes({ eps: 1e-3 }, (o) => new nn.RMSNorm(2, o))],
  'nn.SharedExpert': [maker(nn.SharedExpert, { dModel: 2, hidden: 2, activation: 'relu' })],
  'nn.SigmoidRouter': [
    maker(nn.SigmoidRouter, {
      dModel: 2,
      experts: 4,
      jitter: 0.1,
      normalise: true,
      groups: { groups: 2, limit: 1, by: 'max' },
      biasRate: 0.1,
      scale: 2,
    }),
  ],
  'nn.SinkhornRouter': [maker(nn.SinkhornRouter, { dModel: 2, experts: 2, jitter: 0.1, normalise: true, rounds: 2 })],
  'nn.SmallCNN': [maker(nn.SmallCNN, { image: [8, 8, 1], outputs: 2, widths: [2] })],
  'nn.TopKRouter': [
    maker(nn.TopKRouter, {
      dModel: 2,
      experts: 4,
      jitter: 0.1,
      normalise: true,
      softmax: 'before',
      groups: { groups: 2, limit: 1 },
    }),
    takes(
      { groups: 2, limit: 1, by: 'max' as const },
      (groups) => new nn.TopKRouter({ dModel: 2, experts: 4, groups }),
    ),
  ],
  'nn.TransformerBlock': [
    maker(nn.TransformerBlock, {
      dModel: 4,
      layers: 1,
      heads: 1,
      kvHeads: 1,
      context: 2,
      hidden: 8,
      dropout: 0.1,
      recompute: true,
    }),
  ],
  'nn.TransformerLM': [
    maker(nn.TransformerLM, {
      vocab: 3,
      dModel: 4,
      layers: 1,
      heads: 1,
      kvHeads: 1,
      context: 2,
      hidden: 8,
      dropout: 0.1,
      recompute: true,
      tied: true,
    }),
    takes(
      { experts: 2, topK: 1, hidden: 4 },
      (moe) => new nn.TransformerLM({ vocab: 3, dModel: 4, layers: 1, heads: 1, context: 2, moe }),
      null,
    ),
    takes(
      { padding: 2 },
      (o) => {
        const moe = { experts: 2, topK: 1, hidden: 4 };
        return new nn.TransformerLM({ vocab: 3, dModel: 4, layers: 1, heads: 1, context: 2, moe, ...o });
      },
      // These spread to no options.
      null,
      3,
      true,
    ),
  ],
  'nn.cache': [takes({ batches: 2, use: true, gamma: 0.9 }, (o) => nn.cache({}, tensor([2, 2], 'int32'), o))],
  'nn.compactExperts': [takes({ moe: 'moe', slots: ['on', 'off'] }, (o) => nn.compactExperts(moeTensors, o))],
  'nn.groupBy': [
    takes({ experts: 2, capacity: 1, overflow: 'drop' as const, padded: true, expertRows: 16 }, (o) => {
      const x = tensor([4, 2]);
      return nn.groupBy(x, beside(x, [4, 1], 'int32'), o);
    }),
  ],
  'nn.resizeExperts': [takes({ moe: 'moe', from: [0], noise: 0.1, seed: 1 }, (o) => nn.resizeExperts(moeTensors, o))],
  'nn.route': [
    takes({ experts: 2, capacity: 1, overflow: 'spill' as const, padded: true, expertRows: 16 }, (o) =>
      nn.route(tensor([4, 1], 'int32'), o),
    ),
  ],
  'nn.upcycle': [
    takes({ from: 'mlp', to: 'moe', experts: 2, routerStd: 0.1, seed: 1 }, (o) => nn.upcycle(moeTensors, o)),
  ],

  'ops.argsort': [takes({ axis: 0, descending: true }, (o) => ops.argsort(tensor([2, 2]), o))],
  'ops.attention': [
    takes({ causal: true, scale: 1 }, (o) => {
      const x = tensor([1, 2, 1, 4]);
      return ops.attention(x, x, x, 0, o);
    }),
  ],
  'ops.avgPool2d': [takes({ stride: 1, padding: 1, padded: true }, (o) => ops.avgPool2d(tensor([1, 4, 4, 1]), 2, o))],
  'ops.conv2d': [
    takes({ stride: 1, padding: 1, dilation: 1, groups: 1 }, (o) => {
      const x = tensor([1, 4, 4, 1]);
      return ops.conv2d(x, beside(x, [2, 2, 1, 1]), o);
    }),
  ],
  'ops.cumulativeSum': [takes({ exclusive: true, reverse: true }, (o) => ops.cumulativeSum(tensor([2]), 0, o))],
  'ops.matmul': [
    takes({ transA: true, transB: true }, (o) => {
      const x = tensor([2, 2]);
      return ops.matmul(x, x, o);
    }),
  ],
  'ops.maxPool2d': [takes({ stride: 1, padding: 1 }, (o) => ops.maxPool2d(tensor([1, 4, 4, 1]), 2, o))],
  'ops.sort': [takes({ axis: 0, descending: true }, (o) => ops.sort(tensor([2, 2]), o))],

  'loss.binaryCrossEntropyWithLogits': [
    takes({ positiveWeight: 2 }, (o) => {
      const x = tensor([2]);
      return loss.binaryCrossEntropyWithLogits(x, x, o);
    }),
  ],
  'loss.crossEntropy': [
    takes({ labelSmoothing: 0.1, ignoreIndex: 0, classWeights: [1, 2] }, (o) => {
      const x = tensor([2, 2]);
      return loss.crossEntropy(x, beside(x, [2], 'int32'), o);
    }),
  ],
  'loss.huber': [
    takes({ delta: 2 }, (o) => {
      const x = tensor([2]);
      return loss.huber(x, x, o);
    }),
  ],

  'optim.adam': [takes({ lr: 1, betas: [0.5, 0.5] as const, eps: 1e-3, clip: 1 }, (o) => optim.adam(o))],
  'optim.adamW': [
    takes({ lr: 1, betas: [0.5, 0.5] as const, eps: 1e-3, weightDecay: 0.1, eager: true }, (o) => optim.adamW(o)),
  ],
  'optim.ema': [takes({ decay: 0.9 }, (o) => optim.ema(optim.sgd({ lr: 1 }), o))],
  'optim.lion': [takes({ lr: 1, betas: [0.5, 0.5] as const, weightDecay: 0.1, clip: 1 }, (o) => optim.lion(o))],
  'optim.muon': [
    takes({ lr: 1, momentum: 0.5, nesterov: true, iterations: 3, weightDecay: 0.1, clip: 1 }, (o) => optim.muon(o)),
    takes({ lr: 1, adamW: { lr: 1 }, eager: true }, (o) => optim.muon(o)),
  ],
  'optim.sgd': [takes({ lr: 1, momentum: 0.5, nesterov: true, weightDecay: 0.1, clip: 1 }, (o) => optim.sgd(o))],
  'optim.warmupCosine': [takes({ peak: 1, warmup: 1, total: 3, floor: 0.1 }, (o) => optim.warmupCosine(o))],

  'layers.GRU': [takes({ layers: 2, bias: false }, (o) => new layers.GRU(2, 2, o))],
  'layers.LSTM': [takes({ layers: 2, bias: false }, (o) => new layers.LSTM(2, 2, o))],
  'layers.Conv1d': [
    takes({ bias: false, std: 1, stride: 1, padding: 0, dilation: 1, groups: 1 }, (o) => new layers.Conv1d(2, 2, 3, o)),
  ],
  'layers.conv1d': [
    takes({ stride: 1, padding: 1, dilation: 1, groups: 1 }, (o) => {
      const x = tensor([1, 4, 1]);
      return layers.conv1d(x, beside(x, [2, 1, 1]), o);
    }),
  ],
  'layers.ConvTranspose2d': [
    takes(
      { bias: false, std: 1, stride: 2, padding: 0, outputPadding: 1, dilation: 1, groups: 1 },
      (o) => new layers.ConvTranspose2d(2, 2, 3, o),
    ),
  ],
  'layers.convTranspose2d': [
    takes({ stride: 2, padding: 1, outputPadding: 1, dilation: 1, groups: 1 }, (o) => {
      const x = tensor([1, 4, 4, 1]);
      return layers.convTranspose2d(x, beside(x, [3, 3, 1, 1]), o);
    }),
  ],

  'data.arrays': [
    takes({ size: 1, seed: 1, split: 'train' as const, from: 1, limit: 1 }, (o) => data.arrays(rows).batches(o)),
    takes({ size: 1, split: 'test' as const }, (o) => data.arrays(rows).pass(o)),
  ],
  'data.balancedOrder': [takes({ size: 2, seed: 1 }, (o) => data.balancedOrder([], o))],
  'data.cifar10': [takes({ normalise: true }, (o) => data.cifar10('folder', o))],
  'data.cifar100': [takes({ normalise: true, labels: 'coarse' as const }, (o) => data.cifar100('folder', o))],
  'data.mnist': [
    takes({ train: 1, normalise: true }, (o) => data.mnist('folder', o)),
    takes({ images: 'a', labels: 'b' }, (o) => data.mnist(o), 'text'),
  ],
  'data.text': [takes({ split: { validation: 0.2 }, say: () => undefined }, (o) => data.text('folder', o))],
  'data.textFrom': [takes({ split: { validation: 0.2 }, say: () => undefined }, (o) => data.textFrom('text', o))],

  'recompile.generate': [
    takes(
      {
        experts: 8,
        k: 1,
        tokens: 16,
        steps: 2,
        seed: 1,
        capacity: 1,
        overflow: 'drop' as const,
        dispatch: 'padded' as const,
      },
      (o) => recompile.generate('hot', o),
    ),
  ],
  'recompile.replay': [
    takes({ drop: 1, spill: 1, recompilation: 1 }, (prices) =>
      recompile.replay(recompile.generate('hot', { experts: 4, k: 1, tokens: 8, steps: 4 }), [], prices),
    ),
  ],
  'recompile.adaptCapacity': [
    takes({ quantile: 0.9, margin: 0.1, price: 2, horizon: 64, cooldown: 8 }, (o) => recompile.adaptCapacity(o)),
  ],
  'recompile.cacheAssignments': [
    takes({ on: 0.9, off: 0.8, score: () => 1, audit: 2, samples: 8, freeze: true, cooldown: 8, patience: 64 }, (o) =>
      recompile.cacheAssignments(o),
    ),
  ],
  'recompile.chooseDispatch': [takes({ padding: 0.1, cooldown: 8 }, (o) => recompile.chooseDispatch(o))],
  'recompile.expertLifecycle': [
    takes({ prune: 0.1, merge: 0.2, split: 3, freeze: 0.1, keep: 2, cooldown: 128 }, (o) =>
      recompile.expertLifecycle(o),
    ),
  ],
  'recompile.fitMemory': [takes({ budget: 1e9, margin: 0.1, horizon: 64, cooldown: 8 }, (o) => recompile.fitMemory(o))],
  'recompile.placeExperts': [
    takes({ loads: [[1, 2]], replicas: 2, groups: 1, nodes: 1, devices: 1 }, (o) => recompile.placeExperts(o)),
  ],
  'recompile.sparsify': [takes({ below: 0.1, above: 0.2, cooldown: 8 }, (o) => recompile.sparsify(o))],
  'recompile.specialise': [takes({ hysteresis: 1.5, cooldown: 8 }, (o) => recompile.specialise(o))],
  'log.stepEvent': [takes({ ms: 1, count: 1, lr: 1, rss: 1 }, (o) => log.stepEvent(step, o))],
};

const NONE: Readonly<Record<string, string>> = {
  '':
    'RanksError openRanks NonFiniteError Session ShapeError UserError averagesOf call compareTasks convert grad ' +
    'hostTensor logLikelihoods readTask traceOf use',
  nn:
    'Dropout Flatten GlobalAvgPool2d Sequential activeSlots aggregate aggregateSpec balanceLoss eligible ' +
    'gshardLoss setDtype squaredVariation topK zLoss',
  ops:
    'all any argMax argMin broadcastTo ceil clamp concat crossEntropy cumulativeMax elu flatten flip full ' +
    'fullLike gather geluExact greater greaterEqual hardSigmoid hardSwish iota isNaN layerNorm leakyRelu ' +
    'lessEqual logSigmoid logSoftmax logSumExp lowerMask max mean min norm notEqual oneHot onesLike pad ' +
    'padAll prod repeat reshape rmsNorm scatterAdd sign slice softmax split squeeze stack std sum takeAlong ' +
    'tile topK transpose tril triu unsqueeze variance zerosLike',
  optim: 'decayOf',
  loss: 'cosineSimilarity counted hinge klDivergence meanAbsoluteError meanOver meanSquaredError nll',
  metrics:
    'accuracy classScores confusionMatrix f1 ignoring meanAbsoluteError perplexity precision r2 recall ' +
    'tallyOf topKAccuracy',
  layers: 'einsum',
  recompile:
    'POLICY_NAMES RunStats WORKLOADS alone freeSlots mergeExperts parseTrace policies policiesFor ' +
    'pruneExpert splitExpert traceLines',
  log: 'jsonLines tensorBoard',
};

const ROOMS: Readonly<Record<string, object>> = {
  '': core,
  nn,
  ops,
  optim,
  loss,
  metrics,
  layers,
  data,
  recompile,
  log,
};

/** Whether an export refuses an option that there is not, when that is all it is given. */
function refusesUnknown(made: unknown): boolean {
  if (typeof made !== 'function') return false;
  const call = made as ((options: object) => unknown) & (new (options: object) => unknown);
  for (const go of [() => new call({ noSuchOption: 1 }), () => call({ noSuchOption: 1 })]) {
    try {
      go();
    } catch (error) {
      if (error instanceof core.UserError) return true;
    }
  }
  return false;
}

test('every export refuses unknown options, or is known to take none', () => {
  for (const [room, exports] of Object.entries(ROOMS)) {
    const prefix = room === '' ? '' : `${room}.`;
    const known = new Set((NONE[room] ?? '').split(/\s+/));
    const unknown = Object.entries(exports).filter(([name, made]) => {
      if (known.has(name) || `${prefix}${name}` in OPTIONS || (room === '' && name in ROOMS)) return false;
      return !('op' in Object(made)) && !refusesUnknown(made); // elementwise ops take tensors and numbers
    });
    const names = unknown.map(([name]) => name);
    assert.deepEqual(names, [], `${room}: a row in OPTIONS with options that are right, or its name in NONE`);
  }
  for (const [room, names] of Object.entries(NONE)) {
    const gone = names.split(/\s+/).filter((name) => !(name in ROOMS[room]));
    assert.deepEqual(gone, [], `NONE names what ${room} does not export`);
  }
});

/** A wrong key: an existing key with a letter added, removed, or replaced. */
const misspelt = (keys: readonly string[]): fc.Arbitrary<string> =>
  fc
    .tuple(
      fc.constantFrom(...keys),
      fc.nat(),
      fc.constantFrom('more', 'less', 'other', 'swapped', 'snake', 'new'),
      fc.constantFrom(...'aeioukz_'),
    )
    .map(([key, n, how, letter]) => {
      const at = n % key.length,
        [head, tail] = [key.slice(0, at), key.slice(at)];
      switch (how) {
        case 'more':
          return head + letter + tail;
        case 'less':
          return head + tail.slice(1);
        case 'swapped':
          return head + [...tail.slice(0, 2)].reverse().join('') + tail.slice(2);
        case 'snake':
          return key.replace(/[A-Z]/g, (c) => `_${c.toLowerCase()}`);
        case 'new':
          return `not${key}`;
        default:
          return head + letter + tail.slice(1);
      }
    });

for (const [path, cases] of Object.entries(OPTIONS)) {
  test(`${path}: valid options are accepted, a misspelt key is refused by name`, async () => {
    for (const { options, call, also } of cases) {
      const go = async (given: object): Promise<unknown> => call(given as never);
      await go(options);
      const keys = Object.keys(options);
      if (keys.length === 0) continue;
      await fc.assert(
        fc.asyncProperty(
          misspelt(keys).filter((key) => key !== '' && !(key in options)),
          async (key) => {
            const error = await go({ ...options, [key]: 1 }).then(
              () => null,
              (e: unknown) => e,
            );
            // The changed key may be a valid option, too.
            assert.ok(error instanceof core.UserError, `${path} with ${key}: ${String(error)}`);
            assert.ok(error.message.includes(`"${key}"`), `${path} with ${key}: ${error.message}`);
          },
        ),
        { numRuns: 20, seed: 3 },
      );
      for (const wrong of [null, 3, 'text', [1], true]) {
        if (!also.includes(wrong))
          await assert.rejects(go(wrong as never), { name: 'UserError' }, `${path} with ${JSON.stringify(wrong)}`);
      }
    }
  });
}

/** Values of each type that an option may have. A value of a wrong type must be refused. */
const VALUES = {
  string: ['no such thing', '', '1'],
  number: [NaN, 0.5, -1, 2 ** 53],
  boolean: [true, false],
  bigint: [1n],
  object: [null, {}, [], new Date(0)],
  function: [() => 1],
  symbol: [Symbol('s')],
} as const;
type Type = keyof typeof VALUES;
const typeOf = (value: unknown): string => (Array.isArray(value) ? 'list' : value === null ? 'null' : typeof value);

/** Options that may have values of several types, or that are checked by the function to which they are passed. */
const SEVERAL: Readonly<Record<string, readonly Type[]>> = {
  padding: ['string'],
  rope: ['number'],
  optimizer: [],
  router: [],
  lr: ['function'],
  capacity: ['string'],
  x: [],
  y: [],
  loads: [],
  labels: [],
  classWeights: [],
  normalise: [],
  shared: ['object'],
  experts: ['object'],
  stride: [],
  dilation: [],
};

for (const [path, cases] of Object.entries(OPTIONS)) {
  test(`${path}: a value of a wrong type is refused, and the option is named`, async () => {
    for (const { options, call } of cases) {
      for (const [key, right] of Object.entries(options) as [string, unknown][]) {
        for (const [type, values] of Object.entries(VALUES)) {
          if (typeof right === type || (SEVERAL[key] ?? []).includes(type as Type)) continue;
          for (const value of values) {
            if (typeOf(value) === typeOf(right)) continue;
            const error = await Promise.resolve()
              .then(() => call({ ...options, [key]: value } as never))
              .then(
                () => null,
                (e: unknown) => e,
              );
            assert.ok(error instanceof core.UserError, `${path}: ${key} = ${inspect(value)}: ${String(error)}`);
            assert.ok(error.message.includes(key), `${path}: ${key} = ${inspect(value)}: ${error.message}`);
          }
        }
      }
    }
  });
}

test('NaN is refused where it is given, not in a later step', async () => {
  const image = tensor([1, 4, 4, 1]),
    taps = beside(image, [2, 2, 1, 1]),
    moe = { dModel: 2, experts: 2, topK: 1, hidden: 2 } as const;
  const block = { dModel: 4, layers: 1, heads: 1, context: 2 } as const;
  const cases: readonly (readonly [RegExp, (n: number) => unknown])[] = [
    [/LayerNorm: eps/, (n) => new nn.LayerNorm(2, { eps: n })],
    [/RMSNorm: eps/, (n) => new nn.RMSNorm(2, { eps: n })],
    [/BatchNorm: eps/, (n) => new nn.BatchNorm(2, { eps: n })],
    [
      /layerNorm: eps/,
      (n) => {
        const row = tensor([4]);
        return ops.layerNorm(row, row, row, n);
      },
    ],
    [/MoE: balance/, (n) => new nn.MoE({ ...moe, balance: n })],
    [/MoE: zLoss/, (n) => new nn.MoE({ ...moe, zLoss: n })],
    [/loss z/, (n) => new nn.MoE({ ...moe, losses: { z: n } })],
    [/biasRate/, (n) => new nn.SigmoidRouter({ dModel: 2, experts: 2, biasRate: n })],
    [/HashRouter: experts/, (n) => new nn.HashRouter({ experts: n })],
    [/ropeBase/, (n) => new nn.CausalSelfAttention({ dModel: 8, heads: 2, context: 4, ropeBase: n })],
    [/context/, (n) => new nn.CausalSelfAttention({ dModel: 8, heads: 2, context: n })],
    [/TransformerLM: padding/, (n) => new nn.TransformerLM({ ...block, vocab: 3, padding: n })],
    [/TransformerBlock: layers/, (n) => new nn.TransformerBlock({ ...block, layers: n })],
    [/TransformerBlock: context/, (n) => new nn.TransformerBlock({ ...block, context: n })],
    [/MaxPool2d: stride/, (n) => new nn.MaxPool2d(2, { stride: n })],
    [/AvgPool2d: padding/, (n) => new nn.AvgPool2d(2, { padding: n })],
    [/Conv2d: dilation/, (n) => new nn.Conv2d(1, 1, 3, { dilation: n })],
    [/conv2d: stride/, (n) => ops.conv2d(image, taps, { stride: n })],
    [/SmallCNN: sizes/, (n) => new nn.SmallCNN({ image: [8, 8, 1], outputs: 1, widths: [n] })],
    [/dropout rate/, (n) => new nn.Dropout(n)],
    [/gamma/, (n) => nn.cache({}, tensor([2, 2], 'int32'), { batches: 1, gamma: n })],
    [/capacity/, (n) => recompile.generate('hot', { capacity: n })],
    [/expertRows/, (n) => nn.route(tensor([4, 1], 'int32'), { experts: 2, expertRows: n })],
    [/replicas/, (n) => recompile.placeExperts({ loads: [[1, 2]], replicas: n, devices: 1 })],
    [/pass: size/, (n) => data.arrays(rows).pass({ size: n })],
  ];
  for (const [message, call] of cases) {
    for (const n of [NaN, -1, -Infinity])
      assert.throws(
        () => call(n),
        (e) => e instanceof core.UserError && message.test(e.message),
        `${String(message)} ${n}`,
      );
  }
  for (const memory of [NaN, -1, 0])
    await assert.rejects(
      core.compile(linear(), { loss: loss.crossEntropy, memory }),
      /UserError: compile: memory must be a number above 0/,
    );
  assert.throws(() => new nn.Linear(2 ** 53, 2), /is no valid shape/);
  assert.throws(() => new nn.Linear(2 ** 20, 2 ** 20), /Parameter: a tensor .* has 1099511627776 elements, more than/);
  assert.throws(
    () => new nn.SinkhornRouter({ dModel: 2, experts: 2, rounds: 2 ** 53 }),
    /rounds must be a whole number from 1 to 1000/,
  );
  assert.throws(() => recompile.placeExperts({ loads: [[1, 2]], replicas: 2 ** 53, devices: 1 }), /replicas must be/);
  assert.throws(() => ops.pow(tensor([2]), 1e300), /pow: p is 1e\+300, which is no finite float32/);
});

test('the error for a misspelt key names the closest key', () => {
  const keys = ['capacity', 'expertRows', 'weightDecay', 'lr', 'topK'];
  for (const [wrong, right] of [
    ['capicity', 'capacity'],
    ['expert_rows', 'expertRows'],
    ['weightdecay', 'weightDecay'],
    ['topk', 'topK'],
    ['lrr', 'lr'],
    ['cpaacity', 'capacity'],
    ['momentum', null],
    ['x', null],
  ] as const) {
    assert.equal(closest(wrong, keys), right, wrong);
  }
  assert.throws(() => new nn.MoE({ dModel: 2, experts: 2, topK: 1, hidden: 2, dispach: 'padded' } as never), {
    name: 'UserError',
    message: /MoE: there is no option named "dispach"\n.*did you mean "dispatch"\?/,
  });
  assert.throws(() => new nn.MoE({ experts: 2, topK: 1 } as never), {
    name: 'UserError',
    message: /MoE: the option "dModel" is missing/,
  });
});

test('a setting without any effect is refused, with the reason', async () => {
  const moe = { dModel: 2, experts: 2, topK: 1, hidden: 2 } as const,
    modules = [linear(), linear()],
    router = (): nn.TopKRouter => new nn.TopKRouter({ dModel: 2, experts: 2 });
  const lm = { vocab: 3, dModel: 4, layers: 1, heads: 1, context: 2 } as const,
    x = tensor([1, 4, 4, 1]);
  const cases: readonly (readonly [RegExp, () => unknown])[] = [
    [/overflow has no effect here: the layer is dropless/, () => new nn.MoE({ ...moe, overflow: 'spill' })],
    [
      /overflow has no effect here: the layer is dropless/,
      () => new nn.MoE({ ...moe, overflow: 'drop', capacity: 'dropless' }),
    ],
    [/priority has no effect here: the layer is dropless/, () => new nn.MoE({ ...moe, priority: 'probs' })],
    [
      /priority has no effect here: choices beyond/,
      () => new nn.MoE({ ...moe, capacity: 1, overflow: 'spill', priority: 'probs' }),
    ],
    [
      /overflow has no effect here: experts choose/,
      () =>
        new nn.MoE({
          ...moe,
          capacity: 1,
          overflow: 'spill',
          router: new nn.ExpertChoiceRouter({ dModel: 2, experts: 2 }),
        }),
    ],
    [/normalise has no effect here/, () => new nn.MoE({ ...moe, router: router(), normalise: true })],
    [/balance has no effect here/, () => new nn.MoE({ ...moe, losses: {}, balance: 0.1 })],
    [/zLoss has no effect here/, () => new nn.MoE({ ...moe, losses: { balance: 1 }, zLoss: 0.1 })],
    ...(['hidden', 'bias', 'outStd', 'activation'] as const).map(
      (key) =>
        [
          new RegExp(`${key} has no effect here: the experts are modules`),
          () =>
            new nn.MoE({
              dModel: 2,
              experts: modules,
              topK: 1,
              [key]: { hidden: 2, bias: true, outStd: 1, activation: 'relu' }[key],
            }),
        ] as const,
    ),
    [
      /normalise has no effect here/,
      () => new nn.TopKRouter({ dModel: 2, experts: 2, softmax: 'after', normalise: true }),
    ],
    [/no option named "normalise"/, () => new nn.NoisyTopKRouter({ dModel: 2, experts: 2, normalise: true } as never)],
    [
      /no option named "normalise"/,
      () => new nn.ExpertChoiceRouter({ dModel: 2, experts: 2, normalise: true } as never),
    ],
    [
      /hidden has no effect here: it is the width of dense layers/,
      () => new nn.TransformerLM({ ...lm, hidden: 8, moe: { experts: 2, topK: 1, hidden: 8 } }),
    ],
    [
      /moe: dModel has no effect here/,
      () => new nn.TransformerLM({ ...lm, moe: { experts: 2, topK: 1, hidden: 8, dModel: 9 } as never }),
    ],
    [
      /no option named "tied"/,
      () => new nn.TransformerBlock({ dModel: 4, layers: 1, heads: 1, context: 2, tied: true } as never),
    ],
    [/activation has no effect here/, () => new nn.MLP([2, 3], { activation: ops.gelu })],
    [/padded has no effect here/, () => ops.avgPool2d(x, 2, { padded: true })],
    [/padded has no effect here/, () => new nn.AvgPool2d(2, { padded: true })],
    [/start has no effect/, () => ops.attention(x, x, x, 3, { causal: false })],
    [/seed has no effect here/, () => nn.resizeExperts(moeTensors, { moe: 'moe', from: [0], seed: 3 })],
    [
      /seed has no effect here/,
      () =>
        data
          .arrays(rows)
          .batches({ size: 1, seed: 2, order: (_, count) => Array.from({ length: count }, (_, i) => i) }),
    ],
    [/overflow has no effect here/, () => nn.route(tensor([4, 1], 'int32'), { experts: 2, overflow: 'spill' })],
    [
      /accumulate has no effect here: without an optimizer/,
      () => core.compile(linear(), { loss: loss.crossEntropy, accumulate: 2 }),
    ],
    [
      /split has no effect here: without an optimizer/,
      () => core.compile(linear(), { loss: loss.crossEntropy, split: 2 }),
    ],
  ];
  for (const [message, call] of cases) {
    const error = await Promise.resolve()
      .then(call)
      .then(
        () => null,
        (e: unknown) => e,
      );
    assert.ok(error instanceof core.UserError && message.test(error.message), `${String(message)}: ${String(error)}`);
  }
  const session = await core.compile(model, { loss: loss.crossEntropy, device: 'reference' });
  try {
    for (const more of [{ topK: 2 }, { seed: 1 }]) {
      await assert.rejects(
        core.generate(session, [1], { tokens: 1, temperature: 0, ...more }).next(),
        /UserError.*has no effect here: at temperature 0/,
      );
    }
  } finally {
    await session.close();
  }
});

test('a parameter needs an initial value', () => {
  assert.throws(() => new core.Parameter([2], undefined as never), {
    name: 'UserError',
    message: /a parameter needs an init: its initial values\n.*kind: 'normal', std/,
  });
  for (const wrong of [
    null,
    'zeros',
    { kind: 'zeros' },
    { kind: 'normal' },
    { kind: 'normal', std: NaN },
    { kind: 'normal', std: -1 },
    { kind: 'uniform', bound: '1' },
    { kind: 'constant', std: 1 },
    { kind: 'constant', value: Infinity },
  ]) {
    assert.throws(
      () => new core.Parameter([2], wrong as never),
      { name: 'UserError', message: /init/ },
      JSON.stringify(wrong),
    );
  }
});
