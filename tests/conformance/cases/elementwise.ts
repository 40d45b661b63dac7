// Cases of the elementwise ops: any shapes that broadcast together.
import type { DType } from '../../../src/base/dtype.ts';
import { add } from '../../../src/graph/ops/add.ts';
import { cast } from '../../../src/graph/ops/cast.ts';
import { div } from '../../../src/graph/ops/div.ts';
import { exp } from '../../../src/graph/ops/exp.ts';
import { isFinite } from '../../../src/graph/ops/isFinite.ts';
import { less } from '../../../src/graph/ops/less.ts';
import { mul } from '../../../src/graph/ops/mul.ts';
import { neg } from '../../../src/graph/ops/neg.ts';
import { relu } from '../../../src/graph/ops/relu.ts';
import { sqrt } from '../../../src/graph/ops/sqrt.ts';
import { sub } from '../../../src/graph/ops/sub.ts';
import { where } from '../../../src/graph/ops/where.ts';
import type { Tensor } from '../../../src/graph/tensor.ts';
import type { InputSpec } from '../harness.ts';
import { afterCounts, broadcast, type Family } from '../shapes.ts';

type Value = NonNullable<InputSpec['value']>;

interface Options {
  readonly name?: string;
  readonly dtypes?: readonly DType[];
  readonly value?: Value;
  /** Where a function of one argument has a kink: values near it are moved away. */
  readonly kink?: number;
}

function elementwise(op: string, arity: number, build: (...x: Tensor[]) => Tensor, options: Options = {}): Family {
  const { name, dtypes = [], kink } = options;
  const value: Value | undefined = kink === undefined ? options.value : ({ normal: x }) => (Math.abs(x - kink) < 1e-3 ? x + 0.01 : x);
  return { op, ...(name && { name }), cases: broadcast(arity).map(({ shapes, counts }) => ({
    inputs: [...counts, ...shapes.map((shape, i): InputSpec => ({ name: `x${i}`, shape, dtype: dtypes[i] ?? 'float32', ...(value && { value }) }))],
    build: (t) => build(...afterCounts(counts, t)),
  })) };
}

/** Between 0.2 and 2.2: where logarithms and divisions behave. */
const positive: Value = ({ uniform }) => 0.2 + 2 * uniform;
const nonZero: Value = ({ uniform }) => (uniform < 0.5 ? -1 : 1) * (0.3 + uniform);
const integer: Value = ({ uniform }) => Math.floor(uniform * 7) - 3;
/** Some that are no finite numbers. */
const odd: Value = ({ uniform, normal }) => (uniform < 0.1 ? NaN : uniform < 0.2 ? Infinity : uniform < 0.3 ? -Infinity : normal);

export const families: readonly Family[] = [
  elementwise('add', 2, add),
  elementwise('add', 2, add, { name: 'integers', dtypes: ['int32', 'int32'], value: integer }),
  elementwise('add', 1, (x) => add(x, 3), { name: 'a number' }),
  elementwise('sub', 2, sub),
  elementwise('mul', 2, mul),
  elementwise('mul', 1, (x) => mul(x, x), { name: 'by itself' }),
  elementwise('div', 2, div, { value: nonZero }),
  elementwise('neg', 1, neg),
  elementwise('exp', 1, exp),
  elementwise('sqrt', 1, sqrt, { value: positive }),
  elementwise('relu', 1, relu, { kink: 0 }),
  elementwise('less', 2, less, { value: integer }),
  elementwise('isFinite', 1, isFinite, { value: odd }),
  elementwise('where', 3, where, { dtypes: ['bool'], value: ({ uniform, normal }, i) => (i % 2 ? normal : uniform * 2) }),
  elementwise('cast', 1, (x) => cast(x, 'int32'), { name: 'to integers', value: ({ normal }) => 1e9 * normal }),
  elementwise('cast', 1, (x) => cast(x, 'float32'), { name: 'from integers', dtypes: ['int32'], value: integer }),
  elementwise('cast', 1, (x) => cast(x, 'bool'), { name: 'to bool', value: integer }),
];
