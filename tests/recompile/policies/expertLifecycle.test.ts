// The policy expertLifecycle: which changes it makes for which expert loads, and a run with it.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import { Linear } from '../../../src/nn/linear.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { HashRouter } from '../../../src/nn/moe/fixed-routers.ts';
import type { MoE } from '../../../src/nn/moe/moe.ts';
import { type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { RunStats } from '../../../src/observe/run-stats.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { adaptCapacity } from '../../../src/recompile/policies/adaptCapacity.ts';
import { draftOf } from '../../../src/recompile/draft.ts';
import { expertLifecycle, type ExpertLifecycleOptions } from '../../../src/recompile/policies/expertLifecycle.ts';
import { generate } from '../../../src/recompile/lab/generate.ts';
import { replay } from '../../../src/recompile/lab/replay.ts';
import { factorsOf } from '../../../src/recompile/policies/modules.ts';
import { policies, policyWith } from '../../../src/recompile/policies/select.ts';
import type { RecompileEvent } from '../../../src/recompile/rule.ts';
import { compile } from '../../../src/session/node.ts';
import { normals } from '../../nn/moe/layer.ts';
import { anyMoE } from '../../support/moe.ts';

class Model {
  moe: MoE;
  constructor(options: Partial<MoEOptions> = {}) {
    this.moe = anyMoE({ dModel: 4, experts: 8, topK: 2, hidden: 8, ...options });
  }
  forward(x: Parameters<MoE['forward']>[0]): ReturnType<MoE['forward']> {
    return this.moe.forward(x);
  }
}

/** Statistics of 256 steps with the expert loads `load`, or `change(load, step)`. */
function run(
  load: readonly number[],
  change = (own: readonly number[], _: number): readonly number[] => own,
): RunStats {
  const stats = new RunStats();
  for (let i = 1; i <= 257; i++)
    stats.show({
      step: i,
      loss: 1,
      ms: 1,
      stats: { 'moe/load': hostTensor('int32', [load.length], Int32Array.from(change(load, i))) },
    });
  return stats;
}

/** What the rule sets: changes of slots, frozen experts, and its reason. */
function decide(
  model: Model,
  stats: RunStats,
  options: ExpertLifecycleOptions = {},
): { slots: unknown[]; frozen: unknown; reason: string } {
  const rule = expertLifecycle(options),
    draft = draftOf<object>(model);
  assert.ok(rule.trigger(stats));
  rule.alter(draft.model, stats);
  const of = (knob: string): unknown => draft.changes().find((c) => c.knob === knob)?.to,
    slots = of('slots') as unknown[] | undefined;
  return {
    slots: slots?.slice(slots.findIndex((x) => typeof x === 'number') + 1) ?? [],
    frozen: of('frozen'),
    reason: rule.reason?.(stats) ?? '',
  };
}
const slotChanges = (model: Model, load: readonly number[], options?: ExpertLifecycleOptions): unknown[] =>
  decide(model, run(load), options).slots;
const modelWithSlots = (slots: MoE['slots'], options: Partial<MoEOptions> = {}): Model => {
  const model = new Model(options);
  model.moe.slots = slots;
  return model;
};

test('experts that are hardly chosen are pruned, as long as enough remain', () => {
  assert.deepEqual(
    slotChanges(new Model(), [100, 100, 5, 100, 100, 100, 100, 0]),
    ['prune 7', 'prune 2'],
    'an even share is 75.6',
  );
  assert.deepEqual(
    slotChanges(new Model(), [100, 100, 9, 100, 100, 100, 100, 9]),
    [],
    '9 is above a tenth of the even share',
  );
  assert.deepEqual(slotChanges(new Model(), [100, 100, 0, 100, 100, 100, 100, 0], { prune: 0, split: 0 }), []);
  assert.deepEqual(
    slotChanges(new Model(), [400, 380, 0, 1, 2, 3, 4, 5], { split: 0 }),
    ['prune 2', 'prune 3', 'prune 4', 'prune 5', 'prune 6', 'prune 7'],
    'topK experts (2) must remain',
  );
  assert.deepEqual(slotChanges(new Model(), [400, 380, 0, 1, 2, 3, 4, 5], { split: 0, keep: 5 }), [
    'prune 2',
    'prune 3',
    'prune 4',
  ]);
  assert.deepEqual(slotChanges(new Model({ topK: 3 }), [400, 380, 0, 1, 2, 3, 4, 5], { split: 0 }).length, 5);
  // One busy step in the last 64 prevents pruning.
  assert.deepEqual(
    decide(
      new Model(),
      run([100, 100, 0, 100, 100, 100, 100, 100], (own, i) => (i === 200 ? own.map(() => 80) : own)),
    ).slots,
    [],
  );
  const { reason } = decide(new Model(), run([100, 100, 5, 100, 100, 100, 100, 0]));
  assert.equal(
    reason,
    'moe: prune 7 (at most 0.00), prune 2 (at most 0.07) (loads in shares of the even load, over 64 steps)',
  );
});

test('an overloaded expert is split if a slot is free or can be freed', () => {
  const free = new Model({ active: 6 });
  assert.deepEqual(
    slotChanges(free, [300, 60, 60, 60, 60, 60, 0, 0]),
    ['split 0 into 6'],
    'three times the even share of six experts',
  );
  assert.deepEqual(
    slotChanges(free, [200, 60, 60, 60, 60, 60, 0, 0]),
    [],
    '3.2 times that of eight, 2.4 times that of six',
  );
  assert.deepEqual(slotChanges(free, [260, 280, 20, 20, 20, 20, 0, 0]), ['split 1 into 6'], 'the most loaded first');
  assert.deepEqual(
    slotChanges(new Model(), [400, 60, 60, 60, 60, 60, 60, 60]),
    [],
    'no expert is small enough to be merged or pruned',
  );
  assert.deepEqual(
    slotChanges(new Model(), [400, 60, 60, 60, 10, 60, 60, 20]),
    ['merge 4 into 7 by 0.333', 'split 0 into 4'],
    'the two least loaded experts are merged to free a slot',
  );
  assert.deepEqual(slotChanges(new Model(), [400, 60, 60, 60, 10, 60, 60, 20], { merge: 0 }), []);
  assert.deepEqual(
    slotChanges(new Model(), [400, 60, 60, 60, 2, 60, 60, 60]),
    ['prune 4', 'split 0 into 4'],
    'a pruned expert frees its slot',
  );
  assert.deepEqual(
    decide(
      free,
      run([300, 60, 60, 60, 60, 60, 0, 0], (own, i) => (i === 250 ? own.map((n) => (n > 0 ? 100 : 0)) : own)),
    ).slots,
    [],
    'the load must be high in all of the last 64 steps',
  );
  const lists = new Model({ active: 6, capacity: [2, 1, 1, 1, 1, 1, 0, 0] }),
    draft = draftOf<Model>(lists);
  expertLifecycle().alter(draft.model, run([300, 60, 60, 60, 60, 60, 0, 0]));
  assert.deepEqual(draft.model.moe.capacity, [2, 1, 1, 1, 1, 1, 2, 0], 'the copy gets the capacity of its original');
});

test('copies that are not needed are merged again; all copies of an expert count as one choice', () => {
  const copyOf0: MoE['slots'] = ['on', 'on', 'on', 'on', 'on', 'like 0', 'off', 'off'];
  assert.deepEqual(
    slotChanges(modelWithSlots(copyOf0), [24, 100, 100, 100, 100, 8, 0, 0]),
    ['merge 5 into 0 by 0.25'],
    'together 32, of an even share of 72',
  );
  assert.deepEqual(slotChanges(modelWithSlots(copyOf0), [30, 100, 100, 100, 100, 10, 0, 0]), [], '40 of 73');
  // A copy may be pruned even if only topK different experts remain: the expert itself stays.
  const pair: MoE['slots'] = ['on', 'on', 'like 0', 'off', 'off', 'off', 'off', 'off'];
  assert.deepEqual(slotChanges(modelWithSlots(pair), [200, 200, 1, 0, 0, 0, 0, 0], { merge: 0 }), ['prune 2']);
  assert.deepEqual(
    slotChanges(modelWithSlots(pair), [200, 1, 200, 0, 0, 0, 0, 0], { merge: 0 }),
    [],
    'the only other choice stays',
  );
});

test('experts with little load are frozen, and trained again at twice that load', () => {
  const { frozen, slots, reason } = decide(new Model(), run([100, 100, 30, 100, 100, 100, 100, 10]), {
    prune: 0,
    freeze: 0.3,
  });
  assert.deepEqual([frozen, slots], [[false, false, false, false, false, false, false, true], []]);
  assert.match(reason, /moe: freeze 7/);
  const model = new Model(),
    again = (n: number): unknown =>
      decide(model, run([100, 100, 100, 100, 100, 100, 100, n]), { prune: 0, freeze: 0.3 }).frozen;
  model.moe.frozen = [false, false, false, false, false, false, false, true];
  assert.deepEqual([again(50), again(70)], [undefined, new Array<boolean>(8).fill(false)]);
});

test('layers that cannot change experts are left alone; options that would oscillate are refused', () => {
  assert.deepEqual(
    slotChanges(new Model({ router: new HashRouter({ experts: 8 }) }), [400, 60, 0, 60, 2, 60, 60, 60]),
    [],
  );
  const odd = new Model({ experts: [new Linear(4, 4), new Linear(4, 4, { bias: false }), new Linear(4, 4)], topK: 1 });
  assert.deepEqual(
    slotChanges(odd, [300, 0, 15], { split: 2 }),
    ['prune 1'],
    'no copy fits into the slot of an expert of another shape',
  );
  assert.throws(() => expertLifecycle({ cooldown: 64 }), /cooldown must be at least 100 steps, got 64/);
  assert.throws(() => expertLifecycle({ split: 0.4 }), /split \(0.4\) must lie above prune and merge/);
  assert.throws(() => expertLifecycle({ prune: NaN }), /prune must be a number of at least 0/);
  const rule = expertLifecycle();
  assert.deepEqual(
    [rule.trigger(run([1])), policies('sparsify,expertLifecycle').map((r) => r.name)],
    [true, ['sparsify', 'expertLifecycle']],
  );
});

test('the lab refuses the policy, because loads do not tell its effect', async () => {
  assert.throws(() => policyWith('expertLifecycle'), /cannot be tried in the lab/);
  const { events } = await replay(generate('idle', { steps: 300, experts: 8 }), [expertLifecycle({ cooldown: 100 })]);
  assert.ok(
    events.length > 0 && events.every((e) => !e.kept && /loads do not tell/.test(e.error ?? '')),
    JSON.stringify(events[0]),
  );
});

test('capacity factors are relative to the even share of active experts', () => {
  const model = modelWithSlots(['on', 'on', 'on', 'on', 'off', 'off', 'off', 'off'], {
      capacity: 3,
      dispatch: 'padded',
    }),
    draft = draftOf<Model>(model),
    stats = run([80, 120, 100, 100, 0, 0, 0, 0]);
  assert.deepEqual(factorsOf(model.moe, 8), [3, 3, 3, 3, 0, 0, 0, 0]);
  adaptCapacity().alter(draft.model, stats);
  assert.deepEqual(draft.model.moe.capacity, [0.8125, 1.25, 1, 1, 0, 0, 0, 0]);
});

test('a run: the expert that is not chosen is pruned, the overloaded one is split, others stay', async () => {
  const model = new Model({ experts: 6, active: 5, topK: 1, balance: 0, zLoss: 0 }),
    events: RecompileEvent[] = [];
  await using session = await compile(model, {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 1e-3 }),
    device: 'wasm',
    threads: 1,
    memory: 128e6,
    events: (e) => events.push(e),
  });
  session.recompile(expertLifecycle({ cooldown: 100, split: 2 }));
  const batch = (step: number) => ({
    x: hostTensor(
      'float32',
      [64, 4],
      normals(`x${step}`, 256).map((v, i) => (i % 4 === 3 ? 1 : v)),
    ),
    y: hostTensor('float32', [64, 4], normals(`y${step}`, 256)),
  });
  await session.prepare(batch(0));
  // The last input is always 1, so that most tokens choose expert 0 and none chooses expert 4.
  const rows = [
      [0.2, 0, 0, 2],
      [1, 0, 0, 0],
      [0, 1, 0, 0],
      [-1, -1, 0, 0],
      [0, 0, 0, -9],
      [0, 0, 0, 0],
    ],
    weight = Float32Array.from({ length: 24 }, (_, i) => rows[i % 6][Math.floor(i / 6)]);
  await session.restore(0, [{ name: 'moe.router.weight', value: hostTensor('float32', [4, 6], weight) }]);
  for (let i = 0; i < 340; i++) await session.step(batch(i));
  assert.deepEqual(
    events.map((e) => [e.class, e.kept, e.verified, (e.changes[0].to as unknown[]).slice(7)]),
    [
      ['R', true, true, ['prune 4', 'split 0 into 4']],
      ['R', true, true, ['split 0 into 5']],
    ].slice(0, events.length),
  );
  assert.match(events[0].reason, /^moe: prune 4 \(at most 0\.00\), split 0 into 4 \(at least 3\.\d\d\)/);
  const { stats } = await session.step(batch(340));
  assert.ok(stats['moe/load'].data[4] > 0, stats['moe/load'].data.join());
});
