// Cases of the ops of a mixture-of-experts layer: choosing experts, sorting by expert, rows in segments, grouped
// products.
import fc from 'fast-check';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { collect } from '../../../src/graph/ops/moe/collect.ts';
import { combine } from '../../../src/graph/ops/moe/combine.ts';
import { dispatch } from '../../../src/graph/ops/moe/dispatch.ts';
import { gelu } from '../../../src/graph/ops/elementwise/gelu.ts';
import { groupedMatmul } from '../../../src/graph/ops/matmul/groupedMatmul.ts';
import { groupedOuter } from '../../../src/graph/ops/matmul/groupedOuter.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { permute, type Permutation } from '../../../src/graph/ops/moe/permute.ts';
import { segmentExpand } from '../../../src/graph/ops/moe/segmentExpand.ts';
import { segmentSum } from '../../../src/graph/ops/moe/segmentSum.ts';
import { softmax } from '../../../src/graph/ops/reduce/softmax.ts';
import { topK } from '../../../src/graph/ops/reduce/topK.ts';
import { emit1, type Tensor } from '../../../src/graph/tensor.ts';
import type { Case, DimSpec, InputSpec } from '../harness.ts';
import type { Family } from '../shapes.ts';

/** A fixed number of tokens, or a bounded dimension with a count of 0, less than the bound, or the bound. */
interface Tokens {
  readonly dim: DimSpec;
  readonly bound: number;
  readonly counts: readonly InputSpec[];
}

export const tokens: fc.Arbitrary<Tokens> = fc
  .tuple(fc.constantFrom(0, 1, 2, 5, 16, 17, 33, 50), fc.option(fc.constantFrom(0, 0.4, 1), { freq: 2 }))
  .map(([bound, share]) =>
    share === null
      ? { dim: bound, bound, counts: [] }
      : {
          dim: { bound, count: 'n' },
          bound,
          counts: [{ name: 'n', dtype: 'int32', shape: [], data: [Math.round(share * bound)] }],
        },
  );

/** How tokens choose an expert, from a uniform number u: any expert, always the first or last, or one of two. */
type Choice = (u: number, experts: number) => number;
const any: Choice = (u, n) => Math.floor(u * n);
const choices: fc.Arbitrary<Choice> = fc.constantFrom<Choice[]>(
  any,
  any,
  any,
  () => 0,
  (_, n) => n - 1,
  (u, n) => (u < 0.1 ? 0 : n >> 1),
);

export interface Routed {
  readonly t: Tokens;
  readonly k: number;
  readonly experts: number;
  readonly width: number;
  readonly inputs: readonly InputSpec[];
}

export const routed = (choose = choices): fc.Arbitrary<Routed> =>
  fc
    .tuple(tokens, fc.constantFrom(1, 2, 3, 8), fc.constantFrom(1, 2, 5, 8, 64), fc.constantFrom(1, 7, 16, 67), choose)
    .map(([t, k, experts, width, c]) => ({
      t,
      k,
      experts,
      width,
      inputs: [
        ...t.counts,
        { name: 'indices', dtype: 'int32', shape: [t.dim, k], value: ({ uniform }) => c(uniform, experts) },
      ],
    }));

/** `more`: inputs after the indices. `build` gets these inputs and the permutation. */
const layer = (
  more: (r: Routed) => readonly InputSpec[],
  build: (p: Permutation, x: readonly Tensor[], r: Routed) => Tensor | readonly Tensor[],
): fc.Arbitrary<Case> =>
  routed().map((r) => ({
    inputs: [...r.inputs, ...more(r)],
    build: (all) => {
      const [indices, ...x] = all.slice(r.t.counts.length);
      return build(permute(indices, r.experts), x, r);
    },
  }));

const x = (r: Routed, width = r.width): InputSpec => ({ name: 'x', shape: [r.t.dim, width] });
const dispatched = (x: Tensor, p: Permutation, r: Routed): Tensor =>
  dispatch(x, p.order, p.offsets, p.inverse, { k: r.k });

const banks = layer(
  (r) => [x(r), { name: 'w', shape: [r.experts, r.width, 5] }],
  (p, [x, w], r) => groupedMatmul(dispatched(x, p, r), w),
);

/** Cases of topK over rows of scores; `value` draws a score. */
const scores = (value: InputSpec['value'], grad: boolean): fc.Arbitrary<Case> =>
  fc
    .tuple(tokens, fc.constantFrom(1, 2, 3, 8, 33, 600), fc.constantFrom(1, 2, 3, 8, 40))
    .filter(([t, n, k]) => k <= n && t.bound * n <= 12_000)
    .map(([t, n, k]) => ({
      inputs: [...t.counts, { name: 'x', shape: [t.dim, n], grad, ...(value && { value }) }],
      build: (all) => {
        const r = topK(all[t.counts.length], k);
        return [r.values, r.indices];
      },
    }));

export const families: readonly Family[] = [
  { op: 'topK', runs: 16, cases: scores(({ uniform }, i) => ((i * 7919) % 10_007) / 1000 + uniform * 0.001, true) },
  {
    op: 'topK',
    name: 'ties, NaN and infinities',
    runs: 16,
    cases: scores(
      ({ uniform, normal }) =>
        uniform < 0.05 ? NaN : uniform < 0.1 ? -Infinity : uniform < 0.15 ? Infinity : Math.round(normal),
      false,
    ),
  },
  {
    op: 'permute',
    runs: 24,
    cases: routed(
      fc.oneof(
        choices,
        fc.constant<Choice>((u, n) => Math.floor(u * (n + 4)) - 2),
      ),
    ).map((r) => ({
      inputs: r.inputs,
      // If tokens are counted at run time, rows past the count are undefined, so only offsets are compared.
      build: (all) => {
        const p = permute(all[r.t.counts.length], r.experts);
        return typeof r.t.dim === 'number' ? [p.offsets, p.order, p.inverse, p.expert] : p.offsets;
      },
    })),
  },
  {
    op: 'clampCount',
    cases: fc.constantFrom(0, 3, 1_000_000).map((bound) => ({
      inputs: [{ name: 'n', dtype: 'int32', shape: [5], data: [-7, 0, 2, 4, 2_000_000] }],
      build: ([n]) => emit1('clampCount', [n], { bound }),
    })),
  },
  {
    op: 'dispatch',
    cases: layer(
      (r) => [x(r)],
      (p, [x], r) => [dispatched(mul(x, x), p, r), dispatched(x, p, r)],
    ),
  },
  {
    op: 'dispatch',
    name: 'more choices than are written out',
    runs: 6,
    cases: tokens.map((t) => ({
      inputs: [
        ...t.counts,
        { name: 'indices', dtype: 'int32', shape: [t.dim, 18], value: ({ uniform }) => Math.floor(uniform * 3) },
        { name: 'x', shape: [t.dim, 5] },
      ],
      build: (all) => {
        const [indices, x] = all.slice(t.counts.length),
          p = permute(indices, 3);
        return dispatch(mul(x, x), p.order, p.offsets, p.inverse, { k: 18 });
      },
    })),
  },
  {
    op: 'collect',
    cases: layer(
      (r) => [x(r)],
      (p, [x], r) => {
        const y = dispatched(x, p, r);
        return collect(mul(y, y), p.inverse, p.order, x, { k: r.k });
      },
    ),
  },
  {
    op: 'combine',
    cases: layer(
      (r) => [x(r), { name: 'w', shape: [r.t.dim, r.k] }],
      (p, [x, w], r) => {
        const y = dispatched(x, p, r);
        return combine(mul(y, y), p.inverse, p.order, w);
      },
    ),
  },
  {
    op: 'combineGradRows',
    cases: layer(
      (r) => [x(r), { name: 'w', shape: [r.t.dim, r.k] }],
      (p, [x, w]) => emit1('combineGradRows', [x, w, p.order, p.offsets, p.inverse]),
    ),
  },
  {
    op: 'combineGradWeights',
    cases: layer(
      (r) => [x(r), { name: 'w', shape: [r.t.dim, r.k] }],
      (p, [x, w], r) => emit1('combineGradWeights', [x, dispatched(mul(x, 2), p, r), p.inverse, w, p.order]),
    ),
  },
  { op: 'groupedMatmul', runs: 16, cases: banks },
  {
    op: 'groupedMatmul',
    name: 'transposed',
    cases: layer(
      (r) => [x(r), { name: 'w', shape: [r.experts, 5, r.width] }],
      (p, [x, w], r) => groupedMatmul(dispatched(x, p, r), w, { transB: true }),
    ),
  },
  {
    op: 'groupedOuter',
    cases: layer(
      (r) => [x(r), { name: 'y', shape: [r.t.dim, 3] }],
      (p, [x, y], r) => groupedOuter(dispatched(x, p, r), dispatched(y, p, r)),
    ),
  },
  {
    op: 'segmentExpand',
    cases: layer(
      (r) => [x(r), { name: 'b', shape: [r.experts, r.width] }],
      (p, [x, b], r) => {
        const y = dispatched(x, p, r);
        return add(y, segmentExpand(b, p.expert, y));
      },
    ),
  },
  {
    op: 'segmentSum',
    cases: layer(
      (r) => [x(r)],
      (p, [x], r) => segmentSum(dispatched(mul(x, x), p, r), p.expert, p.offsets),
    ),
  },
  {
    op: 'groupedMatmul',
    name: 'a whole layer',
    runs: 16,
    cases: tokens
      .filter((t) => t.bound > 0)
      .map((t) => ({
        inputs: [
          ...t.counts,
          { name: 'x', shape: [t.dim, 6] },
          { name: 'router', shape: [6, 4] },
          { name: 'w1', shape: [4, 6, 9] },
          { name: 'b1', shape: [4, 9] },
          { name: 'w2', shape: [4, 9, 6] },
        ],
        build: (all) => {
          const [x, router, w1, b1, w2] = all.slice(t.counts.length);
          const { values, indices } = topK(softmax(emit1('matmul', [x, router], { transA: false, transB: false })), 2);
          const p = permute(indices, 4),
            rows = dispatch(x, p.order, p.offsets, p.inverse, { k: 2 });
          const h = groupedMatmul(rows, w1),
            y = groupedMatmul(gelu(add(h, segmentExpand(b1, p.expert, h))), w2);
          return combine(y, p.inverse, p.order, values);
        },
        kink: ([...all]) => routerMargin(all[t.counts.length], all[t.counts.length + 1]),
      })),
  },
];

/** A tenth of the smallest difference between two router logits of a token. */
function routerMargin(x: Float64Array, router: Float64Array): number {
  let margin = Infinity;
  for (let t = 0; t < x.length; t += 6) {
    const logits = [0, 1, 2, 3]
      .map((c) => [0, 1, 2, 3, 4, 5].reduce((s, d) => s + x[t + d] * router[d * 4 + c], 0))
      .sort((a, b) => a - b);
    for (let i = 1; i < 4; i++) margin = Math.min(margin, logits[i] - logits[i - 1]);
  }
  return margin * 0.1; // a step of the finite differences changes logits by up to step * |x|
}
