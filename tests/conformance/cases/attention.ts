// Cases of attention, its gradients, and the ops that read and write a cache of keys and values.
import fc from 'fast-check';
import { attention } from '../../../src/graph/ops/attention/attention.ts';
import { rope } from '../../../src/graph/ops/attention/rope.ts';
import { rowPosition } from '../../../src/graph/ops/attention/rowPosition.ts';
import { gather } from '../../../src/graph/ops/shape/gather.ts';
import { isFinite } from '../../../src/graph/ops/elementwise/isFinite.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { slice } from '../../../src/graph/ops/shape/slice.ts';
import { readRows } from '../../../src/graph/ops/shape/readRows.ts';
import { updateRows } from '../../../src/graph/ops/shape/updateRows.ts';
import { where } from '../../../src/graph/ops/elementwise/where.ts';
import { emit, emit1, scalar } from '../../../src/graph/tensor.ts';
import type { Case, DimSpec, InputSpec } from '../harness.ts';
import { anyShape, volume, type Family } from '../shapes.ts';

/** Sizes of q, k and v. The position of the last query is before, at or after the last key. */
const shapes = fc
  .record({
    batch: fc.constantFrom(0, 1, 2, 3),
    queries: fc.constantFrom(0, 1, 1, 2, 7, 16, 17, 33, 70, 130),
    before: fc.constantFrom(0, 0, 0, 1, 5, 63, 64, 100),
    after: fc.constantFrom(-2, 0, 0, 1, 9, 80),
    shared: fc.constantFrom(1, 1, 2, 3),
    heads: fc.constantFrom(1, 2, 4),
    width: fc.constantFrom(1, 3, 4, 8, 9, 16, 32),
    causal: fc.boolean(),
  })
  .map((s) => ({
    ...s,
    keys: Math.max(1, s.before + s.queries + s.after),
    q: [s.batch, s.queries, s.heads * s.shared, s.width],
  }))
  .filter((s) => volume(s.q) * s.keys < 400_000 && s.batch * s.keys * s.heads * s.width < 12_000);
type Shape = typeof shapes extends fc.Arbitrary<infer S> ? S : never;

const inputs = (s: Shape): InputSpec[] => {
  const kv = [s.batch, s.keys, s.heads, s.width];
  return [
    { name: 'start', dtype: 'int32', shape: [], data: [s.before] },
    { name: 'q', shape: s.q },
    { name: 'k', shape: kv },
    { name: 'v', shape: kv },
  ];
};

/**
 * Sizes with a mask (bool or bias, with broadcast dimensions, hiding none to all keys) and lengths (from 0 to all
 * keys).
 */
const masked = fc
  .tuple(
    shapes,
    fc.record({
      kind: fc.constantFrom('none', 'bool', 'bool', 'bias', 'bias'),
      ones: fc.array(fc.boolean(), { minLength: 4, maxLength: 4 }),
      share: fc.constantFrom(0, 0.3, 0.9, 1),
      lengths: fc.boolean(),
    }),
  )
  .filter(([, m]) => m.kind !== 'none' || m.lengths)
  .map(([s, m]): Masked => {
    const shape = [s.batch, s.heads * s.shared, s.queries, s.keys].map((n, i) => (m.ones[i] ? 1 : n));
    const bias = ({ uniform, normal }: { uniform: number; normal: number }): number =>
      uniform < m.share ? normal : -Infinity;
    return {
      s,
      attrs: { ...(m.kind !== 'none' && { masked: true }), ...(m.lengths && { lengths: true }) },
      extras: [
        ...(m.kind === 'bool'
          ? [
              {
                name: 'mask',
                dtype: 'bool' as const,
                shape,
                value: ({ uniform }: { uniform: number }) => (uniform < m.share ? 1 : 0),
              },
            ]
          : []),
        ...(m.kind === 'bias' ? [{ name: 'mask', shape, value: bias }] : []),
        ...(m.lengths
          ? [
              {
                name: 'lengths',
                dtype: 'int32' as const,
                shape: [s.batch],
                value: ({ uniform }: { uniform: number }) => Math.floor(uniform * (s.keys + 3)) - 1,
              },
            ]
          : []),
      ],
    };
  });
interface Masked {
  readonly s: Shape;
  readonly attrs: { readonly masked?: boolean; readonly lengths?: boolean };
  readonly extras: readonly InputSpec[];
}

/**
 * Cases of the gradient ops. lse comes from the forward op, since with random numbers the weights would not sum to 1.
 */
const gradient = (op: 'attentionGradQ' | 'attentionGradKV' | 'attentionGrad'): Family => ({
  op,
  runs: 12,
  cases: shapes.map((s) => ({
    inputs: [...inputs(s), { name: 'delta', shape: s.q.slice(0, 3) }, { name: 'dout', shape: s.q }].map((i) => ({
      ...i,
      grad: false,
    })),
    build: ([start, q, k, v, delta, dout]) => {
      const attrs = { causal: s.causal, scale: 0.3 },
        [, lse] = emit('attention', [q, k, v, start], attrs);
      return emit(op, [q, k, v, start, lse, delta, dout], attrs);
    },
  })),
});

const maskedGradient = (op: 'attentionGradQ' | 'attentionGradKV' | 'attentionGrad'): Family => ({
  op,
  name: 'with masks',
  runs: 12,
  cases: masked.map(({ s, attrs: given, extras }) => ({
    inputs: [...inputs(s), { name: 'delta', shape: s.q.slice(0, 3) }, { name: 'dout', shape: s.q }, ...extras].map(
      (i) => ({ ...i, grad: false }),
    ),
    build: ([start, q, k, v, delta, dout, ...masks]) => {
      const attrs = { causal: s.causal, scale: 0.3, ...given },
        [, lse] = emit('attention', [q, k, v, start, ...masks], attrs);
      return emit(op, [q, k, v, start, lse, delta, dout, ...masks], attrs);
    },
  })),
});

/** Rows segmented by sample: samples of several lengths, some empty, also in the middle. */
const samples = fc
  .record({
    lengths: fc.array(fc.constantFrom(0, 0, 1, 2, 7, 15, 16, 17, 33, 64, 65, 70, 130), { minLength: 1, maxLength: 6 }),
    more: fc.constantFrom(0, 0, 1, 20),
    shared: fc.constantFrom(1, 1, 2, 3),
    heads: fc.constantFrom(1, 2, 4),
    width: fc.constantFrom(1, 3, 4, 8, 9, 16, 32),
    causal: fc.boolean(),
  })
  .map((s) => {
    const ends = s.lengths.map((_, i) => s.lengths.slice(0, i + 1).reduce<number>((n, l) => n + l, 0)),
      rows: DimSpec = { bound: ends[ends.length - 1] + s.more, segments: s.lengths.length, offsets: 'offsets' };
    return { ...s, offsets: [0, ...ends], rows, q: [rows, s.heads * s.shared, s.width] };
  })
  .filter((s) => volume(s.q) * Math.max(...s.lengths) < 100_000 && volume(s.q) < 6_000);
type Samples = typeof samples extends fc.Arbitrary<infer S> ? S : never;

const rowInputs = (s: Samples): InputSpec[] => {
  const kv = [s.rows, s.heads, s.width];
  return [
    { name: 'offsets', dtype: 'int32', shape: [s.offsets.length], data: s.offsets },
    { name: 'q', shape: s.q },
    { name: 'k', shape: kv },
    { name: 'v', shape: kv },
  ];
};

const rowGradient = (op: 'attentionGradQ' | 'attentionGradKV' | 'attentionGrad'): Family => ({
  op,
  name: 'rows of samples',
  runs: 16,
  cases: samples.map((s) => ({
    inputs: [...rowInputs(s), { name: 'delta', shape: s.q.slice(0, 2) }, { name: 'dout', shape: s.q }].map((i) => ({
      ...i,
      grad: false,
    })),
    build: ([offsets, q, k, v, delta, dout]) => {
      const attrs = { causal: s.causal, scale: 0.3 },
        [, lse] = emit('attention', [q, k, v, offsets], attrs);
      return emit(op, [q, k, v, offsets, lse, delta, dout], attrs);
    },
  })),
});

/** The rows of one sequence, and a cache. */
const cached = fc
  .record({
    rows: fc.constantFrom(0, 1, 1, 2, 7, 16, 17, 33),
    more: fc.constantFrom(0, 1, 20),
    segmented: fc.boolean(),
    before: fc.constantFrom(0, 0, 1, 5, 63, 64, 100),
    after: fc.constantFrom(0, 1, 9),
    shared: fc.constantFrom(1, 1, 2, 3),
    heads: fc.constantFrom(1, 2),
    width: fc.constantFrom(1, 3, 8, 16),
    causal: fc.boolean(),
  })
  .map((s): Case => {
    const bound = s.rows + s.more,
      rows: DimSpec = s.segmented ? { bound, segments: 1, offsets: 'count' } : { bound, count: 'count' },
      kv = [1, s.before + s.rows + s.after + 1, s.heads, s.width];
    const count: Omit<InputSpec, 'name'> = s.segmented
      ? { dtype: 'int32', shape: [2], data: [0, s.rows] }
      : { dtype: 'int32', shape: [], data: [s.rows] };
    return {
      inputs: [
        { name: 'count', ...count },
        { name: 'start', dtype: 'int32', shape: [], data: [s.before] },
        { name: 'q', shape: [rows, s.heads * s.shared, s.width], grad: false },
        { name: 'k', shape: kv, grad: false },
        { name: 'v', shape: kv, grad: false },
      ],
      build: ([, start, q, k, v]) => attention(q, k, v, s.causal ? start : 0, { causal: s.causal }),
    };
  });

const caches = fc.record({
  batch: fc.constantFrom(1, 2),
  size: fc.constantFrom(0, 1, 5, 16),
  steps: fc.constantFrom(0, 1, 3),
  start: fc.constantFrom(-1, 0, 2, 14),
  rest: fc.constantFrom([], [3], [2, 8]),
});

const cache = (s: typeof caches extends fc.Arbitrary<infer C> ? C : never): InputSpec[] => [
  { name: 'start', dtype: 'int32', shape: [], data: [s.start] },
  { name: 'cache', shape: [s.batch, s.size, ...s.rest] },
  { name: 'rows', shape: [s.batch, s.steps, ...s.rest] },
];

/** A cache, and rows of one sequence, whose number varies. */
const countedCaches = fc
  .record({
    size: fc.constantFrom(0, 1, 5, 16),
    rows: fc.constantFrom(0, 1, 3, 7),
    more: fc.constantFrom(0, 1, 4),
    start: fc.constantFrom(-1, 0, 2, 14),
    segmented: fc.boolean(),
    rest: fc.constantFrom([], [3], [2, 8]),
  })
  .map((s): InputSpec[] => {
    const bound = s.rows + s.more,
      first: DimSpec = s.segmented ? { bound, segments: 1, offsets: 'count' } : { bound, count: 'count' };
    return [
      {
        name: 'count',
        dtype: 'int32',
        ...(s.segmented ? { shape: [2], data: [0, s.rows] } : { shape: [], data: [s.rows] }),
      },
      { name: 'start', dtype: 'int32', shape: [], data: [s.start] },
      { name: 'cache', shape: [1, s.size, ...s.rest] },
      { name: 'rows', shape: [first, ...s.rest] },
    ];
  });

export const families: readonly Family[] = [
  {
    op: 'attention',
    runs: 16,
    cases: shapes.map((s) => ({
      inputs: inputs(s),
      // The squares add to the gradients of q and k: if a query sees one key, these are 0, and rounding errors would
      // have no number to be compared with.
      build: ([start, q, k, v]) => [
        attention(q, k, v, s.causal ? start : 0, { causal: s.causal }),
        mul(q, q),
        mul(k, k),
      ],
    })),
  },
  {
    op: 'attention',
    name: 'with its log-sum-exp',
    cases: shapes.map((s) => ({
      inputs: inputs(s),
      build: ([start, q, k, v]) =>
        emit('attention', [mul(q, 2), k, mul(v, k), start], { causal: s.causal, scale: 0.7 }),
    })),
  },
  {
    op: 'attention',
    name: 'log-sum-exp alone',
    cases: shapes.map((s) => ({
      inputs: inputs(s),
      build: ([start, q, k, v]) => emit('attention', [q, k, v, start], { causal: s.causal, scale: 0.5 })[1],
    })),
  },
  {
    op: 'attention',
    name: 'with masks',
    runs: 24,
    cases: masked.map(({ s, attrs, extras }) => ({
      inputs: [...inputs(s), ...extras],
      build: ([start, q, k, v, ...masks]) => [
        emit('attention', [q, k, v, start, ...masks], { causal: s.causal, scale: 0.4, ...attrs })[0],
        mul(q, q),
        mul(k, k),
        ...masks
          .filter((m) => m.dtype === 'float32')
          .map((m) => {
            const x = where(isFinite(m), m, scalar(m, 0));
            return mul(x, x);
          }),
      ],
    })),
  },
  {
    op: 'attention',
    name: 'rows of samples',
    runs: 24,
    differences: 4,
    cases: samples.map((s) => ({
      inputs: rowInputs(s),
      build: ([, q, k, v]) => [attention(q, k, v, 0, { causal: s.causal }), mul(q, q), mul(k, k)],
    })),
  },
  {
    op: 'attention',
    name: 'rows of samples, with their log-sum-exp',
    differences: 4,
    cases: samples.map((s) => ({
      inputs: rowInputs(s),
      build: ([offsets, q, k, v]) =>
        emit('attention', [mul(q, 2), k, mul(v, k), offsets], { causal: s.causal, scale: 0.7 }),
    })),
  },
  {
    op: 'attention',
    name: 'log-sum-exp of rows alone',
    differences: 4,
    cases: samples.map((s) => ({
      inputs: rowInputs(s),
      build: ([offsets, q, k, v]) => emit('attention', [q, k, v, offsets], { causal: s.causal, scale: 0.5 })[1],
    })),
  },
  {
    op: 'attention',
    name: 'parts of rows',
    cases: samples.map((s) => ({
      inputs: [...rowInputs(s).slice(0, 1), { name: 'qkv', shape: [s.rows, (s.shared + 2) * s.heads, s.width] }],
      build: ([, qkv]) => {
        const [q, k, v] = [0, s.shared, s.shared + 1].map((from, i) =>
          slice(qkv, 1, from * s.heads, (i === 0 ? s.shared : from + 1) * s.heads),
        );
        return [attention(q, k, v, 0, { causal: s.causal }), mul(qkv, qkv)];
      },
    })),
  },
  { op: 'attention', name: 'rows over a cache', runs: 16, cases: cached },
  gradient('attentionGrad'),
  gradient('attentionGradQ'),
  gradient('attentionGradKV'),
  maskedGradient('attentionGrad'),
  maskedGradient('attentionGradQ'),
  maskedGradient('attentionGradKV'),
  rowGradient('attentionGrad'),
  rowGradient('attentionGradQ'),
  rowGradient('attentionGradKV'),
  {
    op: 'updateRows',
    cases: caches.map((s) => ({
      inputs: cache(s),
      build: ([start, c, rows]) => updateRows(c, mul(rows, rows), start),
    })),
  },
  {
    op: 'updateRows',
    name: 'a varying number of rows',
    cases: countedCaches.map((inputs) => ({
      inputs,
      build: ([, start, c, rows]) => updateRows(c, mul(rows, rows), start),
    })),
  },
  {
    op: 'readRows',
    name: 'a varying number of rows',
    cases: countedCaches.map((inputs) => ({
      inputs,
      build: ([, start, c, rows]) => readRows(mul(c, c), rows, start),
    })),
  },
  {
    op: 'rope',
    name: 'rows at positions in their samples',
    cases: samples.map((s) => ({
      inputs: [
        ...rowInputs(s).slice(0, 1),
        { name: 'x', shape: [s.rows, s.heads, 2 * s.width] },
        { name: 'cos', shape: [130, s.width] },
        { name: 'sin', shape: [130, s.width] },
      ],
      build: ([, x, cos, sin]) => {
        const at = rowPosition(x);
        return rope(mul(x, 1.5), gather(cos, at), gather(sin, at));
      },
    })),
  },
  {
    op: 'rowPosition',
    cases: anyShape(1, 3)
      .filter((s) => s.counts.length > 0)
      .map((s) => ({
        inputs: [...s.counts, { name: 'x', shape: s.shape }],
        build: (t) => rowPosition(t[s.counts.length]),
      })),
  },
  {
    op: 'readRows',
    cases: caches.map((s) => ({
      inputs: cache(s),
      build: ([start, c, rows]) => readRows(emit1('mul', [c, c]), rows, start),
    })),
  },
];
