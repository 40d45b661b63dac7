// The policy specialise: which knob values it sets for synthetic loads, and that its changes keep every bit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import { MoE, type MoEOptions } from '../../../src/nn/moe/moe.ts';
import { ANYTHING } from '../../../src/schedule/target.ts';
import { RunStats } from '../../../src/observe/run-stats.ts';
import { compileGraph } from '../../../src/pipeline.ts';
import { draftOf } from '../../../src/recompile/draft.ts';
import { expertRowsFor, specialise, usualRows } from '../../../src/recompile/policies/specialise.ts';
import { Knobs } from '../../../src/trace/knobs.ts';
import { nameParameters } from '../../../src/trace/module.ts';
import { devices, layerGraph, runLayer } from '../../nn/moe/layer.ts';

const layer = (options: Partial<MoEOptions> = {}): MoE =>
  new MoE({ dModel: 8, experts: 4, topK: 2, hidden: 12, bias: true, ...options });
class Model {
  readonly moe = layer();
  forward() {
    throw new Error('forward is not called in these tests');
  }
}

/** Statistics of a run of `steps` steps with this load. */
function runOf(load: readonly number[], steps = 40): RunStats {
  const run = new RunStats();
  for (let step = 1; step <= steps; step++)
    run.show({
      step,
      loss: 1,
      ms: 1,
      stats: { 'moe/load': hostTensor('int32', [load.length], Int32Array.from(load)) },
    });
  return run;
}

test('usualRows: the mean over rows of the number of rows of their expert', () => {
  assert.equal(usualRows(runOf([64, 64, 64, 64]).layer('moe')), 64);
  assert.equal(usualRows(runOf([256, 0, 0, 0]).layer('moe')), 256);
  assert.equal(usualRows(runOf([0, 0, 0, 0]).layer('moe')), 0);
  const skewed = usualRows(runOf([600, 100, 200, 100]).layer('moe'));
  assert.ok(Math.abs(skewed - (600 ** 2 + 2 * 100 ** 2 + 200 ** 2) / 1000) < 1e-9, `${skewed}`);
});

test('expertRows changes clearly above the threshold, and does not oscillate around it', () => {
  const S = ANYTHING.storedRows;
  assert.equal(expertRowsFor(S, 0), 0, 'at the threshold nothing changes');
  assert.equal(expertRowsFor(1.3 * S, 0), S);
  assert.equal(expertRowsFor(5 * S, 0), 4 * S);
  assert.equal(expertRowsFor(5 * S, S), S, 'no change, because the kernels would be the same');
  assert.equal(expertRowsFor(0.9 * S, S), S);
  assert.equal(expertRowsFor(0.7 * S, S), S / 2);
  assert.equal(expertRowsFor(0, S), 1);
  let now = 0,
    changes = 0;
  for (let i = 0; i < 100; i++) {
    const next = expertRowsFor(S * (1 + 0.2 * Math.sin(i)), now);
    if (next !== now) changes++;
    now = next;
  }
  assert.equal(changes, 0);
});

test('the rule sets expertRows, a class N change', () => {
  const model = new Model(),
    named = nameParameters(model),
    rule = specialise();
  const changes = (run: RunStats) => {
    const draft = draftOf<object>(model, named);
    if (rule.trigger(run)) rule.alter(draft.model, run);
    return draft.changes();
  };
  const many = runOf([900, 500, 500, 100]);
  assert.deepEqual(changes(runOf([40, 40, 40, 40], 33)), []);
  const found = changes(runOf([900, 500, 500, 100], 33));
  assert.deepEqual(found, [{ path: 'moe', knob: 'expertRows', from: 0, to: 512 }]);
  assert.equal(new Knobs(named).classify(found), 'N');
  assert.match(rule.reason?.(many) ?? '', /about 660 rows/);
});

test('expertRows must be 0 or a power of 2', () => {
  const moe = layer();
  for (const bad of [3, -1, 1.5, NaN, Infinity])
    assert.throws(
      () => {
        moe.expertRows = bad;
      },
      { name: 'UserError', message: /expertRows must be a power of 2, or 0/ },
    );
  assert.equal(moe.expertRows, 0);
});

test('from the threshold on, rows are materialised in memory, which needs a larger arena', () => {
  const arena = (expertRows: number): number =>
    compileGraph(layerGraph(layer({ expertRows }), [64, 8])).program.slabs.arena;
  assert.equal(arena(ANYTHING.storedRows / 2), arena(0));
  assert.ok(arena(ANYTHING.storedRows) > arena(0));
});

for (const dispatch of ['ragged', 'padded'] as const) {
  for (const options of [{}, { capacity: 0.75, overflow: 'drop' }, { capacity: 0.75, overflow: 'spill' }] as const) {
    for (const device of devices) {
      test(`${device}, ${dispatch}, ${JSON.stringify(options)}: any expertRows gives the same bits`, async () => {
        const run = (expertRows: number) => runLayer(layer({ dispatch, ...options, expertRows }), [64, 8], { device });
        const first = await run(0);
        assert.ok(Object.keys(first).some((name) => name.startsWith('grad/')));
        for (const rows of [1, 16, ANYTHING.storedRows, 16 * ANYTHING.storedRows])
          assert.deepEqual(await run(rows), first, `${rows}`);
      });
    }
  }
}
