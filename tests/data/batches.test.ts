// Batches are prepared ahead: one batch, while the caller works. An error of preparing it is thrown when the caller
// waits for that batch.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { setImmediate as turn } from 'node:timers/promises';
import type { Batch } from '../../src/base/tensor.ts';
import { ArrayDataset } from '../../src/data/arrays.ts';
import { shuffled, type Samples } from '../../src/data/batches.ts';

/** Samples that count how often they are gathered; gathering fails from call `failAt` on. */
function countedSamples(count: number, failAt = Infinity): { samples: Samples; gathered: () => number } {
  let n = 0;
  const gather = (ids: Int32Array): Batch => {
    if (n++ >= failAt) throw new Error('the disk is gone');
    const tensor = { dtype: 'int32', shape: [ids.length], data: ids } as const;
    return { x: tensor, y: tensor, ids };
  };
  return { samples: { count, gather }, gathered: () => n };
}

test('only the next batch is made while the caller works', async () => {
  const { samples, gathered } = countedSamples(10);
  const batches = shuffled(() => Promise.resolve(samples), { size: 2 });
  const iterator = batches[Symbol.asyncIterator]();
  assert.equal(gathered(), 0);
  const first = await iterator.next();
  assert.equal(gathered(), 1); // the second batch is made only after the caller has the first
  for (let i = 0; i < 5; i++) await turn();
  assert.equal(gathered(), 2);
  const second = await iterator.next();
  assert.deepEqual([first.value, second.value], [await batches.at(0), await batches.at(1)]);
  await iterator.return?.();
  assert.equal((await iterator.next()).done, true);
});

test('an error is thrown at the batch that failed, and not at all if the caller stops before it', async () => {
  const read = async (limit: number): Promise<number> => {
    let n = 0;
    for await (const _ of shuffled(() => Promise.resolve(countedSamples(10, 2).samples), { size: 2, limit })) {
      await turn();
      n++;
    }
    return n;
  };
  assert.equal(await read(2), 2);
  const failing = countedSamples(10, 2);
  const seen: unknown[] = [];
  await assert.rejects(async () => {
    for await (const batch of shuffled(() => Promise.resolve(failing.samples), { size: 2 })) seen.push(batch);
  }, /the disk is gone/);
  assert.equal(seen.length, 2);
  for await (const _ of shuffled(() => Promise.resolve(countedSamples(10, 1).samples), { size: 2 })) {
    for (let i = 0; i < 5; i++) await turn(); // the second batch has failed by now
    break;
  }
});

test('an unknown split and an invalid seed are refused at once', () => {
  const data = new ArrayDataset('rows', () => Promise.reject(new Error('nobody reads')));
  assert.throws(
    () => data.batches({ size: 2, split: 'valid' as never }),
    /UserError.*split must be one of train, validation, test, got "valid"/s,
  );
  for (const seed of [NaN, -1, 1.5])
    assert.throws(() => data.batches({ size: 2, seed }), /UserError.*seed must be a whole number of at least 0/s);
  assert.throws(
    () => data.pass({ size: 2, split: 'valid' as never }),
    /UserError.*split must be one of train, validation, test, got "valid"/s,
  );
});
