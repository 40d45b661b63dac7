// Cases of ops that work on rows: softmax, norms, cross-entropy, gathers, parts of axes, dropout, rotation.
import fc from 'fast-check';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { concat } from '../../../src/graph/ops/shape/concat.ts';
import { crossEntropy } from '../../../src/graph/ops/reduce/crossEntropy.ts';
import { dropout } from '../../../src/graph/ops/create/dropout.ts';
import { roundStochastic } from '../../../src/graph/ops/create/roundStochastic.ts';
import { gather } from '../../../src/graph/ops/shape/gather.ts';
import { layerNorm } from '../../../src/graph/ops/reduce/layerNorm.ts';
import { logSumExp } from '../../../src/graph/ops/reduce/logSumExp.ts';
import { max } from '../../../src/graph/ops/reduce/max.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { div } from '../../../src/graph/ops/elementwise/div.ts';
import { pad } from '../../../src/graph/ops/shape/pad.ts';
import { rmsNorm } from '../../../src/graph/ops/reduce/rmsNorm.ts';
import { rope } from '../../../src/graph/ops/attention/rope.ts';
import { permute } from '../../../src/graph/ops/moe/permute.ts';
import { scatterAdd } from '../../../src/graph/ops/shape/scatterAdd.ts';
import { silu } from '../../../src/graph/ops/elementwise/silu.ts';
import { slice } from '../../../src/graph/ops/shape/slice.ts';
import { softmax } from '../../../src/graph/ops/reduce/softmax.ts';
import { sum } from '../../../src/graph/ops/reduce/sum.ts';
import { putAlong, takeAlong } from '../../../src/graph/ops/shape/takeAlong.ts';
import { emit, emit1, type Tensor } from '../../../src/graph/tensor.ts';
import type { Case, DimSpec, InputSpec } from '../harness.ts';
import { anyShape, fixedShape, size, someSize, volume, type AnyShape, type Family } from '../shapes.ts';
import { axesOf, bound, unary } from './shaping.ts';

/** Random shapes [...lead, last]. */
export const rowsOf = (last = someSize): fc.Arbitrary<AnyShape & { last: number; lead: readonly DimSpec[] }> =>
  fc
    .tuple(anyShape(0, 3), last)
    .filter(([s, n]) => volume(s.shape) * n <= 12_000)
    .map(([s, last]) => ({ counts: s.counts, lead: s.shape, last, shape: [...s.shape, last] }));

/** Whole numbers from `from` to `to`, both included. */
export const whole =
  (from: number, to: number): NonNullable<InputSpec['value']> =>
  ({ uniform }) =>
    from + Math.floor(uniform * (to - from + 1));

/** Distinct values, so that the largest is unique. */
export const distinct: NonNullable<InputSpec['value']> = ({ uniform }, i) =>
  ((i * 7919) % 10_007) / 1000 + uniform * 0.001;

export const parts = anyShape(1, 4)
  .chain((s) => {
    const free = s.shape.flatMap((d, i) => (typeof d === 'number' ? [i] : []));
    return fc.tuple(fc.constantFrom(...(free.length ? free : [-1])), fc.nat(1000), fc.nat(1000)).map(([axis, a, b]) => {
      const n = axis < 0 ? 0 : bound(s.shape[axis]),
        cut = [a % (n + 1), b % (n + 1)].sort((x, y) => x - y);
      return { s, axis, from: cut[0], to: cut[1] };
    });
  })
  .filter((p) => p.axis >= 0);

const glued = anyShape(1, 4)
  .chain((s) => {
    const free = s.shape.flatMap((d, i) => (typeof d === 'number' ? [i] : []));
    return fc
      .tuple(fc.constantFrom(...(free.length ? free : [-1])), fc.array(size, { minLength: 2, maxLength: 4 }))
      .map(([axis, lengths]) => ({ s, axis, lengths }));
  })
  .filter(
    (p) =>
      p.axis >= 0 && volume(p.s.shape.filter((_, i) => i !== p.axis)) * p.lengths.reduce((a, b) => a + b) <= 12_000,
  );

/** Cases with a table of V rows and indices into it, some of which repeat. */
const tables = (build: (index: Tensor, table: Tensor, rows: Tensor) => Tensor, low: number): fc.Arbitrary<Case> =>
  fc
    .tuple(anyShape(0, 3), fc.constantFrom(1, 2, 7, 64, 200), fixedShape(0, 2))
    .filter(([s, v, rest]) => volume(s.shape) * volume(rest) <= 12_000 && v * volume(rest) <= 12_000)
    .map(([s, v, rest]) => ({
      inputs: [
        ...s.counts,
        { name: 'index', dtype: 'int32', shape: s.shape, value: whole(low, v - 1) },
        { name: 'table', shape: [v, ...rest] },
        { name: 'rows', shape: [...s.shape, ...rest] },
      ],
      build: (t) => build(t[s.counts.length], t[s.counts.length + 1], t[s.counts.length + 2]),
    }));

const along = (build: (index: Tensor, x: Tensor, values: Tensor) => Tensor, low: number): fc.Arbitrary<Case> =>
  fc.tuple(anyShape(0, 2), fc.constantFrom(1, 2, 3, 8, 16), fc.constantFrom(0, 1, 2, 3, 17, 40)).map(([s, n, k]) => ({
    inputs: [
      ...s.counts,
      { name: 'index', dtype: 'int32', shape: [...s.shape, k], value: whole(low, n - 1) },
      { name: 'x', shape: [...s.shape, n] },
      { name: 'values', shape: [...s.shape, k] },
    ],
    build: (t) => build(t[s.counts.length], t[s.counts.length + 1], t[s.counts.length + 2]),
  }));

const norm = (columns: number, build: (x: Tensor, ...columns: Tensor[]) => readonly Tensor[]): fc.Arbitrary<Case> =>
  rowsOf().map((s) => ({
    inputs: [
      ...s.counts,
      { name: 'x', shape: s.shape },
      ...Array.from({ length: columns }, (_, i): InputSpec => ({ name: `c${i}`, shape: [s.last] })),
    ],
    build: (t) => build(t[s.counts.length], ...t.slice(s.counts.length + 1)),
  }));

export const families: readonly Family[] = [
  {
    op: 'max',
    cases: axesOf(someSize).map(({ s, axes }) => ({
      inputs: [...s.counts, { name: 'x', shape: s.shape, value: distinct }],
      build: (t) => max(t[s.counts.length], axes),
    })),
  },
  {
    op: 'max',
    name: 'integers',
    cases: axesOf(someSize).map(({ s, axes }) => ({
      inputs: [...s.counts, { name: 'x', dtype: 'int32', shape: s.shape, value: whole(-9, -1) }],
      build: (t) => max(t[s.counts.length], axes),
    })),
  },
  {
    op: 'max',
    name: 'with NaN',
    cases: axesOf(someSize).map(({ s, axes }) => ({
      inputs: [
        ...s.counts,
        { name: 'x', shape: s.shape, grad: false, value: ({ uniform, normal }) => (uniform < 0.02 ? NaN : normal) },
      ],
      build: (t) => max(t[s.counts.length], axes),
    })),
  },
  { op: 'softmax', cases: rowsOf(size).map((s) => unary(s, (x) => softmax(mul(x, 3)))) },
  {
    op: 'softmax',
    name: 'read twice',
    cases: rowsOf().map((s) =>
      unary(s, (x) => {
        const p = softmax(x);
        return [p, sum(mul(p, p), [s.lead.length])];
      }),
    ),
  },
  { op: 'logSumExp', cases: rowsOf().map((s) => unary(s, (x) => logSumExp(mul(x, 3)))) },
  {
    op: 'logSumExp',
    name: 'infinities',
    cases: rowsOf().map((s) => ({
      inputs: [
        ...s.counts,
        {
          name: 'x',
          shape: s.shape,
          grad: false,
          value: ({ uniform, normal }, i) =>
            i % (2 * s.last) < s.last ? -Infinity : uniform < 0.1 ? Infinity : uniform < 0.3 ? -Infinity : normal,
        },
      ],
      build: (t) => logSumExp(t[s.counts.length]),
    })),
  },
  {
    op: 'logSumExp',
    name: 'of a counted axis',
    cases: fc.constantFrom([4, 0], [4, 1], [4, 3], [4, 4], [100, 37]).map(([bound, n]) => ({
      inputs: [
        { name: 'n', dtype: 'int32', shape: [], data: [n] },
        { name: 'x', shape: [{ bound, count: 'n' }], grad: n > 0 },
      ],
      build: ([, x]) => logSumExp(mul(x, 3)),
    })),
  },
  { op: 'rmsNorm', cases: norm(1, (x, gain) => emit('rmsNorm', [x, gain], { eps: 1e-2 })) },
  {
    op: 'rmsNorm',
    name: 'after a residual',
    cases: norm(1, (x, gain) => {
      const y = add(x, silu(x));
      return [rmsNorm(y, gain, 0.01), y];
    }),
  },
  { op: 'layerNorm', cases: norm(2, (x, gain, bias) => emit('layerNorm', [x, gain, bias], { eps: 1e-2 })) },
  { op: 'layerNorm', name: 'alone', cases: norm(2, (x, gain, bias) => [layerNorm(mul(x, 2), gain, bias, 0.1)]) },
  {
    op: 'crossEntropy',
    cases: rowsOf().map((s) => ({
      inputs: [
        ...s.counts,
        { name: 'x', shape: s.shape },
        { name: 'y', dtype: 'int32', shape: s.lead, value: whole(0, s.last - 1) },
      ],
      build: (t) => emit('crossEntropy', t.slice(s.counts.length)),
    })),
  },
  {
    op: 'crossEntropy',
    name: 'targets outside',
    cases: rowsOf().map((s) => ({
      inputs: [
        ...s.counts,
        { name: 'x', shape: s.shape, grad: false },
        { name: 'y', dtype: 'int32', shape: s.lead, value: whole(-2, s.last + 1) },
      ],
      build: (t) => crossEntropy(t[s.counts.length], t[s.counts.length + 1]),
    })),
  },
  { op: 'slice', cases: parts.map(({ s, axis, from, to }) => unary(s, (x) => slice(x, axis, from, to))) },
  {
    op: 'slice',
    name: 'two of one',
    cases: parts.map(({ s, axis, from }) =>
      unary(s, (x) => {
        const n = bound(s.shape[axis]) - from;
        const [a, b] = [slice(x, axis, 0, n), slice(x, axis, from, from + n)];
        return mul(silu(a), b);
      }),
    ),
  },
  { op: 'pad', cases: parts.map(({ s, axis, from, to }) => unary(s, (x) => pad(x, axis, from, to))) },
  {
    op: 'pad',
    name: 'rows of two columns',
    runs: 2,
    cases: fc.constant(unary({ shape: [31, 2], counts: [] }, (x) => pad(x, 0, 1, 1))),
  },
  {
    op: 'concat',
    cases: glued.map(({ s, axis, lengths }) => ({
      inputs: [
        ...s.counts,
        ...lengths.map((n, i): InputSpec => ({ name: `x${i}`, shape: s.shape.map((d, k) => (k === axis ? n : d)) })),
      ],
      build: (t) => concat(t.slice(s.counts.length), axis),
    })),
  },
  {
    op: 'concat',
    name: 'of what is computed',
    cases: parts.map(({ s, axis }) => unary(s, (x) => concat([mul(x, x), x, add(x, 1)], axis))),
  },
  { op: 'gather', cases: tables((index, table) => gather(table, index), 0), runs: 12 },
  {
    op: 'gather',
    name: 'outside',
    cases: tables((index, table) => gather(mul(table, 2), index), -1).map((c) => ({
      ...c,
      inputs: c.inputs.map((i) => ({ ...i, grad: false })),
    })),
  },
  { op: 'scatterAdd', cases: tables((index, table, rows) => scatterAdd(index, rows, table), -1), runs: 12 },
  {
    op: 'sortInGroups',
    runs: 16,
    cases: fc
      .tuple(fc.constantFrom(0, 1, 17, 50, 300), fc.constantFrom(1, 5, 31, 100), fc.constantFrom(1, 2, 7, 40))
      .map(([n, rows, height]) => ({
        inputs: [{ name: 'index', dtype: 'int32', shape: [n, 1], value: whole(-3, rows + 3) }],
        build: ([index]) => {
          const { order, offsets } = permute(div(index, height), Math.ceil(rows / height));
          return emit('sortInGroups', [index, order, offsets], { rows, height });
        },
      })),
  },
  { op: 'takeAlong', cases: along((index, x) => takeAlong(x, index), 0) },
  { op: 'putAlong', cases: along((index, x, values) => putAlong(index, values, x), -1) },
  {
    op: 'dropout',
    cases: anyShape().map((s) => ({
      inputs: [
        ...s.counts,
        { name: 'seed', dtype: 'uint32', shape: [], data: [123_456_789] },
        { name: 'step', dtype: 'uint32', shape: [], data: [4_000_000_000] },
        { name: 'x', shape: s.shape },
      ],
      build: (t) => {
        const [seed, step, x] = t.slice(s.counts.length);
        return [
          dropout(x, seed, step, { rate: 0.3, key: 0xdeadbeef }),
          dropout(add(x, x), seed, step, { rate: 0.5, key: 7 }),
        ];
      },
    })),
  },
  {
    op: 'dropout',
    name: 'from an element on',
    cases: fc.tuple(anyShape(), fc.constantFrom(0, 12, 4_294_967_290)).map(([s, from]) => ({
      inputs: [
        ...s.counts,
        ...['seed', 'step', 'first'].map((name): InputSpec => ({
          name,
          dtype: 'uint32',
          shape: [],
          data: [name === 'first' ? from : 5],
        })),
        { name: 'x', shape: s.shape },
      ],
      build: (t) => {
        const [seed, step, first, x] = t.slice(s.counts.length);
        return dropout(mul(x, 2), seed, step, { rate: 0.3, key: 9 }, first);
      },
    })),
  },
  {
    op: 'roundStochastic',
    cases: fc.tuple(anyShape(), fc.constantFrom(0, 1)).map(([s, half]) => ({
      inputs: [
        ...s.counts,
        { name: 'seed', dtype: 'uint32', shape: [], data: [123_456_789] },
        { name: 'step', dtype: 'uint32', shape: [], data: [4_000_000_000] },
        { name: 'x', shape: s.shape, grad: false },
      ],
      build: (t) => {
        const [seed, step, x] = t.slice(s.counts.length);
        return roundStochastic(x, seed, step, { key: 0xdeadbeef, half });
      },
    })),
  },
  {
    op: 'roundStochastic',
    name: 'some rows of a tensor',
    cases: fixedShape(1, 3).map((shape) => ({
      inputs: [
        { name: 'seed', dtype: 'uint32', shape: [], data: [5] },
        { name: 'step', dtype: 'uint32', shape: [], data: [6] },
        { name: 'x', shape, grad: false },
        { name: 'rows', dtype: 'int32', shape: [shape[0]], value: ({ uniform }) => Math.floor(uniform * 1e9) },
      ],
      build: ([seed, step, x, rows]) => emit1('roundStochastic', [x, seed, step, rows], { key: 7, half: 1 }),
    })),
  },
  {
    op: 'rope',
    cases: fc
      .tuple(
        fixedShape(0, 2, someSize),
        fc.constantFrom(1, 3, 8),
        fc.constantFrom(1, 2, 4),
        fc.constantFrom(2, 6, 16, 32),
      )
      .filter(([lead, t, h, w]) => volume(lead) * t * h * w <= 12_000)
      .map(([lead, time, heads, width]) => ({
        inputs: [
          { name: 'x', shape: [...lead, time, heads, width] },
          { name: 'cos', shape: [time, width / 2] },
          { name: 'sin', shape: [time, width / 2] },
        ],
        build: ([x, cos, sin]) => rope(mul(x, 1.5), cos, sin),
      })),
  },
];
