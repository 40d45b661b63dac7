// A layer with free slots and copies, compared with brute force: the layer as plain loops in float64, differentiated
// by finite differences. And the ways to compute such a layer, compared with each other.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TypedArray } from '../../../src/base/dtype.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import type { Router } from '../../../src/nn/moe/router.ts';
import { SigmoidRouter, TopKRouter } from '../../../src/nn/moe/routers.ts';
import { readSlots, type SlotsValue } from '../../../src/nn/moe/slots.ts';
import { compiledDevice, devices, difference, layerGraph, normals, runLayer, initialStates } from './layer.ts';

const T = 14,
  D = 5,
  H = 4,
  E = 7,
  BALANCE = 0.3,
  GSHARD = 0.2,
  IMPORTANCE = 0.1,
  Z = 0.1,
  SLOTS: SlotsValue = ['on', 'on', 'off', 'like 1', 'on', 'on', 'like 1'];
const families = readSlots(SLOTS).families,
  active = families.filter((f) => f !== null).length;
type Values = Record<string, Float64Array>;
type Kind = 'normalised' | 'raw' | 'after' | 'sigmoid';

/**
 * The slots that token t may choose: of each family the slot with the best score. Of equal scores, even tokens get the
 * first slot and odd tokens the last.
 */
function eligible(score: Float64Array, t: number): boolean[] {
  return families.map((family, e) => {
    if (family === null) return false;
    const own = [...families.keys()].filter((i) => families[i] === family),
      best = Math.max(...own.map((i) => score[i])),
      first = own.filter((i) => score[i] === best);
    return e === (t % 2 === 0 ? first[0] : first[first.length - 1]);
  });
}

const product = (x: Float64Array, t: number, width: number, w: Float64Array, from: number, stride: number): number => {
  let s = 0;
  for (let d = 0; d < width; d++) s += x[t * width + d] * w[from + d * stride];
  return s;
};
const squaredVariation = (x: readonly number[]): number => {
  const mean = x.reduce((a, b) => a + b, 0) / x.length;
  return x.reduce((s, v) => s + (v - mean) ** 2, 0) / x.length / (mean * mean + 1e-10);
};

function bruteForce(v: Values, part: Float64Array, k: number, kind: Kind, factor: number | null): number {
  const x = v['x'],
    w1 = v['experts.w1'],
    w2 = v['experts.w2'],
    share = new Array<number>(E).fill(0),
    first = new Array<number>(E).fill(0),
    mean = new Array<number>(E).fill(0),
    importance = new Array<number>(E).fill(0),
    used = new Array<number>(E).fill(0);
  const room = factor === null ? Infinity : Math.ceil((factor * T * k) / active);
  let total = 0,
    z = 0;
  for (let t = 0; t < T; t++) {
    const logits = Float64Array.from({ length: E }, (_, e) => product(x, t, D, v['router.weight'], e, E)),
      sigmoids = logits.map((l) => 1 / (1 + Math.exp(-l)));
    const score = kind === 'sigmoid' ? sigmoids.map((s, e) => s + v['router.bias'][e]) : logits,
      may = eligible(score, t);
    const lse = Math.log(logits.reduce((s, l, e) => s + (may[e] ? Math.exp(l) : 0), 0)),
      all = sigmoids.reduce((s, p, e) => s + (may[e] ? p : 0), 0);
    const gate = kind === 'sigmoid' ? sigmoids : logits.map((l) => Math.exp(l - lse)),
      probs = gate.map((g, e) => (may[e] ? (kind === 'sigmoid' ? g / all : g) : 0));
    const chosen = [...families.keys()]
        .filter((e) => may[e])
        .sort((a, b) => score[b] - score[a])
        .slice(0, k),
      sum = chosen.reduce((s, e) => s + gate[e], 0);
    const divide = kind === 'after' || kind === 'normalised' || (kind === 'sigmoid' && k > 1);
    z += (lse * lse) / T;
    probs.forEach((p, e) => {
      mean[e] += p / T;
    });
    chosen.forEach((e, j) => {
      const weight = divide ? gate[e] / sum : gate[e];
      share[e] += 1 / (T * k);
      if (j === 0) first[e] += 1 / T;
      importance[e] += weight;
      if (used[e]++ >= room) return;
      const h = Array.from({ length: H }, (_, i) => Math.max(0, product(x, t, D, w1, e * D * H + i, H)));
      for (let d = 0; d < D; d++)
        total += part[t * D + d] * weight * h.reduce((s, value, i) => s + value * w2[(e * H + i) * D + d], 0);
    });
  }
  const held = [...families.keys()].filter((e) => families[e] !== null),
    dot = (a: readonly number[], b: readonly number[]): number => a.reduce((s, value, e) => s + value * b[e], 0);
  return (
    total +
    BALANCE * active * dot(share, mean) +
    (GSHARD * dot(first, mean)) / active +
    IMPORTANCE * squaredVariation(held.map((e) => importance[e])) +
    Z * z
  );
}

const losses = { balance: BALANCE, gshard: GSHARD, importance: IMPORTANCE, z: Z };
const routers: Record<Kind, () => Router> = {
  normalised: () => new TopKRouter({ dModel: D, experts: E, normalise: true }),
  raw: () => new TopKRouter({ dModel: D, experts: E, normalise: false }),
  after: () => new TopKRouter({ dModel: D, experts: E, softmax: 'after' }),
  sigmoid: () => new SigmoidRouter({ dModel: D, experts: E }),
};
const layer = (options: Partial<MoEOptions>): MoE => {
  const moe = new MoE({
    dModel: D,
    experts: E,
    topK: 2,
    hidden: H,
    activation: 'relu',
    losses,
    router: routers.normalised(),
    ...options,
  });
  moe.slots = SLOTS;
  return moe;
};

/**
 * Initial values where slot 3 is a fresh copy of expert 1: their scores are equal, and high where the score of 6 is
 * low.
 */
function withFreshCopy(layerOf: MoE): Record<string, TypedArray> {
  const start = initialStates(layerOf, layerGraph(layerOf, [T, D]), {}),
    w = start['router.weight'].slice();
  for (let d = 0; d < D; d++) w[d * E + 3] = w[d * E + 1] = -1.5 * Number(w[d * E + 6]);
  return {
    'router.weight': w,
    ...('router.bias' in start && { 'router.bias': Float32Array.of(0.1, 0.05, 0, 0.05, -0.1, 0.2, 0.1) }),
  };
}

for (const kind of ['normalised', 'raw', 'after', 'sigmoid'] as const) {
  for (const k of [1, 2, 3]) {
    for (const factor of k === 2 ? [null, 0.75] : [null]) {
      const room = factor === null ? 'dropless' : `capacity ${factor}`;
      test(`${kind}, top-${k}, ${room}: results and gradients against brute force`, async () => {
        const moe = layer({ topK: k, router: routers[kind](), capacity: factor ?? 'dropless' }),
          values = withFreshCopy(moe),
          x = [T, D];
        const got = await runLayer(moe, x, { values }),
          on = k === 2 ? await runLayer(moe, x, { values, device: compiledDevice }) : got,
          start = initialStates(moe, layerGraph(moe, x), { values });
        const point: Values = Object.fromEntries(Object.entries(start).map(([n, v]) => [n, Float64Array.from(v)])),
          part = Float64Array.from(normals('part', T * D));
        const f = (): number => bruteForce(point, part, k, kind, factor);
        assert.ok(Math.abs(f() - got['total'][0]) < 1e-9 * Math.abs(f()) + 1e-9, `${f()} and ${got['total'][0]}`);
        assert.ok(
          got['stat:/load'][1] > 0 && got['stat:/load'][3] > 0 && got['stat:/load'][2] === 0,
          got['stat:/load'].join(),
        );
        if (factor !== null)
          assert.ok(
            got['stat:/dropped'].some((n) => n > 0),
            'some choices are dropped',
          );
        for (const name of ['x', 'router.weight', 'experts.w1', 'experts.w2']) {
          const expected = Array.from(point[name], (old, i) => {
            const at = (h: number): number => {
              point[name][i] = old + h;
              return f();
            };
            const d = (8 * (at(1e-5) - at(-1e-5)) - (at(2e-5) - at(-2e-5))) / 12e-5;
            point[name][i] = old;
            return d;
          });
          // Columns 1 and 3 of the router are equal, so a small change of one of them changes the decision of every
          // tie. The next test covers these columns.
          const smooth = (list: readonly number[]): number[] =>
            name === 'router.weight' ? list.filter((_, i) => i % E !== 1 && i % E !== 3) : [...list];
          assert.ok(
            difference(smooth(got[`grad/${name}`]), smooth(expected)) < 1e-6,
            `${name}: ${difference(smooth(got[`grad/${name}`]), smooth(expected))}`,
          );
          assert.ok(difference(on[`grad/${name}`], got[`grad/${name}`]) < 1e-4, `${name} on ${compiledDevice}`);
        }
      });
    }
  }
}

test('gradients to all columns of the router, without equal columns', async () => {
  for (const kind of ['normalised', 'raw', 'after', 'sigmoid'] as const) {
    const moe = layer({ topK: 2, router: routers[kind]() }),
      x = [T, D],
      got = await runLayer(moe, x),
      start = initialStates(moe, layerGraph(moe, x), {});
    const point: Values = Object.fromEntries(Object.entries(start).map(([n, v]) => [n, Float64Array.from(v)])),
      part = Float64Array.from(normals('part', T * D)),
      w = point['router.weight'];
    const expected = Array.from(w, (old, i) => {
      const at = (h: number): number => {
        w[i] = old + h;
        return bruteForce(point, part, 2, kind, null);
      };
      const d = (8 * (at(1e-5) - at(-1e-5)) - (at(2e-5) - at(-2e-5))) / 12e-5;
      w[i] = old;
      return d;
    });
    assert.ok(
      difference(got['grad/router.weight'], expected) < 1e-6,
      `${kind}: ${difference(got['grad/router.weight'], expected)}`,
    );
  }
});

for (const device of devices) {
  test(`${device}, free slots and copies: ragged, padded and spill have equal bits, others agree`, async () => {
    const x = [T, D],
      run = async (options: Partial<MoEOptions>) => {
        const moe = layer(options);
        return runLayer(moe, x, { values: withFreshCopy(moe), device });
      };
    const bits = (a: Record<string, number[]>, b: Record<string, number[]>): void => {
      for (const key of Object.keys(a)) if (!key.endsWith('spilled')) assert.deepEqual(b[key], a[key], key);
    };
    const dropless = await run({});
    bits(dropless, await run({ dispatch: 'padded' }));
    bits(dropless, await run({ recompute: true, chunks: 2 }));
    for (const dispatch of ['ragged', 'padded'] as const) {
      const spilled = await run({ dispatch, capacity: 0.5, overflow: 'spill' });
      assert.ok(spilled['stat:/spilled'].some((n) => n > 0) && spilled['stat:/spilled'][2] === 0);
      bits(dropless, spilled);
    }
    const drops = await run({ capacity: 0.75 });
    bits(drops, await run({ capacity: 0.75, dispatch: 'padded' }));
    for (const [options, want] of [
      [{}, dropless],
      [{ capacity: 0.75 }, drops],
    ] as const) {
      for (const dispatch of ['einsum', 'dense'] as const) {
        const got = await run({ ...options, dispatch });
        for (const key of Object.keys(want).filter((n) => n === 'y' || n.startsWith('grad/')))
          assert.ok(difference(got[key], want[key]) < 1e-4, `${dispatch} ${key}`);
      }
    }
  });
}

test('free slots and copies with modules as experts, within and beyond capacity', async () => {
  const run = async (options: Partial<MoEOptions>) => {
    const moe = new MoE({
      dModel: D,
      experts: Array.from({ length: E }, () => new MLP([D, H, D])),
      topK: 2,
      losses,
      ...options,
    });
    moe.slots = SLOTS;
    return runLayer(moe, [T, D], { device: compiledDevice });
  };
  const dropless = await run({}),
    dense = await run({ dispatch: 'dense' });
  assert.ok(difference(dropless['y'], dense['y']) < 1e-5);
  for (const options of [
    { dispatch: 'padded' },
    { capacity: 0.5, overflow: 'spill' },
    { capacity: 0.5, overflow: 'spill', dispatch: 'padded' },
  ] as const)
    assert.deepEqual((await run(options))['y'], dropless['y'], JSON.stringify(options));
  const [ragged, padded] = [await run({ capacity: 0.75 }), await run({ capacity: 0.75, dispatch: 'padded' })];
  assert.deepEqual(padded['y'], ragged['y']);
  assert.ok(ragged['stat:/dropped'].some((n) => n > 0));
});
