// What training does not need is loaded when it is asked for (src/session/extras.ts): calls take effect in their order,
// with the results that they have where all is there from the start, and a file that cannot be loaded is reported.
import assert from 'node:assert/strict';
import { setTimeout } from 'node:timers/promises';
import { test } from 'node:test';
import { loadedBy, present, type Lazy } from '../../src/base/lazy.ts';
import type { Batch } from '../../src/base/tensor.ts';
import { crossEntropy, type Loss } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import type { TransformerLM } from '../../src/nn/transformer.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { compileOn } from '../../src/session/compile.ts';
import * as extras from '../../src/session/extras.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { web } from '../../src/session/web-platform.ts';
import { toyBatch, toyLM } from '../support/toy.ts';

type Extras = Lazy<typeof extras>;
const now: Extras = present(extras);
/** Loaded after 30 ms; the first `failures` attempts fail. */
function slow(failures = 0): { readonly extras: Extras; readonly loads: () => number } {
  let loads = 0;
  const late = loadedBy(async () => {
    await setTimeout(30);
    if (++loads <= failures) throw new Error('the network is gone');
    return extras;
  });
  return { extras: late, loads: () => loads };
}

const open = (from: Extras, options: Partial<CompileOptions> = {}): Promise<Session> =>
  compileOn(
    web,
    toyLM(),
    { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), seed: 3, threads: 1, ...options },
    from,
  );

const rule: Rule<TransformerLM> = {
  name: 'one expert',
  trigger: (run) => run.step >= 2,
  alter: (m) => {
    m.blocks[0].moe!.topK = 1;
  },
  budget: 1,
};

test('training, evaluation and prediction load nothing', async () => {
  const { extras: late, loads } = slow();
  await using session = await open(late);
  await session.step(toyBatch(0));
  await session.evaluate([toyBatch(1)]);
  await session.predict(toyBatch(2).x);
  assert.equal(loads(), 0);
});

test('a rule that is added while its engine is loaded acts from the next call on', async () => {
  const run = async (from: Extras): Promise<{ losses: number[]; events: unknown[]; settings: unknown }> => {
    const events: unknown[] = [];
    await using session = await open(from, {
      events: ({ rule, step, effect, class: klass, changes }: RecompileEvent) =>
        events.push({ rule, step, effect, klass, changes }),
    });
    session.recompile<TransformerLM>(rule);
    const losses = await Promise.all(Array.from({ length: 40 }, (_, i) => session.step(toyBatch(i % 3))));
    return { losses: losses.map(({ loss }) => loss), events, settings: session.settings('blocks.0.moe') };
  };
  const there = await run(now);
  assert.equal(there.events.length, 1);
  assert.deepEqual(await run(slow().extras), there);
});

test('checkpoints and plans are the same, and are restored in the order of calls', async () => {
  const run = async (fresh: () => Extras): Promise<{ bytes: Uint8Array; losses: number[]; plan: string }> => {
    await using session = await open(fresh());
    session.recompile<TransformerLM>(rule);
    for (let i = 0; i < 40; i++) await session.step(toyBatch(i % 3));
    const saving = session.serialize(),
      after = session.step(toyBatch(1)),
      bytes = await saving;
    await using next = await open(fresh());
    next.recompile<TransformerLM>(rule);
    const restored = next.deserialize(bytes),
      step = next.step(toyBatch(1));
    await restored;
    const losses = [(await after).loss, (await step).loss];
    await using third = await open(fresh());
    await third.restorePlan(session.plan());
    assert.equal(third.settings('blocks.0.moe')['topK'], 1);
    return { bytes, losses, plan: JSON.stringify(next.plan().knobs) };
  };
  const there = await run(() => now),
    later = await run(() => slow().extras);
  assert.equal(later.losses[0], later.losses[1]);
  assert.deepEqual(later.losses, there.losses);
  assert.equal(later.plan, there.plan);
  const parameters = async (bytes: Uint8Array): Promise<unknown> => [...(await extras.readSafetensors(bytes))];
  assert.deepEqual(await parameters(later.bytes), await parameters(there.bytes));
});

test('parts of a batch that the data weighs', async () => {
  const loss: Loss = (output, y) => crossEntropy(output, y, { ignoreIndex: 3 });
  const run = async (from: Extras): Promise<number[]> => {
    await using session = await open(from, { loss, accumulate: 3 });
    const steps = Array.from({ length: 4 }, (_, i): Batch => toyBatch(i));
    const losses = steps.map(async (batch) => {
      const step = session.step(batch);
      batch.x.data.fill(0); // arrays may be refilled as soon as the call has returned
      return (await step).loss;
    });
    return Promise.all(losses);
  };
  const { extras: late, loads } = slow();
  assert.deepEqual(await run(late), await run(now));
  assert.equal(loads(), 1);
});

test('activations and weights in 16 bits', async () => {
  const run = async (from: Extras): Promise<number[]> => {
    await using session = await open(from, { precision: 'bfloat16-weights' });
    const losses: number[] = [];
    for (let i = 0; i < 3; i++) losses.push((await session.step(toyBatch(i))).loss);
    return losses;
  };
  const { extras: late, loads } = slow(),
    rounded = await run(late);
  assert.deepEqual(rounded, await run(now));
  assert.equal(loads(), 1);
  await using exact = await open(now);
  assert.notEqual(rounded[0], (await exact.step(toyBatch(0))).loss);
});

test('a file that cannot be loaded is reported, and asked for again', async () => {
  const said: string[] = [],
    { extras: late } = slow(2);
  await using session = await open(late, { say: (line) => said.push(line) });
  session.recompile<TransformerLM>(rule);
  await session.step(toyBatch(0));
  assert.deepEqual(said, ['the rule "one expert" was not added: the network is gone']);
  await assert.rejects(session.serialize(), /the network is gone/);
  await session.step(toyBatch(1));
  assert.ok((await session.serialize()).length > 1000);
});

test('the reference device', async () => {
  await using session = await open(slow().extras, { device: 'reference' });
  assert.ok(Number.isFinite((await session.step(toyBatch(0))).loss));
});
