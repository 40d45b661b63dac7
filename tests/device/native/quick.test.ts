// A small program runs synchronously on the main thread. The event loop must still get its turns, and sessions that
// run at the same time must not disturb each other.
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

test('the event loop gets a turn in every step of a small program', { skip: noCompiler }, async () => {
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
  // The counter may be called after the last step has returned, since both are called in the same phase of the event
  // loop.
  assert.ok(turns >= 49, `${turns} turns in 50 steps`);
  await session.close();
});

test('two sessions that train at the same time have the losses of a session alone', { skip: noCompiler }, async () => {
  const [a, b, c] = [await open(), await open(), await open()],
    alone = await losses(a, 60);
  assert.deepEqual(await Promise.all([losses(b, 60), losses(c, 60)]), [alone, alone]);
  for (const s of [a, b, c]) await s.close();
});
