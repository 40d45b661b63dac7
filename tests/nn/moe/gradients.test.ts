// Gradients of a whole layer to router, gate, experts and input, compared with brute force: the layer as plain loops
// in float64, differentiated by finite differences. k from 1 to 4, with dropped choices, for each priority.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import type { TypedArray } from '../../../src/base/dtype.ts';
import { MoE } from '../../../src/nn/moe/moe.ts';
import type { Priority } from '../../../src/nn/moe/routing.ts';
import { compiledDevice, difference, layerGraph, normals, runLayer, initialStates } from './layer.ts';

const T = 14,
  D = 5,
  H = 6,
  E = 6,
  BALANCE = 0.3,
  Z = 0.1;
type Values = Record<string, Float64Array>;

/** The choices that are kept under the capacity: [token][choice] -> expert, or -1. Written from the documentation. */
function admitted(
  chosen: readonly (readonly number[])[],
  probs: readonly Float64Array[],
  capacity: number,
  priority: Priority,
): number[][] {
  const all = chosen.flatMap((experts, t) => experts.map((e, j) => ({ t, j, e, p: probs[t][e] })));
  const order = {
    position: () => 0,
    choice: (a: { j: number }, b: { j: number }) => a.j - b.j,
    probs: (a: { p: number }, b: { p: number }) => b.p - a.p,
  };
  const kept = chosen.map((experts) => experts.map(() => -1)),
    used = new Array<number>(E).fill(0);
  for (const { t, j, e } of all.sort(order[priority])) if (used[e]++ < capacity) kept[t][j] = e;
  return kept;
}

function bruteForce(v: Values, part: Float64Array, k: number, capacity: number, priority: Priority): number {
  const x = v['x'],
    W = v['router.weight'],
    w1 = v['experts.w1'],
    b1 = v['experts.b1'],
    w2 = v['experts.w2'],
    b2 = v['experts.b2'];
  const probs: Float64Array[] = [],
    lse: number[] = [],
    chosen: number[][] = [];
  for (let t = 0; t < T; t++) {
    const logits = Float64Array.from({ length: E }, (_, e) => {
      let s = 0;
      for (let d = 0; d < D; d++) s += x[t * D + d] * W[d * E + e];
      return s;
    });
    lse.push(Math.log(logits.reduce((s, l) => s + Math.exp(l), 0)));
    probs.push(logits.map((l) => Math.exp(l - lse[t])));
    chosen.push(
      Array.from(logits.keys())
        .sort((a, b) => logits[b] - logits[a])
        .slice(0, k),
    );
  }
  const kept = admitted(chosen, probs, capacity, priority);
  let total = 0;
  for (let t = 0; t < T; t++) {
    const sum = k === 1 ? 1 : chosen[t].reduce((s, e) => s + probs[t][e], 0);
    for (const e of kept[t].filter((z) => z >= 0)) {
      const h = Array.from({ length: H }, (_, i) => {
        let s = b1[e * H + i];
        for (let d = 0; d < D; d++) s += x[t * D + d] * w1[(e * D + d) * H + i];
        return Math.max(0, s);
      });
      for (let d = 0; d < D; d++) {
        let y = b2[e * D + d];
        for (let i = 0; i < H; i++) y += h[i] * w2[(e * H + i) * D + d];
        total += part[t * D + d] * (probs[t][e] / sum) * y;
      }
    }
  }
  for (let e = 0; e < E; e++) {
    const share = chosen.flat().filter((c) => c === e).length / (T * k),
      mean = probs.reduce((s, p) => s + p[e], 0) / T;
    total += BALANCE * E * share * mean;
  }
  return total + (Z * lse.reduce((s, l) => s + l * l, 0)) / T;
}

for (const k of [1, 2, 3, 4]) {
  for (const priority of ['position', 'choice', 'probs'] as const) {
    test(`top-${k} of ${E}, ${priority}: gradients against brute force`, async () => {
      const layer = new MoE({
        dModel: D,
        experts: E,
        topK: k,
        hidden: H,
        activation: 'relu',
        bias: true,
        capacity: 0.75,
        priority,
        balance: BALANCE,
        zLoss: Z,
      });
      const values: Record<string, TypedArray> = {
        'experts.b1': normals('b1', E * H, 0.3),
        'experts.b2': normals('b2', E * D, 0.3),
      };
      const x = [T, D],
        got = await runLayer(layer, x, { values }),
        on = await runLayer(layer, x, { values, device: compiledDevice });
      assert.ok(
        got['stat:/dropped'].some((n) => n > 0),
        'some choices are dropped',
      );
      const start = initialStates(layer, layerGraph(layer, x), { values }),
        point: Values = Object.fromEntries(Object.entries(start).map(([n, v]) => [n, Float64Array.from(v)]));
      const part = Float64Array.from(normals('part', T * D)),
        f = (): number => bruteForce(point, part, k, Math.ceil((0.75 * T * k) / E), priority);
      assert.ok(Math.abs(f() - got['total'][0]) < 1e-9 * Math.abs(f()) + 1e-9, `${f()} and ${got['total'][0]}`);
      for (const name of ['x', 'router.weight', 'experts.w1', 'experts.b1', 'experts.w2', 'experts.b2']) {
        const expected = Array.from(point[name], (old, i) => {
          const at = (h: number): number => {
            point[name][i] = old + h;
            return f();
          };
          const d = (8 * (at(1e-5) - at(-1e-5)) - (at(2e-5) - at(-2e-5))) / 12e-5;
          point[name][i] = old;
          return d;
        });
        assert.ok(
          difference(got[`grad/${name}`], expected) < 1e-6,
          `${name}: ${difference(got[`grad/${name}`], expected)}`,
        );
        assert.ok(difference(on[`grad/${name}`], expected) < 1e-4, `${name} on ${compiledDevice}`);
      }
    });
  }
}
