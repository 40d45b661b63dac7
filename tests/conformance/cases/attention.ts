// Cases of attention and of the cache of keys and values.
import fc from 'fast-check';
import { attention } from '../../../src/graph/ops/attention.ts';
import { mul } from '../../../src/graph/ops/mul.ts';
import { readRows } from '../../../src/graph/ops/readRows.ts';
import { updateRows } from '../../../src/graph/ops/updateRows.ts';
import { emit, emit1 } from '../../../src/graph/tensor.ts';
import type { InputSpec } from '../harness.ts';
import { volume, type Family } from '../shapes.ts';

/** q and k, v of so many heads each; the last query's position is below, at or past the last key. */
const shapes = fc.record({
  batch: fc.constantFrom(0, 1, 2, 3), queries: fc.constantFrom(0, 1, 1, 2, 7, 16, 17, 33, 70, 130), before: fc.constantFrom(0, 0, 0, 1, 5, 63, 64, 100),
  after: fc.constantFrom(-2, 0, 0, 1, 9, 80), shared: fc.constantFrom(1, 1, 2, 3), heads: fc.constantFrom(1, 2, 4), width: fc.constantFrom(1, 3, 4, 8, 9, 16, 32),
  causal: fc.boolean(),
}).map((s) => ({ ...s, keys: Math.max(1, s.before + s.queries + s.after), q: [s.batch, s.queries, s.heads * s.shared, s.width] }))
  .filter((s) => volume(s.q) * s.keys < 400_000 && s.batch * s.keys * s.heads * s.width < 12_000);
type Shape = typeof shapes extends fc.Arbitrary<infer S> ? S : never;

const inputs = (s: Shape): InputSpec[] => {
  const kv = [s.batch, s.keys, s.heads, s.width];
  return [{ name: 'start', dtype: 'int32', shape: [], data: [s.before] }, { name: 'q', shape: s.q }, { name: 'k', shape: kv }, { name: 'v', shape: kv }];
};

/** What the gradients take beside; lse is the real one, so that weights are weights. */
const gradient = (op: string): Family => ({ op, runs: 12, cases: shapes.map((s) => ({
  inputs: [...inputs(s), { name: 'delta', shape: s.q.slice(0, 3) }, { name: 'dout', shape: s.q }].map((i) => ({ ...i, grad: false })),
  build: ([start, q, k, v, delta, dout]) => {
    const attrs = { causal: s.causal, scale: 0.3 }, [, lse] = emit('attention', [q, k, v, start], attrs);
    return emit(op, [q, k, v, start, lse, delta, dout], attrs);
  } })) });

const caches = fc.record({ batch: fc.constantFrom(1, 2), size: fc.constantFrom(0, 1, 5, 16), steps: fc.constantFrom(0, 1, 3), start: fc.constantFrom(-1, 0, 2, 14),
  rest: fc.constantFrom([], [3], [2, 8]) });

const cache = (s: typeof caches extends fc.Arbitrary<infer C> ? C : never): InputSpec[] => [{ name: 'start', dtype: 'int32', shape: [], data: [s.start] },
  { name: 'cache', shape: [s.batch, s.size, ...s.rest] }, { name: 'rows', shape: [s.batch, s.steps, ...s.rest] }];

export const families: readonly Family[] = [
  { op: 'attention', runs: 16, cases: shapes.map((s) => ({ inputs: inputs(s), 
    // Squares beside, since a gradient that is 0 (where one key is seen) has no scale of its own.
    build: ([start, q, k, v]) => [attention(q, k, v, start, { causal: s.causal }), mul(q, q), mul(k, k)] })) },
  { op: 'attention', name: 'with its log-sum-exp', cases: shapes.map((s) => ({ inputs: inputs(s),
    build: ([start, q, k, v]) => emit('attention', [mul(q, 2), k, mul(v, k), start], { causal: s.causal, scale: 0.7 }) })) },
  { op: 'attention', name: 'log-sum-exp alone', cases: shapes.map((s) => ({ inputs: inputs(s),
    build: ([start, q, k, v]) => emit('attention', [q, k, v, start], { causal: s.causal, scale: 0.5 })[1] })) },
  gradient('attentionGrad'), gradient('attentionGradQ'), gradient('attentionGradKV'),
  { op: 'updateRows', cases: caches.map((s) => ({ inputs: cache(s), build: ([start, c, rows]) => updateRows(c, mul(rows, rows), start) })) },
  { op: 'readRows', cases: caches.map((s) => ({ inputs: cache(s), build: ([start, c, rows]) => readRows(emit1('mul', [c, c]), rows, start) })) },
];
