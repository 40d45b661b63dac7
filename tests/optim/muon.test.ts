// Muon against the publication's formulas, written out in float64: wide and tall matrices, each expert of a bank by
// itself, and AdamW for all other parameters.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import { reshape } from '../../src/graph/ops/shape/reshape.ts';
import { slice } from '../../src/graph/ops/shape/slice.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { muon } from '../../src/optim/muon.ts';
import { compile } from '../../src/session/node.ts';
import { markOfExperts, Parameter, type Role } from '../../src/trace/parameter.ts';
import { use } from '../../src/trace/trace.ts';

const CASES: readonly { shape: readonly number[]; role: Role; experts?: boolean }[] = [
  { shape: [3, 5], role: 'weight' },
  { shape: [6, 2], role: 'weight' },
  { shape: [2, 2, 3], role: 'weight' }, // a convolution: [4, 3]
  { shape: [3, 4, 2], role: 'weight', experts: true },
  { shape: [3, 4], role: 'weight', experts: true }, // a bank of vectors
  { shape: [4, 3], role: 'embedding' },
  { shape: [2, 3], role: 'router' },
  { shape: [5], role: 'bias' },
];
const SIZE = CASES.reduce((n, { shape }) => n + sizeOf(shape), 0);
function sizeOf(shape: readonly number[]): number {
  return shape.reduce((a, b) => a * b, 1);
}

/** The gradient of each parameter is its slice of x. */
class Slices {
  readonly all = CASES.map(({ shape, role, experts = false }) => {
    const p = new Parameter(shape, { kind: 'normal', std: 0.5 }, { role });
    if (experts) markOfExperts(p);
    return p;
  });
  forward(x: Tensor): Tensor {
    let at = 0;
    return this.all
      .map((p) => {
        const from = at;
        at += p.size;
        return sum(mul(reshape(slice(x, 1, from, at), p.shape), use(x, p)));
      })
      .reduce((a, b) => add(a, b));
  }
}

type Matrix = number[][];
const times = (a: Matrix, b: Matrix): Matrix =>
  a.map((row) => b[0].map((_, j) => row.reduce((n, v, k) => n + v * b[k][j], 0)));
const turned = (a: Matrix): Matrix => a[0].map((_, j) => a.map((row) => row[j]));

/** zeropower_via_newtonschulz5 of the publication. */
function newtonSchulz(g: Matrix): Matrix {
  const norm = Math.sqrt(g.flat().reduce((n, v) => n + v * v, 0)) + 1e-7,
    tall = g.length > g[0].length;
  let x = (tall ? turned(g) : g).map((row) => row.map((v) => v / norm));
  for (let i = 0; i < 5; i++) {
    const a = times(x, turned(x)),
      aa = times(a, a),
      b = a.map((row, r) => row.map((v, c) => -4.775 * v + 2.0315 * aa[r][c])),
      bx = times(b, x);
    x = x.map((row, r) => row.map((v, c) => 3.4445 * v + bx[r][c]));
  }
  return tall ? turned(x) : x;
}

const LR = 0.02,
  DECAY = 0.1;

/** One step of a parameter; `state` keeps its moments. */
function expected(
  c: (typeof CASES)[number],
  p: number[],
  g: number[],
  state: Map<string, number[]>,
  t: number,
): number[] {
  const moment = (name: string): number[] => state.get(name) ?? p.map(() => 0),
    { shape, role, experts = false } = c;
  if (role === 'weight' && shape.length >= (experts ? 3 : 2)) {
    const m = moment('momentum').map((v, i) => 0.95 * v + g[i]),
      u = g.map((v, i) => v + 0.95 * m[i]),
      columns = shape[shape.length - 1],
      banks = experts ? shape[0] : 1,
      rows = p.length / banks / columns;
    state.set('momentum', m);
    const unit = Array.from({ length: banks }, (_, e) =>
      newtonSchulz(
        Array.from({ length: rows }, (_, r) => u.slice((e * rows + r) * columns, (e * rows + r + 1) * columns)),
      ),
    ).flat(2);
    // The publication's weights are [outputs, inputs]; here they are [inputs, outputs].
    const size = LR * Math.sqrt(Math.max(1, columns / rows));
    return p.map((v, i) => v * (1 - LR * DECAY) - size * unit[i]);
  }
  const rate = 3e-4,
    m = moment('m').map((v, i) => 0.9 * v + (1 - 0.9) * g[i]),
    v = moment('v').map((w, i) => 0.95 * w + (1 - 0.95) * g[i] * g[i]),
    decay = role === 'bias' ? 0 : DECAY;
  state.set('m', m);
  state.set('v', v);
  return p.map(
    (w, i) => w * (1 - rate * decay) - (rate * (m[i] / (1 - 0.9 ** t))) / (Math.sqrt(v[i] / (1 - 0.95 ** t)) + 1e-10),
  );
}

for (const [device, tolerance] of [
  ['reference', 1e-8],
  ['wasm', 2e-5],
] as const)
  test(`${device}: Muon moves each parameter as the formulas say`, async () => {
    await using session = await compile(new Slices(), {
      loss: (o: Tensor) => sum(o),
      optimizer: muon({ lr: LR, weightDecay: DECAY }),
      device,
      threads: 1,
      seed: 2,
    });
    const read = (name: string): number[] => {
      const state = session.states().find((s) => s.name === name);
      assert.ok(state, name);
      return Array.from(state.read().data, Number);
    };
    let values = CASES.map((_, i) => read(`all.${i}`));
    const states = CASES.map(() => new Map<string, number[]>());
    for (let t = 1; t <= 4; t++) {
      const x = new Stream(5, 'gradients').normals(t, 1, new Float32Array(SIZE));
      let at = 0;
      values = CASES.map((c, i) => {
        const from = at;
        at += values[i].length;
        return expected(c, values[i], Array.from(x.subarray(from, at)), states[i], t);
      });
      await session.step({ x: hostTensor('float32', [1, SIZE], x), y: hostTensor('float32', [1, 1], [0]) });
      values.forEach((wanted, i) => {
        read(`all.${i}`).forEach((v, k) => {
          assert.ok(Math.abs(v - wanted[k]) < tolerance, `step ${t}, all.${i}[${k}]: ${v}, not ${wanted[k]}`);
        });
      });
    }
    const moments = session
      .states()
      .map((s) => s.name)
      .filter((n) => n.startsWith('optim/'))
      .sort();
    assert.deepEqual(
      moments,
      [...states.entries()].flatMap(([i, s]) => [...s.keys()].map((name) => `optim/${name}/all.${i}`)).sort(),
      'no other moments are kept',
    );
  });
