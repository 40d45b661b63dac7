// The policy fitMemory: which knobs it sets and sets back, with synthetic runs and plans; then sessions that have less
// memory than their model needs.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import { UserError } from '../../../src/base/errors.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { crossEntropy } from '../../../src/nn/loss.ts';
import type { MoE } from '../../../src/nn/moe/moe.ts';
import { type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { TransformerLM } from '../../../src/nn/transformer.ts';
import { RunStats } from '../../../src/observe/run-stats.ts';
import { slope } from '../../../src/observe/trend.ts';
import { adamW } from '../../../src/optim/adam.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { draftOf } from '../../../src/recompile/draft.ts';
import { fitMemory, forecastFactors, type FitMemoryOptions } from '../../../src/recompile/policies/fitMemory.ts';
import { ladderOf } from '../../../src/recompile/policies/ladder.ts';
import type { Outlook, RecompileEvent } from '../../../src/recompile/rule.ts';
import { compile } from '../../../src/session/node.ts';
import { Batching } from '../../../src/session/batching.ts';
import type { Session } from '../../../src/session/session.ts';
import { Knobs, SESSION, type Change } from '../../../src/trace/knobs.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { fingerprint, toyBatch } from '../../support/toy.ts';
import { anyMoE } from '../../support/moe.ts';

test('slope is 0 unless the trend is significant', () => {
  const noise = [1, -1, -1, 1, 1, 1, -1, 1, -1, -1, 1, -1, 1, -1, -1, 1];
  assert.ok(Math.abs(slope(Array.from({ length: 16 }, (_, i) => 3 + 0.25 * i)) - 0.25) < 1e-12);
  assert.ok(Math.abs(slope(noise.map((n, i) => 0.5 * i + 0.2 * n)) - 0.5) < 0.02);
  assert.ok(slope(noise.map((n, i) => -0.5 * i + 0.2 * n)) < -0.4);
  assert.deepEqual(
    [slope(noise), slope(Array.from({ length: 16 }, () => 2)), slope([1, 2, 3]), slope([])],
    [0, 0, 0, 0],
  );
});

/** Statistics of a run in which step i had the expert loads `loads(i)`. */
function run(steps: number, loads: (i: number) => readonly number[]): RunStats {
  const stats = new RunStats();
  for (let i = 1; i <= steps + 1; i++)
    stats.show({ step: i, loss: 1, ms: 1, stats: { 'moe/load': hostTensor('int32', [4], Int32Array.from(loads(i))) } });
  return stats;
}

const moe = (options: Partial<MoEOptions> = {}): MoE =>
  anyMoE({ dModel: 4, experts: 4, topK: 2, hidden: 8, ...options });
const rising = (i: number): number[] => [40 + i, 40 - i / 2, 40 - i / 2, 40];

test('capacity factors are forecast along the trend of loads, and never below the current ones', () => {
  const {
      layers: [stats],
    } = run(64, rising),
    at = (horizon: number, options: Partial<MoEOptions>) =>
      forecastFactors(moe({ dispatch: 'padded', capacity: 1, ...options }), stats, horizon);
  assert.deepEqual(at(0, {}), [2, 1, 1, 1.0625], 'at most one choice of each token goes to one expert');
  const [slow] = run(64, (i) => rising(i / 8)).layers,
    of = (horizon: number) => forecastFactors(moe({ dispatch: 'padded', capacity: 1 }), slow, horizon)?.[0] ?? 0;
  assert.deepEqual([of(0), of(80), of(160)], [1.1875, 1.4375, 1.6875]);
  assert.deepEqual(at(64, { capacity: [3, 1, 1, 0.5] })?.slice(0, 1), [3]);
  for (const free of [
    { capacity: 'dropless' as const },
    { dispatch: 'ragged' as const, capacity: 1, overflow: 'spill' as const },
  ])
    assert.equal(at(64, free), null);
  assert.deepEqual(
    forecastFactors(moe({ dispatch: 'padded', capacity: 2 }), run(64, (i) => rising(64 - i)).layers[0], 64),
    [2, 2, 2, 2],
    'falling loads need no more capacity',
  );
});

const lm = (
  moeOptions: Partial<MoEOptions> = {},
  options: { recompute?: boolean; layers?: number; width?: number } = {},
): TransformerLM =>
  new TransformerLM({
    vocab: 17,
    dModel: options.width ?? 8,
    layers: options.layers ?? 2,
    heads: 2,
    context: 32,
    ...(options.recompute && { recompute: true }),
    moe: { experts: 4, topK: 2, hidden: 16, ...moeOptions },
  });

test('ladder: recompute experts, then blocks, then chunks; wide layers first; user settings are no rungs', () => {
  const model = {
    narrow: moe(),
    wide: moe({ hidden: 64 }),
    modules: moe({ experts: Array.from({ length: 4 }, () => new MLP([4, 4])) }),
    masks: moe({ dispatch: 'einsum', recompute: true }),
    chunked: moe({ hidden: 80, chunks: 4 }),
  };
  const knobs = new Knobs(nameParameters(model)),
    draft = draftOf(model),
    ladder = ladderOf(draft.model, (path) => knobs.initial(path)),
    seen: string[] = [];
  let before = '';
  for (let height = 0; height <= ladder.rungs; height++) {
    ladder.climb(height);
    for (const c of draft.changes().map((d) => `${d.path}.${d.knob}=${String(d.to)}`))
      if (!seen.includes(c)) seen.push(c);
    assert.notEqual(JSON.stringify(draft.changes()), before);
    before = JSON.stringify(draft.changes());
  }
  assert.deepEqual(seen, [
    'chunked.recompute=true',
    'wide.recompute=true',
    'modules.recompute=true',
    'narrow.recompute=true',
    'wide.chunks=2',
    'narrow.chunks=2',
    'wide.chunks=4',
    'narrow.chunks=4',
    'chunked.chunks=8',
    'wide.chunks=8',
    'narrow.chunks=8',
  ]);
  assert.deepEqual([ladder.rungs, ladder.height], [11, 0]);
  ladder.leave();
  assert.deepEqual(draft.changes(), []);
  const blocks = lm(),
    names: string[] = [],
    inner = draftOf(blocks),
    two = ladderOf(inner.model, () => ({}));
  for (let height = 1; height <= 4; height++) {
    two.climb(height);
    names.push(
      inner
        .changes()
        .map((c) => c.path)
        .join(),
    );
  }
  assert.deepEqual(names.at(-1)?.split(',').sort(), ['blocks.0', 'blocks.0.moe', 'blocks.1', 'blocks.1.moe']);
  assert.deepEqual(
    names.slice(0, 2),
    ['blocks.0.moe', 'blocks.0.moe,blocks.1.moe'],
    'inner modules come before the modules that contain them',
  );
});

interface Made {
  readonly want: (bytes: (m: MoE) => number, options?: Partial<Outlook>) => Record<string, unknown>;
  readonly model: { moe: MoE };
}

/** The rule on one layer, with plans whose bytes the test gives. `want` returns the knobs that the rule sets. */
function ruleOnLayer(options: FitMemoryOptions, stats: RunStats, layer: Partial<MoEOptions> = {}): Made {
  const model = { moe: moe(layer) },
    knobs = new Knobs(nameParameters(model)),
    rule = fitMemory(options);
  return {
    model,
    want(bytes, outlook = {}) {
      const changes = knobs.onModules(() => {
        const draft = draftOf(model);
        rule.alter(draft.model, stats, {
          first: false,
          fixed: true,
          session: null,
          rules: ['fitMemory'],
          budget: () => 1000,
          initial: (path) => knobs.initial(path),
          bytes: () => bytes(draft.model.moe),
          ...outlook,
        });
        return draft.changes();
      });
      knobs.apply(changes);
      return Object.fromEntries(changes.map((c) => [c.knob, c.to]));
    },
  };
}

/** Bytes of a plan: `all` if hidden values are stored, less if they are recomputed or computed in chunks. */
const plan =
  (all: number) =>
  (m: MoE): number =>
    all / (m.chunks > 1 ? 2 * m.chunks : m.recompute ? 2 : 1);

test('as few rungs as needed; undone in reverse order if memory allows, with a margin against oscillation', () => {
  const { want } = ruleOnLayer(
    {},
    run(64, () => [40, 40, 40, 40]),
  );
  assert.deepEqual(want(plan(1000)), {}, 'a plan that fits is not changed');
  assert.deepEqual(want(plan(1001)), { recompute: true });
  assert.deepEqual(want(plan(1900)), {}, 'the plan fits');
  assert.deepEqual(want(plan(2001)), { chunks: 2 });
  assert.deepEqual(want(plan(9000)), { chunks: 8 });
  assert.deepEqual(want(plan(8200)), {}, 'with 4 chunks it would not quite fit');
  assert.deepEqual(want(plan(7900)), {}, 'with 4 chunks it would fit, but within the margin');
  assert.deepEqual(want(plan(7000)), { chunks: 4 });
  assert.deepEqual(want(plan(1700)), { chunks: 1 });
  assert.deepEqual(want(plan(950)), {});
  assert.deepEqual(want(plan(900)), { recompute: false });
  assert.deepEqual(want(plan(20_000)), { recompute: true, chunks: 8 }, 'no plan fits: the smallest one is taken');
  assert.deepEqual(want(plan(20_000)), {}, 'there is no smaller plan');
});

test('rungs that save nothing are not set, and settings of the user are not undone', () => {
  const stats = run(64, () => [40, 40, 40, 40]),
    own = ruleOnLayer({}, stats, { recompute: true, chunks: 2 });
  assert.deepEqual(own.want(plan(5000)), { chunks: 4 });
  assert.deepEqual(own.want(plan(100)), { chunks: 2 }, 'back to the settings of the user');
  const { want } = ruleOnLayer({}, stats);
  assert.deepEqual(
    want(() => 5000),
    {},
  );
});

test('if a rule adapts capacities, the rule acts on their trend before memory runs out', () => {
  const slow = run(64, (i) => [40 + i / 8, 40 - i / 8, 40, 40]),
    rows = (m: MoE): number =>
      typeof m.capacity === 'object' ? m.capacity.reduce((a, b) => a + b, 0) : 4 * Number(m.capacity);
  const bytes = (m: MoE): number => plan(230 * rows(m))(m),
    layer = { dispatch: 'padded', capacity: 1 } as const,
    withAdaptCapacity = { rules: ['adaptCapacity', 'fitMemory'] };
  assert.deepEqual(ruleOnLayer({}, slow, layer).want(bytes), {}, 'no rule changes capacities');
  assert.deepEqual(ruleOnLayer({}, slow, layer).want(bytes, withAdaptCapacity), { recompute: true });
  assert.deepEqual(ruleOnLayer({ horizon: 0 }, slow, layer).want(bytes, withAdaptCapacity), {});
  assert.deepEqual(
    ruleOnLayer({}, slow, layer).want(bytes, { ...withAdaptCapacity, first: true }),
    {},
    'before the first step there is no trend',
  );
  const shifting = ruleOnLayer(
    {},
    run(64, (i) => [50 - i / 8, 30 + i / 8, 40, 40]),
    layer,
  );
  assert.deepEqual(shifting.want(plan(1500), withAdaptCapacity), { recompute: true });
  assert.deepEqual(shifting.want(plan(1500), { ...withAdaptCapacity, first: true }), {});
  assert.deepEqual(
    shifting.want((m) => plan(150 * rows(m))(m), withAdaptCapacity),
    { recompute: false },
    'loads shift between experts, but need no more memory',
  );
  assert.deepEqual(shifting.model.moe.capacity, 1, 'this rule does not set capacities');
});

test('if that is not enough and results may change, the batch is split; the split is undone first', () => {
  const stats = run(64, () => [40, 40, 40, 40]),
    model = { moe: moe() },
    batching = new Batching({ accumulate: 1, eager: false, split: 1 });
  const knobs = new Knobs(nameParameters(model), new Map([[batching, SESSION]])),
    rule = fitMemory();
  const want = (all: number, more: Partial<Outlook> = {}): Record<string, unknown> => {
    const changes = knobs.onModules(() => changesFor(all, more));
    knobs.apply(changes);
    return Object.fromEntries(changes.map((c) => [c.knob, c.to]));
  };
  const changesFor = (all: number, more: Partial<Outlook>): Change[] => {
    const draft = draftOf(model),
      own = draftOf(batching, { paths: new Map([[batching, SESSION]]) });
    const outlook: Outlook = {
      first: false,
      fixed: true,
      session: own.model,
      rules: [],
      budget: () => 1000,
      initial: (path) => knobs.initial(path),
      bytes: () => plan(all)(draft.model.moe) / own.model.split,
      ...more,
    };
    rule.alter(draft.model, stats, outlook);
    return [...draft.changes(), ...own.changes()];
  };
  assert.deepEqual(want(16_000), { recompute: true, chunks: 8 });
  assert.deepEqual(
    want(33_000, { fixed: false }),
    {},
    'free memory differs between runs, so that it must not change results',
  );
  assert.deepEqual(want(33_000, { session: null }), {});
  assert.deepEqual(want(33_000), { split: 4 });
  assert.deepEqual(want(33_000), {});
  assert.deepEqual(want(31_000), {}, 'within the margin');
  assert.deepEqual(want(20_000), { split: 2 });
  assert.deepEqual(want(14_000), { split: 1 });
  assert.deepEqual(want(500), { recompute: false, chunks: 1 });
  assert.deepEqual(
    want(100_000, { first: true }),
    { recompute: true, chunks: 8, split: 8 },
    'before the first step, all in one change',
  );
  assert.deepEqual(want(500), { split: 1 }, 'class R changes are not mixed with class N changes');
  assert.deepEqual(want(500), { recompute: false, chunks: 1 });
});

test("without the option `budget` it uses the session's budget; a budget must be above 0", () => {
  const calls: string[] = [],
    stats = run(16, () => [1, 1, 1, 1]),
    budget = (): number => {
      calls.push('budget');
      return 1000;
    };
  ruleOnLayer({}, stats).want(plan(10), { budget });
  ruleOnLayer({ budget: 5 }, stats).want(plan(1), { budget });
  assert.deepEqual(calls, ['budget']);
  for (const wrong of [0, -1, NaN])
    assert.throws(() => fitMemory({ budget: wrong }), {
      name: 'UserError',
      message: /budget must be a number of bytes above 0/,
    });
});

const batch = (i: number) => toyBatch(i, 12, 32);
interface Opened {
  readonly session: Session;
  readonly events: RecompileEvent[];
}

async function open(model: TransformerLM, memory?: number): Promise<Opened> {
  const events: RecompileEvent[] = [];
  return {
    events,
    session: await compile(model, {
      loss: crossEntropy,
      optimizer: adamW({ lr: 1e-2 }),
      device: 'wasm',
      threads: 1,
      seed: 3,
      ...(memory !== undefined && { memory }),
      say: () => undefined,
      events: (e) => {
        events.push(e);
      },
    }),
  };
}

const heldBytes = ({ executor }: Session): number => executor.stateBytes() + executor.arenaBytes();
const wide = (moeOptions: Partial<MoEOptions> = {}, options: { recompute?: boolean } = {}): TransformerLM =>
  lm({ hidden: 64, ...moeOptions }, { width: 16, ...options });

test(
  'a model that does not fit is refused with a hint what would; with the rule it fits from the first step, with the ' +
    'same bits',
  async () => {
    await using plain = (await open(wide())).session;
    const losses = [(await plain.step(batch(0))).loss, (await plain.step(batch(1))).loss],
      memory = Math.floor(0.6 * heldBytes(plain));
    await using refused = (await open(wide(), memory)).session;
    await assert.rejects(refused.step(batch(0)), (error: unknown) => {
      assert.ok(error instanceof UserError);
      assert.match(
        error.message,
        /needs .* are available.*hint: a smaller batch.*recompute: true in 4 modules it would need .*fitMemory/s,
      );
      assert.match(error.message, /, with chunks: 8 in 2 layers as well it would need .*fitMemory/s);
      return true;
    });
    assert.deepEqual(refused.executor.stateNames(), []);
    const { session, events } = await open(wide(), memory);
    await using fitted = session;
    fitted.recompile(fitMemory());
    assert.deepEqual([(await fitted.step(batch(0))).loss, (await fitted.step(batch(1))).loss], losses);
    assert.deepEqual(fingerprint(fitted), fingerprint(plain));
    assert.ok(heldBytes(fitted) <= memory, `${heldBytes(fitted)} of ${memory}`);
    assert.deepEqual(
      events.map((e) => [e.rule, e.step, e.effect, e.class, e.kept, e.before.bytes > e.after.bytes]),
      [['fitMemory', 1, 1, 'N', true, true]],
    );
    assert.match(events[0].reason, /^the plan would need .*, the limit is .*; with this change it needs/);
  },
);

test('if a batch does not fit, it is split from step 1 on, with the bits of accumulate', async () => {
  await using plain = (await open(wide())).session;
  await plain.step(batch(0));
  const least = wide({ recompute: true, chunks: 8 }, { recompute: true });
  await using frugal = (await open(least)).session;
  await frugal.step(batch(0));
  const memory = Math.floor(0.85 * heldBytes(frugal)),
    { session, events } = await open(wide(), memory);
  await using fitted = session;
  fitted.recompile(fitMemory());
  const losses: number[] = [];
  for (let i = 0; i < 3; i++) losses.push((await fitted.step(batch(i))).loss);
  assert.ok(
    heldBytes(fitted) <= memory && Number(fitted.settings(SESSION)['split']) > 1,
    `${String(fitted.settings(SESSION)['split'])}, ${heldBytes(fitted)} of ${memory}`,
  );
  assert.deepEqual(
    events.map((e) => [e.class, e.step, e.effect, e.kept]),
    [['R', 1, 1, true]],
  );
  const split = Number(fitted.settings(SESSION)['split']);
  await using parts = await compile(wide(), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device: 'wasm',
    threads: 1,
    seed: 3,
    accumulate: split,
  });
  for (let i = 0; i < 3; i++) assert.equal((await parts.step(batch(i))).loss, losses[i]);
  assert.deepEqual(fingerprint(fitted), fingerprint(parts));
  // A checkpoint holds the settings and the decision log.
  const { session: other } = await open(wide(), memory);
  await using resumed = other;
  resumed.recompile(fitMemory());
  await resumed.deserialize(await fitted.serialize());
  assert.deepEqual([resumed.settings(SESSION)['split'], resumed.plan().engine?.log.length], [split, 1]);
  assert.equal((await resumed.step(batch(3))).loss, (await parts.step(batch(3))).loss);
});

test('session.prepare before the first step applies the rule, too', async () => {
  await using plain = (await open(wide())).session;
  await plain.prepare(batch(0));
  const { session, events } = await open(wide(), Math.floor(0.6 * heldBytes(plain)));
  await using fitted = session;
  fitted.recompile(fitMemory());
  await fitted.prepare(batch(0));
  assert.equal((await fitted.step(batch(0))).loss, (await plain.step(batch(0))).loss);
  assert.deepEqual(
    events.map((e) => [e.rule, e.step, e.kept]),
    [['fitMemory', 1, true]],
  );
});

test('with an eager optimiser the rule does not split the batch', async () => {
  const events: RecompileEvent[] = [],
    eager = (memory?: number): Promise<Session> =>
      compile(wide(), {
        loss: crossEntropy,
        optimizer: sgd({ lr: 0.1, eager: true }),
        device: 'wasm',
        threads: 1,
        seed: 3,
        ...(memory !== undefined && { memory }),
        say: () => undefined,
        events: (e) => {
          events.push(e);
        },
      });
  await using plain = await eager();
  const { loss } = await plain.step(batch(0));
  for (const share of [0.7, 0.1]) {
    await using fitted = await eager(Math.floor(share * heldBytes(plain)));
    fitted.recompile(fitMemory());
    if (share > 0.5) assert.equal((await fitted.step(batch(0))).loss, loss);
    else await assert.rejects(fitted.step(batch(0)), /the model needs .* are available/);
  }
  assert.deepEqual(
    events.map((e) => [e.class, e.error, e.changes.some((c) => c.knob === 'split')]),
    [
      ['N', undefined, false],
      ['N', undefined, false],
    ],
  );
});

test('if no plan fits, the event says that the smallest was taken, and the step is refused', async () => {
  const { session, events } = await open(wide(), 400_000);
  await using tight = session;
  tight.recompile(fitMemory());
  await assert.rejects(tight.step(batch(0)), /the model needs .* are available/);
  assert.match(events[0].reason, /which is the least$/);
});

test('if the states alone do not fit, the step is refused before the rule is called', async () => {
  const { session, events } = await open(wide(), 100_000);
  await using tight = session;
  tight.recompile(fitMemory());
  await assert.rejects(tight.step(batch(0)), /the model needs at least .* are available/);
  assert.deepEqual(events, []);
});

test(
  'capacities rise above a budget and fall again: knobs are set and set back, memory is freed, no bit changes',
  { timeout: 120_000 },
  async () => {
    const start = { dispatch: 'padded', capacity: 1, overflow: 'spill' } as const,
      { session, events } = await open(wide(start));
    await using watched = session;
    // Bytes of a session with capacity 1 and with capacity 3.
    const needs = async (capacity: number): Promise<number> => {
      await using s = (await open(wide({ ...start, capacity }))).session;
      await s.prepare(batch(0));
      return heldBytes(s);
    };
    const [low, high] = [await needs(1), await needs(3)],
      budget = Math.floor((1.02 * low) / 0.9);
    assert.ok(high > budget);
    const capacityRule = (name: string, capacity: number, at: (run: RunStats) => boolean) => ({
      name,
      measure: false,
      budget: 1,
      trigger: at,
      alter: (m: TransformerLM) => {
        for (const b of m.blocks) if (b.moe) b.moe.capacity = capacity;
      },
    });
    let ease = false;
    watched.recompile(capacityRule('rise', 3, (r) => r.step >= 2));
    watched.recompile(fitMemory({ budget, cooldown: 1 }));
    watched.recompile(capacityRule('fall', 1, () => ease));
    const losses: number[] = [],
      by = (rule: string): RecompileEvent[] => events.filter((e) => e.rule === rule && e.kept),
      until = async (done: () => boolean): Promise<void> => {
        while (!done()) losses.push((await watched.step(batch(losses.length))).loss);
      };
    await until(() => by('fitMemory').length > 0);
    const untouched = (): boolean =>
      Object.values(watched.plan().knobs).every((k) => (k['recompute'] ?? false) === false && (k['chunks'] ?? 1) === 1);
    assert.ok(!untouched());
    assert.ok(heldBytes(watched) <= budget, `${heldBytes(watched)} of ${budget}`);
    ease = true;
    await until(() => by('fitMemory').length > 1);
    assert.ok(untouched());
    assert.deepEqual(
      events.filter((e) => !e.kept),
      [],
    );
    assert.ok(events.every((e) => e.class === 'N' && e.verified === true));
    await using plain = (await open(wide(start))).session;
    for (const [i, loss] of losses.entries()) assert.equal((await plain.step(batch(i))).loss, loss, `step ${i}`);
    assert.deepEqual(fingerprint(watched), fingerprint(plain));
  },
);

test('a resumed run has the settings of the checkpoint, and undoes them if memory allows', async () => {
  const model = wide(),
    { session } = await open(model);
  await using first = session;
  await first.prepare(batch(0));
  const budget = Math.floor(0.7 * heldBytes(first));
  first.recompile(fitMemory({ budget }));
  const losses: number[] = [];
  const { session: second, events } = await open(wide());
  await using resumed = second;
  resumed.recompile(fitMemory({ budget: 1e9, cooldown: 1 }));
  for (let i = 0; i < 17; i++) losses.push((await first.step(batch(i))).loss);
  await resumed.deserialize(await first.serialize());
  assert.deepEqual(resumed.plan().knobs, first.plan().knobs);
  while (events.length === 0) await resumed.step(batch(resumed.steps));
  assert.deepEqual(
    events.map((e) => [e.rule, e.kept]),
    [['fitMemory', true]],
  );
  assert.ok(
    Object.values(resumed.plan().knobs).every((k) => (k['recompute'] ?? false) === false && (k['chunks'] ?? 1) === 1),
    'with more memory, all knobs are set back',
  );
});
