// Models in float64: every layer, loss and optimiser computes in float64 on every device, and agrees with the
// reference to 1e-12.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import {
  call,
  convert,
  generate,
  hostTensor,
  loss,
  nn,
  ops,
  optim,
  ShapeError,
  UserError,
  type Batch,
  type HostTensor,
  type Model,
  type Tensor,
} from '../../src/index.ts';
import { Conv1d, ConvTranspose2d, GRU, LSTM } from '../../src/layers.ts';
import { compile } from '../../src/node.ts';
import { findToolchain } from '../../src/device/native/toolchain.ts';
import { Stream } from '../../src/base/random.ts';

const DEVICES = [...((await findToolchain()) ? ['native' as const] : []), 'wasm' as const];
const stream = new Stream(3, 'float64');
const normal = (shape: readonly number[], step = 0): HostTensor =>
  hostTensor(
    'float64',
    shape,
    Float64Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => stream.normal(step, i)),
  );
const wholeNumbers = (shape: readonly number[], below: number): HostTensor =>
  hostTensor(
    'int32',
    shape,
    Array.from({ length: shape.reduce((n, d) => n * d, 1) }, (_, i) => Math.floor(stream.uniform(9, i) * below)),
  );

/** The largest difference divided by the largest absolute value. */
function relativeDifference(a: ArrayLike<number>, b: ArrayLike<number>): number {
  let worst = 0,
    scale = 1e-3;
  for (let i = 0; i < b.length; i++) {
    worst = Math.max(worst, Math.abs(a[i] - b[i]));
    scale = Math.max(scale, Math.abs(b[i]));
  }
  return a.length === b.length && a.length > 0 ? worst / scale : Infinity;
}

interface Work {
  readonly model: () => Model;
  readonly batch: Batch;
  readonly loss: (output: Tensor, target: Tensor) => Tensor;
  readonly optimizer: () => ReturnType<typeof optim.sgd>;
}

/** Losses and gradient norms of four steps, then all states, then the output for the batch. */
async function trained(
  { model, batch, loss: lossOf, optimizer }: Work,
  device: 'native' | 'wasm' | 'reference',
  accumulate: number,
) {
  const session = await compile(nn.setDtype(model(), 'float64'), {
    loss: lossOf,
    optimizer: optimizer(),
    device,
    threads: 2,
    seed: 1,
    accumulate,
  });
  const reported: number[] = [];
  for (let i = 0; i < 4; i++) {
    const r = await session.step(batch);
    reported.push(r.loss, r.gradNorm, ...Object.values(r.aux));
  }
  const states = session
    .states()
    .filter((s) => s.dtype !== 'int32' && s.dtype !== 'uint32')
    .map(({ name, dtype, read }) => ({ name, dtype, data: read().data }));
  const bytes = await session.serialize();
  await session.deserialize(bytes);
  const output = await session.predict(batch.x);
  await session.close();
  return { told: reported, states, output };
}

const x = normal([12, 6]),
  y = normal([12, 3], 1),
  classes = wholeNumbers([12], 3),
  tokens = wholeNumbers([3, 8], 11);
const works: Readonly<Record<string, Work>> = {
  'MLP, adamW with clipping': {
    model: () => new nn.MLP([6, 8, 3]),
    batch: { x, y: classes },
    loss: loss.crossEntropy,
    optimizer: () => optim.adamW({ lr: 0.05, clip: 0.5 }),
  },
  'MLP, sgd with momentum': {
    model: () => new nn.MLP([6, 8, 3], { activation: ops.gelu }),
    batch: { x, y },
    loss: loss.meanSquaredError,
    optimizer: () => optim.sgd({ lr: 0.05, momentum: 0.9, nesterov: true, weightDecay: 0.1 }),
  },
  'mixture of experts': {
    model: () => new nn.MoE({ dModel: 6, experts: 4, topK: 2, hidden: 5, shared: 3, bias: true }),
    batch: { x, y: normal([12, 6], 1) },
    loss: loss.meanSquaredError,
    optimizer: () => optim.adam({ lr: 0.01 }),
  },
  'mixture with capacities that spill': {
    model: () =>
      new nn.MoE({
        dModel: 6,
        experts: 4,
        topK: 2,
        hidden: 5,
        capacity: 0.5,
        overflow: 'spill',
        dispatch: 'padded',
        activation: 'swiglu',
        bias: true,
        recompute: true,
      }),
    batch: { x, y: normal([12, 6], 1) },
    loss: loss.meanSquaredError,
    optimizer: () => optim.adamW({ lr: 0.01 }),
  },
  'language model': {
    model: () =>
      new nn.TransformerLM({
        vocab: 11,
        dModel: 8,
        layers: 2,
        heads: 2,
        kvHeads: 1,
        context: 8,
        moe: { experts: 3, topK: 2, hidden: 6 },
      }),
    batch: { x: tokens, y: wholeNumbers([3, 8], 7) },
    loss: loss.crossEntropy,
    optimizer: () => optim.adamW({ lr: 0.01, clip: 1 }),
  },
};

for (const [name, work] of Object.entries(works)) {
  for (const accumulate of name.startsWith('MLP') ? [1, 2] : [1]) {
    test(`${name}${accumulate > 1 ? ', accumulated' : ''}: trains in float64`, async () => {
      const wanted = await trained(work, 'reference', accumulate);
      for (const device of DEVICES) {
        const got = await trained(work, device, accumulate);
        assert.ok(
          relativeDifference(got.told, wanted.told) < 1e-12,
          `${device}: ${got.told.join(' ')} are not ${wanted.told.join(' ')}`,
        );
        for (const { name: state, dtype, data } of got.states) {
          assert.equal(dtype, 'float64', state);
          const other = wanted.states.find((s) => s.name === state);
          assert.ok(other && relativeDifference(data, other.data) < 1e-11, `${device}: ${state}`);
        }
        assert.equal(got.output.dtype, 'float64');
        assert.ok(relativeDifference(got.output.data, wanted.output.data) < 1e-11, device);
      }
    });
  }
}

const images = normal([2, 6, 6, 3]),
  flags = hostTensor(
    'float64',
    [12, 3],
    Array.from({ length: 36 }, (_, i) => (i % 2 ? 1 : -1)),
  ),
  shares = hostTensor('float64', [12, 3], new Float64Array(36).fill(1 / 3));
const losses: Readonly<Record<string, readonly [(o: Tensor, y: Tensor) => Tensor, HostTensor]>> = {
  crossEntropy: [
    (o, t) => loss.crossEntropy(o, t, { classWeights: [1, 2, 0.1], labelSmoothing: 0.1, ignoreIndex: 2 }),
    classes,
  ],
  nll: [(o, t) => loss.nll(ops.logSoftmax(o), t), classes],
  binaryCrossEntropyWithLogits: [(o, t) => loss.binaryCrossEntropyWithLogits(o, t, { positiveWeight: 2 }), shares],
  klDivergence: [(o, t) => loss.klDivergence(ops.logSoftmax(o), t), shares],
  hinge: [loss.hinge, flags],
  huber: [loss.huber, y],
  cosineSimilarity: [loss.cosineSimilarity, y],
  meanAbsoluteError: [loss.meanAbsoluteError, y],
};
/**
 * A model with batch statistics, dropout and optimiser groups. The convolution has no bias: before a norm, the
 * gradient of a bias would be rounding errors only, which adamW scales up like any other gradient.
 */
class Layers {
  readonly conv = new nn.Conv2d(3, 4, 3, { bias: false });
  readonly norm = new nn.BatchNorm(4);
  readonly dropout = new nn.Dropout(0.3);
  forward(x: Tensor): Tensor {
    return call(this.dropout, ops.relu(call(this.norm, call(this.conv, x))));
  }
}
const frozen = (): nn.MoE => {
  const moe = new nn.MoE({
    dModel: 6,
    experts: 4,
    topK: 2,
    hidden: 5,
    router: new nn.SigmoidRouter({ dModel: 6, experts: 4 }),
    active: 3,
  });
  moe.frozen = [true, false, false, false];
  return moe;
};
const more: Readonly<Record<string, Work>> = {
  ...Object.fromEntries(
    Object.entries(losses).map(([name, [lossOf, target]]) => [
      `loss.${name}`,
      {
        model: () => new nn.MLP([6, 4, 3]),
        batch: { x, y: target },
        loss: lossOf,
        optimizer: () => optim.sgd({ lr: 0.1 }),
      },
    ]),
  ),
  'batch norm, dropout, groups': {
    model: () => new Layers(),
    batch: { x: images, y: normal([2, 4, 4, 4], 2) },
    loss: loss.meanSquaredError,
    optimizer: () =>
      optim.adamW({ lr: 0.01, groups: (path) => (path.includes('conv') ? { lr: 0.5, decay: 0.1 } : {}) }),
  },
  'experts frozen and free, a bias that the router moves': {
    model: frozen,
    batch: { x, y: normal([12, 6], 1) },
    loss: loss.meanSquaredError,
    optimizer: () => optim.adam({ lr: 0.01 }),
  },
};
for (const [name, work] of Object.entries(more)) {
  test(`${name} in float64`, async () => {
    const wanted = await trained(work, 'reference', 1);
    for (const device of DEVICES) {
      const got = await trained(work, device, 1);
      assert.ok(
        relativeDifference(got.told, wanted.told) < 1e-12 &&
          relativeDifference(got.output.data, wanted.output.data) < 1e-11,
        `${device}: ${got.told.join(' ')} are not ${wanted.told.join(' ')}`,
      );
      for (const { name: state, data } of got.states)
        assert.ok(
          relativeDifference(data, wanted.states.find((s) => s.name === state)?.data ?? []) < 1e-11,
          `${device}: ${state}`,
        );
    }
  });
}

test('a float64 language model generates', async () => {
  const texts: string[] = [];
  for (const device of ['reference' as const, ...DEVICES]) {
    const session = await compile(nn.setDtype(works['language model'].model() as nn.TransformerLM, 'float64'), {
      loss: loss.crossEntropy,
      device,
      threads: 1,
      seed: 3,
    });
    const made: number[] = [];
    for await (const token of generate(session, [1, 2, 3], { tokens: 4, temperature: 0 })) made.push(token);
    texts.push(made.join());
    await session.close();
  }
  assert.ok(
    texts.every((t) => t === texts[0] && t.split(',').length === 4),
    texts.join(' '),
  );
});

const sequence = normal([2, 5, 8]);
const routers: Readonly<Record<string, () => nn.Router>> = {
  softmax: () => new nn.TopKRouter({ dModel: 6, experts: 4, softmax: 'after' }),
  groups: () => new nn.TopKRouter({ dModel: 6, experts: 4, groups: { groups: 2, limit: 1 } }),
  noisy: () => new nn.NoisyTopKRouter({ dModel: 6, experts: 4 }),
  sigmoid: () => new nn.SigmoidRouter({ dModel: 6, experts: 4 }),
  sinkhorn: () => new nn.SinkhornRouter({ dModel: 6, experts: 4 }),
  choice: () => new nn.ExpertChoiceRouter({ dModel: 6, experts: 4 }),
  hash: () => new nn.HashRouter({ experts: 4 }),
};
const layers: Readonly<Record<string, readonly [() => Model, HostTensor]>> = {
  Linear: [() => new nn.Linear(6, 2), x],
  MLP: [() => new nn.MLP([6, 4, 2]), x],
  BatchNorm: [() => new nn.BatchNorm(6), x],
  LayerNorm: [() => new nn.LayerNorm(6), x],
  RMSNorm: [() => new nn.RMSNorm(6), x],
  Dropout: [() => new nn.Sequential(new nn.Linear(6, 6), new nn.Dropout(0.5)), x],
  Embedding: [() => new nn.Embedding(11, 4), tokens],
  Conv2d: [() => new nn.Conv2d(3, 4, 3, { padding: 'same' }), images],
  'Conv2d, depthwise': [() => new nn.Conv2d(3, 3, 3, { groups: 3 }), images],
  Conv1d: [() => new Conv1d(8, 4, 3, { padding: 'same', groups: 2 }), sequence],
  ConvTranspose2d: [() => new ConvTranspose2d(3, 4, 3, { stride: 2, outputPadding: 1 }), images],
  LSTM: [() => new LSTM(8, 3, { layers: 2 }), sequence],
  GRU: [() => new GRU(8, 3, { layers: 2 }), sequence],
  MaxPool2d: [() => new nn.Sequential(new nn.Conv2d(3, 3, 1), new nn.MaxPool2d(2)), images],
  AvgPool2d: [() => new nn.Sequential(new nn.Conv2d(3, 3, 1), new nn.AvgPool2d(2)), images],
  GlobalAvgPool2d: [() => new nn.Sequential(new nn.Conv2d(3, 3, 1), new nn.GlobalAvgPool2d()), images],
  SmallCNN: [() => new nn.SmallCNN({ image: [8, 8, 3], outputs: 4 }), normal([2, 8, 8, 3])],
  MultiHeadAttention: [() => new nn.MultiHeadAttention({ dModel: 8, heads: 2, causal: true, rope: true }), sequence],
  CausalSelfAttention: [() => new nn.CausalSelfAttention({ dModel: 8, heads: 2, context: 8 }), sequence],
  ...Object.fromEntries(
    Object.entries(routers).flatMap(([name, router]) =>
      (['ragged', 'padded', 'einsum', 'dense'] as const)
        .filter((dispatch) => !(name === 'choice' && dispatch === 'dense'))
        .map(
          (dispatch) =>
            [
              `MoE, ${name}, ${dispatch}`,
              [
                () =>
                  new nn.MoE({ dModel: 6, experts: 4, topK: 2, hidden: 5, router: router(), dispatch, capacity: 1 }),
                x,
              ],
            ] as const,
        ),
    ),
  ),
  'MoE of modules': [
    () => new nn.MoE({ dModel: 6, experts: [new nn.Linear(6, 6), new nn.MLP([6, 3, 6])], topK: 1 }),
    x,
  ],
};

for (const [name, [make, input]] of Object.entries(layers)) {
  test(`${name} in float64`, async () => {
    const outputs: HostTensor[] = [];
    for (const device of ['reference' as const, ...DEVICES]) {
      const session = await compile(nn.setDtype(make(), 'float64'), {
        loss: loss.meanSquaredError,
        device,
        threads: 1,
        seed: 2,
      });
      outputs.push(await session.predict(input));
      await session.close();
    }
    const [wanted, ...others] = outputs;
    for (const got of others) {
      assert.equal(got.dtype, 'float64');
      assert.ok(
        relativeDifference(got.data, wanted.data) < 1e-12,
        `${got.data.slice(0, 4).join(' ')} is not ${wanted.data.slice(0, 4).join(' ')}`,
      );
    }
  });
}

test('mixed dtypes and a change of dtype after use are refused by name', async () => {
  const single = await compile(new nn.Linear(6, 2), { loss: loss.meanSquaredError, device: 'wasm', threads: 1 });
  await assert.rejects(
    single.predict(x),
    (e) =>
      e instanceof ShapeError &&
      /matmul: dtypes differ \(float64, float32\)[^]*nn\.setDtype\(model, 'float64'\)/.test(e.message),
  );
  const model = new nn.Linear(6, 2),
    session = await compile(nn.setDtype(model, 'float64'), { loss: loss.meanSquaredError, device: 'wasm', threads: 1 });
  await assert.rejects(
    session.predict(convert(x, 'float32')),
    (e) => e instanceof ShapeError && /dtypes differ \(float32, float64\)/.test(e.message),
  );
  await session.predict(x);
  assert.throws(
    () => nn.setDtype(model, 'float32'),
    (e) => e instanceof UserError && /cannot be changed after a session has used it/.test(e.message),
  );
  assert.throws(() => nn.setDtype(new nn.Linear(2, 2), 'bfloat16' as never), /float32 or float64, not in bfloat16/);
  await single.close();
  await session.close();
});

test('an eager optimiser and a float32 loss of a float64 model', async () => {
  for (const device of DEVICES) {
    const session = await compile(nn.setDtype(new nn.MLP([6, 4, 3]), 'float64'), {
      loss: (o, t) => ops.cast(loss.meanSquaredError(o, t), 'float32'),
      optimizer: optim.sgd({ lr: 0.1, eager: true }),
      device,
      threads: 1,
    });
    const first = (await session.step({ x, y })).loss;
    for (let i = 0; i < 5; i++) await session.step({ x, y });
    assert.ok((await session.step({ x, y })).loss < first);
    await session.close();
  }
});
