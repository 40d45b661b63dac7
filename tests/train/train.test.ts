// Tests the training loop: events, metrics, stopping during a validation, and resuming.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { hostTensor } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { arrays } from '../../src/data/arrays.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { sgd } from '../../src/optim/sgd.ts';
import type { Configured } from '../../src/train/configure.ts';
import type { TrainEvent } from '../../src/train/events.ts';
import { buildExperiment } from '../../src/train/experiment.ts';
import { accuracy } from '../../src/train/metrics.ts';
import { parseConfig } from '../../src/train/schema.ts';
import { train } from '../../src/train/train.ts';
import { temporaryFolder } from '../io/folder.ts';

const COUNT = 250;
const random = new Stream(1, 'points');
const x = Float32Array.from({ length: 2 * COUNT }, (_, i) => random.normal(0, i));
const y = Int32Array.from({ length: COUNT }, (_, i) => (x[2 * i] > x[2 * i + 1] ? 1 : 0));
const rows = { x: hostTensor('float32', [COUNT, 2], x), y: hostTensor('int32', [COUNT], y) };

function classifier(): Configured {
  const config = parseConfig({ model: null, steps: 30, batch: 8, evalEvery: 10, saveEvery: 0, evalBatch: 10 });
  const parts = {
    model: new MLP([2, 8, 2]),
    data: arrays(rows, { train: 200 }),
    optimizer: sgd({ lr: 0.2, momentum: 0.9 }),
    metrics: { accuracy },
  };
  return { settings: { config, source: null }, experiment: buildExperiment(config, parts) };
}

const numbers = (events: readonly TrainEvent[]): unknown[] =>
  events.flatMap((e): unknown[] =>
    e.event === 'step' ? [[e.step, e.loss]] : e.event === 'eval' ? [[e.step, e.val_loss, e.metrics]] : [],
  );

test('a run that is stopped during a validation repeats it when resumed, and ends as usual', async (t) => {
  const folder = await temporaryFolder(t),
    whole: TrainEvent[] = [],
    parts: TrainEvent[] = [];
  const say = (line: string): void => {
    t.diagnostic(line);
  };
  const done = await train({
    ...classifier(),
    out: join(folder, 'whole'),
    loggers: [
      {
        log: (e) => {
          whole.push(e);
        },
      },
    ],
    say,
  });
  assert.equal(done?.step, 30);
  assert.ok((done.metrics?.['accuracy'] ?? 0) > 0.8, JSON.stringify(done));

  const stop = new AbortController();
  let validations = 0;
  const busy = (what: string): void => {
    if (what === 'validating' && ++validations === 1) stop.abort();
  };
  const out = join(folder, 'torn');
  assert.equal(
    await train({
      ...classifier(),
      out,
      loggers: [
        {
          log: (e) => {
            parts.push(e);
          },
        },
      ],
      say,
      busy,
      stop: stop.signal,
    }),
    null,
  );
  const last = parts.at(-1);
  assert.ok(last?.event === 'stopped' && last.step === 10);
  assert.ok(!parts.some((e) => e.event === 'eval'), 'the validation was not finished');
  await train({
    ...classifier(),
    out,
    resume: true,
    loggers: [
      {
        log: (e) => {
          parts.push(e);
        },
      },
    ],
    say,
  });
  assert.deepEqual(numbers(parts), numbers(whole));
});

test('accuracy is the share of rows whose largest output is the target', () => {
  const output = hostTensor('float32', [3, 2], [1, 0, 0, 1, 5, 4]);
  assert.equal(accuracy(output, { x: output, y: hostTensor('int32', [3], [0, 1, 1]) }), 2 / 3);
});
