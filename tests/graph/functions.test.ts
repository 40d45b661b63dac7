// Functions that are composed of other ops: results against values computed by hand. (The conformance suite compares
// devices and checks gradients.)
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ShapeError, UserError } from '../../src/base/errors.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import * as f from '../../src/graph/ops/functions.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { grad } from '../../src/grad/grad.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';

type Nested = number | readonly Nested[];
const shapeOf = (x: Nested): number[] => (typeof x === 'number' ? [] : [x.length, ...(x.length ? shapeOf(x[0]) : [])]);
const flat = (x: Nested): number[] => (typeof x === 'number' ? [x] : x.flatMap(flat));

/** The shape and values of what `build` computes from x, a float32 tensor. */
async function run(x: Nested, build: (x: Tensor) => Tensor): Promise<{ shape: readonly number[]; data: number[] }> {
  const b = new GraphBuilder(ops),
    y = build(b.input('input', 'x', { dtype: 'float32', shape: shapeOf(x) }));
  b.output('y', y);
  const executor = new ReferenceExecutor(),
    out = await executor.run(executor.load(b.build()), { x: Float64Array.from(flat(x)) });
  return { shape: out['y'].shape, data: Array.from(out['y'].data) };
}

async function check(x: Nested, build: (x: Tensor) => Tensor, expected: Nested): Promise<void> {
  const { shape, data } = await run(x, build),
    wanted = flat(expected);
  assert.deepEqual(shape, shapeOf(expected));
  data.forEach((v, i) =>
    assert.ok(
      Object.is(v, wanted[i]) || Math.abs(v - wanted[i]) < 1e-9,
      `[${data.join(', ')}] is not [${wanted.join(', ')}]`,
    ),
  );
}

test('activations', async () => {
  await check([-2, 0.5, 3, NaN], (x) => f.clamp(x, -1, 2), [-1, 0.5, 2, NaN]);
  await check([-2, 0, 3, NaN], f.sign, [-1, 0, 1, NaN]);
  await check([-2, 3], (x) => f.leakyRelu(x, 0.1), [-0.2, 3]);
  await check([-1, 3], (x) => f.elu(x, 2), [2 * (Math.exp(-1) - 1), 3]);
  await check([0, 800, -800], f.softplus, [Math.LN2, 800, 0]);
  await check([0, 800, -800], f.logSigmoid, [-Math.LN2, 0, -800]);
  await check([-4, -3, 0, 1.5, 3, 4], f.hardSwish, [0, 0, 0, 1.125, 3, 4]);
  await check([1], f.geluExact, [0.8413447460685429]);
  await check([0], (x) => grad(f.sum(f.softplus(x)), [x])[0], [0.5]);
});

test('whole numbers', async () => {
  await check([-1.5, -0.5, 0.5, 1.5, 2.5, 2.6], f.round, [-2, -0, 0, 2, 2, 3]);
  await check([-1.5, 1.5, 2], f.floor, [-2, 1, 2]);
  await check([-1.5, 1.5, 2], f.ceil, [-1, 2, 2]);
});

test('comparisons, with NaN', async () => {
  await check([1, 2, 3, NaN], (x) => f.greater(x, 2), [0, 0, 1, 0]);
  await check([1, 2, 3, NaN], (x) => f.greaterEqual(x, 2), [0, 1, 1, 0]);
  await check([1, 2, 3, NaN], (x) => f.lessEqual(x, 2), [1, 1, 0, 0]);
  await check([1, 2, 3, NaN], (x) => f.notEqual(x, 2), [1, 0, 1, 1]);
  await check([1, NaN], f.isNaN, [0, 1]);
});

test('sorting and largest elements', async () => {
  await check([3, NaN, 1, 3, 2], (x) => f.sort(x).values, [1, 2, 3, 3, NaN]);
  await check([3, NaN, 1, 3, 2], f.argsort, [2, 4, 0, 3, 1]);
  await check([3, NaN, 1, 3, 2], (x) => f.argsort(x, { descending: true }), [0, 3, 4, 2, 1]);
  await check(
    [
      [3, 1],
      [2, 5],
    ],
    (x) => f.sort(x, { axis: 0 }).values,
    [
      [2, 1],
      [3, 5],
    ],
  );
  await check([3, 7, 7, 1], f.argMax, 1);
  await check(
    [
      [3, 7],
      [2, 8],
    ],
    (x) => f.argMin(x, 0),
    [1, 0],
  );
  await check([1, NaN, 7], f.argMax, 1);
});

test('softmax, logSumExp and topK along any axis, for any rank', async () => {
  const third = Math.log(3);
  await check(
    [
      [0, 0],
      [third, 0],
    ],
    (x) => f.softmax(x, 0),
    [
      [0.25, 0.5],
      [0.75, 0.5],
    ],
  );
  await check(
    [
      [0, 0],
      [third, 0],
    ],
    (x) => f.logSumExp(x, 0),
    [Math.log(4), Math.LN2],
  );
  await check(
    [
      [0, 0],
      [third, 0],
    ],
    (x) => f.logSoftmax(x, 0),
    [
      [-Math.log(4), -Math.LN2],
      [Math.log(0.75), -Math.LN2],
    ],
  );
  await check([3, 9, 5], (x) => f.topK(x, 2).values, [9, 5]);
  await check([[[3, 9, 5]], [[1, 2, 0]]], (x) => f.topK(x, 2).indices, [[[1, 2]], [[1, 0]]]);
});

test('scans', async () => {
  await check([1, 2, 3], (x) => f.cumulativeSum(x), [1, 3, 6]);
  await check([1, 2, 3], (x) => f.cumulativeSum(x, 0, { exclusive: true }), [0, 1, 3]);
  await check([1, 2, 3], (x) => f.cumulativeSum(x, 0, { reverse: true }), [6, 5, 3]);
  await check([1, 2, 3], (x) => f.cumulativeSum(x, 0, { reverse: true, exclusive: true }), [5, 3, 0]);
  await check(
    [
      [1, 2],
      [3, 4],
    ],
    (x) => f.cumulativeSum(x, 0),
    [
      [1, 2],
      [4, 6],
    ],
  );
  await check([1, 3, 2, 3, NaN, 4], (x) => f.cumulativeMax(x).values, [1, 3, 3, 3, NaN, NaN]);
  await check([1, 3, 2, 3, NaN, 4], (x) => f.cumulativeMax(x).indices, [0, 1, 1, 1, 4, 4]);
});

test('reductions', async () => {
  await check(
    [
      [3, 1],
      [2, 5],
    ],
    (x) => f.min(x, [1]),
    [1, 2],
  );
  await check(
    [
      [3, 1],
      [2, 5],
    ],
    f.prod,
    30,
  );
  await check(
    [
      [3, 1],
      [2, 5],
      [1, 2],
    ],
    (x) => f.prod(x, [0]),
    [6, 10],
  );
  await check([[3, 0, 2]], (x) => grad(f.sum(f.prod(x, [1])), [x])[0], [[0, 6, 0]]);
  await check([1, 2, 3, 4], f.std, Math.sqrt(1.25));
  await check([3, -4], f.norm, 5);
  await check([3, -4], (x) => f.norm(x, [0], 1), 7);
  await check([3, -4], (x) => f.norm(x, [0], Infinity), 4);
  await check([0, 0], (x) => grad(f.norm(x), [x])[0], [0, 0]);
  await check([2, 2], (x) => grad(f.std(x), [x])[0], [0, 0]);
  await check(
    [
      [1, 0],
      [0, 0],
    ],
    (x) => f.any(f.cast(x, 'bool'), [1]),
    [1, 0],
  );
  await check(
    [
      [1, 1],
      [0, 1],
    ],
    (x) => f.all(f.cast(x, 'bool'), [1]),
    [1, 0],
  );
  await check([[1, 3]], f.logSoftmax, [[-2 - Math.log1p(Math.exp(-2)), -Math.log1p(Math.exp(-2))]]);
});

test('arrangements', async () => {
  await check([[1, 2]], (x) => f.zerosLike(x), [[0, 0]]);
  await check([[1, 2]], (x) => f.mul(f.onesLike(x), f.full(x, [2], 3)), [[3, 3]]);
  await check(
    [
      [1, 2],
      [3, 4],
    ],
    (x) => f.flip(x, 1),
    [
      [2, 1],
      [4, 3],
    ],
  );
  await check([1, 2], (x) => f.stack([x, f.neg(x)]), [
    [1, 2],
    [-1, -2],
  ]);
  await check([1, 2], (x) => f.stack([x, f.neg(x)], -1), [
    [1, -1],
    [2, -2],
  ]);
  await check([1, 2, 3, 4, 5], (x) => f.split(x, [2, 3])[1], [3, 4, 5]);
  await check([[1, 2, 3, 4]], (x) => f.split(x, 2, 1)[1], [[3, 4]]);
  await check([[1, 2]], (x) => f.repeat(x, 2, 1), [[1, 1, 2, 2]]);
  await check([[1, 2]], (x) => f.tile(x, 2, 1), [[1, 2, 1, 2]]);
  await check(
    [
      [1, 2],
      [3, 4],
    ],
    (x) => f.tile(x, 2, 0),
    [
      [1, 2],
      [3, 4],
      [1, 2],
      [3, 4],
    ],
  );
  await check([[1, 2]], f.squeeze, [1, 2]);
  await check([1, 2], (x) => f.unsqueeze(x, -1), [[1], [2]]);
  await check([1, 2], (x) => f.broadcastTo(x, [2, 2]), [
    [1, 2],
    [1, 2],
  ]);
  await check(
    [[1]],
    (x) =>
      f.padAll(
        x,
        [
          [1, 0],
          [0, 2],
        ],
        7,
      ),
    [
      [7, 7, 7],
      [1, 7, 7],
    ],
  );
  await check(
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
    f.tril,
    [
      [1, 0, 0],
      [4, 5, 0],
    ],
  );
  await check(
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
    (x) => f.triu(x, 1),
    [
      [0, 2, 3],
      [0, 0, 6],
    ],
  );
  await check(
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
    (x) => f.lowerMask(x, 1),
    [
      [1, 1, 0],
      [1, 1, 1],
    ],
  );
  await check(
    [
      [1, 2, 3],
      [4, 5, 6],
    ],
    (x) => f.iota(x, 0),
    [
      [0, 0, 0],
      [1, 1, 1],
    ],
  );
});

test('an argument that does not fit the tensor is an error that names the function', () => {
  const x = new GraphBuilder(ops).input('input', 'x', { dtype: 'float32', shape: [2, 3] });
  assert.throws(() => f.split(x, 2, 1), /split: dimension 1 of \[2, 3\] cannot be cut into 2 equal parts/);
  assert.throws(() => f.squeeze(x, [0]), /squeeze: dimension 0 of \[2, 3\] is not 1/);
  assert.throws(() => f.broadcastTo(x, [2, 4]), /broadcastTo: \[2, 3\] does not stretch to \[2, 4\]/);
  assert.throws(() => f.padAll(x, [[1, 1]]), /padAll: needs \[before, after\] for each of 2 dimensions/);
  assert.throws(() => f.unsqueeze(x, 4), /unsqueeze: axis 4 does not fit \[2, 3\]/);
  assert.throws(() => f.stack([]), ShapeError);
  assert.throws(() => f.flip(x, 5), ShapeError);
  assert.throws(() => f.sort(f.less(x, 0)), /sort: needs floats or int32/);
  assert.throws(() => f.argMax(f.slice(x, 1, 0, 0)), /argMax: needs numbers and a last dimension of at least 1/);
  assert.throws(() => f.cumulativeSum(f.less(x, 0)), /cumulativeSum: needs numbers/);
  assert.throws(() => f.tril(f.sum(x, [0])), /tril|lowerMask/);
  assert.throws(() => f.norm(x, [0], 3), UserError);
});
