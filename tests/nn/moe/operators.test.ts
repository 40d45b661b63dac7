// The paper's operators (groupBy, aggregate, cache) over experts that the caller builds, and the functions upcycle and
// resizeExperts on named tensors.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type HostTensor } from '../../../src/base/tensor.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { div } from '../../../src/graph/ops/elementwise/div.ts';
import { matmul } from '../../../src/graph/ops/matmul/matmul.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { reshape } from '../../../src/graph/ops/shape/reshape.ts';
import { softmax } from '../../../src/graph/ops/reduce/softmax.ts';
import { sub } from '../../../src/graph/ops/elementwise/sub.ts';
import { sum } from '../../../src/graph/ops/reduce/sum.ts';
import { topK } from '../../../src/graph/ops/reduce/topK.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { Linear } from '../../../src/nn/linear.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { aggregate, aggregateSpec, cache, groupBy } from '../../../src/nn/moe/operators.ts';
import { MoE } from '../../../src/nn/moe/moe.ts';
import { resizeExperts, upcycle } from '../../../src/nn/moe/upcycle.ts';
import { TransformerLM } from '../../../src/nn/transformer.ts';
import { Parameter } from '../../../src/trace/parameter.ts';
import { call, traceOf, use } from '../../../src/trace/trace.ts';
import { compile } from '../../../src/session/node.ts';
import { type Session } from '../../../src/session/session.ts';
import { crossEntropy, meanSquaredError } from '../../../src/nn/loss.ts';
import { adamW } from '../../../src/optim/adam.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compiledDevice, difference, normals, runLayer } from './layer.ts';
import { noCompiler, toyBatch } from '../../support/toy.ts';

const D = 6,
  T = 18;

/** What MoE does, written with groupBy and aggregate, over experts of different shapes. */
class ByHand {
  readonly router = { weight: new Parameter([D, 3], { kind: 'normal', std: 1 }) };
  readonly experts = [new MLP([D, 4, 5]), new MLP([D, 5]), new MLP([D, 7, 7, 5])];
  readonly #k: number;
  readonly #capacity: number;
  constructor(k: number, capacity: number) {
    this.#k = k;
    this.#capacity = capacity;
  }
  forward(x: Tensor): Tensor {
    const { values, indices } = topK(softmax(matmul(x, use(x, this.router.weight))), this.#k);
    const { rows, routing } = groupBy(x, indices, { experts: 3, capacity: this.#capacity });
    return aggregate(
      this.experts.map((m, e) => call(m, rows[e])),
      routing,
      values,
    );
  }
}

test('groupBy and aggregate give the results of the layer, for every k', async () => {
  for (const k of [1, 2, 3])
    for (const capacity of [0.5, 3]) {
      const hand = new ByHand(k, capacity),
        expected = await runLayer(
          new MoE({ dModel: D, experts: hand.experts, topK: k, capacity, normalise: false, losses: {} }),
          [T, D],
          { values: { 'router.weight': normals('r', 3 * D) } },
        );
      for (const device of ['reference', compiledDevice] as const) {
        const got = await runLayer(hand, [T, D], { device, values: { 'router.weight': normals('r', 3 * D) } });
        // The total is a sum of hundreds of positive and negative numbers, so its relative error is larger.
        for (const name of Object.keys(got))
          assert.ok(difference(got[name], expected[name]) < (name === 'total' ? 1e-4 : 1e-5), `${name}, top-${k}`);
      }
    }
});

/** Experts x + p_e, target 2 x, squared error: all results can be computed by hand. */
class Special {
  readonly gate = new Parameter([T, 3], { kind: 'normal', std: 1 });
  readonly shift = [0, 1, 2].map((e) => new Parameter([D], { kind: 'constant', value: e - 0.5 }));
  readonly #capacity: number;
  readonly #gateAlone: boolean;
  constructor(capacity: number, gateAlone: boolean) {
    this.#capacity = capacity;
    this.#gateAlone = gateAlone;
  }
  forward(x: Tensor): Tensor {
    const { values, indices } = topK(softmax(use(x, this.gate)), 2);
    const weights = div(values, reshape(sum(values, [1]), [T, 1])),
      { rows, routing } = groupBy(x, indices, { experts: 3, capacity: this.#capacity });
    const outputs = rows.map((r, e) => add(r, use(x, this.shift[e])));
    const spec = aggregateSpec(outputs, routing, weights, mul(x, 2), (y, t) => {
      const d = sub(y, t);
      return sum(mul(d, d), [1]);
    });
    const trace = traceOf(x);
    for (const [name, v] of Object.entries({
      indices,
      weights,
      inverse: routing.rows.inverse,
      loss: spec.loss,
      gate: spec.gateLoss,
    }))
      trace.addStat(this, name, v);
    if (this.#gateAlone) trace.addLoss(this, 'gate', spec.gateLoss, 1);
    else trace.addLoss(this, 'spec', spec.loss, 1);
    return mul(spec.prediction, 0);
  }
}

test('aggregateSpec: each expert learns from its own error, the gate from softmax of minus error', async () => {
  for (const capacity of [3, 0.5]) {
    const run = await runLayer(new Special(capacity, false), [T, D]),
      gate = await runLayer(new Special(capacity, true), [T, D]),
      x = normals('x', T * D);
    const { 'stat:/indices': indices, 'stat:/weights': weights, 'stat:/inverse': inverse } = run;
    const error = (t: number, e: number): number =>
      Array.from({ length: D }, (_, d) => (x[t * D + d] + (e - 0.5) - 2 * x[t * D + d]) ** 2).reduce((a, b) => a + b);
    let loss = 0,
      gateLoss = 0;
    const shift = [0, 1, 2].map(() => new Array<number>(D).fill(0));
    for (let t = 0; t < T; t++) {
      const kept = [2 * t, 2 * t + 1].filter((c) => inverse[c] >= 0),
        total = kept.reduce((s, c) => s + Math.exp(-error(t, indices[c])), 0);
      for (const c of kept) {
        const e = indices[c];
        loss += (weights[c] * error(t, e)) / T;
        gateLoss -= ((Math.exp(-error(t, e)) / total) * Math.log(weights[c])) / T;
        for (let d = 0; d < D; d++) shift[e][d] += (weights[c] * 2 * (e - 0.5 - x[t * D + d])) / T;
      }
    }
    assert.equal(
      inverse.some((r) => r < 0),
      capacity < 1,
    );
    assert.ok(Math.abs(run['stat:/loss'][0] - loss) < 1e-9 && Math.abs(run['stat:/gate'][0] - gateLoss) < 1e-9);
    shift.forEach((g, e) => {
      assert.ok(difference(run[`grad/shift.${e}`], g) < 1e-9, `expert ${e}`);
    });
    assert.ok(
      run['grad/gate'].every((g) => g === 0),
      'the loss of the experts has no gradient to the gate',
    );
    assert.ok(
      [0, 1, 2].every((e) => gate[`grad/shift.${e}`].every((g) => g === 0)),
      'the loss of the gate has no gradient to the experts',
    );
    assert.ok(gate['grad/gate'].some((g) => Math.abs(g) > 1e-3));
    const on = await runLayer(new Special(capacity, true), [T, D], { device: compiledDevice });
    assert.ok(difference(on['grad/gate'], gate['grad/gate']) < 1e-4);
  }
});

/** Caches which of the two inputs of each row is the larger one. */
class Remembering {
  readonly weight = new Parameter([1], { kind: 'constant', value: 0 });
  readonly #use: boolean;
  constructor(use: boolean) {
    this.#use = use;
  }
  forward(x: Tensor): Tensor {
    const { value, score } = cache(this, topK(x, 1).indices, { batches: 2, use: this.#use, gamma: 0.5 });
    const trace = traceOf(x);
    trace.addStat(this, 'value', value);
    trace.addStat(this, 'score', score);
    return mul(x, use(x, this.weight));
  }
}

for (const device of ['reference', ...(noCompiler ? [] : (['native'] as const))] as const) {
  test(`${device}: cache remembers assignments from epoch to epoch and measures agreement`, async () => {
    const data = [
      [
        [1, 0],
        [0, 1],
      ],
      [
        [1, 0],
        [1, 0],
      ],
      [
        [1, 0],
        [1, 0],
      ],
      [
        [1, 0],
        [1, 0],
      ],
      [
        [1, 0],
        [0, 1],
      ],
    ];
    const run = async (useIt: boolean): Promise<{ values: number[][]; scores: number[] }> => {
      await using session = await compile(new Remembering(useIt), {
        loss: meanSquaredError,
        optimizer: sgd({ lr: 0 }),
        device,
      });
      const values: number[][] = [],
        scores: number[] = [];
      for (const rows of data) {
        const x = hostTensor('float32', [2, 2], rows.flat()),
          { stats } = await session.step({ x, y: x });
        values.push(Array.from(stats['/value'].data));
        scores.push(Number(stats['/score'].data[0]));
      }
      return { values, scores };
    };
    // Two batches are cached. Steps 0 and 1 store them. Step 2 compares with step 0: one of two rows changed. Step 3
    // compares with step 1: equal. Step 4 compares with step 2.
    assert.deepEqual(await run(false), {
      values: [
        [0, 1],
        [0, 0],
        [0, 0],
        [0, 0],
        [0, 1],
      ],
      scores: [0, 0, 0.5, 0.75, 0.625],
    });
    const cached = await run(true);
    assert.deepEqual(cached.values.slice(0, 4), [
      [0, 1],
      [0, 0],
      [0, 1],
      [0, 0],
    ]);
  });
}

const skip = noCompiler;
const stepsOf = async (session: Session, n: number): Promise<number[]> => {
  const out: number[] = [];
  for (let i = 0; i < n; i++) out.push((await session.step(toyBatch(i))).loss);
  return out;
};
const named = (session: Session): Map<string, HostTensor> =>
  new Map(session.states().map(({ name, read }) => [name, read()]));
const lm = (moe?: object): TransformerLM =>
  new TransformerLM({
    vocab: 17,
    dModel: 16,
    layers: 1,
    heads: 2,
    context: 12,
    ...(moe ? { moe: { topK: 2, hidden: 24, experts: 4, ...moe } } : { hidden: 24 }),
  });
const open = (model: TransformerLM): Promise<Session> =>
  compile(model, { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }) });

test('upcycling: the mixture computes what the dense model computed, and can be trained', { skip }, async () => {
  await using dense = await open(lm());
  await stepsOf(dense, 5);
  const tensors = upcycle(named(dense), { from: 'blocks.0.mlp', to: 'blocks.0.moe', experts: 4 });
  await using sparse = await open(lm({}));
  await sparse.restore(
    0,
    [...tensors].map(([name, value]) => ({ name, value })).filter(({ name }) => !name.includes('/')),
  );
  const before = (await dense.forward(toyBatch(9)))['output'].data,
    after = (await sparse.forward(toyBatch(9)))['output'].data;
  assert.ok(difference(Array.from(after), Array.from(before)) < 1e-5);
  const losses = await stepsOf(sparse, 8);
  assert.ok(losses.every(Number.isFinite));
  assert.throws(
    () => upcycle(named(dense), { from: 'blocks.0.moe', to: 'blocks.0.moe', experts: 4 }),
    /there is no tensor blocks.0.moe.up.weight/,
  );
});

test('resizeExperts moves parameters, moments and router columns of each expert', { skip }, async () => {
  await using small = await open(lm({ bias: true }));
  await stepsOf(small, 4);
  const tensors = named(small),
    grown = resizeExperts(tensors, { moe: 'blocks.0.moe', from: [2, 0, 3, 1] });
  await using other = await open(lm({ bias: true }));
  await other.restore(
    4,
    [...grown].map(([name, value]) => ({ name, value })),
  );
  // With its experts and their moments in another order, the model is the same, so it has the same losses.
  const [a, b] = [await stepsOf(small, 4), await stepsOf(other, 4)];
  assert.ok(difference(b, a) < 1e-4, `${a.join()} and ${b.join()}`);
  const doubled = resizeExperts(tensors, { moe: 'blocks.0.moe', from: [0, 1, 2, 3, 0, 1, 2, 3], noise: 0.1 });
  const router = doubled.get('blocks.0.moe.router.weight'),
    old = tensors.get('blocks.0.moe.router.weight');
  assert.deepEqual(
    [router?.shape, doubled.get('optim/m/blocks.0.moe.experts.w1')?.shape],
    [
      [16, 8],
      [8, 16, 24],
    ],
  );
  for (let e = 0; e < 4; e++) {
    assert.equal(router?.data[8 * 3 + e], old?.data[4 * 3 + e]);
    assert.notEqual(router?.data[8 * 3 + e + 4], old?.data[4 * 3 + e]);
  }
  await using large = await open(lm({ bias: true, experts: 8 }));
  await large.restore(
    4,
    [...doubled].map(([name, value]) => ({ name, value })),
  );
  assert.ok((await stepsOf(large, 2)).every(Number.isFinite));
  assert.throws(() => resizeExperts(tensors, { moe: 'blocks.0.moe', from: [0, 4] }), /from must name experts 0 to 3/);
});

test('a Linear layer can be an expert', async () => {
  const layer = new MoE({ dModel: D, experts: [new Linear(D, 2), new Linear(D, 2)], topK: 1 });
  assert.equal((await runLayer(layer, [T, D]))['y'].length, T * 2);
});
