// Integers and casts: devices, the compiler's constant folding and the reference give the same numbers.
import assert from 'node:assert/strict';
import { after, test } from 'node:test';
import fc from 'fast-check';
import { castValue, convert, numbersOf } from '../../src/base/convert.ts';
import { DTYPES, hostArray, isFloat, type DType, type TypedArray } from '../../src/base/dtype.ts';
import { ShapeError } from '../../src/base/errors.ts';
import { isHalf, toHalf } from '../../src/base/half.ts';
import { Stream } from '../../src/base/random.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import type { Device } from '../../src/device/device.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import {
  abs,
  add,
  argMax,
  cast,
  cumulativeSum,
  div,
  equal,
  less,
  matmul,
  max,
  maximum,
  min,
  minimum,
  mul,
  neg,
  notEqual,
  relu,
  sort,
  sub,
  sum,
  where,
} from '../../src/graph/ops/functions.ts';
import { producers } from '../../src/graph/graph.ts';
import { ops } from '../../src/graph/ops/index.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { optimise } from '../../src/passes/optimise.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { evaluate } from '../../src/run/reference.ts';
import { SAME_BITS } from './devices.ts';
import { PoisonedDevice } from './poisoned.ts';

const opened = new Map<string, Device>();
for (const entry of SAME_BITS) if ((await entry.skip()) === null) opened.set(entry.name, await entry.open());
after(async () => {
  for (const d of opened.values()) await d.close();
});

type Outputs = Readonly<Record<string, readonly number[]>>;

/** The outputs of the graph that `build` makes, by device; `reference` is one of them. */
async function everywhere(
  build: (b: GraphBuilder) => void,
  inputs: Readonly<Record<string, TypedArray>> = {},
): Promise<Map<string, Outputs>> {
  const b = new GraphBuilder(ops),
    all = new Map<string, Outputs>();
  build(b);
  const graph = b.build();
  const values = evaluate(graph, ops, ({ name, value }) =>
    Float64Array.from(numbersOf({ dtype: graph.types[value].dtype, data: inputs[name] })),
  );
  all.set('reference', Object.fromEntries(graph.outputs.map((o) => [o.name, Array.from(values[o.value])])));
  for (const [name, device] of opened) {
    const program = compileGraph(graph, device.target);
    await device.compile(program.kernels);
    const executor = new ProgramExecutor(new PoisonedDevice(device)),
      out = await executor.run(await loadProgram(executor, program), inputs);
    all.set(name, Object.fromEntries(Object.entries(out).map(([key, tensor]) => [key, Array.from(numbersOf(tensor))])));
    await executor.close();
  }
  return all;
}

const expectAll = (all: ReadonlyMap<string, Outputs>, wanted: Outputs): void => {
  for (const [name, outputs] of all)
    for (const [key, want] of Object.entries(wanted)) {
      want.forEach((w, i) => {
        const g = outputs[key][i];
        assert.ok(g === w || (Number.isNaN(g) && Number.isNaN(w)), `${name}, ${key}[${i}]: ${g}, not ${w}`);
      });
    }
};

const LEAST = -(2 ** 31),
  MOST = 2 ** 31 - 1;

test('int32 at its ends: overflow is modulo 2^32, a quotient by 0 is 0', async () => {
  const a = Int32Array.of(MOST, LEAST, LEAST, 7, -7, 7, 16777217, LEAST, 65536),
    b = Int32Array.of(1, -1, 1, 0, 2, -2, 1, LEAST, 65537);
  expectAll(
    await everywhere(
      (g) => {
        const x = g.input('input', 'a', { dtype: 'int32', shape: [9] }),
          y = g.input('input', 'b', { dtype: 'int32', shape: [9] });
        for (const [name, op] of Object.entries({ add, sub, mul, div, less, maximum, minimum }))
          g.output(name, op(x, y));
        for (const [name, op] of Object.entries({ neg, abs, relu })) g.output(name, op(x));
        g.output('grows', less(x, add(x, 1)));
        g.output('half', div(x, 2));
        g.output('opposite', div(x, -1));
      },
      { a, b },
    ),
    {
      add: [LEAST, MOST, LEAST + 1, 7, -5, 5, 16777218, 0, 131073],
      sub: [MOST - 1, LEAST + 1, MOST, 7, -9, 9, 16777216, 0, -1],
      mul: [MOST, LEAST, LEAST, 0, -14, -14, 16777217, 0, 65536],
      div: [MOST, LEAST, LEAST, 0, -3, -3, 16777217, 1, 0],
      less: [0, 1, 1, 0, 1, 0, 0, 0, 1],
      maximum: [MOST, -1, 1, 7, 2, 7, 16777217, LEAST, 65537],
      neg: [-MOST, LEAST, LEAST, -7, 7, -7, -16777217, LEAST, -65536],
      abs: [MOST, LEAST, LEAST, 7, 7, 7, 16777217, LEAST, 65536],
      relu: [MOST, 0, 0, 7, 0, 7, 16777217, 0, 65536],
      grows: [0, 1, 1, 1, 1, 1, 1, 1, 1],
      half: [1073741823, LEAST / 2, LEAST / 2, 3, -3, 3, 8388608, LEAST / 2, 32768],
      opposite: [-MOST, LEAST, LEAST, -7, 7, -7, -16777217, LEAST, -65536],
    },
  );
});

test('comparison, division and conversion to float treat uint32 as unsigned', async () => {
  const a = Uint32Array.of(2 ** 32 - 1, 0, 2 ** 31, 5, 3),
    b = Uint32Array.of(1, 1, 2 ** 31 + 1, 0, 5);
  expectAll(
    await everywhere(
      (g) => {
        const x = g.input('input', 'a', { dtype: 'uint32', shape: [5] }),
          y = g.input('input', 'b', { dtype: 'uint32', shape: [5] });
        for (const [name, op] of Object.entries({ add, sub, mul, div, less, maximum, minimum, equal }))
          g.output(name, op(x, y));
        for (const [name, op] of Object.entries({ neg, abs, relu, max, min, sum })) g.output(name, op(x));
        g.output('float', cast(x, 'float32'));
        g.output('double', cast(x, 'float64'));
        g.output('largest', argMax(x));
      },
      { a, b },
    ),
    {
      add: [0, 1, 1, 5, 8],
      sub: [2 ** 32 - 2, 2 ** 32 - 1, 2 ** 32 - 1, 5, 2 ** 32 - 2],
      mul: [2 ** 32 - 1, 0, 2 ** 31, 0, 15],
      div: [2 ** 32 - 1, 0, 0, 0, 0],
      less: [0, 1, 1, 0, 1],
      maximum: [2 ** 32 - 1, 1, 2 ** 31 + 1, 5, 5],
      minimum: [1, 0, 2 ** 31, 0, 3],
      equal: [0, 0, 0, 0, 0],
      neg: [1, 0, 2 ** 31, 2 ** 32 - 5, 2 ** 32 - 3],
      abs: [2 ** 32 - 1, 0, 2 ** 31, 5, 3],
      max: [2 ** 32 - 1],
      min: [0],
      sum: [(2 ** 32 - 1 + 2 ** 31 + 8) % 2 ** 32],
      double: [2 ** 32 - 1, 0, 2 ** 31, 5, 3],
      largest: [0],
    },
  );
});

test('integer products and sums are exact', async () => {
  const stream = new Stream(4, 'integers'),
    draw = (n: number, from: number): Int32Array => Int32Array.from({ length: n }, (_, i) => stream.uint(from, i) | 0);
  const a = draw(7 * 131, 0),
    b = draw(131 * 70, 1),
    wanted: number[] = [];
  for (let i = 0; i < 7; i++)
    for (let j = 0; j < 70; j++) {
      let total = 0;
      for (let k = 0; k < 131; k++) total = (total + Math.imul(a[i * 131 + k], b[k * 70 + j])) | 0;
      wanted.push(total);
    }
  const ends = [a.reduce((s, v) => (s + v) | 0, 0)],
    sorted = [...a].sort((x, y) => x - y);
  let running = 0;
  expectAll(
    await everywhere(
      (g) => {
        const x = g.input('input', 'a', { dtype: 'int32', shape: [7, 131] }),
          y = g.input('input', 'b', { dtype: 'int32', shape: [131, 70] });
        g.output('product', matmul(x, y));
        const flat = g.emit('reshape', [x], { shape: [7 * 131] })[0];
        g.output('sum', sum(flat));
        g.output('running', cumulativeSum(flat));
        g.output('sorted', sort(flat).values);
        g.output('least', min(flat));
      },
      { a, b },
    ),
    {
      product: wanted,
      sum: ends,
      running: [...a].map((v) => (running = (running + v) | 0)),
      sorted,
      least: [sorted[0]],
    },
  );
});

/** Integers of a dtype, often at the ends of its range. */
const ints = (dtype: 'int32' | 'uint32'): fc.Arbitrary<number> =>
  dtype === 'int32'
    ? fc.oneof(fc.constantFrom(LEAST, LEAST + 1, -1, 0, 1, 2, MOST), fc.integer())
    : fc.oneof(
        fc.constantFrom(0, 1, 2, 2 ** 31, 2 ** 32 - 1),
        fc.nat(),
        fc.integer({ min: 2 ** 31, max: 2 ** 32 - 1 }),
      );
const BINARY = { add, sub, mul, div, less, equal, notEqual, maximum, minimum };
const UNARY = { neg, abs, relu };

for (const dtype of ['int32', 'uint32'] as const) {
  test(`${dtype}: constant folding gives the numbers that devices compute`, async () => {
    await fc.assert(
      fc.asyncProperty(fc.array(fc.tuple(ints(dtype), ints(dtype)), { minLength: 8, maxLength: 8 }), async (pairs) => {
        const a = hostArray(dtype, 8),
          b = hostArray(dtype, 8),
          build = (g: GraphBuilder): void => {
            const x = g.input('input', 'a', { dtype, shape: [8] }),
              y = g.input('input', 'b', { dtype, shape: [8] }),
              c = (value: number): Tensor => g.emit('constant', [], { value, dtype, shape: [] })[0];
            for (const [name, op] of Object.entries(BINARY)) {
              g.output(name, op(x, y));
              pairs.forEach(([p, q], i) => {
                g.output(`${name}/${i}`, op(c(p), c(q)));
              });
            }
            for (const [name, op] of Object.entries(UNARY)) {
              g.output(name, op(x));
              pairs.forEach(([p], i) => {
                g.output(`${name}/${i}`, op(c(p)));
              });
            }
            pairs.forEach(([p, q], i) => {
              g.output(`chain/${i}`, mul(div(c(p), c(q)), c(q)));
            });
            g.output('chain', mul(div(x, y), y));
          };
        a.set(pairs.map(([p]) => p));
        b.set(pairs.map(([, q]) => q));
        const builder = new GraphBuilder(ops);
        build(builder);
        const folded = optimise(builder.build(), ops),
          made = producers(folded);
        for (const o of folded.outputs)
          if (o.name.includes('/')) assert.equal(made[o.value]?.op, 'constant', `${o.name} is folded`);
        const all = await everywhere(build, { a, b }),
          [[, first]] = all;
        for (const [name, outputs] of all)
          for (const key of [...Object.keys(BINARY), ...Object.keys(UNARY), 'chain']) {
            assert.deepEqual(outputs[key], first[key], `${key} on ${name}`);
            assert.deepEqual(
              pairs.map((_, i) => outputs[`${key}/${i}`][0]),
              first[key],
              `${key} of constants on ${name}: ${pairs.join(' ')}`,
            );
          }
      }),
      { seed: 1, numRuns: 3 },
    );
  });
}

test('7 / 2 * 2 of int32 is 6, and a uint32 product keeps its low 32 bits, folded or not', async () => {
  expectAll(
    await everywhere((g) => {
      const c = (value: number, dtype: DType): Tensor => g.emit('constant', [], { value, dtype, shape: [1] })[0];
      g.output('chain', mul(div(c(7, 'int32'), c(2, 'int32')), c(2, 'int32')));
      g.output('product', mul(c(0xffffffff, 'uint32'), c(0xfffffffd, 'uint32')));
      g.output('overflow', less(c(0, 'int32'), add(c(MOST, 'int32'), c(1, 'int32'))));
      g.output('double', mul(c(1 + 2 ** -30, 'float64'), c(1 + 2 ** -30, 'float64')));
      g.output('single', mul(c(0.1, 'float32'), c(0.2, 'float32')));
    }),
    { chain: [6], product: [3], overflow: [0], double: [(1 + 2 ** -30) ** 2] },
  );
});

/** Values at which casts behave differently: rounding, overflow, infinities, NaN, subnormals. */
const EDGES: Readonly<Record<DType, readonly number[]>> = {
  float64: [
    0,
    -0,
    0.5,
    -0.5,
    1.999,
    -1.999,
    MOST + 0.5,
    MOST,
    LEAST,
    LEAST - 1,
    2 ** 32 - 0.5,
    2 ** 32,
    3e9,
    -3e9,
    1e300,
    -1e300,
    Infinity,
    -Infinity,
    NaN,
    5e-324,
    16777217,
    1 + 2 ** -8 + 2 ** -40,
    65519.999,
    65520,
    2 ** -25,
    2 ** -25 * 1.0001,
    3.4e38,
    3.4028235677973366e38,
  ],
  float32: [
    0,
    -0,
    0.5,
    -0.5,
    1.999,
    -1.999,
    2147483520,
    2147483648,
    LEAST,
    3e9,
    -3e9,
    1e38,
    -1e38,
    Infinity,
    -Infinity,
    NaN,
    2 ** -149,
    65504,
    65520,
    2 ** -25,
  ],
  bfloat16: [0, -0, 1, -1.5, 3e38, Infinity, NaN, 2 ** -133, 3e9, -3e9],
  float16: [0, -0, 1, -1.5, 65504, Infinity, NaN, 2 ** -24],
  int32: [0, 1, -1, MOST, LEAST, 16777217, 65520, 257],
  uint32: [0, 1, MOST, 2 ** 31, 2 ** 32 - 1, 16777217, 65520, 257],
  bool: [0, 1],
};

test('casts between all dtypes give what the host gives', async () => {
  const inputs = Object.fromEntries(DTYPES.map((d) => [d, isHalf(d) ? toHalf(d, EDGES[d]) : hostOf(d, EDGES[d])]));
  const all = await everywhere((g) => {
    for (const from of DTYPES) {
      const x = g.input('input', from, { dtype: from, shape: [EDGES[from].length] });
      for (const to of DTYPES) if (to !== from) g.output(`${from} to ${to}`, cast(x, to));
    }
  }, inputs);
  all.delete('reference'); // the reference computes floats in float64
  for (const from of DTYPES)
    for (const to of DTYPES) {
      if (to === from) continue;
      const key = `${from} to ${to}`,
        host = numbersOf(convert({ dtype: from, shape: [EDGES[from].length], data: inputs[from] }, to));
      for (const [name, outputs] of all)
        outputs[key].forEach((got, i) => {
          assert.ok(
            Object.is(got, host[i]) || (got === host[i] && !isFloat(to)),
            `${name}, ${key}: ${EDGES[from][i]} gives ${got}, not ${host[i]}`,
          );
        });
    }
});

function hostOf(dtype: DType, values: readonly number[]): TypedArray {
  const data = hostArray(dtype, values.length);
  data.set(values);
  return data;
}

for (const dtype of ['bfloat16', 'float16'] as const) {
  test(`${dtype}: casts of every bit pattern to float32, and of random floats to ${dtype}`, async () => {
    const stream = new Stream(5, dtype),
      bits = Uint16Array.from({ length: 65536 }, (_, i) => i),
      words = Uint32Array.from({ length: 40_000 }, (_, i) => stream.uint(0, i)),
      floats = new Float32Array(words.buffer);
    // Float64 numbers close to the middle between two 16-bit floats. Rounding them to float32 first would move some of
    // them exactly to the middle, and so give another result.
    const doubles = Float64Array.from(
      { length: 20_000 },
      (_, i) =>
        (1 + Math.floor(stream.uniform(1, i) * 2 ** 11) / 2 ** 11) *
        2 ** Math.floor(stream.uniform(2, i) * 40 - 26) *
        (1 + ((i % 3) - 1) * 2 ** -50) *
        (i % 2 ? -1 : 1),
    );
    const all = await everywhere(
      (g) => {
        g.output('wide', cast(g.input('input', 'bits', { dtype, shape: [65536] }), 'float32'));
        g.output('narrow', cast(g.input('input', 'floats', { dtype: 'float32', shape: [40_000] }), dtype));
        g.output('once', cast(g.input('input', 'doubles', { dtype: 'float64', shape: [20_000] }), dtype));
        g.output('round', cast(cast(g.tensor(0), 'float32'), dtype));
      },
      { bits, floats, doubles },
    );
    const wanted: Outputs = {
      wide: Array.from(numbersOf({ dtype, data: bits })),
      narrow: Array.from(floats, (x) => castValue(x, dtype, 'float32')),
      once: Array.from(doubles, (x) => castValue(x, dtype, 'float64')),
      round: Array.from(numbersOf({ dtype, data: bits })),
    };
    expectAll(all, wanted);
  });
}

test('a number that the dtype of its operand cannot hold, and mixed dtypes, are refused when the graph is made', () => {
  const g = new GraphBuilder(ops),
    x = g.input('input', 'x', { dtype: 'int32', shape: [3] }),
    u = g.input('input', 'u', { dtype: 'uint32', shape: [3] }),
    f = g.input('input', 'f', { dtype: 'float32', shape: [3] });
  const flags = g.input('input', 'flags', { dtype: 'bool', shape: [3] }),
    half = g.input('input', 'half', { dtype: 'bfloat16', shape: [3] });
  const refused = (make: () => unknown, message: RegExp): void => {
    assert.throws(make, (e) => e instanceof ShapeError && message.test(e.message));
  };
  refused(() => mul(x, 0.5), /constant: 0.5 is no int32/);
  refused(() => add(u, -1), /constant: -1 is no uint32/);
  refused(() => add(x, 2 ** 31), /constant: 2147483648 is no int32/);
  refused(() => add(x, NaN), /constant: NaN is no int32/);
  refused(() => mul(f, 1e39), /constant: 1e\+39 is no float32/);
  refused(() => add(x, f), /add: dtypes differ \(int32, float32\)/);
  refused(() => where(flags, x, u), /where: dtypes differ \(bool, int32, uint32\)/);
  refused(() => add(flags, flags), /add: needs numbers/);
  refused(() => less(flags, flags), /less: needs numbers/);
  refused(() => sum(flags), /sum: needs numbers/);
  refused(() => max(flags), /max: needs numbers/);
  refused(
    () => matmul(g.emit('reshape', [flags], { shape: [1, 3] })[0], g.emit('reshape', [flags], { shape: [3, 1] })[0]),
    /matmul: needs numbers/,
  );
  refused(() => add(half, half), /add: needs numbers[^]*nothing is computed in bfloat16: cast\(x, 'float32'\) first/);
  refused(() => cast(f, 'int64' as never), /cast: no dtype named int64/);
  assert.equal(hostTensor('bool', [1], [true]).data[0], 1);
});
