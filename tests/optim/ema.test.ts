// Averages of parameters: their values against the formula in float64, training without them, parts that are frozen,
// and starting another session with them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import * as losses from '../../src/nn/loss.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import { Linear } from '../../src/nn/linear.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import * as optim from '../../src/optim/index.ts';
import { averagesOf } from '../../src/session/averages.ts';
import { initFrom } from '../../src/session/init.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { call } from '../../src/trace/trace.ts';
import { UserError } from '../../src/base/errors.ts';

const IN = 6,
  ROWS = 8;
function batch(step: number): Batch {
  const stream = new Stream(step, 'ema');
  return {
    x: hostTensor(
      'float32',
      [ROWS, IN],
      Float32Array.from({ length: ROWS * IN }, (_, i) => stream.normal(0, i)),
    ),
    y: hostTensor(
      'int32',
      [ROWS],
      Int32Array.from({ length: ROWS }, (_, i) => Math.floor(3 * stream.uniform(1, i))),
    ),
  };
}
const open = (optimizer: optim.Optimizer, more: object = {}): Promise<Session> =>
  compile(new MLP([IN, 5, 3]), { loss: losses.crossEntropy, optimizer, device: 'wasm', threads: 1, seed: 2, ...more });

const valuesOf = (session: Session): Map<string, number[]> =>
  new Map([...session.named.parameters.keys()].map((name) => [name, numbers(session, name)]));
function numbers(session: Session, name: string): number[] {
  const view = session.states().find((s) => s.name === name);
  assert.ok(view, name);
  return Array.from(view.read().data);
}
const averagesIn = async (session: Session): Promise<Map<string, number[]>> =>
  new Map([...(await averagesOf(session))].map(([name, { data }]) => [name, Array.from(data)]));

function near(got: Map<string, number[]>, want: Map<string, number[]>, what: string): void {
  assert.deepEqual([...got.keys()], [...want.keys()]);
  for (const [name, values] of want)
    values.forEach((v, i) => {
      const found = got.get(name)?.[i] ?? NaN;
      assert.ok(Math.abs(found - v) < 1e-6, `${what}, ${name}[${i}]: ${found}, expected ${v}`);
    });
}

for (const [name, make] of [
  ['sgd', (): optim.Optimizer => optim.sgd({ lr: 0.3 })],
  ['adamW with clipping', (): optim.Optimizer => optim.adamW({ lr: 0.02, clip: 1 })],
  ['muon', (): optim.Optimizer => optim.muon({ lr: 0.05 })],
] as const)
  test(`${name}: averages follow the formula, and training has the bits that it has without them`, async () => {
    await using session = await open(optim.ema(make(), { decay: 0.3 }));
    await using alone = await open(make());
    near(await averagesIn(session), valuesOf(session), 'before the first step');
    // After t earlier steps: 0, then 2/11 and 3/12 of the warm-up, then the decay.
    const decays = [0, 2 / 11, 3 / 12, 0.3, 0.3, 0.3];
    let want = new Map<string, number[]>();
    for (const [t, d] of decays.entries()) {
      const [a, b] = [await session.step(batch(t)), await alone.step(batch(t))];
      assert.equal(a.loss, b.loss);
      const now = valuesOf(session);
      assert.deepEqual(now, valuesOf(alone));
      want = new Map([...now].map(([p, v]) => [p, v.map((x, i) => d * (want.get(p)?.[i] ?? 0) + (1 - d) * x)]));
      near(await averagesIn(session), want, `step ${t + 1}`);
    }
  });

test('another session starts with the averages, also after a checkpoint', async () => {
  await using session = await open(optim.ema(optim.adamW({ lr: 0.05 }), { decay: 0.9 }));
  for (let i = 0; i < 5; i++) await session.step(batch(i));
  const averages = await averagesIn(session);
  await using resumed = await open(optim.ema(optim.adamW({ lr: 0.05 }), { decay: 0.9 }), { seed: 9 });
  await resumed.deserialize(await session.serialize());
  assert.deepEqual(await averagesIn(resumed), averages);
  await using other = await compile(new MLP([IN, 5, 3]), { loss: losses.crossEntropy, device: 'wasm', threads: 1 });
  await initFrom(other, await averagesOf(resumed));
  assert.deepEqual(valuesOf(other), averages);
  assert.notDeepEqual(averages, valuesOf(session));
});

class Experts {
  readonly moe = new MoE({ dModel: IN, experts: 4, topK: 4, hidden: 4 });
  readonly head = new Linear(IN, 3);
  forward(x: Tensor): Tensor {
    return call(this.head, add(x, call(this.moe, x)));
  }
}

test('an expert that was always frozen has its own value; one that is frozen later keeps its average', async () => {
  const model = new Experts();
  await using session = await compile(model, {
    loss: losses.crossEntropy,
    optimizer: optim.ema(optim.sgd({ lr: 0.5 }), { decay: 0.5 }),
    device: 'wasm',
    threads: 1,
    seed: 1,
  });
  const expert = (values: Map<string, number[]>, e: number): number[] => {
    const all = values.get('moe.experts.w1') ?? assert.fail();
    return all.slice((e * all.length) / 4, ((e + 1) * all.length) / 4);
  };
  model.moe.frozen = [false, true, false, false];
  for (let i = 0; i < 3; i++) await session.step(batch(i));
  const [averages, values] = [await averagesIn(session), valuesOf(session)];
  assert.deepEqual(expert(averages, 1), expert(values, 1));
  assert.notDeepEqual(expert(averages, 2), expert(values, 2));
  model.moe.frozen = [false, false, true, false];
  await session.step(batch(3));
  const later = await averagesIn(session);
  assert.deepEqual(expert(later, 2), expert(averages, 2));
  // Its first step: the average is the new value.
  assert.deepEqual(expert(later, 1), expert(valuesOf(session), 1));
  assert.notDeepEqual(expert(later, 1), expert(averages, 1));
});

test('a checkpoint without averages: they start with the next step', async () => {
  await using before = await open(optim.sgd({ lr: 0.1 }));
  for (let i = 0; i < 3; i++) await before.step(batch(i));
  await using session = await open(optim.ema(optim.sgd({ lr: 0.1 })), { say: () => undefined });
  await session.deserialize(await before.serialize());
  assert.deepEqual(await averagesIn(session), valuesOf(before));
  await session.step(batch(3));
  near(await averagesIn(session), valuesOf(session), 'the first step with averages');
});

test('what makes no average is refused by name', async () => {
  const inner = optim.sgd({ lr: 0.1 });
  for (const decay of [1, -0.1, NaN, 2])
    assert.throws(() => optim.ema(inner, { decay }), /optim\.ema: decay must be a number from 0 to below 1, got/);
  assert.throws(() => optim.ema(optim.ema(inner)), /keeps averages already/);
  assert.throws(() => optim.ema(undefined as never), /the first argument must be an optimizer/);
  await using session = await open(inner);
  await assert.rejects(averagesOf(session), (e) => e instanceof UserError && /keeps no averages/.test(e.message));
});
