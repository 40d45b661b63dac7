// Cases of experts with a capacity: who is let in, rows with gaps, experts with rows of their own, random numbers.
import fc from 'fast-check';
import { add } from '../../../src/graph/ops/add.ts';
import { admit, type Admission } from '../../../src/graph/ops/admit.ts';
import { collect } from '../../../src/graph/ops/collect.ts';
import { combine } from '../../../src/graph/ops/combine.ts';
import { combineMany } from '../../../src/graph/ops/combineMany.ts';
import { dispatch } from '../../../src/graph/ops/dispatch.ts';
import { groupedMatmul } from '../../../src/graph/ops/groupedMatmul.ts';
import { joinSegments } from '../../../src/graph/ops/joinSegments.ts';
import { mul } from '../../../src/graph/ops/mul.ts';
import { permute } from '../../../src/graph/ops/permute.ts';
import { segmentExpand } from '../../../src/graph/ops/segmentExpand.ts';
import { segmentRank } from '../../../src/graph/ops/segmentRank.ts';
import { segmentCounts, splitSegments } from '../../../src/graph/ops/splitSegments.ts';
import { stopGradient } from '../../../src/graph/ops/stopGradient.ts';
import { uniform } from '../../../src/graph/ops/uniform.ts';
import { emit1, type Tensor } from '../../../src/graph/tensor.ts';
import type { Case, InputSpec } from '../harness.ts';
import { anyShape, type Family } from '../shapes.ts';
import { routed, type Routed } from './experts.ts';

interface Limited extends Routed { readonly padded: boolean; readonly spill: boolean; readonly ranked: boolean; readonly rows: number }

/** Capacities from none to more than enough, in general too few; sometimes less room in all than they add up to. */
const limited = (most = 64): fc.Arbitrary<Limited> => fc.tuple(routed().filter((r) => r.experts <= most), fc.boolean(), fc.boolean(), fc.boolean(), fc.double({ min: 0, max: 3, noNaN: true }),
  fc.constantFrom(1, 1, 1, 0.5)).map(([r, padded, spill, ranked, factor, room]) => {
  const caps = Array.from({ length: r.experts }, (_, e) => Math.round(factor * (e % 3) * r.t.bound * r.k / r.experts)), total = caps.reduce((a, b) => a + b, 0);
  const rows = Math.round(room * (padded ? total + (spill ? r.t.bound * r.k : 0) : r.t.bound * r.k));
  return { ...r, padded, spill, ranked, rows, inputs: [...r.inputs, { name: 'capacity', dtype: 'int32', shape: [r.experts], data: caps },
    // Few values, so that some are equal.
    { name: 'scores', shape: [r.t.dim, r.k], grad: false, value: ({ uniform: u }) => Math.floor(u * 6) }] };
});

const layer = (more: (r: Limited) => readonly InputSpec[], build: (a: Admission, x: readonly Tensor[], r: Limited) => Tensor | readonly Tensor[], most?: number): fc.Arbitrary<Case> =>
  limited(most).map((r) => ({ inputs: [...r.inputs, ...more(r)], build: (all) => {
    const [indices, capacity, scores, ...x] = all.slice(r.t.counts.length), p = permute(indices, r.experts);
    const rank = r.ranked ? segmentRank(scores, p.order, p.expert, p.offsets) : null;
    return build(admit(p, capacity, rank, { rows: r.rows, padded: r.padded, spill: r.spill }), x, r);
  } }));

const x = (r: Limited): InputSpec => ({ name: 'x', shape: [r.t.dim, r.width] });
const weights = (r: Limited): InputSpec => ({ name: 'w', shape: [r.t.dim, r.k] });
const sent = (x: Tensor, a: Admission, r: Limited): Tensor => dispatch(x, a.order, a.offsets, a.inverse, { k: r.k, gaps: true });
const gaps = { gaps: true };
const plain = (c: Case): Case => ({ ...c, inputs: c.inputs.map((i) => ({ ...i, grad: false })) });
const own = (rows: Tensor, a: Admission, r: Limited): Tensor[] => {
  const bounds = Array.from({ length: r.experts }, () => Math.max(r.rows, 1));
  return splitSegments(rows, segmentCounts(a.offsets, bounds), bounds);
};

export const families: readonly Family[] = [
  { op: 'segmentRank', runs: 16, cases: limited().map((r) => ({ inputs: r.inputs, build: (all) => {
    const [indices, , scores] = all.slice(r.t.counts.length), p = permute(indices, r.experts);
    return segmentRank(scores, p.order, p.expert, p.offsets);
  } })) },
  { op: 'admit', runs: 16, cases: layer(() => [], (a, _, r) => (typeof r.t.dim === 'number' ? [a.offsets, a.inverse, a.beyond] : [a.offsets, a.beyond])) },
  { op: 'segmentExpand', name: 'gaps', cases: layer((r) => [x(r), { name: 'b', shape: [r.experts, r.width] }], (a, [x, b], r) => { const y = sent(x, a, r); return add(y, segmentExpand(b, a.expert, y)); }) },
  { op: 'dispatch', name: 'gaps', runs: 16, cases: layer((r) => [x(r)], (a, [x], r) => [sent(mul(x, x), a, r), sent(x, a, r)]) },
  { op: 'collect', name: 'gaps', runs: 16, cases: layer((r) => [x(r)], (a, [x], r) => { const y = sent(x, a, r); return collect(mul(y, y), a.inverse, a.order, x, { k: r.k, gaps: true }); }) },
  { op: 'combine', name: 'gaps', runs: 16, cases: layer((r) => [x(r), weights(r)], (a, [x, w], r) => { const y = sent(x, a, r); return combine(mul(y, y), a.inverse, a.order, w, gaps); }) },
  { op: 'combineMany', runs: 16, cases: layer((r) => [x(r), weights(r)], (a, [x, w], r) => { const y = sent(x, a, r); return combineMany(mul(y, y), a.inverse, a.order, w); }) },
  { op: 'combineGradRows', name: 'gaps', cases: layer((r) => [x(r), weights(r)], (a, [x, w]) => emit1('combineGradRows', [x, w, a.order, a.offsets], gaps)).map(plain) },
  { op: 'combineGradWeights', name: 'gaps', cases: layer((r) => [x(r), weights(r)], (a, [x, w], r) => emit1('combineGradWeights', [x, sent(mul(x, 2), a, r), a.inverse, w], gaps)).map(plain) },
  { op: 'groupedMatmul', name: 'gaps', cases: layer((r) => [x(r), { name: 'w', shape: [r.experts, r.width, 5] }], (a, [x, w], r) => groupedMatmul(sent(x, a, r), w)) },
  { op: 'segmentCount', cases: fc.tuple(fc.constantFrom(0, 3, 100), fc.nat(2)).map(([bound, segment]) => ({
    inputs: [{ name: 'offsets', dtype: 'int32', shape: [4], data: [0, 4, 4, 90] }], build: ([o]) => emit1('segmentCount', [o], { bound, segment }) })) },
  { op: 'splitSegments', cases: layer((r) => [x(r)], (a, [x], r) => own(sent(mul(x, x), a, r), a, r).map((y) => mul(y, y)), 8) },
  { op: 'splitSegments', name: 'some unread', cases: layer((r) => [x(r)], (a, [x], r) => own(sent(mul(x, x), a, r), a, r).slice(0, 2), 8) },
  { op: 'joinSegments', cases: layer((r) => [x(r)], (a, [x], r) => {
    const parts = own(sent(x, a, r), a, r).map((y, i) => mul(add(y, i), y));
    return joinSegments(parts, a.offsets, { rows: r.rows, usual: r.t.bound * r.k });
  }, 8) },
  { op: 'stopGradient', cases: anyShape().map(({ shape, counts }) => ({ inputs: [...counts, { name: 'x', shape, grad: false }, { name: 'y', shape }],
    build: (all) => { const [x, y] = all.slice(counts.length); return mul(stopGradient(add(x, 1)), y); } })) },
  { op: 'uniform', cases: fc.tuple(anyShape(), fc.nat()).map(([{ shape, counts }, key]) => ({
    inputs: [...counts, { name: 'seed', dtype: 'uint32', shape: [], data: [7] }, { name: 'step', dtype: 'uint32', shape: [], data: [3] }, { name: 'x', shape }],
    build: (all) => { const [seed, step, x] = all.slice(counts.length); return [mul(x, uniform(x, seed, step, { key })), uniform(x, seed, step, { key: key + 1 })]; } })) },
];
