// Every op of the table has conformance cases.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ops } from '../../src/graph/ops/index.ts';
import { all } from './cases/index.ts';

test('every op has cases', () => {
  const covered = new Set(all.map((f) => f.op));
  assert.deepEqual(
    [...ops.keys()].filter((name) => !covered.has(name)),
    [],
  );
  assert.deepEqual(
    [...covered].filter((name) => !ops.has(name)),
    [],
  );
});
