// Routers with any number of experts, any k and any batch; the properties of each router; losses compared with plain
// formulas.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { ExpertChoiceRouter, HashRouter } from '../../../src/nn/moe/fixed-routers.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import type { LossName } from '../../../src/nn/moe/losses.ts';
import type { Choice, Router } from '../../../src/nn/moe/router.ts';
import { NoisyTopKRouter, SigmoidRouter, SinkhornRouter, TopKRouter } from '../../../src/nn/moe/routers.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compile } from '../../../src/session/node.ts';
import { traceOf } from '../../../src/trace/trace.ts';
import { compiledDevice, difference, normals, runLayer, type Numbers, type Options } from './layer.ts';
import { anyMoE } from '../../support/moe.ts';

const D = 6;
const ROUTERS: Readonly<Record<string, (experts: number) => Router>> = {
  'top-k': (experts) => new TopKRouter({ dModel: D, experts }),
  'top-k, softmax after, jitter': (experts) => new TopKRouter({ dModel: D, experts, softmax: 'after', jitter: 0.1 }),
  switch: (experts) => new TopKRouter({ dModel: D, experts, normalise: false }),
  noisy: (experts) => new NoisyTopKRouter({ dModel: D, experts }),
  sigmoid: (experts) => new SigmoidRouter({ dModel: D, experts }),
  sinkhorn: (experts) => new SinkhornRouter({ dModel: D, experts }),
  'expert choice': (experts) => new ExpertChoiceRouter({ dModel: D, experts }),
  hash: (experts) => new HashRouter({ experts }),
};

/** Makes what a router returns visible as statistics; the output is x. */
class Shown {
  readonly router: Router;
  readonly #k: number;
  constructor(router: Router, k: number) {
    this.router = router;
    this.#k = k;
  }
  forward(x: Tensor, ids?: Tensor): Tensor {
    const choice = this.router.choose(x, { k: this.#k, ids }),
      trace = traceOf(x);
    for (const name of ['indices', 'weights', 'scores', 'probs', 'logits', 'load'] as const) {
      const v = choice[name as keyof Choice];
      if (v && typeof v === 'object') trace.addStat(this, name, v);
    }
    return mul(x, 1);
  }
}
const show = (router: Router, k: number, tokens: number, options?: Options): Promise<Numbers> =>
  runLayer(new Shown(router, k), [tokens, D], options);
const rows = (flat: readonly number[], width: number): number[][] =>
  Array.from({ length: flat.length / width }, (_, i) => flat.slice(i * width, (i + 1) * width));

for (const [name, make] of Object.entries(ROUTERS)) {
  test(`${name}: 1, 2, 7, 64 and 512 experts, k up to 4, in the reference and on ${compiledDevice}`, async () => {
    for (const [experts, k, tokens] of [
      [1, 1, 1],
      [2, 2, 5],
      [7, 3, 20],
      [64, 4, 9],
      [512, 2, 5],
    ]) {
      const layer = (): MoE =>
        new MoE({
          dModel: D,
          experts,
          topK: k,
          hidden: 3,
          router: make(experts),
          capacity: name === 'expert choice' ? 1 : 'dropless',
        });
      const expected = await runLayer(layer(), [tokens, D]),
        got = await runLayer(layer(), [tokens, D], { device: compiledDevice });
      for (const key of Object.keys(expected))
        assert.ok(
          difference(got[key], expected[key]) < 1e-4,
          `${experts} experts: ${key} ${difference(got[key], expected[key])}`,
        );
      if (name === 'expert choice') continue;
      assert.equal(
        expected['stat:/load'].reduce((a, b) => a + b),
        tokens * k,
      );
      const shown = await show(make(experts), k, tokens);
      for (const row of rows(shown['stat:/indices'], k))
        assert.ok(new Set(row).size === k && row.every((e) => e >= 0 && e < experts), `${row.join()}`);
      const normalised =
        (k > 1 && name !== 'switch' && name !== 'sinkhorn') ||
        name === 'top-k, softmax after, jitter' ||
        name === 'noisy' ||
        name === 'hash';
      for (const row of rows(shown['stat:/weights'], k))
        if (normalised) assert.ok(Math.abs(row.reduce((a, b) => a + b) - 1) < 1e-6, `weights ${row.join()} sum to 1`);
    }
  });
}

test('top-k: weights are the probabilities, either raw or divided by their sum', async () => {
  const raw = await show(new TopKRouter({ dModel: D, experts: 5, normalise: false }), 2, 4),
    probs = rows(raw['stat:/probs'], 5);
  const indices = rows(raw['stat:/indices'], 2),
    expected = indices.map((row, t) => row.map((e) => probs[t][e]));
  assert.deepEqual(rows(raw['stat:/weights'], 2), expected);
  for (const kind of [
    new TopKRouter({ dModel: D, experts: 5 }),
    new TopKRouter({ dModel: D, experts: 5, softmax: 'after' }),
  ]) {
    const got = await show(kind, 2, 4);
    assert.ok(
      difference(
        got['stat:/weights'],
        expected.flatMap(([a, b]) => [a / (a + b), b / (a + b)]),
      ) < 1e-9,
      'a softmax over the chosen experts equals the normalised softmax over all',
    );
  }
});

test('noise and jitter differ from step to step, and are absent outside training', async () => {
  for (const make of [
    () => new NoisyTopKRouter({ dModel: D, experts: 7 }),
    () => new TopKRouter({ dModel: D, experts: 7, jitter: 0.3 }),
  ]) {
    const at = async (step: number, training = true): Promise<number[]> =>
      (
        await runLayer(new MoE({ dModel: D, experts: 7, topK: 2, hidden: 3, router: make() }), [9, D], {
          step,
          training,
        })
      )['y'];
    assert.deepEqual(await at(1), await at(1));
    assert.notDeepEqual(await at(1), await at(2));
    assert.deepEqual(await at(1, false), await at(2, false));
  }
});

test('noisy: the noise is normally distributed, and load is the expected number of choices', async () => {
  const tokens = 20_000,
    shown = await show(new NoisyTopKRouter({ dModel: D, experts: 8 }), 2, tokens),
    [probs, logits] = [shown['stat:/probs'], shown['stat:/logits']];
  // log p = H - log sum exp H, where H are the noisy logits: differences of log p between experts are differences of
  // H.
  const spread = Math.log(2) + 0.01,
    noise: number[] = [];
  for (let t = 0; t < tokens; t++)
    for (let e = 1; e < 8; e += 2)
      noise.push(
        (Math.log(probs[8 * t + e] / probs[8 * t + e - 1]) - (logits[8 * t + e] - logits[8 * t + e - 1])) /
          spread /
          Math.SQRT2,
      );
  const mean = noise.reduce((a, b) => a + b) / noise.length,
    variance = noise.reduce((s, n) => s + (n - mean) ** 2, 0) / noise.length;
  assert.ok(Math.abs(mean) < 0.03 && Math.abs(variance - 1) < 0.05, `mean ${mean}, variance ${variance}`);
  const load = Array.from({ length: 8 }, (_, e) => shown['stat:/indices'].filter((i) => i === e).length);
  assert.ok(
    difference(shown['stat:/load'], load) < 0.05,
    `expected about ${load.join()}, got ${shown['stat:/load'].map(Math.round).join()}`,
  );
});

test('sigmoid: the bias affects the choice but not the weights, and is updated against the load error', async () => {
  const make = (): Router => new SigmoidRouter({ dModel: D, experts: 4, biasRate: 0.01, scale: 2.5 });
  const bias = Float32Array.of(10, 0, 0, 0),
    plain = await show(make(), 2, 30),
    biased = await show(make(), 2, 30, { values: { 'router.bias': bias } });
  for (const [t, row] of rows(biased['stat:/indices'], 2).entries()) {
    assert.equal(row[0], 0);
    const [a, b] = biased['stat:/scores'].slice(2 * t, 2 * t + 2);
    assert.ok(Math.abs(biased['stat:/weights'][2 * t] - (2.5 * a) / (a + b)) < 1e-9);
  }
  assert.deepEqual(biased['stat:/logits'], plain['stat:/logits']);
  const layer = new MoE({ dModel: D, experts: 4, topK: 2, hidden: 3, router: make() }),
    run = await runLayer(layer, [30, D], { values: { 'router.bias': bias } });
  const load = run['stat:/load'];
  assert.ok(
    difference(
      run['after:router.bias'],
      load.map((n, e) => bias[e] + 0.01 * Math.sign(15 - n)),
    ) < 1e-9,
  );
});

test('groups: only experts of the best groups are chosen', async () => {
  for (const by of ['max', 'top2'] as const) {
    const shown = await show(new TopKRouter({ dModel: D, experts: 12, groups: { groups: 4, limit: 2, by } }), 3, 25),
      probs = rows(shown['stat:/probs'], 12);
    rows(shown['stat:/indices'], 3).forEach((row, t) => {
      const score = [0, 1, 2, 3].map((g) =>
        probs[t]
          .slice(3 * g, 3 * g + 3)
          .sort((a, b) => b - a)
          .slice(0, by === 'max' ? 1 : 2)
          .reduce((a, b) => a + b),
      );
      const best = [0, 1, 2, 3].sort((a, b) => score[b] - score[a]).slice(0, 2);
      const allowed = probs[t]
        .map((p, e) => ({ p, e }))
        .filter(({ e }) => best.includes(Math.floor(e / 3)))
        .sort((a, b) => b.p - a.p)
        .slice(0, 3)
        .map(({ e }) => e);
      assert.deepEqual(row, allowed);
    });
  }
  assert.throws(
    () => new TopKRouter({ dModel: D, experts: 12, groups: { groups: 5, limit: 2 } }),
    /12 experts in 5 groups/,
  );
  await assert.rejects(
    show(new SigmoidRouter({ dModel: D, experts: 12, groups: { groups: 6, limit: 1 } }), 3, 2),
    /3 experts a token do not lie in 1 groups of 2/,
  );
});

test('sinkhorn: the loads of a skewed router are balanced in training', async () => {
  const weight = normals('skewed', D * 4, 0.3),
    values = { 'router.weight': weight, x: normals('x', 200 * D).map((v, i) => (i % D === 0 ? 3 : v)) };
  for (let d = 0; d < 4; d++) weight[d] = d === 0 ? 1 : -1; // the first input of each token is 3 and favours expert 0
  const load = async (training: boolean): Promise<number[]> => {
    const shown = await runLayer(new Shown(new SinkhornRouter({ dModel: D, experts: 4, rounds: 20 }), 1), [200, D], {
      training,
      values,
    });
    const indices = shown['stat:/indices'];
    return [0, 1, 2, 3].map((e) => indices.filter((i) => i === e).length);
  };
  assert.ok((await load(false))[0] > 190);
  assert.ok(Math.max(...(await load(true))) < 75);
});

test('expert choice: every expert takes its best tokens, up to its capacity', async () => {
  const layer = (options: Partial<MoEOptions> = {}): MoE =>
    anyMoE({
      dModel: D,
      experts: 4,
      topK: 2,
      hidden: 5,
      router: new ExpertChoiceRouter({ dModel: D, experts: 4 }),
      ...options,
    });
  const run = await runLayer(layer(), [24, D]),
    { 'stat:/probs': probs } = await show(new ExpertChoiceRouter({ dModel: D, experts: 4 }), 2, 24);
  const taken = [0, 1, 2, 3].map((e) =>
    Array.from({ length: 24 }, (_, t) => t)
      .sort((a, b) => probs[4 * b + e] - probs[4 * a + e])
      .slice(0, 12),
  );
  // The output of a token that no expert takes is 0.
  const nobody = Array.from({ length: 24 }, (_, t) => t).filter((t) => taken.every((list) => !list.includes(t)));
  rows(run['y'], D).forEach((y, t) => {
    assert.equal(
      y.every((v) => v === 0),
      nobody.includes(t),
    );
  });
  assert.ok(!('stat:/dropped' in run));
});

test('hash with vocab: equal token ids get equal experts; without ids an error says so', async () => {
  const router = (): HashRouter => new HashRouter({ experts: 16, vocab: 9 }),
    ids = Int32Array.from({ length: 30 }, (_, i) => (i * 7) % 9);
  const indices = rows((await show(router(), 3, 30, { ids }))['stat:/indices'], 3);
  ids.forEach((id, t) => {
    assert.deepEqual(indices[t], indices[ids.indexOf(id)]);
  });
  assert.ok(new Set(indices.flat()).size > 8);
  await assert.rejects(show(router(), 3, 30), /goes by token ids/);
});

test("hash without vocab: experts follow from a token's position in the batch, or in its micro-batch", async () => {
  const T = 12,
    { 'stat:/indices': whole } = await show(new HashRouter({ experts: 16 }), 2, T),
    { 'stat:/indices': part } = await show(new HashRouter({ experts: 16 }), 2, T / 2);
  assert.notDeepEqual(whole.slice(T), part);
  const loads = (indices: readonly number[], times: number): number[] =>
    Array.from({ length: 16 }, (_, e) => times * indices.filter((i) => i === e).length);
  for (const [parts, expected] of [
    [1, loads(whole, 1)],
    [2, loads(part, 2)],
  ] as const) {
    for (const how of ['accumulate', 'split'] as const) {
      const session = await compile(
        new MoE({ dModel: D, experts: 16, topK: 2, hidden: 3, router: new HashRouter({ experts: 16 }) }),
        { loss: meanSquaredError, optimizer: sgd({ lr: 0.1 }), device: 'wasm', threads: 1, [how]: parts },
      );
      const x = hostTensor(
        'float32',
        [T, D],
        Float32Array.from({ length: T * D }, (_, i) => Math.sin(i)),
      );
      const { stats } = await session.step({ x, y: x });
      assert.deepEqual([...stats['/load'].data], expected, `${how} ${parts}`);
      await session.close();
    }
  }
});

test('losses agree with plain formulas', async () => {
  const E = 5,
    T = 30,
    k = 2,
    names: LossName[] = ['balance', 'gshard', 'importance', 'load', 'z'],
    router = (): NoisyTopKRouter => new NoisyTopKRouter({ dModel: D, experts: E });
  const run = await runLayer(
    new MoE({
      dModel: D,
      experts: E,
      topK: k,
      hidden: 3,
      router: router(),
      losses: Object.fromEntries(names.map((n) => [n, 0.1])),
    }),
    [T, D],
  );
  const {
    'stat:/probs': probs,
    'stat:/indices': indices,
    'stat:/weights': weights,
    'stat:/load': smooth,
    'stat:/logits': logits,
  } = await show(router(), k, T);
  const experts = Array.from({ length: E }, (_, e) => e),
    average = (x: readonly number[]): number => x.reduce((a, b) => a + b) / x.length;
  const p = experts.map((e) => average(probs.filter((_, i) => i % E === e))),
    cv = (x: readonly number[]): number => average(x.map((v) => (v - average(x)) ** 2)) / average(x) ** 2;
  const count = (e: number, list: readonly number[]): number => list.filter((i) => i === e).length;
  const expected: Record<LossName, number> = {
    balance: E * experts.reduce((s, e) => s + (count(e, indices) / (T * k)) * p[e], 0),
    gshard: average(
      experts.map(
        (e) =>
          (count(
            e,
            indices.filter((_, i) => i % k === 0),
          ) /
            T) *
          p[e],
      ),
    ),
    importance: cv(experts.map((e) => weights.reduce((s, w, i) => s + (indices[i] === e ? w : 0), 0))),
    load: cv(smooth),
    z: average(rows(logits, E).map((row) => Math.log(row.reduce((s, l) => s + Math.exp(l), 0)) ** 2)),
  };
  for (const name of names)
    assert.ok(
      Math.abs(run[`aux:/${name}`][0] - expected[name]) < 1e-6,
      `${name}: ${run[`aux:/${name}`][0]}, expected ${expected[name]}`,
    );
  await assert.rejects(
    runLayer(new MoE({ dModel: D, experts: E, topK: 1, hidden: 3, losses: { load: 1 } }), [T, D]),
    /the load loss needs noise/,
  );
});
