// Attention's order of summation is part of its definition: a query gives the same bits in a full pass, in a pass over part of the
// queries, and alone with a cache in which what it does not see is NaN. And so its gradients: by heads, or by queries and by keys.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { attention } from '../../src/graph/ops/attention.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { emit, emit1, type Tensor } from '../../src/graph/tensor.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { DEVICES } from './devices.ts';

const B = 2, H = 4, KV = 2, D = 20, TOTAL = 150, CACHE = 170;

const draw = (name: string, n: number): Float32Array => Float32Array.from({ length: n }, (_, i) => new Stream(5, name).normal(0, i));

for (const entry of DEVICES) {
  test(`cached attention has the bits of the full pass: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) { t.skip(reason); return; }
    const executor = new ProgramExecutor(await entry.open());
    const q = draw('q', B * TOTAL * H * D), k = draw('k', B * TOTAL * KV * D), v = draw('v', B * TOTAL * KV * D);
    /** Queries from..from+count over `size` keys, of which those past the last query are NaN. */
    const part = async (from: number, count: number, size: number): Promise<Float32Array> => {
      const b = new GraphBuilder(ops), kv = { dtype: 'float32' as const, shape: [B, size, KV, D] };
      const x = b.input('input', 'q', { dtype: 'float32', shape: [B, count, H, D] });
      b.output('o', attention(x, b.input('input', 'k', kv), b.input('input', 'v', kv), b.input('input', 'start', { dtype: 'int32', shape: [] }), { causal: true }));
      const cut = (all: Float32Array, begin: number, rows: number, width: number, room: number): Float32Array => {
        const out = new Float32Array(B * room * width).fill(NaN);
        for (let i = 0; i < B; i++) out.set(all.subarray((i * TOTAL + begin) * width, (i * TOTAL + begin + rows) * width), i * room * width);
        return out;
      };
      const loaded = await loadProgram(executor, compileGraph(b.build())), seen = from + count;
      const got = await executor.run(loaded, { start: Int32Array.of(from), q: cut(q, from, count, H * D, count), k: cut(k, 0, seen, KV * D, size), v: cut(v, 0, seen, KV * D, size) });
      executor.release(loaded);
      return got['o'].data as Float32Array;
    };
    const full = await part(0, TOTAL, TOTAL), row = H * D;
    for (const [from, count, size] of [[0, 1, CACHE], [63, 1, CACHE], [64, 1, CACHE], [149, 1, CACHE], [149, 1, TOTAL], [0, 70, 70], [60, 90, CACHE], [7, 3, CACHE]]) {
      const got = await part(from, count, size);
      for (let b = 0; b < B; b++) for (let i = 0; i < count * row; i++) {
        const expected = full[(b * TOTAL + from) * row + i];
        assert.ok(Object.is(got[b * count * row + i], expected), `queries ${from}..${from + count}: ${got[b * count * row + i]} is not ${expected}`);
      }
    }
    executor.close();
  });

  test(`gradients by heads have the bits of those by queries and keys: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) { t.skip(reason); return; }
    const executor = new ProgramExecutor(await entry.open()), b = new GraphBuilder(ops), data: Record<string, Float32Array | Int32Array> = { start: Int32Array.of(3) };
    const input = (name: string, shape: readonly number[]): Tensor => {
      data[name] = draw(name, shape.reduce((n, d) => n * d, 1));
      return b.input('input', name, { dtype: 'float32', shape });
    };
    const q = input('q', [B, TOTAL, H, D]), k = input('k', [B, TOTAL + 3, KV, D]), v = input('v', [B, TOTAL + 3, KV, D]);
    const start = b.input('input', 'start', { dtype: 'int32', shape: [] }), attrs = { causal: true, scale: 0.2 };
    const inputs = [q, k, v, start, emit('attention', [q, k, v, start], attrs)[1], input('delta', [B, TOTAL, H]), input('dout', [B, TOTAL, H, D])];
    [...emit('attentionGrad', inputs, attrs), emit1('attentionGradQ', inputs, attrs), ...emit('attentionGradKV', inputs, attrs)].forEach((x, i) => b.output(`${i}`, x));
    const got = await executor.run(await loadProgram(executor, compileGraph(b.build())), data);
    for (let i = 0; i < 3; i++) assert.deepEqual(got[`${i}`].data, got[`${i + 3}`].data);
    executor.close();
  });
}
