// The session's knob `split`, the number of parts of each micro-batch: a split of n gives the bits of `accumulate: n`.
// The knob is set by the user and by rules, saved, resumed and set back.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { Batching } from '../../src/session/batching.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { fingerprint, toyBatch, toyLM } from '../support/toy.ts';

const open = (options: Partial<CompileOptions> = {}): Promise<Session> =>
  compile(toyLM({ dropout: 0.1 }), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2, clip: 1 }),
    device: 'wasm',
    threads: 1,
    seed: 3,
    say: () => undefined,
    ...options,
  });
const batch = (i: number, size = 12) => toyBatch(i, size);

test('parts have equal sizes: split is reduced until it divides each micro-batch', () => {
  const parts = (split: number, size: number, accumulate = 1): number =>
    new Batching({ accumulate, eager: false, split }).parts(size);
  assert.deepEqual(
    [parts(1, 7), parts(4, 12), parts(4, 9), parts(4, 7), parts(2, 12, 3), parts(4, 12, 3), parts(4, 9, 3)],
    [1, 4, 3, 1, 6, 12, 9],
  );
  for (const wrong of [0, 1.5, NaN])
    assert.throws(() => new Batching({ accumulate: 1, eager: false, split: wrong }), {
      name: 'UserError',
      message: /split must be a whole number/,
    });
});

test('split gives the bits of accumulate and may be set between steps', async () => {
  await using split = await open({ split: 2 }),
    accumulated = await open({ accumulate: 2 }),
    both = await open({ split: 2, accumulate: 2 }),
    four = await open({ accumulate: 4 });
  for (let i = 0; i < 3; i++) {
    const [a, b, c, d] = [
      await split.step(batch(i)),
      await accumulated.step(batch(i)),
      await both.step(batch(i)),
      await four.step(batch(i)),
    ];
    assert.deepEqual([a.loss, a.gradNorm, a.stats, c.loss], [b.loss, b.gradNorm, b.stats, d.loss]);
  }
  assert.deepEqual(fingerprint(split), fingerprint(accumulated));
  assert.deepEqual(fingerprint(both), fingerprint(four));
  split.batching.split = 4;
  await split.deserialize(await four.serialize());
  split.batching.split = 4; // deserialize has set the knob that the checkpoint holds
  assert.equal((await split.step(batch(3))).loss, (await four.step(batch(3))).loss);
  assert.throws(() => {
    split.batching.split = 0;
  }, /split must be/);
  assert.equal(split.batching.split, 4);
  await split.step(batch(4, 9)); // three parts of three
});

test('split is refused for an eager optimiser, which cannot add gradients of parts', async () => {
  await assert.rejects(open({ split: 2, optimizer: sgd({ lr: 0.1, eager: true }) }), {
    name: 'UserError',
    message: /split must be 1 for an eager optimiser/,
  });
});

const splits = (to: number, at: number, name = `split ${to}`): Rule<object> => ({
  name,
  budget: 1,
  trigger: (run) => run.step === at,
  alter: (_, __, outlook) => {
    if (outlook?.session) outlook.session.split = to;
  },
});

test(
  'a split that a rule sets takes effect 32 steps after the decision, with the bits of a session whose user sets it ' +
    'at that step; a rule may also set it back',
  { timeout: 120_000 },
  async () => {
    const events: RecompileEvent[] = [];
    await using ruled = await open({
      events: (e) => {
        events.push(e);
      },
    });
    ruled.recompile(splits(2, 2));
    ruled.recompile(splits(1, 45));
    await using plain = await open({ observe: true });
    let saved: Uint8Array<ArrayBuffer> | null = null;
    for (let step = 1; step <= 84; step++) {
      plain.batching.split = step >= 36 && step < 79 ? 2 : 1;
      assert.equal((await ruled.step(batch(step))).loss, (await plain.step(batch(step))).loss, `step ${step}`);
      if (step === 20) saved = await ruled.serialize();
    }
    assert.deepEqual(
      events.map((e) => [e.rule, e.class, e.step, e.effect, e.verified, e.kept, e.error]),
      [
        ['split 2', 'R', 4, 36, true, true, undefined],
        ['split 1', 'R', 47, 79, true, true, undefined],
      ],
    );
    assert.deepEqual(
      ruled.plan().engine?.log.map((d) => d.effect),
      [36, 79],
    );
    await using resumed = await open();
    resumed.recompile(splits(2, 2));
    resumed.recompile(splits(1, 45));
    await resumed.deserialize(saved ?? new Uint8Array());
    for (let step = 21; step <= 84; step++) await resumed.step(batch(step));
    assert.deepEqual(fingerprint(resumed), fingerprint(ruled));
  },
);

test("a rule with `only: 'N'` cannot set the split, which changes results", async () => {
  const events: RecompileEvent[] = [];
  await using session = await open({
    events: (e) => {
      events.push(e);
    },
  });
  let asked: unknown = 'nothing';
  session.recompile({
    ...splits(2, 2),
    only: 'N',
    alter: (_, __, outlook) => {
      asked = outlook?.session;
    },
  });
  for (let i = 0; i < 6; i++) await session.step(batch(i));
  assert.deepEqual([asked, events], [null, []]);
});

test(
  'without memory for sums of gradients beside the running plan, the split is loaded after the last run of that plan',
  { timeout: 120_000 },
  async () => {
    await using plain = await open({ observe: true });
    const {
        bytes: { arena, io, constants },
      } = await plain.prepare(batch(0, 96)),
      memory = plain.executor.stateBytes() + arena + io + constants + 4096,
      events: RecompileEvent[] = [];
    await using tight = await open({
      memory,
      events: (e) => {
        events.push(e);
      },
    });
    tight.recompile(splits(2, 2));
    for (let step = 1; step <= 40; step++) {
      plain.batching.split = step >= 36 ? 2 : 1;
      assert.equal((await tight.step(batch(step, 96))).loss, (await plain.step(batch(step, 96))).loss, `step ${step}`);
    }
    assert.deepEqual(
      events.map((e) => [e.class, e.effect, e.verified, e.kept, e.error]),
      [['R', 36, null, true, undefined]],
    );
    assert.ok(tight.executor.stateBytes() + tight.executor.arenaBytes() <= memory);
    assert.deepEqual(fingerprint(tight), fingerprint(plain));
    // Without the split the plan does not fit any more, because the sums of gradients stay allocated.
    tight.batching.split = 1;
    await assert.rejects(tight.step(batch(41, 96)), {
      name: 'UserError',
      message: /of states, .* are available|are available/,
    });
  },
);
