// Orders of samples that balance the load of experts: every epoch contains each sample once, for any sizes, and the
// loads of its batches are more even than those of a random order.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { Stream } from '../../src/base/random.ts';
import { hostTensor } from '../../src/base/tensor.ts';
import { arrays } from '../../src/data/arrays.ts';
import { balancedOrder } from '../../src/data/balanced.ts';
import type { EpochOrder } from '../../src/data/dataset.ts';
import type { Assignments } from '../../src/nn/moe/memory.ts';

/**
 * Random choices of samples: `tokens` tokens with two experts each. Each class of samples prefers two experts, the
 * more the larger `skew` is.
 */
function randomChoices(
  count: number,
  { experts = 8, tokens = 1, skew = 0.9, missing = 0, seed = 1 } = {},
): Assignments {
  const random = new Stream(seed, 'chosen'),
    rows = Array.from({ length: count }, (_, id) =>
      Int32Array.from({ length: tokens * 2 }, (_, c) => {
        const own = (2 * Math.floor(random.uniform(0, id) ** 2 * (experts / 2)) + (c % 2)) % experts;
        return random.uniform(1, id * tokens * 2 + c) < skew
          ? own
          : Math.floor(random.uniform(2, id * tokens * 2 + c) * experts);
      }),
    );
  return {
    experts,
    tokens,
    k: 2,
    ids: Int32Array.from({ length: count }, (_, i) => i),
    of: (id) => (random.uniform(3, id) < missing ? null : rows[id]),
  };
}

/** The largest load of an expert in a batch, divided by that expert's mean load: the mean of this over all batches. */
function unevenness(order: ArrayLike<number>, size: number, { of, experts }: Assignments): number {
  const all = Array.from(order),
    batches = Array.from({ length: Math.floor(all.length / size) }, (_, i) => all.slice(i * size, (i + 1) * size));
  const loads = batches.map((ids) =>
    ids.reduce((load, id) => {
      of(id)?.forEach((e) => {
        load[e]++;
      });
      return load;
    }, new Array<number>(experts).fill(0)),
  );
  const even = loads.reduce((sum, l) => sum.map((n, e) => n + l[e] / loads.length), new Array<number>(experts).fill(0));
  return loads.reduce((sum, l) => sum + Math.max(...l.map((n, e) => n / even[e])), 0) / loads.length;
}
const shuffledOrder: EpochOrder = (epoch, count) => new Stream(0, 'data.order').permutation(epoch, count);

test('each epoch contains every sample once; equal epochs have equal orders, other epochs other orders', () => {
  fc.assert(
    fc.property(
      fc.integer({ min: 1, max: 300 }),
      fc.integer({ min: 1, max: 70 }),
      fc.nat(5),
      fc.constantFrom(0, 0.3, 1),
      (count, size, epoch, missing) => {
        const known = randomChoices(count, { missing }),
          order = balancedOrder(known, { size }),
          once = Array.from(order(epoch, count));
        assert.deepEqual(
          [...once].sort((a, b) => a - b),
          Array.from({ length: count }, (_, i) => i),
        );
        assert.deepEqual(Array.from(balancedOrder(known, { size })(epoch, count)), once);
        if (count > 8) assert.notDeepEqual(Array.from(order(epoch + 1, count)), once);
      },
    ),
    { numRuns: 60 },
  );
});

test('loads of batches are nearly even', (t) => {
  for (const [options, size, most] of [
    [{}, 64, 1.1],
    [{ experts: 16 }, 64, 1.2],
    [{ tokens: 32, skew: 0.7 }, 16, 1.2],
    [{ missing: 0.2 }, 64, 1.2],
  ] as const) {
    const known = randomChoices(4096, options),
      shuffled = unevenness(shuffledOrder(0, 4096), size, known),
      balanced = unevenness(balancedOrder(known, { size })(0, 4096), size, known);
    t.diagnostic(
      `${JSON.stringify(options)}, batches of ${size}: largest load over even share ` +
        `${balanced.toFixed(3)}, shuffled ${shuffled.toFixed(3)}`,
    );
    assert.ok(
      balanced - 1 < 0.4 * (shuffled - 1) && balanced < most,
      `${JSON.stringify(options)}: ${balanced.toFixed(3)} against ${shuffled.toFixed(3)}`,
    );
  }
});

test('the loads of several layers are balanced together', () => {
  const layers = [randomChoices(2048), randomChoices(2048, { seed: 2 })],
    both = balancedOrder(layers, { size: 64 })(0, 2048);
  for (const layer of layers)
    assert.ok(unevenness(both, 64, layer) - 1 < 0.5 * (unevenness(shuffledOrder(0, 2048), 64, layer) - 1));
});

test('batches take their samples in the given order, also if a batch spans two epochs', async () => {
  const count = 50,
    size = 8,
    rows = {
      x: hostTensor(
        'int32',
        [count, 1],
        Int32Array.from({ length: count }, (_, i) => i),
      ),
      y: hostTensor('int32', [count], new Int32Array(count)),
    };
  const order = balancedOrder(randomChoices(count), { size }),
    wanted = [0, 1, 2].flatMap((epoch) => Array.from(order(epoch, count))),
    got: number[] = [];
  for await (const batch of arrays(rows).batches({ size, order, limit: 18 })) {
    assert.deepEqual(Array.from(batch.x.data), Array.from(batch.ids ?? []));
    got.push(...(batch.ids ?? []));
  }
  assert.deepEqual(got, wanted.slice(0, 18 * size));
});

test('an order that is not a permutation is refused by name; the default order is random', async () => {
  const rows = {
      x: hostTensor('int32', [4, 1], Int32Array.of(0, 1, 2, 3)),
      y: hostTensor('int32', [4], new Int32Array(4)),
    },
    data = arrays(rows);
  for (const wrong of [
    [0, 1, 2],
    [0, 1, 2, 2],
    [0, 1, 2, 4],
    [0, 1, 2, 3, 3],
  ]) {
    await assert.rejects(
      data.batches({ size: 2, order: () => wrong }).at(0),
      /order\(0, 4\) must give each of the numbers 0\.\.3 once/,
    );
  }
  assert.deepEqual((await data.batches({ size: 4 }).at(0)).ids, Int32Array.from(shuffledOrder(0, 4)));
  assert.throws(() => balancedOrder(randomChoices(4), { size: 0 }), /size must be a whole number/);
});
