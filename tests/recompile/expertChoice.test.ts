// MoE layers whose experts choose tokens. Their capacity decides which rows they compute, so that changing it changes
// results. Policies that use the choices of tokens do not change these layers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import { ExpertChoiceRouter } from '../../src/nn/moe/fixed-routers.ts';
import { MoE, type MoEOptions } from '../../src/nn/moe/moe.ts';
import { LinearRouter, type Choice } from '../../src/nn/moe/router.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { policies } from '../../src/recompile/policies/select.ts';
import type { RecompileEvent } from '../../src/recompile/rule.ts';
import { sparsify } from '../../src/recompile/policies/sparsify.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { Knobs, type Change } from '../../src/trace/knobs.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { normals } from '../nn/moe/layer.ts';
import { anyMoE } from '../support/moe.ts';

const make = (options: Partial<MoEOptions> = {}): MoE =>
  anyMoE({
    dModel: 8,
    experts: 4,
    topK: 2,
    hidden: 12,
    router: new ExpertChoiceRouter({ dModel: 8, experts: 4 }),
    ...options,
  });
const batch = (i: number): Batch => ({
  x: hostTensor('float32', [24, 8], normals(`x${i}`, 192)),
  y: hostTensor('float32', [24, 8], normals(`y${i}`, 192)),
});
async function open(model: MoE): Promise<{ session: Session; events: RecompileEvent[] }> {
  const events: RecompileEvent[] = [];
  return {
    session: await compile(model, {
      loss: meanSquaredError,
      optimizer: sgd({ lr: 0.05 }),
      device: 'wasm',
      threads: 1,
      events: (e) => events.push(e),
    }),
    events,
  };
}

test('capacity is class R with any overflow; dispatch, priority and overflow are class N', () => {
  const classOf = (moe: MoE, ...changes: Omit<Change, 'path'>[]): string =>
    new Knobs(nameParameters(moe)).classify(changes.map((c) => ({ path: '', ...c })));
  assert.equal(classOf(make({ capacity: 1, overflow: 'spill' }), { knob: 'capacity', from: 1, to: 2 }), 'R');
  assert.equal(classOf(make({ overflow: 'spill' }), { knob: 'capacity', from: 'dropless', to: 0.5 }), 'R');
  assert.equal(
    classOf(
      make({ capacity: 1 }),
      { knob: 'dispatch', from: 'ragged', to: 'padded' },
      { knob: 'priority', from: 'position', to: 'probs' },
      { knob: 'overflow', from: 'drop', to: 'spill' },
    ),
    'N',
  );
  const byTokens = make({
    capacity: 1,
    overflow: 'spill',
    router: new MoE({ dModel: 8, experts: 4, topK: 2, hidden: 12 }).router,
  });
  assert.equal(classOf(byTokens, { knob: 'capacity', from: 1, to: 2 }), 'N');
});

test('a rule may raise the capacity, as a class R change', async () => {
  const { session, events } = await open(make({ capacity: 1, overflow: 'spill' }));
  session.recompile<MoE>({
    name: 'more',
    trigger: () => true,
    alter: (moe) => {
      moe.capacity = 2;
    },
    budget: 1,
  });
  for (let i = 0; i < 40; i++) await session.step(batch(i));
  assert.deepEqual(
    events.map((e) => [e.class, e.kept, e.effect]),
    [['R', true, 33]],
  );
  await session.close();
});

test('policies do not change these layers, and there is no statistic of second choices', async () => {
  const moe = make({ capacity: 0.5, dispatch: 'padded' }),
    { session, events } = await open(moe);
  for (const rule of [...policies('adaptCapacity,chooseDispatch'), sparsify({ below: 0.9, cooldown: 16 })])
    session.recompile(rule);
  for (let i = 0; i < 70; i++) {
    const { stats } = await session.step(batch(i));
    if (i === 0) assert.deepEqual(Object.keys(stats), ['/load', '/gateEntropy']);
  }
  assert.deepEqual(events, []);
  const { capacity, dispatch, topK } = session.settings('');
  assert.deepEqual([capacity, dispatch, topK], [0.5, 'padded', 2]);
  await session.close();
});

test('a custom router whose experts choose tokens must declare it', async () => {
  const inner = new ExpertChoiceRouter({ dModel: 8, experts: 4 });
  const router = new (class extends LinearRouter {
    readonly inner = inner;
    choose(x: Parameters<typeof inner.choose>[0]): Choice {
      return inner.choose(x);
    }
  })({ dModel: 8, experts: 4 });
  const { session } = await open(make({ router }));
  await assert.rejects(session.step(batch(0)), /UserError.*does not say so of itself/s);
  await session.close();
});
