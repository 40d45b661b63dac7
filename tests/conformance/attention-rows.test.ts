// Attention over rows segmented by sample gives each sample the bits that it has alone, in the form for fixed sizes:
// outputs, log-sum-exp and gradients, whatever its neighbours, empty samples, bounds and threads are. The same holds
// for rows of one sequence over a cache. Rows past the count hold NaN.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { TypedArray } from '../../src/base/dtype.ts';
import { UserError } from '../../src/base/errors.ts';
import { Stream } from '../../src/base/random.ts';
import { elements, type Dim } from '../../src/base/shape.ts';
import { gradients } from '../../src/grad/differentiate.ts';
import { NativeDevice } from '../../src/device/native/native.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { attention, type AttentionCall } from '../../src/graph/ops/attention/attention.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { sum } from '../../src/graph/ops/reduce/sum.ts';
import { emit, type Tensor } from '../../src/graph/tensor.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { INTERPRETERS, SAME_BITS, type DeviceEntry } from './devices.ts';
import { drawsFromEnv } from '../support/random-cases.ts';

const { seed, times } = drawsFromEnv();
const native = SAME_BITS.find((d) => d.name === 'native');
const DEVICES: readonly DeviceEntry[] = [
  ...SAME_BITS.filter((d) => !INTERPRETERS.includes(d)),
  ...(native ? [{ ...native, name: 'native with 1 thread', open: () => NativeDevice.open(1) }] : []),
];

type Data = Readonly<Record<string, TypedArray>>;

/** Compiles all graphs together, and runs each. */
async function runAll(
  executor: ProgramExecutor,
  all: readonly { readonly graph: Graph; readonly data: Data }[],
): Promise<Readonly<Record<string, TypedArray>>[]> {
  const compiled = all.map(({ graph }) => compileGraph(graph, executor.device.target));
  await executor.device.compile(compiled.flatMap((c) => c.kernels));
  const results = [];
  for (const [i, c] of compiled.entries()) {
    const loaded = await loadProgram(executor, c),
      got = await executor.run(loaded, all[i].data);
    results.push(Object.fromEntries(Object.entries(got).map(([name, t]) => [name, t.data])));
    executor.release(loaded);
  }
  return results;
}

const draw = (name: string, n: number): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => new Stream(5, name).normal(0, i));

/** The first elements, and NaN after them. */
const padded = (values: Float32Array, size: number): Float32Array => {
  const out = new Float32Array(size).fill(NaN);
  out.set(values);
  return out;
};

/** Compares bits: 0 and -0 differ. */
const same = (got: TypedArray, expected: TypedArray, what: string): void => {
  assert.equal(got.length, expected.length);
  for (const [i, x] of expected.entries())
    assert.ok(Object.is(got[i], x), `${what}, element ${i}: ${got[i]} is not ${x}`);
};

const sizes = {
  shared: fc.constantFrom(1, 3),
  kv: fc.constantFrom(1, 2),
  width: fc.constantFrom(3, 16, 20),
  causal: fc.boolean(),
};

const samples = fc.record({
  ...sizes,
  lengths: fc.array(fc.constantFrom(0, 0, 1, 2, 15, 16, 17, 48, 64, 65, 100), { minLength: 1, maxLength: 9 }),
  more: fc.constantFrom(0, 1, 40),
});
type Drawn<T> = T extends fc.Arbitrary<infer S> ? S : never;

const INPUTS = ['q', 'k', 'v', 'dout', 'dlse'] as const;

/** Elements of a row of each input. */
const rowOf = ({ shared, kv, width }: Pick<Drawn<typeof samples>, 'shared' | 'kv' | 'width'>): readonly number[][] => {
  const q = [shared * kv, width];
  return [q, [kv, width], [kv, width], q, q.slice(0, 1)];
};

/** Outputs and gradients of attention over tensors [...lead, heads, width]. */
function build(
  b: GraphBuilder,
  s: Omit<Drawn<typeof samples>, 'lengths' | 'more'>,
  lead: readonly Dim[],
  offsets: Tensor,
): Graph {
  const [q, k, v, dout, dlse] = rowOf(s).map((rest, i) =>
    b.input('input', INPUTS[i], { dtype: 'float32', shape: [...lead, ...rest] }),
  );
  const [o, lse] = emit('attention', [q, k, v, offsets], { causal: s.causal, scale: 0.3 });
  const loss = add(sum(mul(o, dout)), sum(mul(lse, dlse)));
  b.output('o', o);
  b.output('lse', lse);
  gradients(b, loss, [q, k, v]).forEach((g, i) => {
    b.output(`grad/${INPUTS[i]}`, g ?? assert.fail());
  });
  return b.build();
}

for (const entry of DEVICES) {
  test(`rows of samples have the bits of each sample alone: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) {
      t.skip(reason);
      return;
    }
    const executor = new ProgramExecutor(await entry.open());
    const check = async (s: Drawn<typeof samples>): Promise<void> => {
      const offsets = s.lengths.reduce<number[]>((all, n) => [...all, all[all.length - 1] + n], [0]),
        count = offsets[s.lengths.length],
        bound = count + s.more,
        rests = rowOf(s);
      const values = rests.map((rest, i) => draw(INPUTS[i], count * elements(rest)));
      const dataOf = (from: number, to: number, size: number): Data =>
        Object.fromEntries(
          rests.map((rest, i) => {
            const n = elements(rest);
            return [INPUTS[i], padded(values[i].slice(from * n, to * n), size * n)];
          }),
        );
      const rows = new GraphBuilder(ops),
        given = rows.input('input', 'offsets', { dtype: 'int32', shape: [offsets.length] });
      const graph = build(
        rows,
        s,
        [{ kind: 'segmented', bound, segments: s.lengths.length, offsets: given.id }],
        given,
      );
      const alone = s.lengths.flatMap((length, i) => {
        if (length === 0) return [];
        const b = new GraphBuilder(ops),
          start = b.input('input', 'start', { dtype: 'int32', shape: [] });
        const data = { ...dataOf(offsets[i], offsets[i + 1], length), start: Int32Array.of(0) };
        return [{ i, graph: build(b, s, [1, length], start), data }];
      });
      const [got, ...expected] = await runAll(executor, [
        { graph, data: { ...dataOf(0, count, bound), offsets: Int32Array.from(offsets) } },
        ...alone,
      ]);
      for (const [n, { i }] of alone.entries())
        for (const [name, whole] of Object.entries(expected[n])) {
          const width = whole.length / s.lengths[i];
          same(got[name].subarray(offsets[i] * width, offsets[i + 1] * width), whole, `${name} of sample ${i}`);
        }
    };
    try {
      await fc.assert(fc.asyncProperty(samples, check), { seed, numRuns: 8 * times });
    } finally {
      await executor.close();
    }
  });

  test(`rows of one sequence over a cache have the bits of fixed sizes: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) {
      t.skip(reason);
      return;
    }
    const executor = new ProgramExecutor(await entry.open());
    const drawn = fc.record({
      ...sizes,
      count: fc.constantFrom(1, 2, 15, 16, 17, 50),
      more: fc.constantFrom(0, 1, 40),
      before: fc.constantFrom(0, 1, 63, 64, 90),
      room: fc.constantFrom(0, 30),
    });
    const check = async ({ count, more, before, room, ...s }: Drawn<typeof drawn>): Promise<void> => {
      const [one, kv] = rowOf(s),
        seen = before + count,
        cache = [1, seen + (s.causal ? room : 0), ...kv];
      const forms = [false, true].map((counted) => {
        const b = new GraphBuilder(ops),
          bound = count + (counted ? more : 0),
          n = b.input('input', 'n', { dtype: 'int32', shape: [] }),
          lead = counted ? [{ kind: 'bounded' as const, bound, count: n.id }] : [1, bound];
        const start = b.input('input', 'start', { dtype: 'int32', shape: [] });
        const [k, v] = ['k', 'v'].map((name) => b.input('input', name, { dtype: 'float32', shape: cache })),
          q = b.input('input', 'q', { dtype: 'float32', shape: [...lead, ...one] });
        b.output('o', attention(q, k, v, s.causal ? start : 0, { causal: s.causal }));
        const data = {
          n: Int32Array.of(count),
          start: Int32Array.of(before),
          q: padded(draw('q', count * elements(one)), bound * elements(one)),
          k: padded(draw('k', seen * elements(kv)), elements(cache)),
          v: padded(draw('v', seen * elements(kv)), elements(cache)),
        };
        return { graph: b.build(), data };
      });
      const [expected, got] = await runAll(executor, forms);
      same(got['o'].subarray(0, expected['o'].length), expected['o'], 'o');
    };
    try {
      await fc.assert(fc.asyncProperty(drawn, check), { seed, numRuns: 8 * times });
    } finally {
      await executor.close();
    }
  });
}

test('offsets that do not ascend read and write nothing outside memory', async () => {
  // The interpreter reports accesses outside memory. It also reports rows that two samples write: none overlap here.
  const drawn = fc
    .record({ ...sizes, offsets: fc.array(fc.nat(40), { minLength: 2, maxLength: 5 }) })
    .filter(({ offsets }) => {
      const rows = offsets
        .slice(1)
        .flatMap((end, s) => Array.from({ length: Math.max(0, end - offsets[s]) }, (_, i) => offsets[s] + i));
      return new Set(rows).size === rows.length && offsets.some((o, s) => s > 0 && o < offsets[s - 1]);
    });
  for (const entry of INTERPRETERS) {
    const executor = new ProgramExecutor(await entry.open());
    const check = async ({ offsets, ...s }: Drawn<typeof drawn>): Promise<void> => {
      const b = new GraphBuilder(ops),
        given = b.input('input', 'offsets', { dtype: 'int32', shape: [offsets.length] });
      const graph = build(
          b,
          s,
          [{ kind: 'segmented', bound: 40, segments: offsets.length - 1, offsets: given.id }],
          given,
        ),
        data = rowOf(s).map((rest, i) => [INPUTS[i], draw(INPUTS[i], 40 * elements(rest))] as const);
      await runAll(executor, [{ graph, data: { ...Object.fromEntries(data), offsets: Int32Array.from(offsets) } }]);
    };
    try {
      await fc.assert(fc.asyncProperty(drawn, check), { seed, numRuns: 10 * times });
    } finally {
      await executor.close();
    }
  }
});

test('what rows do not take is refused by name', () => {
  const b = new GraphBuilder(ops),
    input = (name: string, shape: readonly Dim[], dtype: 'float32' | 'int32' | 'bool' = 'float32'): Tensor =>
      b.input('input', name, { dtype, shape });
  const [offsets, others] = ['offsets', 'others'].map((name) => input(name, [4], 'int32')),
    rows = (of: Tensor, segments = 3): Dim => ({ kind: 'segmented', bound: 8, segments, offsets: of.id });
  const [q, k, other] = [offsets, offsets, others].map((of, i) => input(`rows${i}`, [rows(of), 2, 4])),
    cache = input('cache', [1, 9, 2, 4]);
  const refuses = (make: () => unknown, message: RegExp): void => {
    assert.throws(make, (error) => error instanceof UserError && message.test(error.message));
  };
  const call = (k: Tensor, options: Partial<AttentionCall> = {}, start = 0): Tensor =>
    attention(q, k, k, start, { causal: true, ...options });
  const mask = input('mask', [1, 1, 8, 8], 'bool'),
    lengths = input('lengths', [3], 'int32');
  refuses(() => call(k, { mask }), /take no mask and no lengths[^]*leave rows out/);
  refuses(() => call(k, { lengths }), /take no mask and no lengths[^]*leave rows out/);
  refuses(() => call(k, {}, 1), /start must be 0 for rows/);
  refuses(() => call(other), /must be the same rows/);
  refuses(() => emit('attention', [q, k, k, others], { causal: true, scale: 1 }), /the offsets are not/);
  refuses(() => call(cache), /rows of one sequence see keys \[1, S, Hkv, D\]/);
  const one = input('one', [{ kind: 'bounded', bound: 8, count: input('n', [], 'int32').id }, 2, 4]);
  const loss = sum(attention(one, cache, cache, 0, { causal: true }));
  refuses(() => gradients(b, loss, [one]), /attention of rows over a cache has no gradient/);
});
