// The policy cacheAssignments: if samples recur, it records expert choices (routing 'watched'); if the router repeats
// them often enough, it uses the recorded ones ('cached'), otherwise it goes back to 'watched'.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type Batch } from '../../../src/base/tensor.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { HashRouter } from '../../../src/nn/moe/fixed-routers.ts';
import { MoE } from '../../../src/nn/moe/moe.ts';
import { RunStats, type StepReport } from '../../../src/observe/run-stats.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { cacheAssignments, type CacheAssignmentsOptions } from '../../../src/recompile/policies/cacheAssignments.ts';
import { draftOf } from '../../../src/recompile/draft.ts';
import { policies, policyWith } from '../../../src/recompile/policies/select.ts';
import type { RecompileEvent } from '../../../src/recompile/rule.ts';
import { compile } from '../../../src/session/node.ts';
import type { Session } from '../../../src/session/session.ts';
import type { Settings } from '../../../src/trace/knobs.ts';
import { normals } from '../../nn/moe/layer.ts';

class Model {
  readonly moe: MoE;
  constructor(router?: HashRouter) {
    this.moe = new MoE({ dModel: 4, experts: 4, topK: 2, hidden: 8, ...(router && { router }) });
  }
  forward(x: Tensor): Tensor {
    return this.moe.forward(x);
  }
}

/**
 * Statistics of steps of 4 samples out of `count`. agreed: how many of 8 choices agree with recorded ones; null: no
 * choices were compared.
 */
function statsAfter(
  steps: number,
  { count = 16, agreed = null as number | null, ids = true, from = 0, stats = new RunStats() } = {},
): RunStats {
  for (let i = from + 1; i <= from + steps; i++) {
    const step: StepReport = {
      step: i,
      loss: 1,
      ms: 1,
      ...(ids && { ids: Int32Array.from({ length: 4 }, (_, j) => ((i - 1) * 4 + j) % count) }),
      stats: {
        'moe/load': hostTensor('int32', [4], Int32Array.of(2, 2, 2, 2)),
        ...(agreed !== null && { 'moe/agreement': hostTensor('int32', [2], Int32Array.of(agreed, 8)) }),
      },
    };
    stats.show(step);
  }
  return stats;
}
function wanted(options: CacheAssignmentsOptions, routing: MoE['routing'], run: RunStats): string {
  const model = new Model();
  model.moe.routing = routing;
  const draft = draftOf<object>(model);
  cacheAssignments(options).alter(draft.model, run);
  return draft
    .changes()
    .map((c) => `${c.knob}=${String(c.to)}`)
    .join();
}

test('agreement is counted over the parts of a step; its average is over the steps that compared choices', () => {
  const stats = new RunStats(),
    part = (agreed: number, compared: number): StepReport['stats'] => ({
      'moe/load': hostTensor('int32', [2], Int32Array.of(1, 1)),
      'moe/agreement': hostTensor('int32', [2], Int32Array.of(agreed, compared)),
    });
  const counts: readonly (readonly [number, number])[] = [
    [0, 0],
    [6, 8],
    [0, 0],
    [8, 8],
    [1, 8],
  ];
  counts.forEach(([agreed, compared], i) => {
    stats.show({ step: i + 1, loss: 1, ms: 1, stats: {}, parts: [part(agreed, compared / 2), part(0, compared / 2)] });
  });
  assert.equal(stats.layer('moe').agreement, 1); // rules see the last step only later
  statsAfter(1, { stats, from: 5 });
  const { agreement, agreementEma } = stats.layer('moe'),
    g = 0.99;
  assert.equal(agreement, 1 / 8);
  assert.ok(Math.abs(agreementEma - (g * g * 0.75 + g * 1 + 1 / 8) / (g * g + g + 1)) < 1e-12, String(agreementEma));
  const copy = new RunStats();
  copy.restore(JSON.parse(JSON.stringify(stats.state())) as ReturnType<RunStats['state']>);
  assert.deepEqual([copy.layer('moe').agreementEma, copy.samples], [agreementEma, stats.samples]);
  assert.ok(Number.isNaN(statsAfter(3).layer('moe').agreementEma));
});

test('recurring samples are counted', () => {
  assert.deepEqual({ ...statsAfter(5).samples, first: [] }, { steps: 4, without: 0, largest: 15, again: 0, first: [] });
  assert.deepEqual({ ...statsAfter(7).samples, first: [] }, { steps: 6, without: 0, largest: 15, again: 4, first: [] });
  assert.deepEqual(
    { ...statsAfter(3, { ids: false }).samples, first: [] },
    { steps: 0, without: 2, largest: -1, again: 0, first: [] },
  );
});

test(
  "routing is 'watched' if samples recur, 'cached' from agreement 0.95 on, 'watched' below 0.85, unchanged between; " +
    'options set thresholds and score',
  () => {
    const again = statsAfter(17);
    assert.equal(wanted({}, 'live', again), 'remember=16,routing=watched');
    assert.equal(wanted({ samples: 10, audit: 8 }, 'live', again), 'remember=10,audit=8,routing=watched');
    const at = (agreed: number): RunStats => statsAfter(400, { agreed });
    assert.deepEqual(
      [8, 7, 6].map((n) => wanted({}, 'watched', at(n))),
      ['routing=cached', '', ''],
    );
    assert.deepEqual(
      [8, 7, 6].map((n) => wanted({}, 'cached', at(n))),
      ['', '', 'routing=watched'],
    );
    assert.deepEqual([wanted({}, 'watched', again), wanted({}, 'cached', again)], ['', ''], 'no choices were compared');
    assert.equal(wanted({ on: 0.8, off: 0.7 }, 'watched', at(7)), 'routing=cached');
    assert.equal(wanted({ score: (layer) => 1 - layer.agreement }, 'watched', at(0)), 'routing=cached');
    assert.equal(wanted({ freeze: true }, 'watched', at(8)), 'routing=cached,gateFrozen=true');
  },
);

test('it acts every 16 steps, and only if samples recur; otherwise it reports that once', () => {
  const ask = (rule: ReturnType<typeof cacheAssignments>, run: RunStats): string => {
    try {
      return String(rule.trigger(run));
    } catch (error) {
      return (error as Error).message.split('\n')[0];
    }
  };
  const none = cacheAssignments(),
    says = 'samples do not recur: batches have no ids, so nothing is remembered and every layer keeps using its router';
  assert.deepEqual(
    [ask(none, statsAfter(17, { ids: false })), ask(none, statsAfter(33, { ids: false }))],
    [says, 'false'],
  );
  const patient = cacheAssignments({ patience: 32 }),
    fresh = (steps: number): RunStats => statsAfter(steps + 1, { count: 1e6 });
  assert.deepEqual(
    [16, 32, 48].map((n) => ask(patient, fresh(n))),
    [
      'false',
      'samples do not recur: none of the ' +
        "first batch's came again in 32 steps, so nothing is remembered and every layer keeps using its router",
      'false',
    ],
  );
  assert.equal(ask(patient, statsAfter(65)), 'true', 'samples that recur later are noticed, too');
  assert.deepEqual(
    [16, 17, 32].map((n) => ask(cacheAssignments(), statsAfter(n + 1))),
    ['true', 'false', 'true'],
  );
});

test('wrong options and routers give clear errors; neither auto nor the lab has this policy', () => {
  assert.throws(() => cacheAssignments({ on: 0.5 }), /off \(0\.85\) must not be above on \(0\.5\)/);
  for (const wrong of [0, 1.5]) assert.throws(() => cacheAssignments({ audit: wrong }), /audit must be a whole number/);
  assert.throws(() => policyWith('cacheAssignments'), /cacheAssignments cannot be tried in the lab/);
  assert.ok(policies('cacheAssignments').length === 1 && !policies('auto').some((r) => r.name === 'cacheAssignments'));
  const rule = cacheAssignments(),
    draft = draftOf<object>(new Model(new HashRouter({ experts: 4 })));
  assert.throws(() => {
    rule.alter(draft.model, statsAfter(17));
  }, /no layer's choices can be remembered: a choice of moe \(HashRouter\)/);
  rule.alter(draft.model, statsAfter(17));
  assert.deepEqual(draft.changes(), []);
});

const COUNT = 32,
  X = normals('x', COUNT * 4),
  Y = normals('y', COUNT * 4);
function batch(step: number): Batch {
  const ids = Int32Array.from(
    { length: 8 },
    (_, j) => ((step * 8 + j) * [1, 3, 5, 7][Math.floor(step / 4) % 4]) % COUNT,
  );
  const of = (data: Float32Array): Float32Array =>
    Float32Array.from({ length: 32 }, (_, n) => data[ids[n >> 2] * 4 + (n & 3)]);
  return { x: hostTensor('float32', [8, 4], of(X)), y: hostTensor('float32', [8, 4], of(Y)), ids };
}
async function open(
  options: CacheAssignmentsOptions = {},
): Promise<{ session: Session; model: Model; events: RecompileEvent[] }> {
  const events: RecompileEvent[] = [],
    model = new Model();
  const session = await compile(model, {
    loss: meanSquaredError,
    optimizer: sgd({ lr: 0.02 }),
    device: 'wasm',
    threads: 1,
    memory: 128e6,
    events: (e) => events.push(e),
  });
  session.recompile(cacheAssignments({ cooldown: 16, audit: 2, ...options }));
  return { session, model, events };
}

test('a run: watched, cached, watched again when the router changes, then cached', async () => {
  const { session, model, events } = await open(),
    inForce = (): Settings => session.settings('moe');
  await using _ = session;
  const until = async (routing: MoE['routing']): Promise<void> => {
    while (inForce()['routing'] !== routing) await session.step(batch(session.steps));
  };
  const settings: unknown[] = [];
  await until('cached');
  settings.push(inForce()['remember'], inForce()['audit']);
  // New router weights at each step: choices recorded with the old ones do not agree.
  const changeRouter = (): void => {
    void session.restore(session.steps, [
      { name: 'moe.router.weight', value: hostTensor('float32', [4, 4], normals(`w${session.steps}`, 16)) },
    ]);
  };
  while (inForce()['routing'] === 'cached') {
    changeRouter();
    await session.step(batch(session.steps));
  }
  await until('cached');
  assert.deepEqual(settings, [COUNT, 2]);
  assert.deepEqual(
    [model.moe.routing, model.moe.audit],
    ['live', 16],
    'the properties of the layer keep the values of the user',
  );
  assert.deepEqual(
    events.map((e) => [e.class, e.kept, e.error, e.changes.map((c) => c.to).join(), (e.effect ?? 0) - e.step]),
    [
      ['R', true, undefined, `${COUNT},2,watched`, 32],
      ['R', true, undefined, 'cached', 32],
      ['R', true, undefined, 'watched', 32],
      ['R', true, undefined, 'cached', 32],
    ],
  );
  assert.match(events[0].reason, /^samples come again, 32 ids so far/);
  assert.match(events[1].reason, /^remembered choices agree: (0\.9[5-9]|1\.0)/);
  assert.match(events[2].reason, /^remembered choices agree: 0\.[0-8]/);
});

test('a run stopped and resumed before, between and after decisions makes the same decisions and losses', async () => {
  const steps = 200,
    whole = await open(),
    losses: number[] = [];
  for (let i = 0; i < steps; i++) losses.push((await whole.session.step(batch(i))).loss);
  const decided = whole.events.map((e) => [e.step, e.effect, e.changes.map((c) => c.to).join()]);
  assert.deepEqual(
    decided.map(([, , to]) => to),
    [`${COUNT},2,watched`, 'cached'],
  );
  const stops = [
    10,
    Number(decided[0][0]) + 5,
    Number(decided[0][1]) + 5,
    Number(decided[1][0]) + 5,
    Number(decided[1][1]) + 5,
  ];
  for (const stop of stops) {
    const first = await open(),
      again: number[] = [];
    for (let i = 0; i < stop; i++) again.push((await first.session.step(batch(i))).loss);
    const bytes = await first.session.serialize(),
      second = await open();
    await first.session.close();
    await second.session.deserialize(bytes);
    for (let i = stop; i < steps; i++) again.push((await second.session.step(batch(i))).loss);
    assert.deepEqual(again, losses, `stopped after ${stop}`);
    assert.deepEqual(
      [...first.events, ...second.events].map((e) => [e.step, e.effect, e.changes.map((c) => c.to).join()]),
      decided,
    );
    await second.session.close();
  }
  await whole.session.close();
});

test('batches without ids: one event says so, and nothing changes', async () => {
  const { session, events } = await open();
  await using _ = session;
  for (let i = 0; i < 100; i++) {
    const { x, y } = batch(i);
    await session.step({ x, y });
  }
  assert.deepEqual(
    events.map((e) => [e.rule, e.kept, e.changes.length, e.error]),
    [
      [
        'cacheAssignments',
        false,
        0,
        'samples do not recur: batches have no ids, so nothing is remembered and every layer keeps using its router',
      ],
    ],
  );
  assert.equal(session.settings('moe')['routing'], 'live');
});

test('in inference, which records no choices, the policy does nothing', async () => {
  const { session, events } = await open();
  await using _ = session;
  session.recompile(cacheAssignments(), 'inference');
  for (let i = 0; i < 40; i++) await session.forward(batch(i));
  assert.deepEqual([events, session.settings('moe')['routing']], [[], 'live']);
});
