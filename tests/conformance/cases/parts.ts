// Cases of sums in parts: products, sums over rows, gradients of convolutions, sums into the rows of a table. There are
// fewer samples than parts, as many, and more.
import fc from 'fast-check';
import { gelu } from '../../../src/graph/ops/elementwise/gelu.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { relu } from '../../../src/graph/ops/elementwise/relu.ts';
import { scatterAddParts } from '../../../src/graph/ops/shape/scatterAddParts.ts';
import { emit1 } from '../../../src/graph/tensor.ts';
import type { DimSpec, InputSpec } from '../harness.ts';
import type { Family } from '../shapes.ts';
import { whole } from './rows.ts';

const counts = fc.constantFrom(0, 1, 2, 3, 5, 7, 8, 9, 12, 16, 21, 40);
const some = fc.constantFrom(1, 2, 5, 16, 33);
const cut = fc.record({ parts: fc.constantFrom(2, 4, 8, 16), sample: fc.constantFrom(1, 2, 3, 7) });

/** Numbers of samples and rows of each. */
const samples = fc
  .tuple(cut, counts, some, some)
  .map(([how, count, m, n]) => ({ how, rows: count * how.sample, m, n }));

/** A dimension of a fixed size, or counted at run time; then samples have one row. */
const rows = fc.tuple(cut, counts, fc.constantFrom(null, 0, 0.4, 1)).map(([how, count, share]) => {
  const bound = Math.max(1, count);
  return share === null
    ? { how, dim: count * how.sample, count: [] as InputSpec[] }
    : {
        how: { ...how, sample: 1 },
        dim: { bound, count: 'n' } satisfies DimSpec,
        count: [{ name: 'n', dtype: 'int32', shape: [], data: [Math.round(share * bound)] } satisfies InputSpec],
      };
});

export const families: readonly Family[] = [
  {
    op: 'matmul',
    name: 'in parts',
    runs: 12,
    cases: samples.map(({ how, rows: k, m, n }) => ({
      inputs: [
        { name: 'a', shape: [k, m] },
        { name: 'b', shape: [k, n] },
      ],
      build: ([x, y]) => emit1('matmul', [gelu(x), y], { transA: true, transB: false, ...how }),
    })),
  },
  {
    op: 'matmul',
    name: 'in parts, for several matrices',
    cases: samples.map(({ how, rows: k, m, n }) => ({
      inputs: [
        { name: 'a', shape: [2, m, k] },
        { name: 'b', shape: [2, n, k] },
      ],
      build: ([x, y]) => relu(emit1('matmul', [x, y], { transA: false, transB: true, ...how })),
    })),
  },
  {
    op: 'matmul',
    name: 'counted depth in parts',
    cases: fc.tuple(rows, some, some).map(([{ how, dim, count }, m, n]) => ({
      inputs: [...count, { name: 'a', shape: [dim, m] }, { name: 'b', shape: [dim, n] }],
      build: (all) => emit1('matmul', all.slice(count.length), { transA: true, transB: false, ...how }),
    })),
  },
  {
    op: 'sum',
    name: 'in parts',
    runs: 16,
    cases: fc.tuple(rows, fc.constantFrom<readonly number[]>([], [7], [1], [3, 70])).map(([r, rest]) => ({
      inputs: [...r.count, { name: 'x', shape: [r.dim, ...rest] }],
      build: (all) => emit1('sum', [mul(all[r.count.length], 3)], { axes: [0], ...r.how }),
    })),
  },
  {
    op: 'sum',
    name: 'in parts, over two axes',
    runs: 8,
    cases: samples.map(({ how, rows: k, m, n }) => ({
      inputs: [{ name: 'x', shape: [k, m, n] }],
      build: ([x]) => gelu(emit1('sum', [x], { axes: [0, 1], ...how })),
    })),
  },
  {
    op: 'sum',
    name: 'in parts, over a middle axis and long ranges',
    runs: 3,
    cases: fc.constantFrom([2, 9, 5], [1, 8, 33], [3, 2, 1]).map(([lead, count, n]) => ({
      inputs: [{ name: 'x', shape: [lead, count * 1100, n], grad: false }],
      build: ([x]) => emit1('sum', [x], { axes: [1], parts: 8, sample: 1100 }),
    })),
  },
  {
    op: 'conv2dGradWeight',
    name: 'in parts',
    runs: 8,
    cases: fc.tuple(rows, fc.constantFrom(1, 3), fc.constantFrom(1, 5)).map(([{ how, dim, count }, i, o]) => ({
      inputs: [...count, { name: 'x', shape: [dim, 4, 3, i] }, { name: 'dy', shape: [dim, 3, 2, o] }],
      build: (all) =>
        emit1('conv2dGradWeight', all.slice(count.length), {
          stride: [1, 1],
          padding: [0, 0, 0, 0],
          dilation: [1, 1],
          groups: 1,
          taps: [2, 2],
          ...how,
        }),
    })),
  },
  {
    op: 'depthwise2dGradWeight',
    name: 'in parts',
    runs: 8,
    cases: fc.tuple(rows, fc.constantFrom(1, 3)).map(([{ how, dim, count }, c]) => ({
      inputs: [...count, { name: 'x', shape: [dim, 4, 3, c] }, { name: 'dy', shape: [dim, 3, 2, c] }],
      build: (all) =>
        emit1('depthwise2dGradWeight', all.slice(count.length), {
          stride: [1, 1],
          padding: [0, 0, 0, 0],
          dilation: [1, 1],
          taps: [2, 2],
          ...how,
        }),
    })),
  },
  {
    op: 'scatterAddParts',
    runs: 16,
    cases: fc
      .tuple(
        rows,
        fc.constantFrom<readonly number[]>([], [3]),
        fc.constantFrom(1, 4, 9, 40),
        fc.constantFrom(1, 5, 130),
      )
      .map(([{ how, dim, count }, rest, table, width]) => ({
        inputs: [
          ...count,
          { name: 'index', dtype: 'int32', shape: [dim, ...rest], value: whole(-2, table) },
          { name: 'table', shape: [table, width], grad: false },
          { name: 'x', shape: [dim, ...rest, width] },
        ],
        build: (all) => {
          const [index, like, x] = all.slice(count.length);
          return scatterAddParts(index, x, like, how);
        },
      })),
  },
  {
    op: 'scatterAddParts',
    name: 'into many rows',
    runs: 2,
    cases: fc.constantFrom(2000, 3000).map((table) => ({
      inputs: [
        { name: 'index', dtype: 'int32', shape: [30], value: whole(0, table) },
        { name: 'table', shape: [table, 2], grad: false },
        { name: 'x', shape: [30, 2] },
      ],
      build: ([index, like, x]) => scatterAddParts(index, x, like, { parts: 8, sample: 3 }),
    })),
  },
  {
    op: 'scatterAddParts',
    name: 'into groups of rows',
    cases: fc
      .tuple(
        fc.constantFrom(0, 1, 5, 40),
        fc.constantFrom(1, 2, 9, 30),
        fc.constantFrom(1, 4, 7),
        fc.constantFrom(1, 16, 130),
      )
      .map(([n, rows, most, width]) => ({
        inputs: [
          { name: 'index', dtype: 'int32', shape: [n], value: whole(-2, rows + 2) },
          { name: 'table', shape: [rows, width], grad: false },
          { name: 'x', shape: [n, width] },
        ],
        build: ([index, table, x]) => scatterAddParts(index, x, table, { parts: 4, sample: 1 }, most),
      })),
  },
];
