// Tests random streams: Threefry's published results, and the statistics of the numbers.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream, threefry } from '../../src/base/random.ts';
import { initialParts, initialValue, Parameter, type Init } from '../../src/trace/parameter.ts';

test('Threefry-2x32 with 20 rounds gives the known answers of Random123', () => {
  const ones = 0xffffffff;
  assert.deepEqual(threefry(0, 0, 0, 0), [0x6b200159, 0x99ba4efe]);
  assert.deepEqual(threefry(ones, ones, ones, ones), [0x1cb996fc, 0xbb002be7]);
  assert.deepEqual(threefry(0x13198a2e, 0x03707344, 0x243f6a88, 0x85a308d3), [0xc4923a9c, 0x483df7a0]);
});

test('normal numbers have mean 0, variance 1 and kurtosis 3, drawn one by one or all at once', () => {
  const stream = new Stream(5, 'w'),
    n = 100_001,
    all = stream.normals(3, 1, new Float32Array(n));
  for (const i of [0, 1, 2, 777, n - 1]) assert.equal(all[i], Math.fround(stream.normal(3, i)));
  const moment = (p: number): number => all.reduce((sum, x) => sum + x ** p, 0) / n;
  assert.ok(Math.abs(moment(1)) < 0.015 && Math.abs(moment(2) - 1) < 0.02 && Math.abs(moment(4) - 3) < 0.15);
  // The two numbers of one counter value are independent.
  assert.ok(Math.abs(all.reduce((sum, x, i) => sum + (i % 2 === 0 ? x * (all[i + 1] ?? 0) : 0), 0) / n) < 0.01);
});

test('initial values that are drawn part by part equal those drawn at once', () => {
  for (const init of [
    { kind: 'normal', std: 0.3 },
    { kind: 'uniform', bound: 2 },
    { kind: 'constant', value: 7 },
  ] as const satisfies readonly Init[]) {
    for (const size of [1, 3, 65536, 65537, 200_001]) {
      const p = new Parameter([size], init),
        whole = initialValue(p, 'w', 4),
        found = new Float32Array(size);
      for (const { at, data } of initialParts(p, 'w', 4)) found.set(data, at);
      assert.deepEqual(found, whole, `${init.kind} ${size}`);
      // Two parts of the tensor that change places.
      const cut = Math.floor(size / 3),
        swapped = new Float32Array(size),
        runs = [
          { at: 0, from: cut, count: size - cut },
          { at: size - cut, from: 0, count: cut },
        ];
      for (const { at, data } of initialParts(p, 'w', 4, p.dtype, runs)) swapped.set(data, at);
      assert.deepEqual(swapped, Float32Array.from([...whole.subarray(cut), ...whole.subarray(0, cut)]));
    }
  }
});
