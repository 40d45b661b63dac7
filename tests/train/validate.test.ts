// Tests validation: the mean is weighted by the loss's counts, for any batches, and metrics leave out ignored targets.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import type { Batches } from '../../src/data/dataset.ts';
import { Linear } from '../../src/nn/linear.ts';
import { crossEntropy, type Loss } from '../../src/nn/loss.ts';
import { compile } from '../../src/session/node.ts';
import type { Experiment, TrainingData } from '../../src/train/experiment.ts';
import { accuracy, ignoring } from '../../src/train/metrics.ts';
import { validate } from '../../src/train/validate.ts';

const SAMPLES = 7,
  IGNORED = -1;
const targets = [0, IGNORED, 2, IGNORED, IGNORED, 1, 0];
const x = Float32Array.from({ length: SAMPLES * 2 }, (_, i) => Math.sin(3 * i));

const part = (from: number, to: number, y: readonly number[]): Batch => ({
  x: hostTensor('float32', [to - from, 2], x.slice(2 * from, 2 * to)),
  y: hostTensor('int32', [to - from], y.slice(from, to)),
});

/** Held-out samples, in batches of the requested size. */
const data = (y: readonly number[]): TrainingData => ({
  batches: () => ({ samples: () => Promise.resolve(SAMPLES) }) as unknown as Batches,
  async *pass({ size }) {
    for (let from = 0; from < SAMPLES; from += size)
      yield await Promise.resolve(part(from, Math.min(SAMPLES, from + size), y));
  },
  fingerprint: () => Promise.resolve(''),
});

const experiment = (evalBatch: number): Experiment =>
  ({
    config: { batch: 4, evalBatch },
    context: 0,
    metrics: { accuracy: ignoring(IGNORED, accuracy) },
  }) as unknown as Experiment;
const loss: Loss = (o, t) => crossEntropy(o, t, { ignoreIndex: IGNORED });

test('batches are weighted by their counted targets, for any batch size', async () => {
  await using session = await compile(new Linear(2, 3), { loss, device: 'reference', seed: 2 });
  const whole = await session.forward(part(0, SAMPLES, targets)),
    wanted = Number(whole['loss'].data[0]);
  let metric: number | undefined;
  for (const size of [7, 1, 2, 3, 5]) {
    const found = await validate(session, experiment(size), data(targets));
    assert.ok(found);
    assert.ok(Math.abs(found.loss - wanted) < 1e-9, `batches of ${size}: ${found.loss}, not ${wanted}`);
    assert.deepEqual([found.samples, found.count], [SAMPLES, 4]);
    metric ??= found.metrics['accuracy'];
    assert.equal(found.metrics['accuracy'], metric);
  }
});

test('the loss is NaN if no target is counted', async () => {
  await using session = await compile(new Linear(2, 3), { loss, device: 'reference' });
  const found = await validate(session, experiment(3), data(targets.map(() => IGNORED)));
  assert.ok(found && Number.isNaN(found.loss) && found.count === 0);
});
