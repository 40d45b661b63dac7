// Several ways to compute one layer agree. Ragged, padded and spill: in every bit. Einsum, dense, experts in another
// order, and modules instead of a bank: to 1e-5. A layer with one expert equals a dense network.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { reshape } from '../../../src/graph/ops/shape/reshape.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { gelu } from '../../../src/graph/ops/elementwise/gelu.ts';
import { ExpertChoiceRouter } from '../../../src/nn/moe/fixed-routers.ts';
import { Linear } from '../../../src/nn/linear.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { Parameter } from '../../../src/trace/parameter.ts';
import { call } from '../../../src/trace/trace.ts';
import { compiledDevice, devices, difference, runLayer, type Numbers } from './layer.ts';
import { anyMoE } from '../../support/moe.ts';

const X = [40, 12] as const;
const layer = (options: Partial<MoEOptions> = {}): MoE =>
  anyMoE({ dModel: 12, experts: 5, topK: 2, hidden: 20, bias: true, activation: 'swiglu', ...options });
const withoutCounts = (r: Numbers): Numbers =>
  Object.fromEntries(
    Object.entries(r).filter(([name]) => !name.startsWith('stat:/dropped') && !name.startsWith('stat:/spilled')),
  );
const close = (a: Numbers, b: Numbers, names: readonly string[] = Object.keys(b)): void => {
  for (const name of names) assert.ok(difference(a[name], b[name]) < 1e-5, `${name}: ${difference(a[name], b[name])}`);
};

for (const device of devices) {
  test(`${device}: without drops, padded and spill have the bits of ragged`, async () => {
    const ragged = withoutCounts(await runLayer(layer(), X, { device }));
    for (const options of [
      { dispatch: 'padded' },
      { dispatch: 'padded', capacity: 5 },
      { capacity: 5 },
      { capacity: 0.4, overflow: 'spill' },
      { dispatch: 'padded', capacity: [0.1, 0, 2, 0.5, 1], overflow: 'spill' },
      { dispatch: 'padded', capacity: 0.7, overflow: 'spill', priority: 'probs' },
    ] as const) {
      assert.deepEqual(withoutCounts(await runLayer(layer(options), X, { device })), ragged, JSON.stringify(options));
    }
  });

  test(`${device}: with drops, padded has the bits of ragged`, async () => {
    for (const priority of ['position', 'choice', 'probs'] as const) {
      const capacity = [0.3, 1, 0, 0.7, 2],
        ragged = await runLayer(layer({ capacity, priority }), X, { device });
      assert.ok(ragged['stat:/dropped'].some((n) => n > 0));
      assert.deepEqual(await runLayer(layer({ capacity, priority, dispatch: 'padded' }), X, { device }), ragged);
    }
  });
}

test('einsum and dense agree with ragged', async () => {
  for (const capacity of ['dropless', 0.6] as const) {
    for (const router of [undefined, new ExpertChoiceRouter({ dModel: 12, experts: 5 })]) {
      const own = { capacity, ...(router && { router }) };
      const ragged = await runLayer(layer(own), X, { device: compiledDevice });
      for (const dispatch of ['einsum', 'dense', 'padded'] as const)
        close(await runLayer(layer({ ...own, dispatch }), X, { device: compiledDevice }), ragged);
    }
  }
});

test('compiled devices agree with the float64 reference', async () => {
  const options = {
    capacity: 0.6,
    priority: 'probs',
    shared: 9,
    losses: { balance: 0.1, gshard: 0.2, importance: 0.3, z: 0.01 },
  } as const;
  const expected = await runLayer(layer(options), X);
  for (const device of devices) close(await runLayer(layer(options), X, { device }), expected);
});

/** An expert with its own hidden width. */
class Mlp {
  readonly up: Linear;
  readonly down: Linear;
  constructor(hidden: number) {
    this.up = new Linear(12, hidden);
    this.down = new Linear(hidden, 12);
  }
  forward(x: Tensor): Tensor {
    return call(this.down, gelu(call(this.up, x)));
  }
}

test('a layer with its experts in another order gives the same results', async () => {
  const order = [3, 0, 4, 1, 2],
    bank = layer(),
    other = layer(),
    plain = await runLayer(bank, X, { device: compiledDevice });
  const start = (name: string, p: Parameter): Float32Array =>
    Float32Array.from({ length: p.size }, (_, i) => Math.sin(i * 0.7 + name.length));
  const parameters = {
    'experts.w1': [5, 12, 40],
    'experts.b1': [5, 40],
    'experts.w2': [5, 20, 12],
    'experts.b2': [5, 12],
    'router.weight': [12, 5],
  };
  const values: Record<string, Float32Array> = {},
    moved: Record<string, Float32Array> = {};
  for (const [name, shape] of Object.entries(parameters)) {
    const v = (values[name] = start(name, new Parameter(shape, { kind: 'constant', value: 0 }))),
      size = v.length / 5;
    moved[name] =
      name === 'router.weight'
        ? v.map((_, i) => v[i - (i % 5) + order[i % 5]])
        : v.map((_, i) => v[order[Math.floor(i / size)] * size + (i % size)]);
  }
  const [a, b] = [
    await runLayer(bank, X, { device: compiledDevice, values }),
    await runLayer(other, X, { device: compiledDevice, values: moved }),
  ];
  close(b, a, ['y', 'total', 'grad/x']);
  assert.deepEqual(
    b['stat:/load'],
    order.map((e) => a['stat:/load'][e]),
  );
  assert.notDeepEqual(a['y'], plain['y']);
});

test('modules of different widths: all dispatches agree, and devices with the reference', async () => {
  const make = (options: Partial<MoEOptions>): MoE =>
    new MoE({ dModel: 12, experts: [new Mlp(3), new Mlp(30), new Mlp(7)], topK: 2, capacity: 0.8, ...options });
  const expected = await runLayer(make({}), X);
  assert.ok(expected['stat:/dropped'].some((n) => n > 0));
  for (const device of devices) close(await runLayer(make({}), X, { device }), expected);
  for (const dispatch of ['padded', 'einsum', 'dense'] as const)
    close(await runLayer(make({ dispatch }), X, { device: compiledDevice }), expected);
});

test('a layer with one expert equals a dense network', async () => {
  const moe = layer({ experts: 1, topK: 1, balance: 0, zLoss: 0 }),
    bank = layer({ experts: 1, topK: 1 }).experts;
  class Dense {
    readonly experts = bank;
    forward(x: Tensor): Tensor {
      return 'batched' in this.experts ? reshape(this.experts.batched(reshape(x, [1, ...X])), [...X]) : x;
    }
  }
  const [a, b] = [
    await runLayer(moe, X, { device: compiledDevice }),
    await runLayer(new Dense(), X, { device: compiledDevice }),
  ];
  for (const name of ['y', 'grad/x', 'grad/experts.w1', 'grad/experts.w2', 'grad/experts.b1', 'grad/experts.b2'])
    assert.deepEqual(a[name], b[name], name);
});
