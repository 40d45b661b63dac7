// Tests metrics against numbers computed by hand. Metrics that are not means give the same value for any split into
// batches.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type Batch, type HostTensor } from '../../src/base/tensor.ts';
import { accuracy, classScores, confusionMatrix, f1, ignoring, meanAbsoluteError } from '../../src/train/metrics.ts';
import { perplexity, precision, r2, recall, tallyOf, topKAccuracy, type Metric } from '../../src/train/metrics.ts';

const outputs = [
    [3, 1, 0],
    [0, 2, 1],
    [1, 0, 5],
    [2, 1, 0],
    [0, 1, 1],
  ],
  targets = [0, 1, 1, 2, 2];
const scores = (rows: readonly number[][]): HostTensor =>
  hostTensor('float32', [rows.length, rows[0].length], rows.flat());
const labels = (y: readonly number[]): HostTensor => hostTensor('int32', [y.length], y);
const batch = (y: HostTensor): Batch => ({
  x: hostTensor('float32', [y.data.length], new Float32Array(y.data.length)),
  y,
});

/** The value of a metric for the samples above, in batches of these sizes. */
function over(metric: Metric, sizes: readonly number[]): number {
  const tally = tallyOf(metric);
  let from = 0;
  for (const n of sizes) {
    tally.add(scores(outputs.slice(from, from + n)), batch(labels(targets.slice(from, from + n))));
    from += n;
  }
  return tally.value();
}

function near(a: number, b: number): void {
  assert.ok(Math.abs(a - b) < 1e-6, `${a} is not ${b}`);
}

test('accuracy and top-k accuracy', () => {
  near(over(accuracy, [5]), 2 / 5);
  near(over(accuracy, [1, 4]), 2 / 5);
  near(over(topKAccuracy(1), [5]), 2 / 5);
  // In the last row two outputs are equal: the tie goes to class 1, so class 2 is second.
  near(over(topKAccuracy(2), [5]), 3 / 5);
  near(over(topKAccuracy(3), [2, 3]), 1);
  assert.throws(() => topKAccuracy(0), /k must be/);
});

test('confusion matrix, precision, recall, F1', () => {
  const counts = confusionMatrix(scores(outputs), labels(targets));
  assert.deepEqual(counts, [
    [1, 0, 0],
    [0, 1, 1],
    [1, 1, 0],
  ]);
  const [a, b, c] = classScores(counts);
  near(a.precision, 1 / 2);
  near(a.recall, 1);
  near(a.f1, 2 / 3);
  near(b.precision, 1 / 2);
  near(b.recall, 1 / 2);
  near(b.f1, 1 / 2);
  near(c.precision, 0);
  near(c.recall, 0);
  near(c.f1, 0);
  for (const sizes of [[5], [2, 3], [1, 1, 1, 1, 1]]) {
    near(over(precision, sizes), 1 / 3);
    near(over(recall, sizes), 1 / 2);
    near(over(f1, sizes), (2 / 3 + 1 / 2) / 3);
  }
  assert.throws(() => confusionMatrix(scores(outputs), labels([0, 1, 2, 3, 0])), /target 3 is none of 3 classes/);
});

test('perplexity is e to the mean cross-entropy of all rows', () => {
  const p = [
      [0.5, 0.5],
      [0.25, 0.75],
    ].map((row) => row.map(Math.log)),
    tally = tallyOf(perplexity);
  tally.add(scores(p.slice(0, 1)), batch(labels([0])));
  tally.add(scores(p.slice(1)), batch(labels([0])));
  near(tally.value(), Math.sqrt(8));
});

test('mean absolute error and R2', () => {
  const y = hostTensor('float32', [4], [1, 2, 3, 6]),
    output = hostTensor('float32', [4, 1], [1, 3, 3, 4]);
  near(meanAbsoluteError(output, batch(y)), 3 / 4);
  for (const sizes of [[4], [1, 3], [2, 2]]) {
    const tally = tallyOf(r2);
    let from = 0;
    for (const n of sizes) {
      tally.add(
        hostTensor('float32', [n], Array.from(output.data.subarray(from, from + n))),
        batch(hostTensor('float32', [n], Array.from(y.data.subarray(from, from + n)))),
      );
      from += n;
    }
    near(tally.value(), 1 - 5 / 14);
  }
  assert.throws(() => meanAbsoluteError(output, batch(labels([1]))), /differ/);
});

test('means over targets weight batches by their number of targets, for any number of targets in a sample', () => {
  const tally = tallyOf(accuracy),
    one = (rows: readonly (readonly number[])[], y: readonly number[]): void => {
      // One sample has a row for each of its targets.
      const target = hostTensor('int32', [1, y.length], y);
      tally.add(hostTensor('float32', [1, rows.length, 3], rows.flat()), {
        x: hostTensor('float32', [1], [0]),
        y: target,
      });
    };
  one(outputs.slice(0, 1), targets.slice(0, 1));
  one(outputs.slice(1), targets.slice(1));
  near(tally.value(), 2 / 5);
});

test('rows with an ignored target have no effect, in any split into batches', () => {
  // Only rows 0, 3 and 4 remain.
  const left = (metric: Metric, sizes: readonly number[]): number => over(ignoring(1, metric), sizes);
  for (const sizes of [[5], [1, 4], [2, 1, 2], [1, 2, 2]]) {
    near(left(accuracy, sizes), 1 / 3);
    near(left(topKAccuracy(2), sizes), 2 / 3);
    near(left(recall, sizes), (1 + 0 + 0) / 3);
  }
  near(left(perplexity, [2, 3]), left(perplexity, [5]));
  assert.ok(Number.isNaN(tallyOf(ignoring(1, accuracy)).value()));
});

test('a batch with count 0 has weight 0, also if its mean is NaN', () => {
  const known = ({ y }: Batch): number => y.data.filter((t: number) => t >= 0).length;
  const share: Metric = Object.assign(
    (_: HostTensor, b: Batch) => b.y.data.filter((t: number) => t === 1).length / known(b),
    { count: known },
  );
  const tally = tallyOf(share);
  for (const y of [[1, 0, -1], [-1, -1], [1]]) tally.add(scores(y.map(() => [0, 0])), batch(labels(y)));
  near(tally.value(), 2 / 3);
  const wrong = tallyOf(Object.assign(() => 1, { count: () => -1 }));
  assert.throws(
    () => {
      wrong.add(scores([[0, 0]]), batch(labels([1])));
    },
    { name: 'UserError', message: /a metric's count must be a number of at least 0, got -1/ },
  );
});
