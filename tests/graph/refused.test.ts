// Public ops refuse invalid axes, sizes and settings when the graph is made, with an error that names the op. For any
// random number they throw such an error or return a tensor with valid sizes.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ShapeError, UserError } from '../../src/base/errors.ts';
import { boundOf } from '../../src/base/shape.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import * as f from '../../src/graph/ops/functions.ts';
import { dropout } from '../../src/graph/ops/create/dropout.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { Tensor } from '../../src/graph/tensor.ts';

const graph = (): {
  x: Tensor;
  y: Tensor;
  image: Tensor;
  index: Tensor;
  word: Tensor;
  flag: Tensor;
  empty: Tensor;
  counted: Tensor;
  g: GraphBuilder;
} => {
  const g = new GraphBuilder(ops),
    n = g.input('input', 'n', { dtype: 'int32', shape: [] });
  const input = (
    name: string,
    shape: readonly number[],
    dtype: 'float32' | 'int32' | 'uint32' | 'bool' = 'float32',
  ): Tensor => g.input('input', name, { dtype, shape });
  return {
    g,
    x: input('x', [4, 6]),
    y: input('y', [6, 3]),
    image: input('image', [2, 8, 8, 4]),
    index: input('index', [4, 2], 'int32'),
    word: input('word', [], 'uint32'),
    flag: input('flag', [4, 6], 'bool'),
    empty: input('empty', [4, 0]),
    counted: g.input('input', 'counted', { dtype: 'float32', shape: [{ kind: 'bounded', bound: 8, count: n.id }, 3] }),
  };
};
type Given = ReturnType<typeof graph>;

/** Calls with one open argument (a number or a list of numbers), and invalid values of it. */
const AXIS = [2, -3, 0.5, NaN, Infinity, 2 ** 31];
const calls: Readonly<Record<string, readonly [(t: Given, v: never) => unknown, readonly unknown[]]>> = {
  sum: [({ x }, v) => f.sum(x, [v]), AXIS],
  'sum, of axes': [
    ({ x }, v) => f.sum(x, v),
    [
      [0, 0],
      [0, -2],
    ],
  ],
  mean: [({ x }, v) => f.mean(x, [v]), AXIS],
  max: [({ x }, v) => f.max(x, [v]), AXIS],
  min: [({ x }, v) => f.min(x, [v]), AXIS],
  prod: [({ x }, v) => f.prod(x, [v]), AXIS],
  variance: [({ x }, v) => f.variance(x, [v]), AXIS],
  std: [({ x }, v) => f.std(x, [v]), AXIS],
  norm: [({ x }, v) => f.norm(x, [0], v), [0, 3, -1, NaN]],
  argMax: [({ x }, v) => f.argMax(x, v), AXIS],
  argMin: [({ x }, v) => f.argMin(x, v), AXIS],
  softmax: [({ x }, v) => f.softmax(x, v), AXIS],
  logSoftmax: [({ x }, v) => f.logSoftmax(x, v), AXIS],
  logSumExp: [({ x }, v) => f.logSumExp(x, v), AXIS],
  cumulativeSum: [({ x }, v) => f.cumulativeSum(x, v), AXIS],
  cumulativeMax: [({ x }, v) => f.cumulativeMax(x, v), AXIS],
  sort: [({ x }, v) => f.sort(x, { axis: v }), AXIS],
  flip: [({ x }, v) => f.flip(x, v), AXIS],
  concat: [({ x }, v) => f.concat([x, x], v), AXIS],
  'concat, alone': [({ x }, v) => f.concat([x], v), AXIS],
  stack: [({ x }, v) => f.stack([x, x], v), [3, -4, 0.5, NaN]],
  split: [({ x }, v) => f.split(x, v, 1), [0, -1, 4, 2.5, NaN, [1, 2], [7, -1], [2.5, 3.5]]],
  slice: [({ x }, v) => f.slice(x, v, 0, 2), AXIS],
  'slice, from': [({ x }, v) => f.slice(x, 1, v, 4), [5, -7, 1.5, NaN, Infinity]],
  'slice, to': [({ x }, v) => f.slice(x, 1, 2, v), [7, -9, 2.5, NaN, 1]],
  pad: [({ x }, v) => f.pad(x, 1, v, 0), [-1, 0.5, NaN, Infinity, 2 ** 40]],
  'pad, axis': [({ x }, v) => f.pad(x, v, 1, 1), AXIS],
  padAll: [
    ({ x }, v) => f.padAll(x, v),
    [
      [],
      [[0, 1]],
      [
        [0, 0],
        [-1, 0],
      ],
      [
        [0.5, 0],
        [0, 0],
      ],
      [
        [NaN, 0],
        [0, 0],
      ],
    ],
  ],
  reshape: [
    ({ x }, v) => f.reshape(x, v),
    [[5, 5], [-4, -6], [-1, -1], [-1, 5], [NaN], [24.5], [-1, 0], [2, 12.0000001], [4, 6, -2]],
  ],
  flatten: [({ x }, v) => f.flatten(x, v), [2, -3, 0.5, NaN]],
  'flatten, to': [({ image }, v) => f.flatten(image, 2, v), [1, 4, -5, 2.5, NaN]],
  transpose: [({ x }, v) => f.transpose(x, v), [[0], [0, 0], [1, 2], [0.5, 1], [NaN, 0], [-1, 0]]],
  squeeze: [({ x }, v) => f.squeeze(x, v), [[0], [2], [0.5], [NaN]]],
  unsqueeze: [({ x }, v) => f.unsqueeze(x, v), [3, -4, 0.5, NaN]],
  broadcastTo: [
    ({ x }, v) => f.broadcastTo(x, v),
    [[6], [4, 5], [-1, 4, 6], [2.5, 4, 6], [NaN, 4, 6], [2 ** 30, 4, 6]],
  ],
  repeat: [({ x }, v) => f.repeat(x, v, 0), [-1, 0.5, NaN, Infinity, 2 ** 40]],
  tile: [({ x }, v) => f.tile(x, v, 0), [-1, 0.5, NaN, Infinity, 2 ** 40]],
  oneHot: [({ index }, v) => f.oneHot(index, v), [0, -1, 0.5, NaN, 2 ** 31]],
  topK: [({ x }, v) => f.topK(x, v), [0, 7, -1, 1.5, NaN]],
  pow: [({ x }, v) => f.pow(x, v), [NaN, Infinity]],
  iota: [({ x }, v) => f.iota(x, v), AXIS],
  tril: [({ x }, v) => f.tril(x, v), [0.5, NaN, Infinity]],
  full: [({ x }, v) => f.full(x, v, 1), [[-1], [0.5], [NaN], [2 ** 31], [2 ** 16, 2 ** 16]]],
  fullLike: [({ index }, v) => f.fullLike(index, v), [0.5, NaN, 2 ** 31]],
  dropout: [({ x, word }, v) => dropout(x, word, word, { rate: v, key: 1 }), [1, -0.1, NaN, 2]],
  rmsNorm: [({ x, y }, v) => f.rmsNorm(x, f.reshape(f.slice(y, 1, 0, 1), [6]), v), [NaN, -1, Infinity]],
  layerNorm: [
    ({ x, y }, v) => {
      const g = f.reshape(f.slice(y, 1, 0, 1), [6]);
      return f.layerNorm(x, g, g, v);
    },
    [NaN, -1, Infinity],
  ],
  'conv2d, stride': [
    ({ image, g }, v) =>
      f.conv2d(image, g.input('input', 'w', { dtype: 'float32', shape: [3, 3, 4, 2] }), { stride: v }),
    [0, -1, 0.5, NaN, [1, 0]],
  ],
  'conv2d, groups': [
    ({ image, g }, v) =>
      f.conv2d(image, g.input('input', 'w', { dtype: 'float32', shape: [3, 3, 4, 2] }), { groups: v }),
    [0, 3, -1, 0.5, NaN],
  ],
  'conv2d, padding': [
    ({ image, g }, v) =>
      f.conv2d(image, g.input('input', 'w', { dtype: 'float32', shape: [3, 3, 4, 2] }), { padding: v }),
    [-1, 0.5, NaN, 2 ** 40],
  ],
  maxPool2d: [({ image }, v) => f.maxPool2d(image, v), [0, -1, 9, 0.5, NaN]],
  avgPool2d: [({ image }, v) => f.avgPool2d(image, v), [0, -1, 9, 0.5, NaN]],
  matmul: [({ x }, v) => f.matmul(x, x, v), [{}, { transA: true, transB: true }]],
};

/** For functions that are composed of other ops: the op that the error may name instead. */
const ALSO: Readonly<Record<string, RegExp>> = {
  min: /max/,
  std: /variance/,
  argMin: /argMax/,
  logSoftmax: /logSumExp/,
  stack: /unsqueeze/,
  split: /slice/,
  padAll: /pad|broadcastTo/,
  repeat: /broadcastTo|constant/,
  tile: /broadcastTo|constant/,
  tril: /constant/,
  full: /constant/,
  fullLike: /constant/,
  broadcastTo: /constant/,
};
const named =
  (what: string) =>
  (e: unknown): boolean =>
    e instanceof UserError && (e.message.includes(what) || ALSO[what]?.test(e.message) === true);

for (const [name, [call, wrong]] of Object.entries(calls)) {
  test(`${name}: invalid values are refused`, () => {
    for (const value of wrong)
      assert.throws(() => call(graph(), value as never), named(name.split(',')[0]), `${name} ${JSON.stringify(value)}`);
  });
}

test('reductions over 0 elements', () => {
  const { empty, x } = graph();
  for (const op of [f.max, f.min, f.mean, f.std, f.variance])
    assert.throws(
      () => op(empty, [1]),
      (e) => e instanceof UserError && /of 0 elements/.test(e.message),
    );
  assert.throws(() => f.argMax(empty), /argMax: needs numbers and a last dimension of at least 1/);
  assert.throws(() => f.cumulativeMax(f.slice(x, 1, 0, 0), 5), UserError);
  assert.deepEqual(f.sum(empty, [1]).shape, [4]);
  assert.deepEqual(f.prod(empty, [1]).shape, [4]);
});

test('arguments that are not tensors of this graph are refused', () => {
  const { x } = graph(),
    other = graph().x;
  for (const wrong of [undefined, null, [1, 2], { shape: [4, 6] }, 'x']) {
    assert.throws(() => f.matmul(x, wrong as never), UserError);
    assert.throws(
      () => f.add(x, wrong as never),
      (e) => e instanceof ShapeError && /add: takes tensors/.test(e.message),
    );
    assert.throws(
      () => f.conv2d(x, wrong as never),
      (e) => e instanceof UserError && /conv2d/.test(e.message),
    );
  }
  assert.throws(() => f.add(x, other), /belongs to another trace/);
  assert.throws(() => f.concat([], 0), /concat: needs at least one tensor/);
});

test('tensors of more than 2^31 - 1 elements are refused', () => {
  const { g, x } = graph();
  assert.throws(
    () => g.input('input', 'large', { dtype: 'bool', shape: [2 ** 16, 2 ** 15] }),
    (e) =>
      e instanceof ShapeError &&
      /input large: a tensor bool\[65536, 32768\] has 2147483648 elements, more than 2147483647/.test(e.message),
  );
  assert.throws(() => f.pad(x, 0, 2 ** 30, 0), /pad: a tensor float32\[1073741828, 6\] has 6442450968 elements/);
  const wide = g.input('input', 'wide', { dtype: 'float32', shape: [2 ** 16, 1] });
  assert.throws(
    () => f.matmul(wide, wide, { transB: true }),
    /matmul: a tensor float32\[65536, 65536\] has 4294967296 elements/,
  );
  assert.doesNotThrow(() => g.input('input', 'largest', { dtype: 'bool', shape: [2 ** 31 - 1] }));
});

/** Numbers in and out of range, integers and others. */
const anyNumber = fc.oneof(
  fc.integer({ min: -3, max: 9 }),
  fc.constantFrom(NaN, Infinity, -Infinity, 0.5, -0.5, 1e15, 2 ** 31, 2 ** 53),
  fc.double(),
);

test('a random number is refused or gives a tensor with valid sizes', () => {
  const sized = (t: unknown): void => {
    if (t instanceof Tensor)
      assert.ok(
        t.shape.every((d) => Number.isSafeInteger(boundOf(d)) && boundOf(d) >= 0) &&
          t.shape.reduce<number>((n, d) => n * boundOf(d), 1) < 2 ** 31,
        t.toString(),
      );
    else if (typeof t === 'object' && t !== null) Object.values(t).forEach(sized);
  };
  fc.assert(
    fc.property(
      fc.constantFrom(...Object.entries(calls)),
      fc.oneof(anyNumber, fc.array(anyNumber, { maxLength: 4 })),
      ([name, [call, wrong]], value) => {
        if (Array.isArray(wrong[0]) !== Array.isArray(value) || name === 'matmul' || name === 'padAll') return;
        try {
          sized(call(graph(), value as never));
        } catch (error) {
          assert.ok(error instanceof UserError, `${name} ${JSON.stringify(value)}: ${String(error)}`);
        }
      },
    ),
    { numRuns: 3000, seed: 1 },
  );
});
