// Spilled rows, computed in rounds, give the bits of a dropless layer under any load, with memory for the capacities.
// Also tested: kernels do not depend on capacities, counts are exact, any number of threads, a layer that is used
// twice, gradients of gradients.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hostTensor } from '../../../src/base/tensor.ts';
import { grad } from '../../../src/grad/grad.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { mean, sum } from '../../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { capacityRows } from '../../../src/nn/moe/capacity.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { adamW } from '../../../src/optim/adam.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compileGraph, traceGraph, trainingGraph } from '../../../src/pipeline.ts';
import { verifyProgram } from '../../../src/plan/verify.ts';
import { compile } from '../../../src/session/node.ts';
import type { RecompileEvent } from '../../../src/recompile/rule.ts';
import type { Session } from '../../../src/session/session.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { call } from '../../../src/trace/trace.ts';
import {
  compiledDevice,
  devices,
  difference,
  layerGraph,
  normals,
  runLayer,
  type DeviceName,
  type Layer,
  type Numbers,
} from './layer.ts';
import { anyMoE } from '../../support/moe.ts';
import { fingerprint } from '../../support/toy.ts';

const make = (options: Partial<MoEOptions> = {}): MoE =>
  anyMoE({ dModel: 6, experts: 5, topK: 2, hidden: 9, ...options });
const withoutSpilled = (r: Numbers): Numbers =>
  Object.fromEntries(Object.entries(r).filter(([name]) => name !== 'stat:/spilled'));

/**
 * Tokens and router weights that give expert e about e^(-skew) times the share of expert e - 1. With a large skew, all
 * tokens choose the same expert.
 */
function skewed(tokens: number, width: number, experts: number, skew: number): Record<string, Float32Array> {
  const x = normals('x', tokens * width),
    weight = normals('router', width * experts, 0.5);
  if (skew > 0) {
    for (let t = 0; t < tokens; t++) x[t * width] = 8;
    for (let e = 0; e < experts; e++) weight[e] = -e * skew;
  }
  return { x, 'router.weight': weight };
}

const settings = fc.record({
  tokens: fc.constantFrom(1, 30, 64, 129, 400),
  experts: fc.constantFrom(2, 5, 8),
  topK: fc.constantFrom(1, 2),
  dispatch: fc.constantFrom('ragged', 'padded'),
  activation: fc.constantFrom('gelu', 'swiglu'),
  bias: fc.boolean(),
  skew: fc.constantFrom(0, 0.2, 5),
  factors: fc.array(fc.constantFrom(0, 0.1, 0.5, 1, 3), { minLength: 8, maxLength: 8 }),
});

for (const device of devices) {
  test(`${device}: random capacities and loads: the bits of dropless, and exact counts`, async () => {
    await fc.assert(
      fc.asyncProperty(settings, async ({ tokens, experts, topK, dispatch, activation, bias, skew, factors }) => {
        const own = { experts, topK, activation, bias } as const,
          capacity = factors.slice(0, experts),
          options = { device, values: skewed(tokens, 6, experts, skew) };
        const plain = await runLayer(make(own), [tokens, 6], options);
        const spill = await runLayer(
          make({ ...own, dispatch: dispatch as 'ragged', capacity, overflow: 'spill' }),
          [tokens, 6],
          options,
        );
        assert.deepEqual(withoutSpilled(spill), plain);
        const caps = capacityRows(capacity, experts, tokens * topK) ?? [];
        assert.deepEqual(
          spill['stat:/spilled'],
          plain['stat:/load'].map((n, e) => Math.max(0, n - caps[e])),
        );
      }),
      { numRuns: 14, seed: 3 },
    );
  });

  test(`${device}: all tokens choose the same expert, in training and in evaluation`, async () => {
    for (const capacity of [0, 0.3, 1] as const)
      for (const training of [true, false]) {
        const options = { device, training, values: skewed(700, 6, 8, 5) },
          own = { experts: 8, topK: 1, bias: true } as const;
        const plain = await runLayer(make(own), [700, 6], options),
          spill = await runLayer(make({ ...own, capacity, overflow: 'spill' }), [700, 6], options);
        if (training)
          assert.deepEqual(
            [plain['stat:/load'][0], spill['stat:/spilled'][0]],
            [700, 700 - Math.ceil(capacity * 87.5)],
          );
        assert.deepEqual(withoutSpilled(spill), plain);
      }
  });
}

test('devices agree with the reference', async () => {
  const own = { bias: true, activation: 'swiglu', capacity: [0.1, 0, 1, 0.5, 2], overflow: 'spill' } as const,
    options = { values: skewed(90, 6, 5, 0.2) };
  const expected = await runLayer(make(own), [90, 6], options),
    dropless = await runLayer(make({ ...own, capacity: 'dropless' }), [90, 6], options);
  for (const device of devices) {
    const got = await runLayer(make(own), [90, 6], { ...options, device });
    for (const name of Object.keys(expected)) assert.ok(difference(got[name], expected[name]) < 1e-5, name);
  }
  for (const name of Object.keys(dropless)) assert.ok(difference(expected[name], dropless[name]) < 1e-12, name);
});

test('memory is planned for the capacities, not for all rows', () => {
  for (const experts of [8, 64]) {
    const arena = (options: Partial<MoEOptions>): number =>
      compileGraph(layerGraph(new MoE({ dModel: 256, experts, topK: 2, hidden: 1024, ...options }), [2048, 256]))
        .program.slabs.arena;
    const ragged = arena({}),
      padded = arena({ dispatch: 'padded' }),
      spill = (dispatch: 'ragged' | 'padded', capacity: number): number =>
        arena({ dispatch, capacity, overflow: 'spill' });
    assert.ok(
      spill('padded', 1) < 1.25 * arena({ dispatch: 'padded', capacity: 1 }),
      'spilling plans little more memory than dropping',
    );
    assert.ok(spill('padded', 1) < padded / (experts / 2.6));
    assert.ok(spill('ragged', 1) < 1.25 * ragged);
    assert.ok(spill('ragged', 0.5) < 0.7 * ragged);
    assert.ok(spill('ragged', 0.25) < 0.45 * ragged);
  }
});

test('in a training step only one round at a time has hidden values', () => {
  const moe = new MoE({ dModel: 256, experts: 64, topK: 2, hidden: 1024, capacity: 0.5, overflow: 'spill' }),
    size = (2 * 2048) / 8;
  const forward = traceGraph(nameParameters(moe), true, (t) => {
    t.output('total', mean(call(moe, t.input('input', 'x', { dtype: 'float32', shape: [2048, 256] }))));
  });
  const { program } = compileGraph(
    trainingGraph(forward, sgd({ lr: 0.1 }), ['experts.w1', 'experts.w2', 'router.weight']),
  );
  const hidden = program.tensors.filter(
    ({
      type: {
        shape: [rows, width],
      },
      slab,
    }) => slab === 'arena' && typeof rows === 'object' && rows.bound === size && width === 1024,
  );
  const most = Math.max(...program.steps.map((_, i) => hidden.filter((t) => t.first <= i && i <= t.last).length));
  assert.ok(hidden.length >= 16 && most <= 3, `${most} of ${hidden.length}`);
});

test('spill: another capacity runs the same kernels', () => {
  for (const dispatch of ['ragged', 'padded'] as const) {
    const moe = make({ dispatch, overflow: 'spill', bias: true, activation: 'swiglu' });
    const keys = (capacity: number | number[]): string[] => {
      moe.capacity = capacity;
      return compileGraph(layerGraph(moe, [300, 6]))
        .kernels.map((k) => k.key)
        .sort();
    };
    const one = keys(1);
    for (const capacity of [0, 0.3, 1.25, 5, [0.1, 0, 3, 1, 0.5]])
      assert.deepEqual(keys(capacity), one, `${String(capacity)}`);
  }
});

/** A layer that is used twice: its gradients are sums over both uses. */
class Twice implements Layer {
  readonly moe: MoE;
  constructor(options: Partial<MoEOptions>) {
    this.moe = make({ bias: true, balance: 0, zLoss: 0, ...options });
  }
  forward(x: Tensor): Tensor {
    return call(this.moe, add(call(this.moe, x), x));
  }
}

/** A layer whose output contains a gradient through the layer. */
class Penalised implements Layer {
  readonly moe: MoE;
  constructor(options: Partial<MoEOptions>) {
    this.moe = make({ bias: true, balance: 0, zLoss: 0, ...options });
  }
  forward(x: Tensor): Tensor {
    const y = call(this.moe, x),
      [g] = grad(sum(mul(y, y)), [x]);
    return add(y, mul(g, g));
  }
}

test('a layer that is used twice; gradients of gradients', async () => {
  const spill = { capacity: 0.3, overflow: 'spill' } as const,
    values = { x: normals('x', 200 * 6) };
  const [a, b] = [
    await runLayer(new Twice({}), [200, 6], { device: compiledDevice, training: true, values }),
    await runLayer(new Twice(spill), [200, 6], { device: compiledDevice, values }),
  ];
  assert.ok(Object.keys(a).filter((n) => n.startsWith('grad/')).length > 4);
  for (const name of Object.keys(a).filter((n) => !n.startsWith('stat:'))) assert.deepEqual(b[name], a[name], name);
  const [c, d] = [
    await runLayer(new Penalised({}), [200, 6], { values }),
    await runLayer(new Penalised(spill), [200, 6], { values }),
  ];
  for (const name of Object.keys(c).filter((n) => !n.startsWith('stat:')))
    assert.ok(difference(d[name], c[name]) < 1e-10, name);
  const e = await runLayer(new Penalised(spill), [200, 6], { device: compiledDevice, values });
  for (const name of Object.keys(c).filter((n) => !n.startsWith('stat:')))
    assert.ok(difference(e[name], c[name]) < 1e-4, name);
});

test('training has the bits of dropless, for any number of threads, eager or with accumulation', async () => {
  const batch = (step: number) => ({
    x: hostTensor('float32', [150, 6], normals(`x${step}`, 900)),
    y: hostTensor('float32', [150, 6], normals(`y${step}`, 900)),
  });
  for (const [optimizer, more] of [
    [adamW({ lr: 0.01 }), {}],
    [adamW({ lr: 0.01, eager: true }), {}],
    [sgd({ lr: 0.1 }), { accumulate: 2 }],
  ] as const) {
    const train = async (
      options: Partial<MoEOptions>,
      device: DeviceName,
      threads: number,
    ): Promise<[number[], Record<string, string>]> => {
      await using session = await compile(make({ bias: true, ...options }), {
        loss: meanSquaredError,
        optimizer,
        device,
        threads,
        ...more,
      });
      const losses: number[] = [];
      for (let i = 0; i < 4; i++) losses.push((await session.step(batch(i))).loss);
      return [losses, fingerprint(session)];
    };
    const expected = await train({}, compiledDevice, 2);
    for (const device of devices)
      for (const threads of [1, 2]) {
        assert.deepEqual(
          await train({ capacity: 0.4, overflow: 'spill' }, device, threads),
          expected,
          `${device}, ${threads} threads`,
        );
      }
    assert.deepEqual(await train({ capacity: 0, overflow: 'spill', dispatch: 'padded' }, compiledDevice, 2), expected);
  }
});

test(
  'a capacity that changes during training keeps every bit, and its class is known before the change',
  { timeout: 120_000 },
  async () => {
    const batch = (step: number) => ({
      x: hostTensor('float32', [150, 6], normals(`x${step}`, 900)),
      y: hostTensor('float32', [150, 6], normals(`y${step}`, 900)),
    });
    const open = async (options: Partial<MoEOptions>, events: RecompileEvent[]): Promise<Session> =>
      await compile(make({ bias: true, ...options }), {
        loss: meanSquaredError,
        optimizer: adamW({ lr: 0.01 }),
        device: compiledDevice,
        threads: 2,
        events: (e) => {
          events.push(e);
        },
      });
    const events: RecompileEvent[] = [],
      losses: number[] = [];
    await using session = await open({ capacity: 2, overflow: 'spill', dispatch: 'padded' }, events);
    session.recompile({
      name: 'less',
      trigger: (run) => run.step === 3,
      alter: (m: MoE) => {
        m.capacity = [0.1, 0.5, 0, 1, 0.3];
      },
    });
    while (events.length === 0 && losses.length < 2000) losses.push((await session.step(batch(losses.length))).loss);
    assert.deepEqual(
      events.map((e) => [e.class, e.verified]),
      [['N', true]],
    );
    await using plain = await open({}, []);
    for (const [i, loss] of losses.entries()) assert.equal((await plain.step(batch(i))).loss, loss, `step ${i}`);
    assert.deepEqual(fingerprint(session), fingerprint(plain));
  },
);

test('the verifier refuses a plan in which a round continues a value that nothing has written', () => {
  const { program } = compileGraph(layerGraph(make({ capacity: 0.5, overflow: 'spill' }), [200, 6]));
  const at = program.steps.findIndex((s) => s.readsDestination && s.ops.includes('placeRows')),
    [placed] = program.steps[at].buffers.filter((_, i) => program.steps[at].writes[i]);
  assert.ok(at > 0);
  const first = program.steps.findIndex((s) => s.buffers.some((b, i) => b === placed && s.writes[i]));
  assert.throws(
    () => verifyProgram({ ...program, steps: program.steps.filter((_, i) => i !== first) }),
    /placeRows.*which is not written yet/,
  );
});
