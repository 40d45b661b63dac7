// Cases of ops that sum, repeat and rearrange.
import fc from 'fast-check';
import { cast } from '../../../src/graph/ops/elementwise/cast.ts';
import { constantOp } from '../../../src/graph/ops/create/constant.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { expand } from '../../../src/graph/ops/shape/expand.ts';
import { gather } from '../../../src/graph/ops/shape/gather.ts';
import { flatten, reshape } from '../../../src/graph/ops/shape/reshape.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { oneHot } from '../../../src/graph/ops/create/oneHot.ts';
import { rowCount } from '../../../src/graph/ops/moe/rowCount.ts';
import { mean, sum, variance } from '../../../src/graph/ops/reduce/sum.ts';
import { transpose } from '../../../src/graph/ops/shape/transpose.ts';
import { emit1, type Tensor } from '../../../src/graph/tensor.ts';
import type { Case, DimSpec } from '../harness.ts';
import { anyShape, fixedShape, size, someSize, type AnyShape, type Family } from '../shapes.ts';

/** A case with one float tensor. */
export const unary = ({ shape, counts }: AnyShape, build: (x: Tensor) => Tensor | readonly Tensor[]): Case => ({
  inputs: [...counts, { name: 'x', shape }],
  build: (t) => build(t[counts.length]),
});

export const bound = (d: DimSpec): number => (typeof d === 'number' ? d : d.bound);

/** A random shape, and one or more of its axes. */
export const axesOf = (dim = size): fc.Arbitrary<{ s: AnyShape; axes: number[] }> =>
  anyShape(1, 4, dim).chain((s) =>
    fc
      .subarray(
        s.shape.map((_, i) => i),
        { minLength: 1 },
      )
      .map((axes) => ({ s, axes })),
  );

const permuted = anyShape(1, 4).chain((s) => {
  const first = typeof s.shape[0] === 'number' ? [] : [0],
    rest = s.shape.map((_, i) => i).slice(first.length);
  return fc
    .shuffledSubarray(rest, { minLength: rest.length, maxLength: rest.length })
    .map((order) => ({ s, order: [...first, ...order] }));
});

/** Sizes of sums longer than a chunk of 4096 elements. */
const long = fc.constantFrom<[number[], number[]]>(
  [[4096], [0]],
  [[2, 4097], [1]],
  [[9000, 3], [0]],
  [
    [4100, 2, 2],
    [0, 1],
  ],
  [
    [3, 10_001],
    [0, 1],
  ],
);

export const families: readonly Family[] = [
  { op: 'sum', cases: axesOf().map(({ s, axes }) => unary(s, (x) => sum(x, axes))), runs: 16 },
  { op: 'sum', name: 'to one number', cases: anyShape().map((s) => unary(s, (x) => sum(mul(x, x)))) },
  {
    op: 'sum',
    name: 'long',
    cases: long.map(([shape, axes]) => unary({ shape, counts: [] }, (x) => sum(x, axes))),
    runs: 5,
  },
  {
    op: 'sum',
    name: 'of sums',
    cases: axesOf().map(({ s, axes }) => unary(s, (x) => [sum(x, axes), mul(sum(mul(x, x), axes), 2)])),
  },
  {
    op: 'sum',
    name: 'mean',
    cases: axesOf(someSize)
      .filter(({ s }) => s.counts.length === 0 || (s.counts[0].data ?? []).at(-1) !== 0)
      .map(({ s, axes }) => unary(s, (x) => mean(x, axes))),
  },
  {
    op: 'sum',
    name: 'variance',
    cases: axesOf(someSize)
      .filter(({ s }) => s.counts.length === 0 || (s.counts[0].data ?? []).at(-1) !== 0)
      .map(({ s, axes }) => unary(s, (x) => variance(x, axes))),
  },
  {
    op: 'sum',
    name: 'one by one',
    cases: anyShape(2, 2).map((s) => unary(s, (x) => emit1('sum', [x], { axes: [1], serial: true }))),
  },
  {
    op: 'sumChunks',
    cases: fixedShape(1, 3)
      .filter((s) => !s.includes(0))
      .map((shape) => unary({ shape, counts: [] }, (x) => emit1('sumChunks', [x]))),
  },
  {
    op: 'sumChunks',
    name: 'several',
    cases: fc
      .constantFrom([4096], [4097], [3, 3001])
      .map((shape) => unary({ shape, counts: [] }, (x) => emit1('sumChunks', [x]))),
    runs: 3,
  },
  // The index of a row is the index of an element divided by the width: multiples of 16, and widths that cut blocks of
  // 16.
  {
    op: 'sumChunks',
    name: 'of gathered rows',
    cases: fc
      .constantFrom([20, 16], [300, 32], [33, 48], [70, 64], [21, 256], [50, 24], [40, 20], [9, 5])
      .map(([rows, width]): Case => ({
        inputs: [
          { name: 'index', dtype: 'int32', shape: [rows], value: ({ uniform }) => Math.floor(uniform * 7) },
          { name: 'table', shape: [7, width] },
          { name: 'x', shape: [rows, width] },
        ],
        build: ([index, table, x]) => emit1('sumChunks', [mul(gather(table, index), x)]),
      })),
    runs: 8,
  },
  {
    op: 'rowCount',
    cases: anyShape(1)
      .filter((s) => s.counts.length > 0)
      .map((s) => unary(s, (x) => mul(cast(rowCount(x), x.dtype), sum(x)))),
  },
  {
    op: 'expand',
    cases: axesOf().map(({ s, axes }) => ({
      inputs: [
        ...s.counts,
        { name: 'like', shape: s.shape },
        { name: 'x', shape: s.shape.filter((_, i) => !axes.includes(i)) },
      ],
      build: (t) => expand(t[s.counts.length + 1], t[s.counts.length], axes),
    })),
  },
  {
    op: 'expand',
    name: 'of what is computed',
    cases: axesOf().map(({ s, axes }) => unary(s, (x) => mul(x, expand(sum(mul(x, x), axes), x, axes)))),
  },
  {
    op: 'reshape',
    cases: anyShape(1).map((s) =>
      unary(s, (x) => {
        const [first, ...rest] = s.shape.map(bound);
        const flat = reshape(
          x,
          typeof s.shape[0] === 'number'
            ? [first * rest.reduce((n, d) => n * d, 1)]
            : [first, rest.reduce((n, d) => n * d, 1)],
        );
        return [reshape(mul(flat, flat), [first, 1, ...rest]), mul(flat, 2)];
      }),
    ),
  },
  {
    op: 'reshape',
    name: 'merged',
    cases: fixedShape(2, 4).map((shape) =>
      unary({ shape, counts: [] }, (x) => [flatten(x), flatten(add(x, 1), 0, 1), sum(flatten(x, 1), [0])]),
    ),
  },
  { op: 'transpose', cases: permuted.map(({ s, order }) => unary(s, (x) => transpose(x, order))) },
  {
    op: 'transpose',
    name: 'among others',
    cases: permuted.map(({ s, order }) =>
      unary(s, (x) => {
        const y = transpose(mul(x, x), order);
        return [add(y, y), sum(y, [order.length - 1])];
      }),
    ),
  },
  {
    op: 'oneHot',
    cases: anyShape(0, 3).map((s) => ({
      inputs: [
        ...s.counts,
        { name: 'x', dtype: 'int32', shape: s.shape, value: ({ uniform }) => Math.floor(uniform * 7) - 1 },
      ],
      build: (t) => oneHot(t[s.counts.length], 5),
    })),
  },
  {
    op: constantOp.name,
    cases: fixedShape().map((shape) => unary({ shape, counts: [] }, (x) => add(x, constantOf(x, 0.5, shape)))),
  },
];

const constantOf = (like: Tensor, value: number, shape: readonly number[]): Tensor =>
  like.builder.emit('constant', [], { value, dtype: like.dtype, shape })[0];
