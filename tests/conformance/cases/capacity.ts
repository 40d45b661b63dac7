// Cases of experts with a capacity: which choices are admitted, rows with empty ones among them, experts with tensors
// of their own, random numbers.
import fc from 'fast-check';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { boundOf } from '../../../src/base/shape.ts';
import { admit, type Admission } from '../../../src/graph/ops/moe/admit.ts';
import { admitAll, type AllAdmitted } from '../../../src/graph/ops/moe/admitAll.ts';
import { collect } from '../../../src/graph/ops/moe/collect.ts';
import { combine } from '../../../src/graph/ops/moe/combine.ts';
import { combineMany } from '../../../src/graph/ops/moe/combineMany.ts';
import { dispatch } from '../../../src/graph/ops/moe/dispatch.ts';
import { expertCapacity } from '../../../src/graph/ops/moe/expertCapacity.ts';
import { groupedMatmul } from '../../../src/graph/ops/matmul/groupedMatmul.ts';
import { joinRows } from '../../../src/graph/ops/moe/joinRows.ts';
import { joinSegments } from '../../../src/graph/ops/moe/joinSegments.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { permute } from '../../../src/graph/ops/moe/permute.ts';
import { placeRows } from '../../../src/graph/ops/moe/placeRows.ts';
import { reshape } from '../../../src/graph/ops/shape/reshape.ts';
import { segmentExpand } from '../../../src/graph/ops/moe/segmentExpand.ts';
import { segmentRank } from '../../../src/graph/ops/moe/segmentRank.ts';
import { splitRows } from '../../../src/graph/ops/moe/splitRows.ts';
import { segmentCounts, splitSegments } from '../../../src/graph/ops/moe/splitSegments.ts';
import { spreadRows } from '../../../src/graph/ops/moe/spreadRows.ts';
import { stopGradient } from '../../../src/graph/ops/elementwise/stopGradient.ts';
import { uniform } from '../../../src/graph/ops/create/uniform.ts';
import { windowOffsets } from '../../../src/graph/ops/moe/windowOffsets.ts';
import { windowOf, windowRows } from '../../../src/graph/ops/moe/windowRows.ts';
import { emit1, type Tensor } from '../../../src/graph/tensor.ts';
import type { Case, InputSpec } from '../harness.ts';
import { anyShape, type Family } from '../shapes.ts';
import { routed, tokens, type Routed } from './experts.ts';

interface Limited extends Routed {
  readonly padded: boolean;
  readonly spill: boolean;
  readonly ranked: boolean;
  readonly rows: number;
}

/**
 * Capacities from 0 to more than enough, mostly too small; sometimes the total of rows is below the sum of the
 * capacities.
 */
export const limited = (most = 64): fc.Arbitrary<Limited> =>
  fc
    .tuple(
      routed().filter((r) => r.experts <= most),
      fc.boolean(),
      fc.boolean(),
      fc.boolean(),
      fc.double({ min: 0, max: 3, noNaN: true }),
      fc.constantFrom(1, 1, 1, 0.5),
    )
    .map(([r, padded, spill, ranked, factor, room]) => {
      const caps = Array.from({ length: r.experts }, (_, e) =>
          Math.round((factor * (e % 3) * r.t.bound * r.k) / r.experts),
        ),
        total = caps.reduce((a, b) => a + b, 0);
      const rows = Math.round(room * (padded ? total + (spill ? r.t.bound * r.k : 0) : r.t.bound * r.k));
      return {
        ...r,
        padded,
        spill,
        ranked,
        rows,
        inputs: [
          ...r.inputs,
          { name: 'capacity', dtype: 'int32', shape: [r.experts], data: caps },
          // Only 6 different values, so that some are equal.
          { name: 'scores', shape: [r.t.dim, r.k], grad: false, value: ({ uniform: u }) => Math.floor(u * 6) },
        ],
      };
    });

const layer = (
  more: (r: Limited) => readonly InputSpec[],
  build: (a: Admission, x: readonly Tensor[], r: Limited) => Tensor | readonly Tensor[],
  most?: number,
): fc.Arbitrary<Case> =>
  limited(most).map((r) => ({
    inputs: [...r.inputs, ...more(r)],
    build: (all) => {
      const [indices, capacity, scores, ...x] = all.slice(r.t.counts.length),
        p = permute(indices, r.experts);
      const rank = r.ranked ? segmentRank(scores, p.order, p.expert, p.offsets) : null;
      return build(admit(p, capacity, rank, { rows: r.rows, padded: r.padded, spill: r.spill }), x, r);
    },
  }));

const x = (r: Limited): InputSpec => ({ name: 'x', shape: [r.t.dim, r.width] });
const weights = (r: Limited): InputSpec => ({ name: 'w', shape: [r.t.dim, r.k] });
const dispatched = (x: Tensor, a: Admission, r: Limited): Tensor =>
  dispatch(x, a.order, a.offsets, a.inverse, { k: r.k, gaps: true });
const gaps = { gaps: true };
const withoutGradients = (c: Case): Case => ({ ...c, inputs: c.inputs.map((i) => ({ ...i, grad: false })) });
const rowsPerExpert = (rows: Tensor, a: Admission, r: Limited): Tensor[] => {
  const bounds = Array.from({ length: r.experts }, () => Math.max(r.rows, 1));
  return splitSegments(rows, segmentCounts(a.offsets, bounds), bounds);
};

interface Spilling extends Limited {
  readonly beyond: number;
  readonly size: number;
}
/** Rows within capacity, and rows beyond it in windows; there is room for all rows or for fewer. */
const spilling = (
  more: (r: Spilling) => readonly InputSpec[],
  build: (a: AllAdmitted, x: readonly Tensor[], r: Spilling) => Tensor | readonly Tensor[],
  most?: number,
): fc.Arbitrary<Case> =>
  fc.tuple(limited(most), fc.integer({ min: 1, max: 4 })).map(([l, count]) => {
    const size = Math.max(1, Math.ceil((l.t.bound * l.k) / count)),
      r: Spilling = { ...l, rows: l.rows, size, beyond: size * count };
    return {
      inputs: [...r.inputs, ...more(r)],
      build: (all) => {
        const [indices, capacity, , ...x] = all.slice(r.t.counts.length);
        return build(
          admitAll(permute(indices, r.experts), capacity, { rows: r.rows, beyond: r.beyond, padded: r.padded }),
          x,
          r,
        );
      },
    };
  });
const parts = (x: Tensor, a: AllAdmitted, r: Spilling): [Tensor, Tensor] =>
  splitRows(
    dispatch(x, a.order, a.offsets, a.inverse, { k: r.k, gaps: true }),
    a.inside.offsets,
    a.outside.offsets,
    a.outside.expert,
  );
const windows = (
  others: Tensor,
  a: AllAdmitted,
  { size, beyond }: Spilling,
): { rows: Tensor; offsets: Tensor; expert: Tensor; start: number }[] =>
  Array.from({ length: beyond / size }, (_, i) => {
    const at = { start: i * size, size },
      offsets = windowOffsets(a.outside.offsets, at);
    return { rows: windowRows(others, offsets, at), offsets, expert: windowOf(a.outside.expert, at), start: at.start };
  });

/** All capacities are 0, or there are 0 rows in total: ops must not read the row of a choice that has none. */
const noneAdmitted = fc.constantFrom(0, 7).map((rows): Case => ({
  inputs: [
    { name: 'indices', dtype: 'int32', shape: [5, 2], value: ({ uniform }) => Math.floor(uniform * 3) },
    { name: 'capacity', dtype: 'int32', shape: [3], data: [0, 0, 0] },
    { name: 'x', shape: [5, 4] },
    { name: 'w', shape: [5, 2] },
    { name: 'b', shape: [3, 4] },
  ],
  build([indices, capacity, x, w, b]) {
    const some = admit(permute(indices, 3), capacity, null, { rows, padded: false, spill: false }),
      all = admitAll(permute(indices, 3), capacity, { rows, beyond: 3, padded: false });
    const sent = dispatch(x, some.order, some.offsets, some.inverse, { k: 2, gaps: true }),
      biased = mul(add(sent, segmentExpand(b, some.expert, sent)), 2);
    const both = dispatch(x, all.order, all.offsets, all.inverse, { k: 2, gaps: true });
    return [
      combine(biased, some.inverse, some.order, w, gaps),
      combineMany(biased, some.inverse, some.order, w),
      collect(mul(sent, sent), some.inverse, some.order, x, { k: 2, gaps: true }),
      combine(mul(both, 3), all.inverse, all.order, w, gaps),
    ];
  },
}));

/** Of two experts the second has no room: the rows of the first are moved away, and back. */
const taken = fc.tuple(tokens, fc.constantFrom(1, 7, 17)).map(([t, width]): Case => ({
  inputs: [
    ...t.counts,
    { name: 'which', dtype: 'int32', shape: [t.dim, 1], value: ({ uniform }) => Math.floor(uniform * 2) },
    { name: 'capacity', dtype: 'int32', shape: [2], data: [t.bound, 0] },
    { name: 'x', shape: [t.dim, width] },
  ],
  build(all) {
    const [which, capacity, x] = all.slice(t.counts.length),
      own = admit(permute(which, 2), capacity, null, { rows: t.bound, padded: false, spill: false }),
      rows = dispatch(x, own.order, own.offsets, own.inverse, { k: 1, gaps: true });
    return [spreadRows(mul(rows, rows), own, x), spreadRows(rows, own, which)];
  },
}));

export const families: readonly Family[] = [
  { op: 'spreadRows', cases: taken, runs: 12 },
  {
    op: 'expertCapacity',
    runs: 16,
    cases: fc
      .tuple(routed(), fc.array(fc.double({ min: 0, max: 4, noNaN: true }), { minLength: 1, maxLength: 9 }), fc.nat(3))
      .map(([r, factors, more]) => ({
        inputs: [
          ...r.inputs,
          { name: 'factors', dtype: 'float64', shape: [factors.length], data: factors, grad: false },
        ],
        build: (all) => {
          const [indices, given] = all.slice(r.t.counts.length);
          return expertCapacity(given, indices, { share: factors.length + more });
        },
      })),
  },
  { op: 'admit', name: 'nobody', cases: noneAdmitted, runs: 4 },
  {
    op: 'segmentRank',
    runs: 16,
    cases: limited().map((r) => ({
      inputs: r.inputs,
      build: (all) => {
        const [indices, , scores] = all.slice(r.t.counts.length),
          p = permute(indices, r.experts);
        return segmentRank(scores, p.order, p.expert, p.offsets);
      },
    })),
  },
  {
    op: 'admit',
    runs: 16,
    cases: layer(
      () => [],
      (a, _, r) => (typeof r.t.dim === 'number' ? [a.offsets, a.inverse, a.beyond] : [a.offsets, a.beyond]),
    ),
  },
  {
    op: 'segmentExpand',
    name: 'gaps',
    cases: layer(
      (r) => [x(r), { name: 'b', shape: [r.experts, r.width] }],
      (a, [x, b], r) => {
        const y = dispatched(x, a, r);
        return add(y, segmentExpand(b, a.expert, y));
      },
    ),
  },
  {
    op: 'dispatch',
    name: 'gaps',
    runs: 16,
    cases: layer(
      (r) => [x(r)],
      (a, [x], r) => [dispatched(mul(x, x), a, r), dispatched(x, a, r)],
    ),
  },
  {
    op: 'collect',
    name: 'gaps',
    runs: 16,
    cases: layer(
      (r) => [x(r)],
      (a, [x], r) => {
        const y = dispatched(x, a, r);
        return collect(mul(y, y), a.inverse, a.order, x, { k: r.k, gaps: true });
      },
    ),
  },
  {
    op: 'combine',
    name: 'gaps',
    runs: 16,
    cases: layer(
      (r) => [x(r), weights(r)],
      (a, [x, w], r) => {
        const y = dispatched(x, a, r);
        return combine(mul(y, y), a.inverse, a.order, w, gaps);
      },
    ),
  },
  {
    op: 'combineMany',
    runs: 16,
    cases: layer(
      (r) => [x(r), weights(r)],
      (a, [x, w], r) => {
        const y = dispatched(x, a, r);
        return combineMany(mul(y, y), a.inverse, a.order, w);
      },
    ),
  },
  {
    op: 'combineGradRows',
    name: 'gaps',
    cases: layer(
      (r) => [x(r), weights(r)],
      (a, [x, w]) => emit1('combineGradRows', [x, w, a.order, a.offsets], gaps),
    ).map(withoutGradients),
  },
  {
    op: 'combineGradWeights',
    name: 'gaps',
    cases: layer(
      (r) => [x(r), weights(r)],
      (a, [x, w], r) => emit1('combineGradWeights', [x, dispatched(mul(x, 2), a, r), a.inverse, w], gaps),
    ).map(withoutGradients),
  },
  {
    op: 'groupedMatmul',
    name: 'gaps',
    cases: layer(
      (r) => [x(r), { name: 'w', shape: [r.experts, r.width, 5] }],
      (a, [x, w], r) => groupedMatmul(dispatched(x, a, r), w),
    ),
  },
  {
    op: 'admitAll',
    runs: 16,
    cases: spilling(
      () => [],
      (a, _, r) => [
        a.inside.offsets,
        a.outside.offsets,
        a.offsets,
        a.beyond,
        ...(typeof r.t.dim === 'number' ? [a.inverse] : []),
      ],
    ),
  },
  {
    op: 'splitRows',
    cases: spilling(
      (r) => [x(r)],
      (a, [x], r) => {
        const [kept, others] = parts(x, a, r);
        return [mul(kept, kept), mul(others, 3)];
      },
    ),
  },
  {
    op: 'splitRows',
    name: 'one unread',
    cases: spilling(
      (r) => [x(r)],
      (a, [x], r) => parts(mul(x, x), a, r)[1],
    ),
  },
  {
    op: 'joinRows',
    cases: spilling(
      (r) => [x(r), weights(r)],
      (a, [x, w], r) => {
        const [kept, others] = parts(x, a, r);
        return combine(joinRows(mul(kept, kept), mul(others, 3), a.offsets), a.inverse, a.order, w, gaps);
      },
    ),
  },
  {
    op: 'windowOffsets',
    cases: fc.tuple(fc.nat(40), fc.nat(40)).map(([start, size]) => ({
      inputs: [{ name: 'offsets', dtype: 'int32', shape: [5], data: [0, 4, 4, 20, 33] }],
      build: ([o]) => windowOffsets(o, { start, size }),
    })),
  },
  {
    op: 'windowRows',
    cases: spilling(
      (r) => [x(r)],
      (a, [x], r) => windows(parts(x, a, r)[1], a, r).map(({ rows }) => mul(rows, rows)),
    ),
  },
  {
    op: 'windowRows',
    name: 'numbers',
    cases: fc.nat(20).map((start) => ({
      inputs: [{ name: 'x', dtype: 'int32', shape: [30] }],
      build: ([x]) => windowOf(x, { start, size: 10 }),
    })),
  },
  {
    op: 'placeRows',
    runs: 16,
    cases: spilling(
      (r) => [x(r)],
      (a, [x], r) => {
        const others = windows(parts(x, a, r)[1], a, r).map((w) => ({ ...w, rows: mul(w.rows, w.rows) }));
        return (
          others.reduceRight<Tensor | null>(
            (done, { rows, start }) => placeRows(rows, a.outside.offsets, done, { start, rows: r.beyond }),
            null,
          ) ?? []
        );
      },
    ),
  },
  {
    op: 'groupedOuterOnto',
    runs: 16,
    cases: spilling(
      (r) => [x(r), { name: 'y', shape: [r.t.dim, 5] }, { name: 'before', shape: [r.experts, r.width, 5] }],
      (a, [x, y, before], r) => {
        const ys = parts(y, a, r)[1];
        return windows(parts(x, a, r)[1], a, r).reduce(
          (sum, { rows, offsets, start }) =>
            emit1('groupedOuterOnto', [rows, windowRows(ys, offsets, { start, size: r.size }), offsets, sum]),
          mul(before, before),
        );
      },
    ),
  },
  {
    op: 'groupedOuterOnto',
    name: 'of what others read too',
    cases: spilling(
      (r) => [x(r), { name: 'before', shape: [r.experts, r.width, r.width] }],
      (a, [x, before], r) => {
        const rows = parts(x, a, r)[1],
          { offsets } = a.outside,
          begun = mul(before, 2),
          onto = (b: Tensor): Tensor => emit1('groupedOuterOnto', [rows, rows, offsets, b]);
        return [onto(begun), onto(before), mul(begun, begun), onto(onto(reshape(begun, begun.shape.map(boundOf))))];
      },
      8,
    ),
  },
  {
    op: 'segmentSumOnto',
    runs: 16,
    cases: spilling(
      (r) => [x(r), { name: 'before', shape: [r.experts, r.width] }],
      (a, [x, before], r) =>
        windows(parts(x, a, r)[1], a, r).reduce(
          (sum, { rows, offsets, expert }) => emit1('segmentSumOnto', [mul(rows, rows), expert, offsets, sum]),
          mul(before, before),
        ),
    ),
  },
  {
    op: 'segmentCount',
    cases: fc.tuple(fc.constantFrom(0, 3, 100), fc.nat(2)).map(([bound, segment]) => ({
      inputs: [{ name: 'offsets', dtype: 'int32', shape: [4], data: [0, 4, 4, 90] }],
      build: ([o]) => emit1('segmentCount', [o], { bound, segment }),
    })),
  },
  {
    op: 'splitSegments',
    cases: layer(
      (r) => [x(r)],
      (a, [x], r) => rowsPerExpert(dispatched(mul(x, x), a, r), a, r).map((y) => mul(y, y)),
      8,
    ),
  },
  {
    op: 'splitSegments',
    name: 'some unread',
    cases: layer(
      (r) => [x(r)],
      (a, [x], r) => rowsPerExpert(dispatched(mul(x, x), a, r), a, r).slice(0, 2),
      8,
    ),
  },
  {
    op: 'joinSegments',
    cases: layer(
      (r) => [x(r)],
      (a, [x], r) => {
        const parts = rowsPerExpert(dispatched(x, a, r), a, r).map((y, i) => mul(add(y, i), y));
        return joinSegments(parts, a.offsets, { rows: r.rows, usual: r.t.bound * r.k });
      },
      8,
    ),
  },
  {
    op: 'stopGradient',
    cases: anyShape().map(({ shape, counts }) => ({
      inputs: [...counts, { name: 'x', shape, grad: false }, { name: 'y', shape }],
      build: (all) => {
        const [x, y] = all.slice(counts.length);
        return mul(stopGradient(add(x, 1)), y);
      },
    })),
  },
  {
    op: 'uniform',
    cases: fc.tuple(anyShape(), fc.nat()).map(([{ shape, counts }, key]) => ({
      inputs: [
        ...counts,
        { name: 'seed', dtype: 'uint32', shape: [], data: [7] },
        { name: 'step', dtype: 'uint32', shape: [], data: [3] },
        { name: 'x', shape },
      ],
      build: (all) => {
        const [seed, step, x] = all.slice(counts.length);
        return [mul(x, uniform(x, seed, step, { key })), uniform(x, seed, step, { key: key + 1 })];
      },
    })),
  },
  {
    op: 'uniform',
    name: 'from an element on',
    cases: fc.tuple(anyShape(), fc.constantFrom(0, 12, 4_294_967_290)).map(([{ shape, counts }, from]) => ({
      inputs: [
        ...counts,
        ...['seed', 'step', 'first'].map((name) => ({
          name,
          dtype: 'uint32' as const,
          shape: [],
          data: [name === 'first' ? from : 5],
        })),
        { name: 'x', shape },
      ],
      build: (all) => {
        const [seed, step, first, x] = all.slice(counts.length);
        return mul(x, uniform(x, seed, step, { key: 3 }, first));
      },
    })),
  },
];
