// Tests dynamoe bench routing: the JSON that it writes, and how the critical path is found. Measures no times.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pathOf } from '../../src/bench/routing.ts';
import type { Program, Step } from '../../src/plan/program.ts';
import { command } from '../cli/command.ts';

test('bench routing writes one JSON object for each kind of routing, with all numbers', async () => {
  const { code, stdout, stderr } = await command(
    'bench',
    'routing',
    '--samples',
    '4',
    '--tokens',
    '3',
    '--d-model',
    '8',
    '--d-ff',
    '8',
    '--experts',
    '4',
    '--remember',
    '100',
    '--rounds',
    '1',
    '--device',
    'wasm',
    '--threads',
    '1',
    '--json',
  );
  assert.equal(code, 0, stderr);
  const results = stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, number> & { kernels_us: Record<string, number> });
  assert.deepEqual(
    results.map((r) => [r['event'], r['routing'], r['samples'], r['tokens'], r['state_bytes']]),
    [
      ['routing', 'live', 4, 3, 0],
      ['routing', 'watched', 4, 3, 800],
      ['routing', 'cached', 4, 3, 800],
    ],
  );
  for (const r of results) {
    assert.ok(r['scores_us'] > 0 && r['sorted_us'] >= r['scores_us'] && r['path_us'] >= r['sorted_us'], stdout);
    assert.ok(
      r.kernels_us['select'] > 0 && r.kernels_us['sort'] > 0 && r.kernels_us['all'] >= r['path_us'] - 1e-6,
      stdout,
    );
    assert.equal(r.kernels_us['memory'] > 0, Number(r['state_bytes']) > 0);
  }
});

test('the critical path follows memory that steps share, not their order', () => {
  const tensors = Array.from({ length: 5 }, (_, i) => ({
    id: i,
    name: `%${i}`,
    type: { dtype: 'float32' as const, shape: [1] },
    slab: 'arena' as const,
    offset: 256 * i,
    bytes: 4,
    first: 0,
    last: 9,
  }));
  const step = (op: string, reads: readonly number[], writes: number): Step => ({
    kind: 'kernel',
    kernel: op,
    buffers: [writes, ...reads],
    writes: [true, ...reads.map(() => false)],
    ints: [],
    barrier: true,
    unless: null,
    ops: [op],
    scope: '',
    flops: 0,
  });
  const program = {
    tensors,
    steps: [
      step('matmul', [0], 1),
      step('matmul', [0], 2),
      step('topK', [1], 3),
      step('permute', [3], 4),
      step('add', [2, 4], 0),
    ],
  } as unknown as Program;
  assert.deepEqual(pathOf(program, [10, 100, 5, 2, 1]), { scores_us: 10, sorted_us: 17, path_us: 101 });
  assert.deepEqual(pathOf(program, [100, 10, 5, 2, 1]), { scores_us: 100, sorted_us: 107, path_us: 108 });
});
