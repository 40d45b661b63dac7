// Tests dynamoe bench ranks: the JSON that it writes, and which experts each rank has. Measures no times.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { dealt, sharesOf, type RanksResult } from '../../src/bench/ranks.ts';
import { missing, openMpi, runRanks } from '../support/mpi.ts';

test('experts are dealt back and forth', () => {
  assert.deepEqual(dealt(8, 2), [0, 3, 4, 7, 1, 2, 5, 6]);
  assert.deepEqual(dealt(8, 4), [0, 7, 1, 6, 2, 5, 3, 4]);
});

test('the share of a rank is the load of its slots', () => {
  assert.deepEqual(sharesOf([1, 2, 3, 4], [3, 0, 2, 1], 2), [0.5, 0.5]);
  assert.deepEqual(sharesOf([1, 2, 3], [0, 1, 2], 2), [1, 1]);
});

test('bench ranks writes one JSON object', { skip: missing(openMpi) }, async () => {
  const sizes = ['--tokens', '8', '--width', '16', '--hidden', '8', '--experts', '4', '--rounds', '1'],
    main = join(import.meta.dirname, '../../src/cli/main.ts'),
    flags = [...sizes, '--skew', '9', '--dealt', '--interface', 'lo', '--json'];
  const { status, stdout, stderr } = await runRanks(openMpi, 2, main, ['bench', 'ranks', ...flags]);
  assert.equal(status, 0, stderr);
  const result = JSON.parse(stdout) as RanksResult;
  assert.deepEqual([result.event, result.ranks, result.kind, result.tokens], ['ranks', 2, 'weak', 16]);
  // Every token goes to the two experts with the largest bias, which are on different ranks.
  assert.deepEqual(
    [result.load, result.shares],
    [
      [16, 16, 0, 0],
      [0.5, 0.5],
    ],
  );
  assert.ok(result.sent_bytes.every((bytes) => bytes > 0) && result.carried_bytes?.length === 2, stdout);
  assert.ok(result.efficiency > 0 && result.link_ms > 0 && result.waited_ms.length === 2, stdout);
});
