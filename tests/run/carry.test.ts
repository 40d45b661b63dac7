// Moves of values between parts of states: made in order, read in one batch, written together, undone to the last bit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { momentName } from '../../src/optim/updates.ts';
import { carry } from '../../src/run/carry.ts';
import { ReferenceExecutor } from '../../src/run/reference.ts';
import type { Move, Place } from '../../src/trace/knobs.ts';

const at = (part: number | null, axis = 0, parameter = 'w'): Place<string> => ({ parameter, axis, part });

/** w is [3, 2] with the elements 0 to 5; v is [2] with 10 and 20; w has a moment, v has none. */
function make(): { executor: ReferenceExecutor; value: (name: string) => number[]; batches: number[] } {
  const executor = new ReferenceExecutor(),
    real = executor.getParts.bind(executor),
    batches: number[] = [];
  executor.setState('w', { dtype: 'float64', shape: [3, 2] }, Float64Array.of(0, 1, 2, 3, 4, 5));
  executor.setState('v', { dtype: 'float64', shape: [2] }, Float64Array.of(10, 20));
  executor.setState(momentName('m', 'w'), { dtype: 'float64', shape: [3, 2] }, Float64Array.of(6, 7, 8, 9, 10, 11));
  executor.getParts = (parts) => {
    batches.push(parts.length);
    return real(parts);
  };
  return { executor, value: (name) => Array.from(executor.peekState(name).data), batches };
}

const CASES: readonly { name: string; moves: Move[]; w: number[]; m: number[] }[] = [
  {
    name: 'a part gets another part',
    moves: [{ to: at(0), from: at(2) }],
    w: [4, 5, 2, 3, 4, 5],
    m: [10, 11, 8, 9, 10, 11],
  },
  {
    name: 'a move reads what an earlier move has written',
    moves: [
      { to: at(1), from: at(0) },
      { to: at(2), from: at(1) },
    ],
    w: [0, 1, 0, 1, 0, 1],
    m: [6, 7, 6, 7, 6, 7],
  },
  {
    name: 'parts along the last axis are not contiguous',
    moves: [{ to: at(0, 1), from: at(1, 1) }],
    w: [1, 1, 3, 3, 5, 5],
    m: [7, 7, 9, 9, 11, 11],
  },
  {
    name: 'a mixture',
    moves: [{ to: at(0), from: at(1), mix: { with: at(2), share: 0.25 } }],
    w: [2.5, 3.5, 2, 3, 4, 5],
    m: [8.5, 9.5, 8, 9, 10, 11],
  },
  {
    name: 'a moment that the source lacks is 0',
    moves: [{ to: at(1), from: at(null, 0, 'v') }],
    w: [0, 1, 10, 20, 4, 5],
    m: [6, 7, 0, 0, 10, 11],
  },
];

for (const { name, moves, w, m } of CASES)
  test(name, async () => {
    const { executor, value, batches } = make(),
      moment = momentName('m', 'w'),
      before = [value('w'), value(moment)],
      back = await carry(executor, moves);
    assert.deepEqual([value('w'), value(moment)], [w, m]);
    assert.equal(batches.length, 1, 'all values are read in one batch');
    back();
    assert.deepEqual([value('w'), value(moment)], before);
  });

test('if a write fails, nothing is moved', async () => {
  const { executor, value } = make(),
    real = executor.setPart.bind(executor);
  let left = 1;
  executor.setPart = (...args) => {
    if (left-- === 0) throw new Error('a write fails');
    real(...args);
  };
  await assert.rejects(carry(executor, [{ to: at(0), from: at(2) }]), /a write fails/);
  assert.deepEqual(value('w'), [0, 1, 2, 3, 4, 5]);
  assert.deepEqual(value(momentName('m', 'w')), [6, 7, 8, 9, 10, 11]);
});

test('moves along several axes of one state are refused', async () => {
  const { executor, value } = make(),
    moves = [
      { to: at(0), from: at(1) },
      { to: at(1, 1), from: at(0, 1) },
    ];
  await assert.rejects(carry(executor, moves), /parts of w move along several axes/);
  assert.deepEqual(value('w'), [0, 1, 2, 3, 4, 5]);
});
