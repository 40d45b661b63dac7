// Cases of the elementwise ops, with random shapes that can be broadcast together. Most ops need no row here: their
// cases are drawn from their record (number and dtypes of inputs, range and kinks).
import type { DType } from '../../../src/base/dtype.ts';
import { add } from '../../../src/graph/ops/elementwise/add.ts';
import { cast } from '../../../src/graph/ops/elementwise/cast.ts';
import { div } from '../../../src/graph/ops/elementwise/div.ts';
import { equal } from '../../../src/graph/ops/elementwise/equal.ts';
import { ceil, floor } from '../../../src/graph/ops/elementwise/floor.ts';
import { isFinite } from '../../../src/graph/ops/elementwise/isFinite.ts';
import { less } from '../../../src/graph/ops/elementwise/less.ts';
import { maximum } from '../../../src/graph/ops/elementwise/maximum.ts';
import { minimum } from '../../../src/graph/ops/elementwise/minimum.ts';
import { mul } from '../../../src/graph/ops/elementwise/mul.ts';
import { pow } from '../../../src/graph/ops/elementwise/pow.ts';
import { round } from '../../../src/graph/ops/elementwise/round.ts';
import { softplus } from '../../../src/graph/ops/elementwise/softplus.ts';
import { stopGradient } from '../../../src/graph/ops/elementwise/stopGradient.ts';
import { where } from '../../../src/graph/ops/elementwise/where.ts';
import * as table from '../../../src/graph/ops/elementwise/index.ts';
import { emit1, type Tensor } from '../../../src/graph/tensor.ts';
import type { InputSpec } from '../harness.ts';
import { afterCounts, broadcast, type Family } from '../shapes.ts';

type Value = NonNullable<InputSpec['value']>;

interface Options {
  readonly name?: string;
  readonly dtypes?: readonly DType[];
  readonly value?: Value | readonly Value[];
  /** True: gradients are not checked. */
  readonly withoutGradient?: boolean;
  /** The argument at which the function has a kink; values near it are moved away. */
  readonly kink?: number;
}

function elementwise(op: string, arity: number, build: (...x: Tensor[]) => Tensor, options: Options = {}): Family {
  const { name, dtypes = [], kink, value } = options;
  const awayFromKink: Value | undefined =
    kink === undefined ? undefined : ({ normal: x }) => (Math.abs(x - kink) < 1e-3 ? x + 0.01 : x);
  const valueOf = (i: number): Value | undefined => (typeof value === 'function' ? value : value?.[i]) ?? awayFromKink;
  return {
    op,
    ...(name && { name }),
    cases: broadcast(arity).map(({ shapes, counts }) => ({
      inputs: [
        ...counts,
        ...shapes.map((shape, i): InputSpec => {
          const pick = valueOf(i);
          return { name: `x${i}`, shape, dtype: dtypes[i] ?? 'float32', ...(pick && { value: pick }) };
        }),
      ],
      ...(options.withoutGradient && { withoutGradient: [0] }),
      build: (t) => build(...afterCounts(counts, t)),
    })),
  };
}

/** From 0.2 to 2.2, where logarithms and quotients are accurate. */
const positive: Value = ({ uniform }) => 0.2 + 2 * uniform;
const nonZero: Value = ({ uniform }) => (uniform < 0.5 ? -1 : 1) * (0.3 + uniform);
const integer: Value = ({ uniform }) => Math.floor(uniform * 7) - 3;
const wide: Value = ({ normal }) => 3 * normal;
const zeroOrOne: Value = ({ uniform }) => Math.floor(2 * uniform);
/** Values on two grids, so that values of the two inputs differ by at least 0.05. */
const onTwoGrids: readonly Value[] = [
  ({ normal }) => Math.round(10 * normal) / 10,
  ({ normal }) => Math.round(10 * normal) / 10 + 0.05,
];
/** At least 0.1 from every multiple of 1/2. */
const fractions: Value = ({ normal, uniform }) => Math.round(6 * normal) / 2 + 0.1 + 0.3 * uniform;
/** Multiples of 1/2, large numbers, NaN and infinities. */
const halvesAndLarge: Value = ({ uniform, normal }) =>
  uniform < 0.2
    ? withNonFinite({ uniform: uniform * 1.9, normal }, 0)
    : uniform < 0.4
      ? 1e9 * normal
      : Math.round(8 * normal) / 2;
/** Normal numbers, NaN and infinities. */
const withNonFinite: Value = ({ uniform, normal }) =>
  uniform < 0.1 ? NaN : uniform < 0.2 ? Infinity : uniform < 0.3 ? -Infinity : normal;

const special: readonly Family[] = [
  elementwise('add', 2, add),
  elementwise('add', 2, add, { name: 'integers', dtypes: ['int32', 'int32'], value: integer }),
  elementwise('add', 1, (x) => add(x, 3), { name: 'a number' }),
  elementwise('mul', 2, mul),
  elementwise('mul', 1, (x) => mul(x, x), { name: 'by itself' }),
  elementwise('div', 2, div, { value: nonZero }),
  elementwise('stopGradient', 1, (x) => mul(stopGradient(mul(x, x)), 2), { withoutGradient: true }),
  elementwise('softplus', 1, softplus, { value: wide }),
  elementwise('softplus', 1, softplus, { name: 'far out', value: ({ normal }) => 60 * normal, withoutGradient: true }),
  elementwise('floor', 1, floor, { value: fractions }),
  elementwise('floor', 1, (x) => ceil(mul(x, 0.5)), { name: 'ceil', value: halvesAndLarge, withoutGradient: true }),
  elementwise('round', 1, round, { value: fractions }),
  elementwise('round', 1, round, {
    name: 'halves, and numbers without a fraction',
    value: halvesAndLarge,
    withoutGradient: true,
  }),
  elementwise('copy', 1, (a) => emit1('copy', [a])),
  elementwise('geluSlope', 1, (a) => emit1('geluSlope', [a]), { value: wide }),
  elementwise('maximum', 2, maximum, { value: onTwoGrids }),
  elementwise('maximum', 2, maximum, { name: 'with NaN', value: withNonFinite, withoutGradient: true }),
  elementwise('minimum', 2, minimum, { value: onTwoGrids }),
  elementwise('minimum', 2, minimum, { name: 'with NaN', value: withNonFinite, withoutGradient: true }),
  elementwise('minimum', 1, (x) => minimum(x, 1), { name: 'a number', kink: 1 }),
  elementwise('pow', 1, (x) => [3, -2, 0, 1, 7].map((p) => pow(x, p)).reduce((a, b) => add(a, b)), {
    name: 'whole',
    value: nonZero,
  }),
  elementwise('pow', 1, (x) => add(pow(x, 0.5), pow(x, -1.7)), { name: 'broken', value: positive }),
  elementwise('equal', 2, equal, { value: integer }),
  elementwise('less', 2, less, { value: integer }),
  elementwise('isFinite', 1, isFinite, { value: withNonFinite }),
  elementwise('where', 3, where, {
    dtypes: ['bool'],
    value: ({ uniform, normal }, i) => (i % 2 ? normal : uniform * 2),
  }),
  elementwise('cast', 1, (x) => cast(x, 'int32'), { name: 'to integers', value: ({ normal }) => 1e9 * normal }),
  elementwise('cast', 1, (x) => cast(x, 'float32'), { name: 'from integers', dtypes: ['int32'], value: integer }),
  elementwise('cast', 1, (x) => cast(x, 'bool'), { name: 'to bool', value: integer }),
];

/** The cases of an op without a row above: bools and float32 values at which the gradient exists. */
function fromRecord(f: (typeof functions)[number]): Family {
  const { name, elementwise: known } = f.op;
  const { arity = 1, bools = 0, smooth: { from = -Infinity, to = Infinity, kinks = [] } = {} } = known ?? {};
  const edge = 0.2; // from an end of the range, or from a kink
  const number: Value = ({ normal, uniform }) => {
    if (from > -Infinity && to < Infinity) return from + (to - from) * (0.1 + 0.8 * uniform);
    if (from > -Infinity) return from + edge + 2 * uniform;
    if (to < Infinity) return to - edge - 2 * uniform;
    return kinks.some((kink) => Math.abs(3 * normal - kink) < edge) ? 3 * normal + 2 * edge : 3 * normal;
  };
  const value = Array.from({ length: arity }, (_, i) => (i < bools ? zeroOrOne : number));
  return elementwise(name, arity, f as (...x: Tensor[]) => Tensor, { dtypes: Array<DType>(bools).fill('bool'), value });
}

const functions = Object.values(table);
const withRows = new Set(special.map((f) => f.op));

export const families: readonly Family[] = [
  ...special,
  ...functions.filter(({ op }) => !withRows.has(op.name)).map(fromRecord),
];
