// Intervals of shares: they equal other forms of the same definition, and hold the true value as often as they say.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { pairedDifference, wilson } from '../../src/base/proportions.ts';

const Z = 1.959963984540054;

test("Wilson's bounds are the shares p with |right / n - p| = z sqrt(p (1 - p) / n)", () => {
  fc.assert(
    fc.property(fc.integer({ min: 1, max: 2000 }), fc.nat(2000), (n, drawn) => {
      const right = drawn % (n + 1),
        { value, low, high } = wilson(right, n);
      assert.equal(value, right / n);
      assert.ok(0 <= low && low <= value && value <= high && high <= 1);
      for (const p of [low, high])
        assert.ok(Math.abs(Math.abs(value - p) - Z * Math.sqrt((p * (1 - p)) / n)) < 1e-12, `${right} of ${n}: ${p}`);
    }),
  );
  assert.deepEqual([wilson(0, 5).low, wilson(5, 5).high], [0, 1]);
});

const counts = fc.record({ both: fc.nat(60), onlyA: fc.nat(60), onlyB: fc.nat(60), neither: fc.nat(60) });

test('the interval of a difference is in [-1, 1] and holds it; it is negated when A and B change places', () => {
  fc.assert(
    fc.property(counts, (c) => {
      fc.pre(c.both + c.onlyA + c.onlyB + c.neither > 0);
      const { value, low, high } = pairedDifference(c),
        other = pairedDifference({ ...c, onlyA: c.onlyB, onlyB: c.onlyA });
      assert.ok(-1 - 1e-12 <= low && low <= value && value <= high && high <= 1 + 1e-12);
      for (const [x, y] of [
        [other.value, -value],
        [other.low, -high],
        [other.high, -low],
      ])
        assert.ok(Math.abs(x - y) < 1e-12);
    }),
  );
});

test('the interval of a difference holds the true difference in about 95% of all samples', () => {
  const n = 30,
    logs = [0];
  for (let i = 1; i <= n; i++) logs.push(logs[i - 1] + Math.log(i));
  // The exact sum over all samples of n questions.
  for (const [both, onlyA, onlyB, neither] of [
    [0.4, 0.1, 0.2, 0.3],
    [0.5, 0.15, 0.1, 0.25],
    [0.25, 0.25, 0.25, 0.25],
    [0.5, 0.02, 0.4, 0.08],
  ]) {
    let held = 0,
      all = 0;
    for (let e = 0; e <= n; e++)
      for (let f = 0; e + f <= n; f++)
        for (let g = 0; e + f + g <= n; g++) {
          const h = n - e - f - g,
            chance = Math.exp(
              logs[n] -
                (logs[e] + logs[f] + logs[g] + logs[h]) +
                e * Math.log(both) +
                f * Math.log(onlyA) +
                g * Math.log(onlyB) +
                h * Math.log(neither),
            ),
            { low, high } = pairedDifference({ both: e, onlyA: f, onlyB: g, neither: h });
          all += chance;
          if (low <= onlyB - onlyA && onlyB - onlyA <= high) held += chance;
        }
    assert.ok(Math.abs(all - 1) < 1e-9);
    assert.ok(held > 0.945 && held < 0.97, `${held} of samples from ${[both, onlyA, onlyB, neither].join()}`);
  }
});
