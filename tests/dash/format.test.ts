// Tests the words with which the page and the command line describe a decision.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { effect, outcome, price } from '../../src/dash/page/format.ts';

test('the outcome of a change is described by its measured speed', () => {
  const ratio = (median: number, low: number, high: number) => outcome({ kept: true, ratio: { median, low, high } });
  assert.equal(ratio(0.94, 0.83, 1.03), 'kept: no measurable difference');
  assert.equal(ratio(1.29, 1.2, 1.4), 'kept: 29% faster');
  assert.equal(ratio(1.004, 1.002, 1.006), 'kept: 0.4% faster');
  assert.equal(outcome({ kept: false, ratio: { median: 0.8, low: 0.7, high: 0.9 } }), 'undone: 20% slower');
  assert.equal(outcome({ kept: true }), 'kept');
  assert.equal(outcome({ kept: false, error: 'no compiler' }), 'not taken: no compiler');
  assert.deepEqual(
    [effect('N'), effect('R'), effect(null)],
    ['results unchanged', 'results change', 'nothing changed'],
  );
});

test('the cost of a change names compiling, verifying and the pause', () => {
  const took = { compile_ms: 47, verify_ms: 0, stall_ms: 27.4, cached: false };
  assert.equal(price(took), 'compiling took 47.0 ms; training paused for 27.4 ms');
  assert.equal(
    price({ ...took, verify_ms: 3 }),
    'compiling took 47.0 ms, verifying 3.00 ms; training paused for 27.4 ms',
  );
  assert.equal(
    price({ ...took, cached: true, during: 'inference' }),
    'the plan was there already; work paused for 27.4 ms',
  );
});
