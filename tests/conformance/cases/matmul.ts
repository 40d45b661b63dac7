// Cases of matmul: all transposes, batches, rows and depths counted at run time, epilogues, computed operands.
import fc from 'fast-check';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { crossEntropy } from '../../../src/graph/ops/reduce/crossEntropy.ts';
import { gelu } from '../../../src/graph/ops/elementwise/gelu.ts';
import { matmul } from '../../../src/graph/ops/matmul/matmul.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { relu } from '../../../src/graph/ops/elementwise/relu.ts';
import { sum } from '../../../src/graph/ops/reduce/sum.ts';
import { transpose } from '../../../src/graph/ops/shape/transpose.ts';
import type { DimSpec, InputSpec } from '../harness.ts';
import { fixedShape, someSize, volume, type Family } from '../shapes.ts';

const count: InputSpec = { name: 'n', dtype: 'int32', shape: [], data: [5] };
const edge = fc.oneof(
  { weight: 6, arbitrary: fc.constantFrom(1, 2, 3, 5, 8, 15, 16, 17, 33) },
  { weight: 1, arbitrary: fc.constantFrom(0, 64, 100) },
);
const sizes = fc.tuple(edge, edge, edge).filter(([m, n, k]) => m * n + m * k + k * n < 12_000);

const products = fc
  .tuple(fixedShape(0, 2, someSize), sizes, fc.boolean(), fc.boolean())
  .filter(([lead, [m, n, k]]) => volume(lead) * (m * n + m * k + n * k) < 12_000)
  .map(([lead, [m, n, k], transA, transB]) => ({
    transA,
    transB,
    a: [...lead, ...(transA ? [k, m] : [m, k])],
    b: [...lead, ...(transB ? [n, k] : [k, n])],
  }));

/** Sizes with a count from 0 to the bound. */
const counted = fc.tuple(sizes, fc.double({ min: 0, max: 1, noNaN: true })).map(([[m, n, k], f]) => {
  const bound = Math.max(1, m),
    rows: DimSpec = { bound, count: 'n' };
  return { n, k, rows, count: { ...count, data: [Math.round(f * bound)] } };
});

/** Sizes with rows in three segments, which hold from 0 to all rows of the bound. */
const segments = fc
  .tuple(sizes, fc.array(fc.double({ min: 0, max: 1, noNaN: true }), { minLength: 3, maxLength: 3 }))
  .map(([[m, n, k], cuts]) => {
    const bound = Math.max(1, m),
      at = cuts.map((f) => Math.round(f * bound)).sort((a, b) => a - b);
    return {
      n,
      k,
      rows: { bound, segments: 3, offsets: 'n' } satisfies DimSpec,
      offsets: { name: 'n', dtype: 'int32', shape: [4], data: [0, ...at] } satisfies InputSpec,
    };
  });

export const families: readonly Family[] = [
  {
    op: 'matmul',
    runs: 16,
    cases: products.map(({ transA, transB, a, b }) => ({
      inputs: [
        { name: 'a', shape: a },
        { name: 'b', shape: b },
      ],
      build: ([x, y]) => matmul(x, y, { transA, transB }),
    })),
  },
  {
    op: 'matmul',
    name: 'one matrix for all',
    cases: fc
      .tuple(fixedShape(1, 2), sizes)
      .filter(([lead, [m, n, k]]) => volume(lead) * m * Math.max(n, k) < 12_000)
      .map(([lead, [m, n, k]]) => ({
        inputs: [
          { name: 'a', shape: [...lead, m, k] },
          { name: 'b', shape: [k, n] },
        ],
        build: ([x, y]) => matmul(x, y),
      })),
  },
  {
    op: 'matmul',
    name: 'counted rows',
    runs: 12,
    cases: counted.map(({ n, k, rows, count: c }) => ({
      inputs: [c, { name: 'a', shape: [rows, k] }, { name: 'b', shape: [k, n] }],
      build: ([, x, y]) => matmul(x, y),
    })),
  },
  // Both products use one kernel in one wave, with different counts: each step must divide its tasks by its own count.
  {
    op: 'matmul',
    name: 'counted rows, many and none',
    cases: fc.tuple(sizes, fc.constantFrom([40, 0], [0, 40], [40, 7])).map(([[, n, k], [some, others]]) => ({
      inputs: [
        { ...count, data: [some] },
        { ...count, name: 'o', data: [others] },
        { name: 'a', shape: [{ bound: 40, count: 'n' }, k] },
        { name: 'c', shape: [{ bound: 40, count: 'o' }, k] },
        { name: 'b', shape: [k, n] },
      ],
      build: ([, , x, z, y]) => [matmul(x, y), matmul(z, y)],
    })),
  },
  {
    op: 'matmul',
    name: 'counted depth',
    runs: 12,
    cases: counted.map(({ n, k, rows, count: c }) => ({
      inputs: [c, { name: 'a', shape: [rows, k] }, { name: 'b', shape: [rows, n] }],
      build: ([, x, y]) => matmul(x, y, { transA: true }),
    })),
  },
  {
    op: 'matmul',
    name: 'rows in segments, one matrix',
    runs: 6,
    cases: segments.map(({ n, k, rows, offsets }) => ({
      inputs: [offsets, { name: 'a', shape: [rows, k] }, { name: 'b', shape: [k, n] }, { name: 'c', shape: [rows, n] }],
      build: ([, x, y, z]) => [matmul(x, y), matmul(x, z, { transA: true })],
    })),
  },
  {
    op: 'matmul',
    name: 'with a layer around it',
    cases: sizes.map(([m, n, k]) => ({
      inputs: [
        { name: 'x', shape: [m, k] },
        { name: 'w', shape: [k, n] },
        { name: 'bias', shape: [n] },
        { name: 'rest', shape: [m, n] },
      ],
      build: ([x, w, bias, rest]) => add(gelu(add(matmul(gelu(x), w), bias)), rest),
    })),
  },
  {
    op: 'matmul',
    name: 'read twice',
    cases: sizes.map(([m, n, k]) => ({
      inputs: [
        { name: 'x', shape: [m, k] },
        { name: 'w', shape: [k, n] },
      ],
      build: ([x, w]) => {
        const y = matmul(x, w);
        return [mul(y, y), sum(y, [0]), sum(y, [1]), matmul(y, y, { transA: true })];
      },
    })),
  },
  {
    op: 'matmul',
    name: 'tied weights',
    cases: sizes.map(([m, , k]) => ({
      inputs: [
        { name: 'x', shape: [m, k] },
        { name: 'w', shape: [k, k] },
      ],
      build: ([x, w]) => matmul(gelu(matmul(x, w)), w, { transB: true }),
    })),
  },
  {
    op: 'matmul',
    name: 'turned operands',
    cases: sizes.map(([m, n, k]) => ({
      inputs: [
        { name: 'x', shape: [3, m, k] },
        { name: 'w', shape: [n, 3, k] },
      ],
      build: ([x, w]) => matmul(x, transpose(w, [1, 2, 0])),
    })),
  },
  {
    op: 'matmul',
    name: 'to a loss',
    cases: sizes
      .filter(([, n]) => n > 0)
      .map(([m, n, k]) => ({
        inputs: [
          { name: 'x', shape: [m, k] },
          { name: 'w', shape: [k, n] },
          { name: 'y', dtype: 'int32', shape: [m], value: ({ uniform }) => Math.floor(uniform * n) },
        ],
        build: ([x, w, y]) => crossEntropy(matmul(x, w), y),
      })),
  },
  {
    op: 'matmul',
    name: 'one row, stretched',
    runs: 2,
    cases: fc.constant({
      inputs: [
        { name: 'x', shape: [1, 3] },
        { name: 'w', shape: [3, 2] },
        { name: 'rest', shape: [1, 2] },
      ],
      build: ([x, w, rest]) => gelu(mul(matmul(x, w), rest)),
    }),
  },
  {
    op: 'relu',
    name: 'of a matmul',
    cases: sizes.map(([m, n, k]) => ({
      inputs: [
        { name: 'x', shape: [m, k], grad: false },
        { name: 'w', shape: [k, n], grad: false },
      ],
      build: ([x, w]) => relu(matmul(x, w)),
    })),
  },
];
