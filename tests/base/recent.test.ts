// Caches of limited size.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { keepRecent } from '../../src/base/recent.ts';

test('a full cache drops the entry that was not used for the longest time', () => {
  const map = new Map<string, number>();
  for (const [i, key] of ['a', 'b', 'c', 'a', 'd', 'e'].entries()) assert.equal(keepRecent(map, key, i, 3), i);
  assert.deepEqual(
    [...map],
    [
      ['a', 3],
      ['d', 4],
      ['e', 5],
    ],
  );
});
