// Every op of the table has conformance cases, except those that exchange data between ranks.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { ops } from '../../src/graph/ops/index.ts';
import { all } from './cases/index.ts';

test('every op has cases', () => {
  const covered = new Set(all.map((f) => f.op));
  assert.deepEqual(
    // A device without ranks cannot exchange data: see tests/passes/ranks.test.ts.
    [...ops.values()].filter(({ name, lower }) => lower.kind !== 'collective' && !covered.has(name)).map((o) => o.name),
    [],
  );
  assert.deepEqual(
    [...covered].filter((name) => !ops.has(name)),
    [],
  );
});
