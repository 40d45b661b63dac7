// Cases of functions that are composed of other ops: results against the reference of these ops, gradients against
// finite differences. tests/graph/functions.test.ts checks the results against values computed by hand.
import fc from 'fast-check';
import * as f from '../../../src/graph/ops/functions.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import type { Case, InputSpec } from '../harness.ts';
import { anyShape, fixedShape, size, someSize, volume, type Family } from '../shapes.ts';
import { distinct, parts, rowsOf } from './rows.ts';
import { axesOf, unary } from './shaping.ts';

type Value = NonNullable<InputSpec['value']>;

/** Random numbers at a distance from the kinks of a function. */
const awayFrom =
  (...kinks: readonly number[]): Value =>
  ({ normal }) =>
    kinks.reduce((x, k) => (Math.abs(x - k) < 2e-3 ? k + 0.02 : x), 3 * normal);

const one = (build: (x: Tensor) => Tensor, value: Value): fc.Arbitrary<Case> =>
  anyShape().map((s) => ({
    inputs: [...s.counts, { name: 'x', shape: s.shape, value }],
    build: (t) => build(t[s.counts.length]),
  }));

const odd: Value = ({ uniform, normal }) => (uniform < 0.1 ? NaN : uniform < 0.2 ? Infinity : Math.round(normal));

const axesWith = (value: Value, build: (x: Tensor, axes: readonly number[]) => Tensor): fc.Arbitrary<Case> =>
  axesOf(someSize)
    .filter(({ s }) => s.counts.length === 0 || (s.counts[0].data ?? []).at(-1) !== 0)
    .map(({ s, axes }) => ({
      inputs: [...s.counts, { name: 'x', shape: s.shape, value }],
      build: (t) => build(t[s.counts.length], axes),
    }));

const fixedAxis = fixedShape(1, 3).chain((shape) => fc.nat(shape.length - 1).map((axis) => ({ shape, axis })));

export const families: readonly Family[] = [
  { op: 'minimum', name: 'clamp', cases: one((x) => f.clamp(x, -1, 2), awayFrom(-1, 2)) },
  { op: 'where', name: 'leakyRelu', cases: one((x) => f.leakyRelu(x, 0.1), awayFrom(0)) },
  { op: 'where', name: 'elu', cases: one((x) => f.elu(x, 1.5), awayFrom(0)) },
  { op: 'where', name: 'sign', cases: one((x) => f.sign(x), awayFrom(0)) },
  { op: 'minimum', name: 'hardSwish', cases: one(f.hardSwish, awayFrom(-3, 3)) },
  { op: 'softplus', name: 'logSigmoid', cases: one(f.logSigmoid, awayFrom()) },
  { op: 'erf', name: 'geluExact', cases: one(f.geluExact, awayFrom()) },
  {
    op: 'less',
    name: 'comparisons',
    cases: anyShape().map((s) => ({
      inputs: [...s.counts, ...['a', 'b'].map((name): InputSpec => ({ name, shape: s.shape, value: odd }))],
      build: (t) => {
        const [a, b] = t.slice(s.counts.length);
        return [f.greater(a, b), f.lessEqual(a, b), f.greaterEqual(a, 0), f.notEqual(a, b), f.isNaN(a)];
      },
    })),
  },
  {
    op: 'softmax',
    name: 'any axis',
    cases: fixedAxis.map(({ shape, axis }) =>
      unary({ shape, counts: [] }, (x) => [f.softmax(f.mul(x, 2), axis), f.logSoftmax(x, axis)]),
    ),
  },
  { op: 'logSumExp', name: 'logSoftmax', cases: rowsOf().map((s) => unary(s, (x) => f.logSoftmax(f.mul(x, 3)))) },
  { op: 'max', name: 'min', cases: axesWith(distinct, f.min) },
  { op: 'sum', name: 'std', cases: axesWith(awayFrom(), (x, axes) => f.add(f.std(x, axes), f.std(f.mul(x, 0)))) },
  {
    op: 'sum',
    name: 'norms',
    cases: axesWith(awayFrom(0, -1), (x, axes) => f.add(f.norm(f.add(x, 1), axes), f.norm(x, axes, 1))),
  },
  {
    op: 'max',
    name: 'largest magnitude',
    cases: axesWith(
      ({ uniform }, i) => ((((i * 7919) % 10_007) + uniform) / 1000 + 0.5) * (i % 2 ? 1 : -1),
      (x, axes) => f.norm(x, axes, Infinity),
    ),
  },
  {
    op: 'mul',
    name: 'prod',
    cases: axesOf()
      .filter(({ s }) => s.counts.length === 0 && volume(s.shape) < 300)
      .map(({ s, axes }) => ({
        inputs: [{ name: 'x', shape: s.shape, value: ({ uniform }) => 0.8 + uniform * 0.4 }],
        build: ([x]) => f.prod(x, axes),
      })),
  },
  {
    op: 'max',
    name: 'any and all',
    cases: fc.tuple(axesOf(someSize), fc.double({ min: 0, max: 1, noNaN: true })).map(([{ s, axes }, share]) => ({
      inputs: [
        ...s.counts,
        { name: 'x', dtype: 'bool', shape: s.shape, value: ({ uniform }) => (uniform < share ? 1 : 0) },
      ],
      build: (t) => [f.any(t[s.counts.length], axes), f.all(t[s.counts.length], axes)],
    })),
  },
  {
    op: 'matmul',
    name: 'attention by hand',
    cases: fc
      .tuple(someSize, someSize)
      .filter(([t, d]) => t * t < 1200 && d < 20)
      .map(([time, width]) => ({
        inputs: ['q', 'k', 'v'].map((name): InputSpec => ({ name, shape: [2, time, width] })),
        build: ([q, k, v]) => {
          const scores = f.mul(f.matmul(q, k, { transB: true }), 0.5);
          return f.matmul(f.softmax(f.where(f.lowerMask(scores), scores, f.fullLike(scores, -1e9))), v);
        },
      })),
  },
  {
    op: 'where',
    name: 'triangles',
    cases: fc
      .tuple(fixedShape(2, 4), fc.integer({ min: -4, max: 4 }))
      .map(([shape, d]) => unary({ shape, counts: [] }, (x) => [f.tril(x, d), f.triu(f.mul(x, x), d)])),
  },
  {
    op: 'reshape',
    name: 'squeeze and unsqueeze',
    cases: anyShape(1, 3).map((s) => unary(s, (x) => f.squeeze(f.mul(f.unsqueeze(f.unsqueeze(x, 1), -1), 2), [1, -1]))),
  },
  {
    op: 'concat',
    name: 'stack',
    cases: fixedAxis.map(({ shape, axis }) =>
      unary({ shape, counts: [] }, (x) => f.stack([x, f.mul(x, x), f.add(x, 1)], axis)),
    ),
  },
  {
    op: 'slice',
    name: 'split',
    cases: parts.map(({ s, axis, from, to }) =>
      unary(s, (x) => {
        const n = s.shape[axis] as number,
          [a, b, c] = f.split(x, [from, to - from, n - to], axis);
        return [f.mul(a, a), b, f.mul(c, 2)];
      }),
    ),
  },
  {
    op: 'where',
    name: 'repeat and tile',
    cases: fc
      .tuple(parts, fc.constantFrom(1, 2, 3))
      .map(([{ s, axis }, times]) => unary(s, (x) => [f.repeat(x, times, axis), f.tile(f.mul(x, x), times, axis)])),
  },
  {
    op: 'where',
    name: 'broadcastTo',
    cases: fc
      .tuple(anyShape(1, 3), size)
      .map(([s, n]) =>
        unary(s, (x) =>
          f.broadcastTo(f.unsqueeze(x, -1), [...s.shape.map((d) => (typeof d === 'number' ? d : d.bound)), n]),
        ),
      ),
  },
  {
    op: 'pad',
    name: 'all around, with a value',
    cases: fc
      .tuple(
        fixedShape(1, 3),
        fc.array(fc.tuple(fc.nat(2), fc.nat(2)), { minLength: 3, maxLength: 3 }),
        fc.constantFrom(0, 7, -Infinity),
      )
      .map(([shape, widths, value]) => ({
        inputs: [{ name: 'x', shape }],
        ...(Number.isFinite(value) ? {} : { withoutGradient: [0] }),
        build: ([x]) => f.padAll(x, widths.slice(0, shape.length), value),
      })),
  },
];
