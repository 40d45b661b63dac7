// Properties of routing under random loads: no row is lost or doubled, counts stay within capacities and bounds, drops
// are counted exactly, kept rows are in token order, and the priority decides which rows are kept.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { ops } from '../../../src/graph/ops/index.ts';
import { capacityRows, bucket } from '../../../src/nn/moe/capacity.ts';
import { routed, type RoutingOptions } from '../../../src/nn/moe/routing.ts';
import { evaluate } from '../../../src/run/reference.ts';
import { Trace } from '../../../src/trace/trace.ts';

const cases = fc.record({
  tokens: fc.integer({ min: 1, max: 40 }),
  experts: fc.constantFrom(1, 2, 7, 64, 512),
  k: fc.integer({ min: 1, max: 5 }),
  skew: fc.double({ min: 0, max: 4, noNaN: true }),
  capacity: fc.oneof(fc.constant('dropless' as const), fc.double({ min: 0, max: 4, noNaN: true })),
  seed: fc.nat(),
  overflow: fc.constantFrom('drop', 'spill'),
  priority: fc.constantFrom('position', 'choice', 'probs'),
  padded: fc.boolean(),
  ramp: fc.boolean(),
});

test('rows are neither lost nor doubled, and counts are exact', () => {
  fc.assert(
    fc.property(cases, ({ tokens, experts, skew, seed, capacity, ramp, overflow, priority, padded, ...rest }) => {
      const k = Math.min(rest.k, experts);
      let state = (seed % 2147483646) + 1;
      const random = (): number => (state = (state * 48271) % 2147483647) / 2147483647;
      // Each token chooses k experts by random scores, which favour the first experts (more with larger `skew`).
      const chosen = Array.from({ length: tokens }, () =>
        Array.from({ length: experts }, (_, e) => ({ e, s: random() * (1 + e) ** -skew }))
          .sort((a, b) => b.s - a.s)
          .slice(0, k)
          .map((c) => c.e),
      );
      const scores = chosen.map((row) => row.map(() => Math.floor(random() * 8)));
      const factors =
        capacity === 'dropless'
          ? capacity
          : ramp
            ? Array.from({ length: experts }, (_, e) => (capacity * (e + 1)) / experts)
            : capacity;
      const t = new Trace(ops, { parameters: new Map(), paths: new Map() }, true);
      const options: RoutingOptions = {
        experts,
        capacity: factors,
        overflow,
        priority,
        padded,
        scores: t.constant({ dtype: 'float32', shape: [tokens, k] }, Float32Array.from(scores.flat())),
      };
      const r = routed(t.constant({ dtype: 'int32', shape: [tokens, k] }, Int32Array.from(chosen.flat())), options);
      const values = evaluate(t.build(), ops, ({ data }) => Float64Array.from(data ?? []));
      const [offsets, order, inverse, expert, load] = [
        r.rows.offsets,
        r.rows.order,
        r.rows.inverse,
        r.rows.expert,
        r.load,
      ].map((x) => Array.from(values[x.id]));
      const caps =
        capacityRows(factors, experts, tokens * k)?.map((c) => Math.min(c, tokens)) ??
        new Array<number>(experts).fill(tokens);
      const flat = chosen.flat();

      assert.ok(offsets[experts] <= r.bound);
      assert.deepEqual(
        load,
        caps.map((_, e) => flat.filter((c) => c === e).length),
      );
      for (let e = 0; e < experts; e++) {
        const rows = order.slice(offsets[e], offsets[e + 1]),
          real = rows.filter((c) => c >= 0),
          wanted = flat.flatMap((c, i) => (c === e ? [i] : []));
        assert.deepEqual(rows.slice(0, real.length), real, 'empty rows come last');
        assert.deepEqual(
          real,
          [...real].sort((a, b) => a - b),
          'rows are in token order',
        );
        assert.equal(
          real.length,
          overflow === 'spill' && r.overflowCounts ? wanted.length : Math.min(wanted.length, caps[e]),
        );
        assert.ok(
          rows.length <= Math.max(r.bounds[e], 0) && (!padded || rows.length >= caps[e]),
          'rows are within the bound, and at least as many as the capacity if padded',
        );
        real.forEach((c, i) => {
          assert.equal(inverse[c], offsets[e] + i);
          assert.equal(flat[c], e);
          assert.equal(expert[offsets[e] + i], e);
        });
        for (const c of wanted) assert.ok(real.includes(c) || inverse[c] === -1);
        if (r.overflowCounts) assert.equal(values[r.overflowCounts.id][e], Math.max(0, wanted.length - caps[e]));
        const worth = (c: number): number =>
          priority === 'position' ? 0 : priority === 'choice' ? -(c % k) : scores.flat()[c];
        const best = [...wanted].sort((a, b) => worth(b) - worth(a) || a - b).slice(0, real.length);
        assert.deepEqual(
          real,
          best.sort((a, b) => a - b),
          'the rows with the highest priority are kept',
        );
      }
    }),
    { seed: 1, numRuns: 300 },
  );
});

test('a bucket is at least as large as its number of rows, and little larger', () => {
  fc.assert(
    fc.property(fc.integer({ min: 0, max: 10_000_000 }), (n) => {
      const b = bucket(n);
      assert.ok(b >= n && (n <= 16 || b <= n * 1.126) && bucket(b) === b);
    }),
    { seed: 1 },
  );
});
