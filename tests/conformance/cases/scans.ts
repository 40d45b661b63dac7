// Cases of ops that sort and scan: sort, running maximum, running sum, index of the largest element, reversed axes.
import fc from 'fast-check';
import { argMax, argMin } from '../../../src/graph/ops/reduce/argMax.ts';
import { cumulativeMax } from '../../../src/graph/ops/reduce/cumulativeMax.ts';
import { cumulativeSum } from '../../../src/graph/ops/reduce/cumulativeSum.ts';
import { flip } from '../../../src/graph/ops/shape/flip.ts';
import { iota } from '../../../src/graph/ops/create/iota.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { argsort, sort } from '../../../src/graph/ops/reduce/sort.ts';
import type { DType } from '../../../src/base/dtype.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import type { Case, InputSpec } from '../harness.ts';
import { anyShape, fixedShape, type AnyShape, type Family } from '../shapes.ts';
import { distinct, parts, rowsOf, whole } from './rows.ts';
import { unary } from './shaping.ts';

type Value = NonNullable<InputSpec['value']>;

/** Values with ties, NaN, infinities and -0. */
const withNonFinite: Value = ({ uniform, normal }) =>
  uniform < 0.1
    ? NaN
    : uniform < 0.15
      ? -Infinity
      : uniform < 0.2
        ? Infinity
        : uniform < 0.25
          ? -0
          : Math.round(2 * normal) / 2;

const rows = (
  build: (x: Tensor) => Tensor | readonly Tensor[],
  value: Value,
  { dtype = 'float32', grad = false }: { dtype?: DType; grad?: boolean } = {},
): fc.Arbitrary<Case> =>
  rowsOf().map((s: AnyShape) => ({
    inputs: [...s.counts, { name: 'x', dtype, shape: s.shape, value, grad }],
    build: (t) => build(t[s.counts.length]),
  }));

const sorted =
  (descending: boolean) =>
  (x: Tensor): Tensor[] => {
    const { values, indices } = sort(x, { descending });
    return [values, indices];
  };
const running = (x: Tensor): Tensor[] => {
  const { values, indices } = cumulativeMax(x);
  return [values, indices];
};
const both = fc.record({ exclusive: fc.boolean(), reverse: fc.boolean() });

export const families: readonly Family[] = [
  { op: 'sort', cases: rows((x) => sort(mul(x, x)).values, distinct, { grad: true }) },
  {
    op: 'sort',
    name: 'descending',
    cases: rows((x) => sort(x, { descending: true }).values, distinct, { grad: true }),
  },
  { op: 'sort', name: 'ties, NaN and infinities', cases: rows(sorted(false), withNonFinite) },
  { op: 'sort', name: 'ties, NaN and infinities, descending', cases: rows(sorted(true), withNonFinite) },
  { op: 'sort', name: 'integers', cases: rows(sorted(false), whole(-3, 3), { dtype: 'int32' }) },
  {
    op: 'sort',
    name: 'long',
    runs: 4,
    cases: fc.constantFrom([1, 4097], [3, 1000], [1024], [1025]).map((shape) => ({
      inputs: [{ name: 'x', shape, value: withNonFinite, grad: false }],
      build: ([x]) => sorted(true)(x),
    })),
  },
  {
    op: 'sort',
    name: 'any axis',
    cases: fixedShape(1, 3).chain((shape) =>
      fc.nat(shape.length - 1).map((axis) => ({
        inputs: [{ name: 'x', shape, value: distinct }],
        build: ([x]) => [sort(x, { axis }).values, argsort(x, { axis, descending: true })],
      })),
    ),
  },
  { op: 'argMax', cases: rows((x) => [argMax(x), argMin(x)], withNonFinite) },
  {
    op: 'argMax',
    name: 'integers',
    cases: rows(
      (x) => [argMax(x), argMin(x)],
      ({ uniform }) => [-0x80000000, 0x7fffffff, 0, 1][Math.floor(4 * uniform)],
      { dtype: 'int32' },
    ),
  },
  {
    op: 'argMax',
    name: 'first axis',
    cases: fixedShape(2, 3)
      .filter((s) => !s.includes(0))
      .map((shape) => unary({ shape, counts: [] }, (x) => argMax(mul(x, x), 0))),
  },
  { op: 'cumulativeMax', cases: rows((x) => cumulativeMax(mul(x, 2)).values, distinct, { grad: true }) },
  { op: 'cumulativeMax', name: 'ties, NaN and infinities', cases: rows(running, withNonFinite) },
  { op: 'cumulativeMax', name: 'integers', cases: rows(running, whole(-3, 3), { dtype: 'int32' }) },
  {
    op: 'cumulativeSum',
    runs: 16,
    cases: fc
      .tuple(parts, both)
      .map(([{ s, axis }, options]) => unary(s, (x) => cumulativeSum(mul(x, x), axis, options))),
  },
  {
    op: 'cumulativeSum',
    name: 'integers',
    cases: fc.tuple(fixedShape(1, 3), both).map(([shape, options]) => ({
      inputs: [{ name: 'x', dtype: 'int32', shape, value: whole(-9, 9) }],
      build: ([x]) => cumulativeSum(x, -1, options),
    })),
  },
  {
    op: 'cumulativeSum',
    name: 'long',
    runs: 3,
    cases: fc
      .constantFrom([9000], [5000, 2], [2, 4097])
      .map((shape) =>
        unary({ shape, counts: [] }, (x) => [cumulativeSum(x, 0), cumulativeSum(x, -1, { exclusive: true })]),
      ),
  },
  { op: 'flip', cases: parts.map(({ s, axis }) => unary(s, (x) => [flip(x, axis), flip(mul(x, x), axis)])) },
  {
    op: 'iota',
    cases: anyShape(1).chain((s) => fc.nat(s.shape.length - 1).map((axis) => unary(s, (x) => iota(x, axis)))),
  },
];
