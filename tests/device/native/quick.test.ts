// Runs of a small program are calls on the main thread: the event loop must have its turns all the same, and sessions
// beside each other must not disturb one another.
import { strict as assert } from 'node:assert';
import { test } from 'node:test';
import { hostTensor } from '../../../src/base/tensor.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compile } from '../../../src/session/node.ts';
import type { Session } from '../../../src/session/session.ts';
import { noCompiler } from '../../support/toy.ts';

const x = hostTensor(
  'float32',
  [4, 3],
  Float32Array.from({ length: 12 }, (_, i) => Math.cos(i)),
);
const open = (): Promise<Session> =>
  compile(new MLP([3, 8, 3]), { loss: meanSquaredError, optimizer: sgd({ lr: 0.1 }), device: 'native', say: () => {} });

async function losses(session: Session, steps: number): Promise<number[]> {
  const all: number[] = [];
  while (all.length < steps) all.push((await session.step({ x, y: x })).loss);
  return all;
}

test('every quick step lets the event loop have a turn', { skip: noCompiler }, async () => {
  const session = await open();
  await losses(session, 20);
  let turns = 0,
    on = true;
  const count = (): void => {
    turns++;
    if (on) setImmediate(count);
  };
  setImmediate(count);
  await losses(session, 50);
  on = false;
  // The turn of the last step may come after it: the counter and the step are called in the same phase of the event
  // loop.
  assert.ok(turns >= 49, `${turns} turns in 50 steps`);
  await session.close();
});

test('two sessions in turns, step by step and at once, give the same losses', { skip: noCompiler }, async () => {
  const [a, b, c] = [await open(), await open(), await open()],
    alone = await losses(a, 60);
  assert.deepEqual(await Promise.all([losses(b, 60), losses(c, 60)]), [alone, alone]);
  for (const s of [a, b, c]) await s.close();
});
