// Rules for inference (evaluation, prediction, generation). Their changes never change an output. Loops run until the
// compiler is done and the event arrives; only the test runner's time limit ends them.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor } from '../../src/base/tensor.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { chooseDispatch } from '../../src/recompile/policies/chooseDispatch.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { toyBatch } from '../support/toy.ts';
import { inForce } from './lm.ts';

type LM = TransformerLM;
async function open(): Promise<{ session: Session; events: RecompileEvent[] }> {
  const events: RecompileEvent[] = [],
    model = new TransformerLM({
      vocab: 17,
      dModel: 16,
      layers: 2,
      heads: 2,
      context: 12,
      moe: { experts: 4, topK: 2, hidden: 24, dispatch: 'padded', capacity: 2, overflow: 'spill' },
    });
  const session = await compile(model, {
    loss: crossEntropy,
    optimizer: sgd({ lr: 0.1 }),
    device: 'wasm',
    threads: 1,
    seed: 3,
    memory: 256e6,
    events: (e) => events.push(e),
  });
  return { session, events };
}
const moes = (m: LM) =>
  m.blocks.map((b) => {
    assert.ok(b.moe);
    return b.moe;
  });
const outputs = async (session: Session, i: number): Promise<unknown> => {
  const batch = toyBatch(i),
    { x } = batch;
  return [await session.forward(batch), await session.predict(x)];
};
const toRagged = (name = 'ragged'): Rule<LM> => ({
  name,
  trigger: (run) => run.step === 6,
  alter: (m) => {
    for (const moe of moes(m)) moe.dispatch = 'ragged';
  },
});

test(
  'a change of an inference rule is verified, measured and reported; outputs, and later training, are those of a ' +
    'session without rules',
  async () => {
    const plain = await open(),
      watched = await open();
    watched.session.recompile(toRagged(), 'inference');
    let i = 0;
    for (; watched.events.length === 0; i++)
      assert.deepEqual(await outputs(watched.session, i), await outputs(plain.session, i), `run ${i}`);
    const [event] = watched.events;
    assert.equal(watched.events.length, 1);
    assert.deepEqual([event.during, event.class, event.step, event.verified], ['inference', 'N', 8, true]);
    assert.ok(event.ratio && event.effect !== null && !event.error);
    assert.equal(inForce(watched.session)[0]['dispatch'], event.kept ? 'ragged' : 'padded');
    assert.equal(watched.session.steps, 0, 'inference makes no training step');
    for (let s = 0; s < 3; s++)
      assert.equal((await watched.session.step(toyBatch(s))).loss, (await plain.session.step(toyBatch(s))).loss);
    await plain.session.close();
    await watched.session.close();
  },
);

test('changes of results (class R) are not made in inference', async () => {
  const { session, events } = await open();
  let triggerCalls = 0;
  session.recompile<LM>(
    {
      name: 'one expert',
      trigger: (run) => {
        triggerCalls++;
        return run.step > 2;
      },
      alter: (m) => {
        moes(m)[0].topK = 1;
      },
      cooldown: 1,
    },
    'inference',
  );
  for (let i = 0; i < 60; i++) await session.forward(toyBatch(i));
  assert.ok(triggerCalls > 20);
  assert.deepEqual(events, []);
  assert.equal(inForce(session)[0]['topK'], 2);
  await session.close();
});

test('rules see the expert loads of generation, and generated tokens stay the same', async () => {
  const plain = await open(),
    { session, events } = await open(),
    seen = new Set<number>();
  session.recompile<LM>(
    {
      name: 'ragged',
      trigger: (run) => {
        for (const l of run.layers) seen.add(l.load.reduce((a, b) => a + b, 0));
        return run.step === 8;
      },
      alter: (m) => {
        for (const moe of moes(m)) moe.dispatch = 'ragged';
      },
    },
    'inference',
  );
  const text = async (s: Session, seed: number): Promise<number[]> => {
    const out: number[] = [];
    for await (const t of generate(s, [1, 2, 3], { tokens: 60, seed })) out.push(t);
    return out;
  };
  // Generates texts until the new plan has been compiled and tried.
  for (let seed = 0; events.length === 0; seed++)
    assert.deepEqual(await text(session, seed), await text(plain.session, seed));
  assert.ok(seen.has(2), 'a generated token makes two choices in each layer');
  assert.deepEqual(
    events.map((e) => [e.during, e.error, e.verified]),
    [['inference', undefined, true]],
  );
  await plain.session.close();
  await session.close();
});

test('rules of training and of inference change knobs of the same layers one after the other', async () => {
  const { session, events } = await open();
  session.recompile<LM>(toRagged('inference'), 'inference');
  session.recompile<LM>({
    name: 'training',
    cooldown: 5,
    budget: 1,
    trigger: (run) => run.step >= 6,
    alter: (m) => {
      for (const moe of moes(m)) moe.capacity = 4;
    },
  });
  const x = hostTensor(
    'int32',
    [2, 12],
    Int32Array.from({ length: 24 }, (_, i) => i % 17),
  );
  for (let i = 0; events.length < 2; i++) {
    await session.predict(x);
    await session.step(toyBatch(i));
  }
  assert.deepEqual(events.map((e) => [e.rule, e.during ?? 'training', e.error]).sort(), [
    ['inference', 'inference', undefined],
    ['training', 'training', undefined],
  ]);
  await session.close();
});

test('the policy chooseDispatch sets ragged instead of padded in inference, without a training step', async () => {
  const { session, events } = await open();
  session.recompile(chooseDispatch(), 'inference');
  while (events.length === 0) await session.forward(toyBatch(0));
  assert.deepEqual(
    events.map((e) => [e.rule, e.class, e.verified, e.changes.map((c) => c.to)]),
    [['chooseDispatch', 'N', true, ['ragged', 'ragged']]],
  );
  await session.close();
});

test('a checkpoint that is loaded during a trial of an inference plan restores its own settings', async () => {
  const { session } = await open(),
    other = await open();
  for (const moe of moes(other.session.model as LM)) {
    moe.overflow = 'drop';
    moe.capacity = 0.5;
  }
  const bytes = await other.session.serialize(),
    want = await outputs(other.session, 3);
  let runsOfNewPlan = 0;
  session.recompile<LM>(
    {
      name: 'room',
      trigger: (run) => run.step >= 2,
      alter: (m) => {
        for (const moe of moes(m)) moe.capacity = 1.5;
      },
    },
    'inference',
  );
  // In the trial, runs of the old and the new plan alternate.
  const { executor } = session,
    run = executor.run.bind(executor);
  executor.run = (program, inputs) => {
    if (inForce(session)[0]['capacity'] === 1.5) runsOfNewPlan++;
    return run(program, inputs);
  };
  while (runsOfNewPlan < 2) await session.forward(toyBatch(0));
  await session.deserialize(bytes);
  for (let i = 0; i < 4; i++) assert.deepEqual(await outputs(session, 3), want);
  assert.deepEqual(
    inForce(session).map((m) => [m['capacity'], m['overflow']]),
    [
      [0.5, 'drop'],
      [0.5, 'drop'],
    ],
  );
  await session.close();
  await other.session.close();
});
