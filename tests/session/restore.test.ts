// A session that loads a checkpoint continues like the session that was saved, whatever it did before. A checkpoint
// that cannot be restored changes nothing, and neither does a step that fails between two micro-batches.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError } from '../../src/base/errors.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { fingerprint, toyBatch, toyLM } from '../support/toy.ts';

const open = (options: { experts?: number; accumulate?: number } = {}): Promise<Session> =>
  compile(toyLM({ ...options }), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device: 'wasm',
    threads: 1,
    seed: 3,
    ...(options.accumulate !== undefined && { accumulate: options.accumulate }),
  });
const losses = async (session: Session, count: number): Promise<number[]> => {
  const all: number[] = [];
  for (let i = 0; i < count; i++) all.push((await session.step(toyBatch(i))).loss);
  return all;
};

test('a checkpoint from before the first step has no moments: loading it clears those of the session', async () => {
  await using fresh = await open(),
    trained = await open();
  const bytes = await fresh.serialize();
  await losses(trained, 3);
  await trained.deserialize(bytes);
  assert.deepEqual(await losses(trained, 3), await losses(fresh, 3));
  assert.deepEqual(fingerprint(trained), fingerprint(fresh));
});

test('a checkpoint that does not fit changes nothing', async () => {
  await using session = await open(),
    other = await open({ experts: 2 });
  await losses(session, 2);
  const before = fingerprint(session),
    plan = JSON.stringify(session.plan());
  await assert.rejects(session.deserialize(await other.serialize()), /the checkpoint has shape/);
  const moment = Buffer.from(await session.serialize())
    .toString('latin1')
    .replace('optim/m/blocks', 'optim/m/clocks');
  await assert.rejects(
    session.deserialize(Uint8Array.from(Buffer.from(moment, 'latin1'))),
    /^UserError: the checkpoint does not fit: the model has no parameter clocks\.0.*\(optim\/m\/clocks/,
  );
  assert.deepEqual(fingerprint(session), before);
  assert.equal(JSON.stringify(session.plan()), plan);
  assert.equal(session.steps, 2);
});

test('if one setting cannot be restored, none is', async () => {
  await using session = await open();
  await losses(session, 1);
  const before = JSON.stringify(session.plan()),
    { knobs } = session.plan();
  const wrong = Object.fromEntries(
    Object.entries(knobs)
      .filter(([, own]) => 'topK' in own)
      .map(([path, own], i) => [path, { ...own, topK: i === 0 ? 1 : 100 }]),
  );
  assert.throws(() => {
    void session.restorePlan({ knobs: wrong, engine: null });
  }, /topK must be from 1/);
  assert.equal(JSON.stringify(session.plan()), before);
});

test('a checkpoint with damaged settings is refused with a clear error and changes nothing', async () => {
  await using session = await open(),
    other = await open();
  await losses(other, 2);
  const text = Buffer.from(await other.serialize()).toString('latin1'),
    before = [fingerprint(session), JSON.stringify(session.plan())];
  // Keys of the JSON in the file's metadata, each replaced by another of the same length: a damaged file keeps its
  // size.
  for (const [key, damaged] of [
    ['knobs', 'knobz'],
    ['topK', 'tipK'],
    ['dispatch', 'despatch'],
  ]) {
    const bytes = Uint8Array.from(Buffer.from(text.replace(key, damaged), 'latin1'));
    await assert.rejects(
      session.deserialize(bytes),
      (error: unknown) => error instanceof UserError && /^the checkpoint: the settings in its plan/.test(error.message),
      key,
    );
    assert.deepEqual([fingerprint(session), JSON.stringify(session.plan())], before);
  }
});

test('a step that fails between two micro-batches leaves no sums of gradients', async () => {
  await using session = await open({ accumulate: 3 }),
    plain = await open({ accumulate: 3 });
  // The accumulating program runs for the first two micro-batches. Then there is no memory for the program of the third
  // one, which updates the parameters.
  const executor = session.executor as unknown as {
    run(program: unknown, inputs: unknown): Promise<unknown>;
    reserve(program: unknown): void;
  };
  const run = executor.run.bind(executor),
    reserve = executor.reserve.bind(executor);
  let ran = 0,
    refused = 0;
  executor.run = (program, inputs) => {
    ran++;
    return run(program, inputs);
  };
  executor.reserve = (program) => {
    if (ran === 2 && refused++ === 0) throw new UserError('too little memory');
    reserve(program);
  };
  await assert.rejects(session.step(toyBatch(0)), /too little memory/);
  assert.deepEqual([ran, session.steps], [2, 0]);
  assert.deepEqual(await losses(session, 2), await losses(plain, 2));
  assert.deepEqual(fingerprint(session), fingerprint(plain));
});

test('accumulate must be a whole number of at least 1', async () => {
  for (const accumulate of [0, -1, 1.5, NaN])
    await assert.rejects(open({ accumulate }), /UserError.*accumulate must be a whole number of at least 1/s);
});

test('calls made before close complete, also serialize', async () => {
  const session = await open(),
    stepped = session.step(toyBatch(0)),
    saved = session.serialize(),
    closing = session.close();
  assert.equal((await stepped).step, 1);
  await using other = await open();
  await other.deserialize(await saved);
  assert.equal(other.steps, 1);
  await closing;
});
