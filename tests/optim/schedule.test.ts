// Learning rate schedules: values of warm-up and cosine decay, and errors for wrong options and for functions that give
// no valid rate.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../src/base/tensor.ts';
import { Linear } from '../../src/nn/linear.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import * as optim from '../../src/optim/index.ts';
import { compile } from '../../src/session/node.ts';
import { fingerprint } from '../support/toy.ts';

test('warmupCosine: linear warm-up, then half a cosine down to the floor', () => {
  const rate = optim.warmupCosine({ peak: 1, warmup: 4, total: 10, floor: 0.2 }),
    near = (a: number, b: number): void => {
      assert.ok(Math.abs(a - b) < 1e-12, `${a}, not ${b}`);
    };
  [
    [0, 0.25],
    [3, 1],
    [4, 1],
    [7, 0.6],
    [10, 0.2],
    [99, 0.2],
  ].forEach(([step, wanted]) => {
    near(rate(step), wanted);
  });
  near(optim.warmupCosine({ peak: 1, warmup: 0, total: 1 })(0), 1);
  near(optim.warmupCosine({ peak: 1, warmup: 2, total: 2 })(1), 1);
});

test('warmupCosine refuses wrong options and names them', () => {
  const good = { peak: 1, warmup: 1, total: 10, floor: 0.1 };
  for (const [change, message] of [
    [{ warmup: 11 }, /warmup takes 11 steps, more than the 10/],
    [{ warmup: -1 }, /warmup must be/],
    [{ warmup: 0.5 }, /warmup must be/],
    [{ warmup: NaN }, /warmup must be/],
    [{ total: 0 }, /total must be/],
    [{ total: NaN }, /total must be/],
    [{ total: Infinity }, /total must be/],
    [{ peak: NaN }, /peak must be/],
    [{ peak: 0 }, /peak must be/],
    [{ peak: -1 }, /peak must be/],
    [{ floor: -0.1 }, /floor must be/],
    [{ floor: 2 }, /floor must be/],
  ] as const) {
    assert.throws(() => optim.warmupCosine({ ...good, ...change }), { name: 'UserError', message });
  }
});

test('if a schedule throws or gives no valid rate, the error names the step, and nothing changes', async () => {
  const batch = { x: hostTensor('float32', [1, 2], [1, 2]), y: hostTensor('float32', [1, 2], [0, 0]) };
  const bad: [(step: number) => number, RegExp][] = [
    [() => NaN, /step 2 must be a finite number of at least 0, got NaN/],
    [() => -0.1, /step 2 .* got -0\.1/],
    [() => Infinity, /got Infinity/],
    [() => 1e39, /got 1e\+39/],
    [() => undefined as never, /got undefined/],
    [() => '1' as never, /got 1/],
    [
      () => {
        throw new RangeError('no such step');
      },
      /the learning rate of step 2 could not be computed: no such step/,
    ],
  ];
  for (const make of [optim.sgd, optim.adamW]) {
    for (const [wrong, message] of bad) {
      let fails = true;
      await using session = await compile(new Linear(2, 2), {
        loss: meanSquaredError,
        optimizer: make({ lr: (step) => (step === 1 && fails ? wrong(step) : 0.1) }),
        device: 'reference',
      });
      await session.step(batch);
      const before = fingerprint(session);
      await assert.rejects(session.step(batch), { name: 'UserError', message });
      assert.deepEqual(fingerprint(session), before);
      fails = false;
      assert.equal((await session.step(batch)).step, 2);
    }
  }
});

test('a rate that exceeds float32 after bias correction is refused, too', async () => {
  await using session = await compile(new Linear(2, 2), {
    loss: meanSquaredError,
    optimizer: optim.adamW({ lr: 3e38 }),
    device: 'reference',
  });
  await assert.rejects(
    session.step({ x: hostTensor('float32', [1, 2], [1, 2]), y: hostTensor('float32', [1, 2], [0, 0]) }),
    /the optimizer's lr of step 1 is not finite/,
  );
});
