// The order of summation is part of the definition of attention. A query gives the same bits in a pass over all
// queries, in a pass over some of them, and alone with a cache of keys and values; cache rows past the query are NaN
// here. Gradients computed head by head have the bits of gradients computed by queries and by keys. All this also
// holds with masks.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { GraphBuilder } from '../../src/graph/builder.ts';
import { attention } from '../../src/graph/ops/attention/attention.ts';
import { ops } from '../../src/graph/ops/index.ts';
import { emit, emit1, type Tensor } from '../../src/graph/tensor.ts';
import { compileGraph, loadProgram } from '../../src/pipeline.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { DEVICES } from './devices.ts';

const B = 2,
  H = 4,
  KV = 2,
  D = 20,
  TOTAL = 150,
  CACHE = 170;

const draw = (name: string, n: number): Float32Array =>
  Float32Array.from({ length: n }, (_, i) => new Stream(5, name).normal(0, i));

for (const entry of DEVICES) {
  test(`cached attention has the bits of the full pass: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) {
      t.skip(reason);
      return;
    }
    const executor = new ProgramExecutor(await entry.open());
    const q = draw('q', B * TOTAL * H * D),
      k = draw('k', B * TOTAL * KV * D),
      v = draw('v', B * TOTAL * KV * D);
    /** Output for queries from..from+count over `size` keys. Keys and values past the last query are NaN. */
    const part = async (from: number, count: number, size: number): Promise<Float32Array> => {
      const b = new GraphBuilder(ops),
        kv = { dtype: 'float32' as const, shape: [B, size, KV, D] };
      const x = b.input('input', 'q', { dtype: 'float32', shape: [B, count, H, D] });
      b.output(
        'o',
        attention(
          x,
          b.input('input', 'k', kv),
          b.input('input', 'v', kv),
          b.input('input', 'start', { dtype: 'int32', shape: [] }),
          { causal: true },
        ),
      );
      const cut = (all: Float32Array, begin: number, rows: number, width: number, room: number): Float32Array => {
        const out = new Float32Array(B * room * width).fill(NaN);
        for (let i = 0; i < B; i++)
          out.set(all.subarray((i * TOTAL + begin) * width, (i * TOTAL + begin + rows) * width), i * room * width);
        return out;
      };
      const loaded = await loadProgram(executor, compileGraph(b.build(), executor.device.target)),
        seen = from + count;
      const got = await executor.run(loaded, {
        start: Int32Array.of(from),
        q: cut(q, from, count, H * D, count),
        k: cut(k, 0, seen, KV * D, size),
        v: cut(v, 0, seen, KV * D, size),
      });
      executor.release(loaded);
      return got['o'].data as Float32Array;
    };
    const full = await part(0, TOTAL, TOTAL),
      row = H * D;
    for (const [from, count, size] of [
      [0, 1, CACHE],
      [63, 1, CACHE],
      [64, 1, CACHE],
      [149, 1, CACHE],
      [149, 1, TOTAL],
      [0, 70, 70],
      [60, 90, CACHE],
      [7, 3, CACHE],
    ]) {
      const got = await part(from, count, size);
      for (let b = 0; b < B; b++)
        for (let i = 0; i < count * row; i++) {
          const expected = full[(b * TOTAL + from) * row + i];
          assert.ok(
            Object.is(got[b * count * row + i], expected),
            `queries ${from}..${from + count}: ${got[b * count * row + i]} is not ${expected}`,
          );
        }
    }
    await executor.close();
  });

  test(`masks do not change the order of summation: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) {
      t.skip(reason);
      return;
    }
    const executor = new ProgramExecutor(await entry.open()),
      stream = new Stream(6, 'mask'),
      lengths = Int32Array.of(TOTAL, 97);
    const seen = Uint8Array.from({ length: B * H * TOTAL * TOTAL }, (_, i) =>
      stream.uniform(0, i) < 0.7 && Math.floor(i / TOTAL) % 50 !== 49 ? 1 : 0,
    );
    const q = draw('q', B * TOTAL * H * D),
      k = draw('k', B * TOTAL * KV * D),
      v = draw('v', B * TOTAL * KV * D);
    /** Output for queries from..from+count over all keys; `kind` says which mask is made of `seen`. */
    const part = async (
      from: number,
      count: number,
      kind: 'none' | 'bool' | 'bias' | 'all' | 'lower',
      causal = true,
      given = false,
    ): Promise<Float32Array> => {
      const b = new GraphBuilder(ops),
        kv = { dtype: 'float32' as const, shape: [B, TOTAL, KV, D] },
        single = kind === 'lower' ? 1 : H;
      const x = b.input('input', 'q', { dtype: 'float32', shape: [B, count, H, D] }),
        pick = (i: number): number => {
          const key = i % TOTAL,
            query = from + (Math.floor(i / TOTAL) % count),
            head = Math.floor(i / TOTAL / count) % single,
            batch = Math.floor(i / TOTAL / count / single);
          return kind === 'all' ||
            (kind === 'lower' ? key <= query : seen[((batch * H + head) * TOTAL + query) * TOTAL + key])
            ? 1
            : 0;
        };
      const bits = Uint8Array.from({ length: B * single * count * TOTAL }, (_, i) => pick(i));
      const mask =
        kind === 'none'
          ? undefined
          : b.input('input', 'mask', { dtype: kind === 'bias' ? 'float32' : 'bool', shape: [B, single, count, TOTAL] });
      const length = given ? b.input('input', 'lengths', { dtype: 'int32', shape: [B] }) : undefined;
      b.output(
        'o',
        attention(x, b.input('input', 'k', kv), b.input('input', 'v', kv), from, {
          causal,
          ...(mask && { mask }),
          ...(length && { lengths: length }),
        }),
      );
      const rows = new Float32Array(B * count * H * D);
      for (let i = 0; i < B; i++)
        rows.set(q.subarray((i * TOTAL + from) * H * D, (i * TOTAL + from + count) * H * D), i * count * H * D);
      const loaded = await loadProgram(executor, compileGraph(b.build(), executor.device.target));
      const got = await executor.run(loaded, {
        q: rows,
        k,
        v,
        ...(mask && { mask: kind === 'bias' ? Float32Array.from(bits, (s) => (s ? 0 : -Infinity)) : bits }),
        ...(given && { lengths }),
      });
      executor.release(loaded);
      return got['o'].data as Float32Array;
    };
    const full = await part(0, TOTAL, 'bool', true, true),
      row = H * D;
    for (const [from, count] of [
      [0, 1],
      [49, 1],
      [64, 1],
      [149, 1],
      [60, 40],
    ]) {
      const got = await part(from, count, 'bool', true, true);
      for (let i = 0; i < B; i++)
        assert.deepEqual(
          got.subarray(i * count * row, (i + 1) * count * row),
          full.subarray((i * TOTAL + from) * row, (i * TOTAL + from + count) * row),
        );
    }
    assert.ok(
      full.subarray(49 * row, 50 * row).every((x) => x === 0),
      'a query that sees no key gets 0',
    );
    assert.ok(full.every(Number.isFinite));
    assert.deepEqual(await part(0, TOTAL, 'bias', true, true), full, 'a bias of 0 and -Infinity equals the bool mask');
    const plain = await part(0, TOTAL, 'none');
    assert.deepEqual(await part(0, TOTAL, 'all'), plain, 'a mask that hides nothing changes no bit');
    assert.deepEqual(await part(0, TOTAL, 'lower', false), plain, 'a lower triangular mask equals causal attention');
    assert.notDeepEqual(full, plain);
    await executor.close();
  });

  test(`gradients by heads have the bits of those by queries and keys: ${entry.name}`, async (t) => {
    const reason = await entry.skip();
    if (reason !== null) {
      t.skip(reason);
      return;
    }
    const executor = new ProgramExecutor(await entry.open()),
      b = new GraphBuilder(ops),
      data: Record<string, Float32Array | Int32Array> = { start: Int32Array.of(3) };
    const input = (name: string, shape: readonly number[]): Tensor => {
      data[name] = draw(
        name,
        shape.reduce((n, d) => n * d, 1),
      );
      return b.input('input', name, { dtype: 'float32', shape });
    };
    const q = input('q', [B, TOTAL, H, D]),
      k = input('k', [B, TOTAL + 3, KV, D]),
      v = input('v', [B, TOTAL + 3, KV, D]);
    const start = b.input('input', 'start', { dtype: 'int32', shape: [] }),
      delta = input('delta', [B, TOTAL, H]),
      dout = input('dout', [B, TOTAL, H, D]);
    data['lengths'] = Int32Array.of(TOTAL + 3, 40);
    const lengths = b.input('input', 'lengths', { dtype: 'int32', shape: [B] }),
      mask = input('mask', [1, H, TOTAL, 1]);
    const variants = [
      { masks: [], attrs: { causal: true, scale: 0.2 } },
      { masks: [mask, lengths], attrs: { causal: true, scale: 0.2, masked: true, lengths: true } },
    ];
    variants.forEach(({ masks, attrs }, n) => {
      const inputs = [q, k, v, start, emit('attention', [q, k, v, start, ...masks], attrs)[1], delta, dout, ...masks];
      [
        ...emit('attentionGrad', inputs, attrs),
        emit1('attentionGradQ', inputs, attrs),
        ...emit('attentionGradKV', inputs, attrs),
      ].forEach((x, i) => b.output(`${n}${i}`, x));
    });
    const got = await executor.run(await loadProgram(executor, compileGraph(b.build(), executor.device.target)), data);
    for (let n = 0; n < 2; n++)
      for (let i = 0; i < 3; i++) assert.deepEqual(got[`${n}${i}`].data, got[`${n}${i + 3}`].data);
    await executor.close();
  });
}
