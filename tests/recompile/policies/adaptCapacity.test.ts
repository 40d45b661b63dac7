// The policies adaptCapacity and chooseDispatch with synthetic loads: which knobs they set, and when they change
// nothing. Also policies by name and with options.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import type { MoE } from '../../../src/nn/moe/moe.ts';
import { type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { RunStats } from '../../../src/observe/run-stats.ts';
import { adaptCapacity, costOf, neededFactors } from '../../../src/recompile/policies/adaptCapacity.ts';
import { chooseDispatch } from '../../../src/recompile/policies/chooseDispatch.ts';
import { draftOf } from '../../../src/recompile/draft.ts';
import { policies, policiesFor, policyWith } from '../../../src/recompile/policies/select.ts';
import type { Rule } from '../../../src/recompile/rule.ts';
import { anyMoE } from '../../support/moe.ts';

const layer = (options: Partial<MoEOptions>): { moe: MoE } => ({
  moe: anyMoE({ dModel: 4, experts: 4, topK: 2, hidden: 8, ...options }),
});

/**
 * Statistics of a run in which step i had the expert loads `loads(i)`. dropped: choices of each expert beyond its
 * capacity, reported as the statistic `beyond` ('dropped' or 'spilled').
 */
function run(
  steps: number,
  loads: (i: number) => readonly number[],
  path = 'moe',
  dropped: readonly number[] = [0, 0, 0, 0],
  beyond = 'dropped',
): RunStats {
  const stats = new RunStats(),
    int = (list: readonly number[]) => hostTensor('int32', [list.length], Int32Array.from(list));
  for (let i = 1; i <= steps + 1; i++)
    stats.show({
      step: i,
      loss: 1,
      ms: 1,
      stats: { [`${path}/load`]: int(loads(i)), [`${path}/${beyond}`]: int(dropped) },
    });
  return stats;
}

/** The knobs that a rule sets. */
function knobsSetBy(rule: Rule<object>, model: object, stats: RunStats): Record<string, unknown> {
  const draft = draftOf(model);
  rule.alter(draft.model, stats);
  return Object.fromEntries(draft.changes().map((c) => [`${c.path}.${c.knob}`, c.to]));
}

const SKEWED = [104, 40, 16, 0]; // 160 choices: the even share of 4 experts is 40

test('each expert gets the factor for its load quantile, in sixteenths, with any batch size', () => {
  const {
    layers: [even],
  } = run(32, () => SKEWED);
  assert.deepEqual(neededFactors(even), [2.625, 1, 0.4375, 0]);
  assert.deepEqual(neededFactors(even, { margin: 0.05 }), [2.75, 1.0625, 0.4375, 0]);
  const {
    layers: [mixed],
  } = run(32, (i) => SKEWED.map((n) => n * (1 + (i % 3))));
  assert.deepEqual(neededFactors(mixed), neededFactors(even), 'batches of three sizes');
  // A burst every 32nd step is within the 5% that may be dropped; one every 8th is not.
  const burst = (every: number) => run(64, (i) => (i % every === 0 ? [160, 0, 0, 0] : SKEWED)).layers[0];
  assert.deepEqual([neededFactors(burst(32))[0], neededFactors(burst(8))[0]], [2.625, 4]);
});

test('costOf: planned rows, plus dropped choices times their price', () => {
  const {
    layers: [stats],
  } = run(32, () => SKEWED);
  assert.equal(costOf(stats, [3, 1, 1, 1], 20), 6);
  assert.ok(Math.abs(costOf(stats, [1, 1, 1, 1], 20) - (4 + 20 * 1.6)) < 1e-9);
});

test('capacities rise if choices drop and fall if rows are empty, if that is worth recompiling', () => {
  const stats = run(32, () => SKEWED),
    rule = adaptCapacity(),
    want = { 'moe.capacity': [2.625, 1, 0.4375, 0] };
  for (const capacity of [1, 4, [3, 1.5, 1, 1]])
    assert.deepEqual(knobsSetBy(rule, layer({ capacity, dispatch: 'padded' }), stats), want, String(capacity));
  assert.deepEqual(
    knobsSetBy(rule, layer({ capacity: [2.625, 1, 0.4375, 0.0625], dispatch: 'padded' }), stats),
    {},
    '1/16 of an even share in 64 steps saves less than a recompilation costs: two steps',
  );
  assert.deepEqual(
    knobsSetBy(adaptCapacity({ price: 0 }), layer({ capacity: [2.625, 1, 0.4375, 0.0625], dispatch: 'padded' }), stats),
    want,
  );
  assert.deepEqual(
    knobsSetBy(
      adaptCapacity({ horizon: 1000 }),
      layer({ capacity: [2.625, 1, 0.4375, 0.0625], dispatch: 'padded' }),
      stats,
    ),
    want,
  );
  assert.deepEqual(
    knobsSetBy(rule, layer({ capacity: [2.625, 1, 0.4375, 0], dispatch: 'padded' }), stats),
    {},
    'with the wanted capacities the policy changes nothing',
  );
});

test('loads that oscillate around a step of 1/16 change nothing', () => {
  const rule = adaptCapacity(),
    at = (phase: number) =>
      run(64, (i) => SKEWED.map((n, e) => n + ((i + phase) % 2) * (e === 0 ? 1 : e === 1 ? -1 : 0)));
  const model = layer({ capacity: 2, dispatch: 'padded' }),
    first = knobsSetBy(rule, model, at(0))['moe.capacity'];
  model.moe.capacity = first as number[];
  for (let phase = 0; phase < 2; phase++) assert.deepEqual(knobsSetBy(rule, model, at(phase)), {});
});

test(
  'layers without a capacity, or whose capacity has no effect, are left alone, and so are layers without ' +
    'statistics',
  () => {
    const stats = run(32, () => SKEWED),
      rule = adaptCapacity();
    assert.deepEqual(knobsSetBy(rule, layer({ dispatch: 'padded' }), stats), {});
    assert.deepEqual(knobsSetBy(rule, layer({ capacity: 4, overflow: 'spill' }), stats), {});
    assert.deepEqual(
      knobsSetBy(
        rule,
        layer({ capacity: 4, dispatch: 'padded' }),
        run(32, () => SKEWED, 'elsewhere'),
      ),
      {},
    );
    assert.notDeepEqual(knobsSetBy(rule, layer({ capacity: 4, overflow: 'spill', dispatch: 'padded' }), stats), {});
  },
);

test(
  'a ragged bank computes no empty rows: capacities rise if choices drop, and are not lowered, because that would ' +
    'save nothing',
  () => {
    const stats = run(32, () => SKEWED),
      rule = adaptCapacity(),
      ffn = () => ({ forward: (x: Tensor): Tensor => x });
    assert.deepEqual(knobsSetBy(rule, layer({ capacity: 4 }), stats), {});
    assert.deepEqual(knobsSetBy(rule, layer({ capacity: 1 }), stats), { 'moe.capacity': [2.625, 1, 0.4375, 0] });
    assert.deepEqual(
      knobsSetBy(rule, layer({ capacity: 4, experts: [ffn(), ffn(), ffn(), ffn()] }), stats),
      { 'moe.capacity': [2.625, 1, 0.4375, 0] },
      'experts that are modules have tensors of their own, with empty rows',
    );
  },
);

test('adaptCapacity acts every 16 steps, reads no clock and gives a reason', () => {
  const rule = adaptCapacity(),
    stats = run(32, () => SKEWED, 'moe', [7, 0, 0, 0]);
  assert.deepEqual(
    [0, 1, 15, 16, 17, 48].map((n) => rule.trigger(run(n, () => SKEWED))),
    [false, false, false, true, false, true],
  );
  stats.clockWasRead();
  knobsSetBy(rule, layer({ capacity: 1, dispatch: 'padded' }), stats);
  assert.equal(stats.clockWasRead(), false);
  assert.equal(rule.reason?.(stats), 'experts have less room than they need: 7 choices dropped in step 32');
});

test('chooseDispatch sets ragged if empty rows are computed, otherwise it changes nothing', () => {
  const rule = chooseDispatch(),
    skewed = run(32, () => SKEWED),
    even = run(32, () => [40, 40, 40, 40]),
    ragged = { 'moe.dispatch': 'ragged' };
  assert.deepEqual(knobsSetBy(rule, layer({ dispatch: 'padded', capacity: 4, overflow: 'spill' }), skewed), ragged);
  assert.deepEqual(
    knobsSetBy(rule, layer({ dispatch: 'padded' }), skewed),
    ragged,
    'dropless: every expert has room for all',
  );
  assert.deepEqual(knobsSetBy(rule, layer({ dispatch: 'padded', capacity: 1 }), even), {}, 'no row is empty');
  assert.deepEqual(
    knobsSetBy(
      rule,
      layer({ dispatch: 'padded', capacity: 1 }),
      run(32, () => SKEWED, 'moe', [64, 0, 0, 0]),
    ),
    ragged,
    'dropped choices fill no rows',
  );
  const spilling = layer({ dispatch: 'padded', capacity: [1, 1, 0.4, 0], overflow: 'spill' });
  assert.deepEqual(
    knobsSetBy(
      rule,
      spilling,
      run(32, () => [40, 40, 80, 0], 'moe', [0, 0, 64, 0], 'spilled'),
    ),
    {},
    'all planned rows are full',
  );
  assert.deepEqual(
    knobsSetBy(
      rule,
      spilling,
      run(32, () => [80, 20, 10, 50], 'moe', [40, 0, 0, 50], 'spilled'),
    ),
    ragged,
    'spilled rows are computed while planned rows are empty',
  );
  const stats = new RunStats(),
    int = (list: readonly number[]) => hostTensor('int32', [list.length], Int32Array.from(list));
  const part = { 'moe/load': int([44, 44, 36, 36]), 'moe/dropped': int([4, 4, 0, 0]) },
    full = layer({ dispatch: 'padded', capacity: [1, 1, 0.9, 0.9] });
  for (let i = 1; i <= 33; i++) stats.show({ step: i, loss: 1, ms: 1, stats: part, parts: [part, part, part, part] });
  assert.deepEqual(knobsSetBy(rule, full, stats), {}, 'every row of each part of the batch is full');
  assert.deepEqual(knobsSetBy(chooseDispatch({ padding: 4 }), layer({ dispatch: 'padded', capacity: 4 }), skewed), {});
  for (const dispatch of ['ragged', 'einsum', 'dense'] as const)
    assert.deepEqual(knobsSetBy(rule, layer({ dispatch }), skewed), {});
});

test('policies: names, auto and off', () => {
  assert.deepEqual(policies('off'), []);
  assert.ok(policies('auto').every((r) => r.only === 'N'));
  assert.deepEqual(
    policies('chooseDispatch,adaptCapacity').map((r) => [r.name, r.only]),
    [
      ['chooseDispatch', 'N'],
      ['adaptCapacity', undefined],
    ],
  );
  for (const wrong of ['', 'nonsense', 'toString', 'adaptCapacity,', 'auto,off'])
    assert.throws(() => policies(wrong), /no policy named/);
  assert.deepEqual(
    policiesFor(layer({}), 'auto').map((r) => r.name),
    ['fitMemory', 'specialise'],
    'a ragged dropless layer computes no empty rows',
  );
  assert.ok(policiesFor(layer({ dispatch: 'padded' }), 'auto').length > 1);
});

test('policyWith: a name with options', () => {
  const stats = run(32, () => SKEWED);
  assert.deepEqual(
    knobsSetBy(policyWith('adaptCapacity,margin=0.05'), layer({ capacity: 4, dispatch: 'padded' }), stats),
    {
      'moe.capacity': [2.75, 1.0625, 0.4375, 0],
    },
  );
  assert.equal(policyWith('chooseDispatch,cooldown=7').cooldown, 7);
  for (const [text, what] of [
    ['magic', /no policy named "magic"/],
    ['auto', /no policy named "auto"/],
    ['off', /no policy named "off"/],
    ['adaptCapacity,q=1', /adaptCapacity has no option named "q"/],
    ['adaptCapacity,margin', /margin must be a number of at least 0, got ""/],
    ['adaptCapacity,margin=-1', /got "-1"/],
    ['adaptCapacity,quantile=7', /quantile must be from 0 to 1, got 7/],
    ['chooseDispatch,margin=1', /chooseDispatch has no option named "margin"/],
  ] as const)
    assert.throws(() => policyWith(text), what);
});

test('policies: several names, each with options if need be', () => {
  const rules = policies('adaptCapacity{margin=0.05,cooldown=9},chooseDispatch,specialise{}');
  assert.deepEqual(
    rules.map(({ name, cooldown }) => [name, cooldown === 9]),
    [
      ['adaptCapacity', true],
      ['chooseDispatch', false],
      ['specialise', false],
    ],
  );
  assert.deepEqual(
    knobsSetBy(
      rules[0],
      layer({ capacity: 4, dispatch: 'padded' }),
      run(32, () => SKEWED),
    ),
    {
      'moe.capacity': [2.75, 1.0625, 0.4375, 0],
    },
  );
  for (const [text, what] of [
    ['adaptCapacity{q=1}', /adaptCapacity has no option named "q"/],
    ['adaptCapacity{margin=x}', /margin must be a number of at least 0, got "x"/],
    ['adaptCapacity{margin=0.1', /"adaptCapacity\{margin=0\.1" is no policy with options/],
    ['adaptCapacity}', /is no policy with options/],
    ['chooseDispatch,', /no policy named ""/],
    ['auto{margin=1}', /no policy named "auto"/],
  ] as const)
    assert.throws(() => policies(text), what);
});
