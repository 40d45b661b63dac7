// Losses: values computed by hand, gradients where a formula is known, and refused arguments.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ShapeError, UserError } from '../../src/base/errors.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { grad } from '../../src/grad/grad.ts';
import { logSoftmax } from '../../src/graph/ops/reduce/logSoftmax.ts';
import { ops } from '../../src/graph/ops/index.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import * as loss from '../../src/nn/loss.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { trace } from '../../src/trace/trace.ts';

type Matrix = readonly (readonly number[])[];

interface Given {
  readonly output: Matrix;
  readonly target: Matrix | readonly number[];
}

/** Value of a loss, and its gradient to the output. Targets are int32 [rows] or float [rows, columns]. */
async function measure(
  { output, target }: Given,
  build: (output: Tensor, target: Tensor) => Tensor,
): Promise<{ value: number; gradient: number[] }> {
  const whole = typeof target[0] === 'number',
    shape = [output.length, output[0].length];
  const graph = trace(ops, nameParameters({}), true, (t) => {
    const x = t.input('input', 'x', { dtype: 'float32', shape });
    const y = t.input('input', 'y', whole ? { dtype: 'int32', shape: [shape[0]] } : { dtype: 'float32', shape });
    const value = build(x, y);
    t.output('value', value);
    t.output('gradient', grad(value, [x])[0]);
  });
  const executor = new ReferenceExecutor();
  const out = await executor.run(executor.load(graph), {
    x: Float64Array.from(output.flat()),
    y: whole ? Int32Array.from(target as number[]) : Float64Array.from(target.flat()),
  });
  return { value: Number(out['value'].data[0]), gradient: Array.from(out['gradient'].data) };
}

async function check(
  given: Given,
  build: (output: Tensor, target: Tensor) => Tensor,
  value: number,
  gradient?: readonly number[],
): Promise<void> {
  const got = await measure(given, build);
  assert.ok(Math.abs(got.value - value) < 1e-9, `${got.value} is not ${value}`);
  gradient?.forEach((g, i) =>
    assert.ok(
      Math.abs(got.gradient[i] - g) < 1e-9,
      `gradient ${got.gradient.join(', ')} is not ${gradient.join(', ')}`,
    ),
  );
}

// Logits whose probabilities are 1/2, 1/4, 1/4 and 1/10, 3/10, 6/10.
const [two, three, six] = [2, 3, 6].map(Math.log);
const logits = [
    [two, 0, 0],
    [0, three, six],
  ],
  given: Given = { output: logits, target: [0, 2] };
const [n0, n1] = [-Math.log(0.5), -Math.log(0.6)];

test('cross-entropy', async () => {
  await check(given, (x, y) => loss.crossEntropy(x, y), (n0 + n1) / 2, [-0.25, 0.125, 0.125, 0.05, 0.15, -0.2]);
  await check(given, (x, y) => loss.nll(logSoftmax(x), y), (n0 + n1) / 2, [-0.25, 0.125, 0.125, 0.05, 0.15, -0.2]);
  assert.ok(Number.isNaN((await measure({ output: logits, target: [0, 3] }, (x, y) => loss.crossEntropy(x, y))).value));
  assert.ok(
    Number.isNaN((await measure({ output: logits, target: [0, 3] }, (x, y) => loss.nll(logSoftmax(x), y))).value),
  );
});

test('cross-entropy with smoothed labels', async () => {
  // 0.3 of the target is divided equally among the three classes
  const even0 = -(Math.log(0.5) + 2 * Math.log(0.25)) / 3,
    even1 = -(Math.log(0.1) + Math.log(0.3) + Math.log(0.6)) / 3;
  await check(
    given,
    (x, y) => loss.crossEntropy(x, y, { labelSmoothing: 0.3 }),
    (0.7 * (n0 + n1) + 0.3 * (even0 + even1)) / 2,
    [0.5 - 0.8, 0.25 - 0.1, 0.25 - 0.1, 0, 0.3 - 0.1, 0.6 - 0.8].map((g) => g / 2),
  );
});

test('cross-entropy with rows that are ignored', async () => {
  await check(
    { output: logits, target: [-100, 2] },
    (x, y) => loss.crossEntropy(x, y, { ignoreIndex: -100 }),
    n1,
    [0, 0, 0, 0.1, 0.3, -0.4],
  );
  await check(
    { output: logits, target: [1, 1] },
    (x, y) => loss.crossEntropy(x, y, { ignoreIndex: 1 }),
    0,
    [0, 0, 0, 0, 0, 0],
  );
});

test('cross-entropy with weights of classes', async () => {
  await check(given, (x, y) => loss.crossEntropy(x, y, { classWeights: [3, 5, 1] }), (3 * n0 + n1) / 4);
  await check(
    { output: logits, target: [0, 1] },
    (x, y) => loss.crossEntropy(x, y, { classWeights: [3, 5, 1], ignoreIndex: 1 }),
    n0,
  );
  const smooth0 = -(3 * Math.log(0.5) + 6 * Math.log(0.25)) / 3,
    smooth1 = -(3 * Math.log(0.1) + 5 * Math.log(0.3) + Math.log(0.6)) / 3;
  await check(
    given,
    (x, y) => loss.crossEntropy(x, y, { classWeights: [3, 5, 1], labelSmoothing: 0.1 }),
    (0.9 * (3 * n0 + n1) + 0.1 * (smooth0 + smooth1)) / 4,
  );
});

test('binary cross-entropy', async () => {
  const pair: Given = {
    output: [
      [three, -three],
      [0, 800],
    ],
    target: [
      [1, 0],
      [0.5, 1],
    ],
  };
  await check(pair, (x, y) => loss.binaryCrossEntropyWithLogits(x, y), (2 * -Math.log(0.75) + Math.LN2 + 0) / 4, [
    -0.25 / 4,
    0.25 / 4,
    0,
    0,
  ]);
  await check(
    pair,
    (x, y) => loss.binaryCrossEntropyWithLogits(x, y, { positiveWeight: 3 }),
    (4 * -Math.log(0.75) + 2 * Math.LN2) / 4,
  );
});

test('Kullback-Leibler divergence', async () => {
  await check(
    {
      output: [
        [Math.log(0.25), Math.log(0.75)],
        [Math.log(0.5), Math.log(0.5)],
      ],
      target: [
        [0.5, 0.5],
        [0, 1],
      ],
    },
    loss.klDivergence,
    (0.5 * Math.log(2) + 0.5 * Math.log(2 / 3) + Math.log(2)) / 2,
    [-0.25, -0.25, 0, -0.5],
  );
});

test('differences', async () => {
  const pair: Given = {
    output: [
      [1, 2],
      [-3, 5],
    ],
    target: [
      [1, 1.5],
      [0, 5],
    ],
  };
  await check(pair, loss.meanSquaredError, (0.25 + 9) / 4, [0, 0.25, -1.5, 0]);
  await check(pair, loss.meanAbsoluteError, 3.5 / 4, [0, 0.25, -0.25, 0]);
  await check(pair, loss.huber, (0.125 + 2.5) / 4, [0, 0.125, -0.25, 0]);
  await check(pair, (x, y) => loss.huber(x, y, { delta: 2 }), (0.125 + 4) / 4, [0, 0.125, -0.5, 0]);
});

test('hinge and cosine', async () => {
  await check({ output: [[0.5, 2, -0.5]], target: [[1, 1, 1]] }, loss.hinge, (0.5 + 1.5) / 3, [-1 / 3, 0, -1 / 3]);
  await check(
    {
      output: [
        [3, 4],
        [1, 0],
        [0, 0],
      ],
      target: [
        [6, 8],
        [-2, 0],
        [1, 1],
      ],
    },
    loss.cosineSimilarity,
    (0 + 2 + 1) / 3,
  );
});

test('shapes and settings that do not fit are refused by name', () => {
  const b = new GraphBuilder(ops),
    x = b.input('input', 'x', { dtype: 'float32', shape: [4, 1] }),
    y = b.input('input', 'y', { dtype: 'float32', shape: [4] });
  assert.throws(
    () => loss.meanSquaredError(x, y),
    (e) =>
      e instanceof ShapeError && /meanSquaredError: output float32\[4, 1\] and target float32\[4\]/.test(e.message),
  );
  const target = b.input('input', 't', { dtype: 'int32', shape: [4] });
  assert.throws(() => loss.crossEntropy(x, target, { labelSmoothing: 2 }), UserError);
  assert.throws(() => loss.crossEntropy(x, target, { classWeights: [1, 2] }), /1 classes need 1 weights, got 2/);
  for (const delta of [0, -1, NaN, Infinity]) assert.throws(() => loss.huber(x, x, { delta }), /delta must be above 0/);
  for (const ignoreIndex of [0.5, NaN, 2 ** 31]) {
    assert.throws(() => loss.crossEntropy(x, target, { ignoreIndex }), /ignoreIndex must be a whole number/);
  }
  for (const w of [-1, NaN, Infinity]) {
    assert.throws(
      () => loss.crossEntropy(x, target, { classWeights: [w] }),
      /weights of classes must be numbers of at/,
    );
    const positiveWeight = /positiveWeight must be a number of at least 0/;
    assert.throws(() => loss.binaryCrossEntropyWithLogits(x, x, { positiveWeight: w }), positiveWeight);
  }
});
