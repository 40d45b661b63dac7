// Tests the training loop: events, metrics, stopping during a validation, and resuming.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { hostTensor } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { arrays } from '../../src/data/arrays.ts';
import { loadCheckpoint } from '../../src/io/checkpoint-file.ts';
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

test('the best checkpoint stays, and a run whose validations do not improve ends, also when resumed', async (t) => {
  const folder = await temporaryFolder(t),
    lines: string[] = [];
  /** A learning rate so high that validations soon get worse. */
  const wild = (over: object): Configured => {
    const { settings, experiment } = classifier(),
      config = { ...experiment.config, keep: 'best,last' as const, evalEvery: 3, steps: 400, patience: 4, ...over };
    return {
      settings: { ...settings, config },
      experiment: { ...experiment, config, optimizer: sgd({ lr: (step) => (step < 9 ? 0.2 : 3), momentum: 0.9 }) },
    };
  };
  const run = async (out: string, over: object, resume = false, stopAt = Infinity): Promise<TrainEvent[]> => {
    const events: TrainEvent[] = [],
      stop = new AbortController();
    const log = (e: TrainEvent): void => {
      events.push(e);
      if (e.event === 'step' && e.step === stopAt) stop.abort();
    };
    const say = (line: string): void => {
      lines.push(line);
    };
    await train({ ...wild(over), out, resume, loggers: [{ log }], say, stop: stop.signal });
    return events;
  };
  const out = join(folder, 'whole'),
    events = await run(out, {}),
    evals = events.flatMap((e) => (e.event === 'eval' ? [e] : [])),
    done = events.at(-1);
  assert.ok(done?.event === 'done' && done.early === true && done.step < 400, JSON.stringify(done));
  const losses = evals.map((e) => e.val_loss ?? Infinity),
    best = losses.indexOf(Math.min(...losses));
  assert.deepEqual(done.best, { step: evals[best].step, val_loss: losses[best] });
  assert.equal(evals.length, best + 5, 'it ends after four validations that are not better');
  assert.ok(lines.some((line) => line.includes('patience 4')));

  // The file holds the parameters of that step: a session that loads it has its validation loss.
  const kept = await loadCheckpoint(join(out, 'best.safetensors'));
  assert.equal(kept.meta.step, done.best?.step);
  await kept.file.close();
  assert.equal(events.filter((e) => e.event === 'checkpoint' && e.best === true).at(-1)?.event, 'checkpoint');

  // Stopped on the way and resumed, it ends at the same step with the same numbers.
  const torn = join(folder, 'torn'),
    first = await run(torn, {}, false, done.step - 4),
    rest = await run(torn, {}, true);
  assert.deepEqual(numbers([...first, ...rest]), numbers(events));
  const last = rest.at(-1);
  assert.ok(last?.event === 'done' && last.early === true);
  assert.deepEqual(last.best, done.best);
  // Resumed again, it has nothing to do; with more patience it goes on.
  const again = (await run(torn, {}, true)).at(-1);
  assert.ok(again?.event === 'done' && again.step === done.step);
  const more = (await run(torn, { patience: 6, steps: done.step + 3 }, true)).at(-1);
  assert.ok(more?.event === 'done' && more.step === done.step + 3 && more.early === undefined);
});

test('accuracy is the share of rows whose largest output is the target', () => {
  const output = hostTensor('float32', [3, 2], [1, 0, 0, 1, 5, 4]);
  assert.equal(accuracy(output, { x: output, y: hostTensor('int32', [3], [0, 1, 1]) }), 2 / 3);
});
