// Defaults that depend on topK follow the topK with which the layer was built. A later change of topK changes how many
// experts a token gets, not how their outputs are weighted.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { HashRouter } from '../../../src/nn/moe/fixed-routers.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { NoisyTopKRouter, SigmoidRouter, SinkhornRouter, TopKRouter } from '../../../src/nn/moe/routers.ts';
import { crossEntropy, meanSquaredError } from '../../../src/nn/loss.ts';
import { TransformerLM } from '../../../src/nn/transformer.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { sparsify } from '../../../src/recompile/policies/sparsify.ts';
import type { RecompileEvent } from '../../../src/recompile/rule.ts';
import { compile } from '../../../src/session/node.ts';
import { generate } from '../../../src/session/generate.ts';
import type { DeviceName } from '../../../src/session/platform.ts';
import { call } from '../../../src/trace/trace.ts';
import { noCompiler } from '../../support/toy.ts';

const D = 6,
  E = 4,
  T = 16;
const x = hostTensor(
  'float32',
  [T, D],
  Float32Array.from({ length: T * D }, (_, i) => Math.sin(1.3 * i)),
);

/**
 * For each topK, the sums of the gate weights of the tokens. All experts compute the same function x -> relu(x W) V,
 * so a token's output is the sum of its gate weights times that.
 */
async function weightSums(
  options: Partial<MoEOptions>,
  topKs: readonly number[],
  device: DeviceName = 'wasm',
): Promise<number[][]> {
  const moe = new MoE({ dModel: D, experts: E, topK: 2, hidden: 5, activation: 'relu', ...options });
  await using session = await compile(moe, { loss: meanSquaredError, device, threads: 1, seed: 4 });
  const one = (n: number, phase: number): number[] => Array.from({ length: n }, (_, i) => Math.cos(i + phase));
  const same = (shape: readonly number[], phase: number) =>
    hostTensor(
      'float32',
      [E, ...shape],
      Float32Array.from(
        Array.from({ length: E }, () =>
          one(
            shape.reduce((a, b) => a * b, 1),
            phase,
          ),
        ).flat(),
      ),
    );
  await session.restore(0, [
    { name: 'experts.w1', value: same([D, 5], 1) },
    { name: 'experts.w2', value: same([5, D], 2) },
  ]);
  const w1 = one(D * 5, 1),
    w2 = one(5 * D, 2),
    found: number[][] = [];
  for (const topK of topKs) {
    moe.topK = topK;
    const y = (await session.predict(x)).data;
    found.push(
      Array.from({ length: T }, (_, t) => {
        const hidden = Array.from({ length: 5 }, (_h, h) =>
          Math.max(
            0,
            Array.from({ length: D }, (_d, d) => Number(x.data[t * D + d]) * w1[d * 5 + h]).reduce((a, b) => a + b, 0),
          ),
        );
        const out = Array.from({ length: D }, (_d, d) => hidden.reduce((a, v, h) => a + v * w2[h * D + d], 0)),
          at = out.reduce((best, v, d) => (Math.abs(v) > Math.abs(out[best]) ? d : best), 0);
        return out[at] === 0 ? NaN : Number(y[t * D + at]) / out[at];
      }).filter((v) => !Number.isNaN(v)),
    );
  }
  return found;
}
const all = (list: readonly number[], want: (v: number) => boolean): boolean => list.length > 4 && list.every(want);
const one = (v: number): boolean => Math.abs(v - 1) < 1e-5;
const ROUTER = { dModel: D, experts: E };

for (const device of (noCompiler ? ['wasm', 'reference'] : ['native', 'wasm', 'reference']) as readonly DeviceName[]) {
  test(`${device}: a change of topK does not change whether weights are divided by their sum`, async () => {
    const cases: readonly (readonly [Partial<MoEOptions>, boolean])[] = [
      [{ topK: 2 }, true],
      [{ topK: 1 }, false],
      [{ topK: 1, normalise: true }, true],
      [{ topK: 2, normalise: false }, false],
      [{ topK: 2, router: new TopKRouter(ROUTER) }, true],
      [{ topK: 1, router: new TopKRouter(ROUTER) }, false],
      [{ topK: 1, router: new TopKRouter({ ...ROUTER, normalise: true }) }, true],
      [{ topK: 3, router: new TopKRouter({ ...ROUTER, softmax: 'after' }) }, true],
      [{ topK: 1, router: new TopKRouter({ ...ROUTER, softmax: 'after' }) }, true],
      [{ topK: 2, router: new SigmoidRouter(ROUTER) }, true],
      [{ topK: 1, router: new SigmoidRouter(ROUTER) }, false],
      [{ topK: 2, router: new NoisyTopKRouter(ROUTER) }, true],
      [{ topK: 2, router: new HashRouter({ experts: E }) }, true],
    ];
    for (const [options, normalised] of cases) {
      const found = await weightSums(options, [1, 2, 3], device),
        name = `${options.router?.constructor.name ?? 'default'} ${JSON.stringify({ ...options, router: undefined })}`;
      for (const [i, weights] of found.entries())
        assert.ok(
          all(weights, normalised ? one : (v) => v > 0 && (i === 2 || v < 1.99) && !one(v)),
          `${name}, topK ${i + 1}: ${weights.map((v) => v.toFixed(4)).join(' ')}`,
        );
      // Without normalisation, the sum of weights grows with each further expert.
      if (!normalised)
        found[0].forEach((v, t) => {
          assert.ok(v < found[1][t] && found[1][t] < found[2][t], name);
        });
    }
  });
}

test('Sinkhorn weights by sigmoid or by softmax as it was built, for any later topK', async () => {
  const sigmoids = await weightSums({ topK: 1, router: new SinkhornRouter(ROUTER) }, [1, 2]),
    softmaxes = await weightSums({ topK: 2, router: new SinkhornRouter(ROUTER) }, [1, 2, 4]);
  assert.ok(all(softmaxes[2], one), 'the weights of all experts sum to 1');
  assert.ok(all(softmaxes[0], (v) => v < 1) && all(softmaxes[1], (v) => v < 1));
  sigmoids[0].forEach((v, t) => {
    assert.ok(v > softmaxes[0][t], 'the sigmoid of the largest logit is above its softmax');
  });
  sigmoids[1].forEach((v, t) => {
    assert.ok(v > sigmoids[0][t]);
  });
});

test("a user's router that ignores `built` weights by the present topK", async () => {
  class Own extends TopKRouter {
    override choose(...[tokens, { k, ...rest }]: Parameters<TopKRouter['choose']>): ReturnType<TopKRouter['choose']> {
      const { built: _, ...others } = rest;
      return super.choose(tokens, { k, ...others });
    }
  }
  const found = await weightSums({ topK: 2, router: new Own(ROUTER) }, [1, 2]);
  assert.ok(all(found[0], (v) => !one(v)) && all(found[1], one));
});

class Model {
  readonly moe: MoE;
  constructor(options: Partial<MoEOptions>) {
    this.moe = new MoE({ dModel: D, experts: E, topK: 2, hidden: 5, balance: 0, zLoss: 0, ...options });
  }
  forward(tokens: Tensor): Tensor {
    return call(this.moe, tokens);
  }
}

test('secondGateWeight is the same with topK 1 and 2, so that sparsify does not alternate between them', async () => {
  for (const options of [
    { topK: 2 },
    { topK: 1 },
    { topK: 2, normalise: false },
    { topK: 1, normalise: true },
    { topK: 2, router: new SigmoidRouter({ ...ROUTER, scale: 2.5 }) },
    { topK: 1, router: new SigmoidRouter(ROUTER) },
    { topK: 2, router: new SinkhornRouter(ROUTER) },
  ]) {
    const model = new Model(options),
      told: number[] = [];
    await using session = await compile(model, {
      loss: meanSquaredError,
      optimizer: sgd({ lr: 0 }),
      device: 'wasm',
      threads: 1,
      seed: 4,
      observe: true,
    });
    for (const topK of [2, 1, 2]) {
      model.moe.topK = topK;
      told.push(Number((await session.step({ x, y: x })).stats['moe/secondGateWeight'].data[0]));
    }
    assert.ok(
      Math.abs(told[0] - told[1]) < 1e-6 && told[0] === told[2],
      `${JSON.stringify({ ...options, router: options.router?.constructor.name })}: ${told.join()}`,
    );
  }
  // 64 experts with equal probability: the second choice has 1/2 of the weight of two choices, and 1/64 of all.
  const many = new MoE({ dModel: D, experts: 64, topK: 1, hidden: 4, balance: 0, zLoss: 0 }),
    events: RecompileEvent[] = [];
  await using session = await compile(many, {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0 }),
    device: 'wasm',
    threads: 1,
    seed: 4,
    events: (e) => {
      events.push(e);
    },
  });
  await session.restore(0, [
    { name: 'router.weight', value: hostTensor('float32', [D, 64], new Float32Array(D * 64)) },
  ]);
  session.recompile(sparsify({ cooldown: 16 }));
  for (let i = 0; i < 120; i++) await session.step({ x, y: x });
  assert.deepEqual(
    events.map((e) => e.changes.map((c) => [c.from, c.to])),
    [],
    'the second choice weighs 1/64, below the limit of 0.02, so sparsify does nothing',
  );
});

test('a checkpoint saved with another topK: evaluation and generation are those of the saved session', async () => {
  const make = (): TransformerLM =>
    new TransformerLM({
      vocab: 11,
      dModel: 8,
      layers: 1,
      heads: 2,
      context: 12,
      moe: { experts: 4, topK: 2, hidden: 8 },
    });
  const model = make(),
    options = { loss: crossEntropy, optimizer: sgd({ lr: 0.1 }), device: 'wasm' as const, threads: 1, seed: 2 };
  await using session = await compile(model, options),
    resumed = await compile(make(), options),
    bare = await compile(make(), { loss: crossEntropy, device: 'wasm', threads: 1 });
  const { moe } = model.blocks[0];
  assert.ok(moe);
  moe.topK = 1;
  const batch = {
    x: hostTensor(
      'int32',
      [2, 12],
      Int32Array.from({ length: 24 }, (_, i) => i % 11),
    ),
    y: hostTensor(
      'int32',
      [2, 12],
      Int32Array.from({ length: 24 }, (_, i) => (i * 3) % 11),
    ),
  };
  await session.step(batch);
  const bytes = await session.serialize();
  await resumed.deserialize(bytes);
  await bare.deserialize(bytes);
  const { loss } = await session.forward(batch),
    texts: number[][] = [];
  for (const s of [resumed, bare]) assert.deepEqual((await s.forward(batch)).loss.data, loss.data);
  for (const s of [session, resumed, bare]) {
    const text: number[] = [];
    for await (const token of generate(s, [1, 2, 3], { tokens: 20, seed: 5 })) text.push(token);
    texts.push(text);
  }
  assert.deepEqual(texts[1], texts[0]);
  assert.deepEqual(texts[2], texts[0]);
});
