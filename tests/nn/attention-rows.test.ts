// Attention layers over rows segmented by sample give each sample the bits that it has alone, with rotary positions
// too: outputs, and gradients of the rows. With a cache, one program takes chunks of any number of rows, and gives the
// bits of a pass over the whole sequence.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { TypedArray } from '../../src/base/dtype.ts';
import { UserError } from '../../src/base/errors.ts';
import { Stream } from '../../src/base/random.ts';
import { divided, isDynamic, showType, type Dim } from '../../src/base/shape.ts';
import { gradients } from '../../src/grad/differentiate.ts';
import type { Graph } from '../../src/graph/graph.ts';
import { mul, sum } from '../../src/graph/ops/functions.ts';
import { ops } from '../../src/graph/ops/index.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { CausalSelfAttention } from '../../src/nn/attention.ts';
import { MultiHeadAttention, type MultiHeadInputs } from '../../src/nn/multi-head.ts';
import { findSamples } from '../../src/passes/samples.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor, type LoadedProgram } from '../../src/run/program.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { initialValue } from '../../src/trace/parameter.ts';
import { call, trace, type Trace } from '../../src/trace/trace.ts';
import { DEVICES } from '../conformance/devices.ts';
import { drawsFromEnv } from '../support/random-cases.ts';

const { seed, times } = drawsFromEnv();
const WIDTH = 24,
  CONTEXT = 100;

interface Layer {
  forward(x: Tensor): Tensor;
}
const layers: Readonly<Record<string, () => Layer>> = {
  causal: () => new CausalSelfAttention({ dModel: WIDTH, heads: 2, context: CONTEXT }),
  'with shared keys': () => new CausalSelfAttention({ dModel: WIDTH, heads: 6, kvHeads: 2, context: CONTEXT }),
  'over all positions': () => new MultiHeadAttention({ dModel: WIDTH, heads: 3, kvHeads: 1 }),
  'with rotary positions': () => new MultiHeadAttention({ dModel: WIDTH, heads: 2, rope: 500, causal: true }),
};

const draw = (name: string, rows: number): Float32Array =>
  Float32Array.from({ length: rows * WIDTH }, (_, i) => new Stream(5, name).normal(0, i));

const padded = (values: Float32Array, rows: number): Float32Array => {
  const out = new Float32Array(rows * WIDTH).fill(NaN);
  out.set(values);
  return out;
};

const same = (got: TypedArray, expected: TypedArray, what: string): void => {
  assert.equal(got.length, expected.length);
  for (const [i, x] of expected.entries())
    assert.ok(Object.is(got[i], x), `${what}, element ${i}: ${got[i]} is not ${x}`);
};

/** The graph of a layer that `build` traces; the layer's parameters are given their values. */
function graphOf(executor: ProgramExecutor, layer: Layer, build: (t: Trace) => void): Graph {
  const named = nameParameters(layer);
  for (const [name, p] of named.parameters)
    executor.setState(name, { dtype: p.dtype, shape: p.shape }, initialValue(p, name, 3));
  return trace(ops, named, true, build);
}

/** Outputs y and the gradient of x for a weighted sum of y. */
function forward(t: Trace, layer: Layer, lead: readonly Dim[]): void {
  const [x, w] = ['x', 'w'].map((name) => t.input('input', name, { dtype: 'float32', shape: [...lead, WIDTH] })),
    y = call(layer, x);
  t.output('y', y);
  t.output('dx', gradients(t, sum(mul(y, w)), [x])[0] ?? assert.fail());
}

const load = (executor: ProgramExecutor, graph: Graph): Promise<LoadedProgram> =>
  loadProgram(executor, compileGraph(graph, executor.device.target));

for (const entry of DEVICES) {
  test(`each sample has the bits that it has alone: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) {
      t.skip(reason);
      return;
    }
    const drawn = fc.record({
      kind: fc.constantFrom(...Object.keys(layers)),
      lengths: fc.array(fc.constantFrom(0, 1, 15, 16, 17, 65, CONTEXT), { minLength: 1, maxLength: 8 }),
      more: fc.constantFrom(0, 30),
    });
    const device = await entry.open();
    const check = async ({ kind, lengths, more }: typeof drawn extends fc.Arbitrary<infer S> ? S : never) => {
      const executor = new ProgramExecutor(device),
        layer = layers[kind](),
        offsets = lengths.reduce<number[]>((all, n) => [...all, all[all.length - 1] + n], [0]),
        count = offsets[lengths.length],
        bound = count + more,
        [x, w] = ['x', 'w'].map((name) => draw(name, count));
      const rows = await load(
        executor,
        graphOf(executor, layer, (t) => {
          const given = t.input('input', 'offsets', { dtype: 'int32', shape: [offsets.length] });
          forward(t, layer, [{ kind: 'segmented', bound, segments: lengths.length, offsets: given.id }]);
        }),
      );
      const got = await executor.run(rows, {
        offsets: Int32Array.from(offsets),
        x: padded(x, bound),
        w: padded(w, bound),
      });
      for (const [i, length] of lengths.entries()) {
        if (length === 0) continue;
        const [from, to] = [offsets[i] * WIDTH, offsets[i + 1] * WIDTH];
        const alone = await load(
          executor,
          graphOf(executor, layer, (t) => {
            forward(t, layer, [1, length]);
          }),
        );
        const expected = await executor.run(alone, { x: x.slice(from, to), w: w.slice(from, to) });
        for (const name of ['y', 'dx'])
          same(got[name].data.subarray(from, to), expected[name].data, `${kind}: ${name} of sample ${i}`);
      }
      executor.release(rows);
    };
    try {
      await fc.assert(fc.asyncProperty(drawn, check), { seed, numRuns: 4 * times });
    } finally {
      await device.close();
    }
  });

  test(`chunks of any number of rows have the bits of the whole sequence: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) {
      t.skip(reason);
      return;
    }
    const executor = new ProgramExecutor(await entry.open()),
      layer = new CausalSelfAttention({ dModel: WIDTH, heads: 6, kvHeads: 3, context: CONTEXT }),
      bound = 40,
      x = draw('x', CONTEXT);
    const whole = await load(
      executor,
      graphOf(executor, layer, (t) => {
        t.output('y', call(layer, t.input('input', 'x', { dtype: 'float32', shape: [1, CONTEXT, WIDTH] })));
      }),
    );
    const chunk = await load(
      executor,
      graphOf(executor, layer, (t) => {
        const count = t.input('input', 'count', { dtype: 'int32', shape: [] }),
          rows = { kind: 'bounded' as const, bound, count: count.id },
          position = t.input('input', 'position', { dtype: 'int32', shape: [] });
        t.output('y', call(layer, t.input('input', 'x', { dtype: 'float32', shape: [rows, WIDTH] }), { position }));
      }),
    );
    const { y: expected } = await executor.run(whole, { x });
    let from = 0;
    for (const count of [1, 40, 0, 17, 1, 16, 25]) {
      const got = await executor.run(chunk, {
        x: padded(x.slice(from * WIDTH, (from + count) * WIDTH), bound),
        count: Int32Array.of(count),
        position: Int32Array.of(from),
      });
      const [begin, end] = [from * WIDTH, (from + count) * WIDTH];
      same(got['y'].data.subarray(0, end - begin), expected.data.subarray(begin, end), `${count} rows at ${from}`);
      from += count;
    }
    assert.equal(from, CONTEXT);
    await executor.close();
  });
}

test('rows stay those of their samples, in gradients too', () => {
  for (const [kind, make] of Object.entries(layers)) {
    const layer = make();
    const graph = trace(ops, nameParameters(layer), true, (t) => {
      const offsets = t.input('input', 'offsets', { dtype: 'int32', shape: [9] }),
        rows: Dim = { kind: 'segmented', bound: 40, segments: 8, offsets: offsets.id },
        x = t.input('input', 'x', divided({ dtype: 'float32', shape: [rows, WIDTH] }, 'batch')),
        y = call(layer, x);
      t.output('dx', gradients(t, sum(mul(y, y)), [x])[0] ?? assert.fail());
    });
    const samples = findSamples(graph, ops);
    graph.types.forEach((type, v) => {
      if (isDynamic(type.shape)) assert.deepEqual(samples[v], { dim: 0, each: 1 }, `${kind}: ${showType(type)}`);
    });
  }
});

test('rows take no memory, mask and lengths', () => {
  const layer = new MultiHeadAttention({ dModel: WIDTH, heads: 2 });
  trace(ops, nameParameters(layer), true, (t) => {
    const offsets = t.input('input', 'offsets', { dtype: 'int32', shape: [3] }),
      rows: Dim = { kind: 'segmented', bound: 8, segments: 2, offsets: offsets.id };
    const input = (name: string, shape: readonly Dim[], dtype: 'float32' | 'int32' | 'bool' = 'float32'): Tensor =>
      t.input('input', name, { dtype, shape });
    const x = input('x', [rows, WIDTH]);
    const given: Required<MultiHeadInputs> = {
      memory: input('memory', [2, 4, WIDTH]),
      mask: input('mask', [2, 1, 4, 4], 'bool'),
      lengths: input('lengths', [2], 'int32'),
    };
    for (const [name, value] of Object.entries(given))
      assert.throws(
        () => call(layer, x, { [name]: value }),
        (error) => error instanceof UserError && error.message.includes(`rows segmented by sample take no ${name}`),
      );
  });
});
