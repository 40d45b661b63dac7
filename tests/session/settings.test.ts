// Sessions that share a model: knobs that a rule of one session sets apply to that session only; knobs that the user
// writes apply to all. The properties of the model keep what the user wrote.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { UserError } from '../../src/base/errors.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { adamW } from '../../src/optim/adam.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { splitExpert } from '../../src/recompile/policies/lifecycle.ts';
import { compile } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import type { Session } from '../../src/session/session.ts';
import { fingerprint, noCompiler, toyBatch } from '../support/toy.ts';

class LM extends TransformerLM {
  /** If true, forward throws, so that tracing fails. */
  broken = false;
  constructor() {
    super({
      vocab: 17,
      dModel: 16,
      layers: 2,
      heads: 2,
      context: 12,
      moe: { experts: 6, active: 5, topK: 2, hidden: 24, capacity: 2, overflow: 'spill' },
    });
  }
  override forward(tokens: Tensor): Tensor {
    const out = super.forward(tokens);
    if (this.broken) throw new Error('a forward that fails');
    return out;
  }
}

const open = async (
  model: LM,
  device: DeviceName,
  make: (done: () => number) => readonly Rule<LM>[] = () => [],
): Promise<{ session: Session; events: RecompileEvent[] }> => {
  const events: RecompileEvent[] = [];
  const session = await compile(model, {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device,
    threads: 1,
    seed: 3,
    memory: 256e6,
    observe: true,
    events: (e) => {
      events.push(e);
    },
    say: () => undefined,
  });
  for (const rule of make(() => events.length)) session.recompile<LM>(rule);
  return { session, events };
};
const first = (m: LM) => {
  const { moe } = m.blocks[0];
  assert.ok(moe);
  return moe;
};
const writtenKnobs = (m: LM): unknown =>
  m.blocks.map((b) => [
    b.recompute,
    b.moe?.topK,
    b.moe?.capacity,
    b.moe?.dispatch,
    b.moe?.frozen,
    b.moe?.slots,
    b.moe?.active,
  ]);
/** Number of choices (token, expert) that the first MoE layer makes in one step. */
const choices = async (session: Session, step: number): Promise<number> => {
  const { stats } = await session.step(toyBatch(step));
  return Array.from(stats['blocks.0.moe/load'].data, Number).reduce((a, b) => a + b, 0);
};
const TOKENS = 36; // toyBatch: 3 samples of 12 tokens

const NAMES = ['one expert', 'padded', 'split', 'parts'];
/**
 * Four rules, each of which acts when the one before has been applied. The first changes results, the second keeps
 * them, the third moves values of parameters, the fourth sets the session's own knob `split`. done: number of applied
 * changes.
 */
const rules = (done: () => number = () => 0): readonly Rule<LM>[] => [
  {
    name: 'one expert',
    budget: 1,
    trigger: (run) => run.step >= 2,
    alter: (m) => {
      first(m).topK = 1;
      first(m).frozen = [true, false, false, false, false, false];
    },
  },
  {
    name: 'padded',
    budget: 1,
    measure: false,
    trigger: () => done() === 1,
    alter: (m) => {
      const { moe } = m.blocks[1];
      if (moe) moe.dispatch = 'padded';
      m.blocks[1].recompute = true;
    },
  },
  {
    name: 'split',
    budget: 1,
    trigger: () => done() === 2,
    alter: (m) => {
      const { moe } = m.blocks[1];
      if (moe) splitExpert(moe, 1);
    },
  },
  {
    name: 'parts',
    budget: 1,
    trigger: () => done() === 3,
    alter: (_, __, outlook) => {
      if (outlook?.session) outlook.session.split = 3;
    },
  },
];

const onlyFirst = (): readonly Rule<LM>[] => rules().slice(0, 1);

for (const device of ['wasm', 'native'] as const) {
  test(
    `${device}: rules of one session change neither a bit of another session of the model nor the model's properties`,
    { skip: device === 'native' && noCompiler, timeout: 240_000 },
    async () => {
      const shared = new LM(),
        ruled = await open(shared, device, rules),
        other = await open(shared, device),
        lone = await open(new LM(), device),
        initialKnobs = JSON.stringify(writtenKnobs(shared));
      for (let step = 0; ruled.events.length < NAMES.length; step++) {
        await ruled.session.step(toyBatch(step));
        assert.equal(
          (await other.session.step(toyBatch(step))).loss,
          (await lone.session.step(toyBatch(step))).loss,
          `step ${step}`,
        );
        assert.equal(JSON.stringify(writtenKnobs(shared)), initialKnobs, `step ${step}`);
      }
      assert.deepEqual(fingerprint(other.session), fingerprint(lone.session));
      assert.deepEqual(
        ruled.events.map((e) => [e.rule, e.kept, e.error]),
        NAMES.map((name) => [name, true, undefined]),
      );
      const { topK, frozen } = ruled.session.settings('blocks.0.moe'),
        { dispatch, slots } = ruled.session.settings('blocks.1.moe');
      assert.deepEqual(
        [
          topK,
          frozen,
          dispatch,
          ruled.session.settings('blocks.1')['recompute'],
          ruled.session.settings('@session')['split'],
        ],
        [1, [true, false, false, false, false, false], 'padded', true, 3],
      );
      assert.deepEqual((slots as unknown[]).slice(6), [1, 'split 1 into 5']);
      assert.deepEqual(other.session.plan().knobs, lone.session.plan().knobs);
      for (const { session } of [ruled, other, lone]) await session.close();
    },
  );
}

test(
  'a write of the user takes effect at the next step of every session of the model, and replaces what a rule had ' +
    'set for that knob',
  async () => {
    const shared = new LM(),
      ruled = await open(shared, 'wasm', onlyFirst),
      other = await open(shared, 'wasm');
    let step = 0;
    while (ruled.events.length === 0) {
      await ruled.session.step(toyBatch(step));
      await other.session.step(toyBatch(step++));
    }
    assert.deepEqual([await choices(ruled.session, step), await choices(other.session, step++)], [TOKENS, 2 * TOKENS]);
    first(shared).topK = 3;
    assert.deepEqual(
      [await choices(ruled.session, step), await choices(other.session, step++)],
      [3 * TOKENS, 3 * TOKENS],
    );
    assert.deepEqual(
      ruled.session.settings('blocks.0.moe')['frozen'],
      [true, false, false, false, false, false],
      'another knob that the rule set keeps its setting',
    );
    // The property has this value already, but it is still a write, which replaces the rule's setting.
    first(shared).frozen = false;
    assert.deepEqual(ruled.session.settings('blocks.0.moe')['frozen'], [false, false, false, false, false, false]);
    for (const { session } of [ruled, other]) await session.close();
  },
);

test(
  "if forward throws while a session's settings are on the model, the model gets its own values back, and the next " +
    'step has the bits of a session without the failure',
  async () => {
    const shared = new LM(),
      { session, events } = await open(shared, 'wasm', onlyFirst),
      plain = await open(new LM(), 'wasm', onlyFirst);
    for (let step = 0; step < 40; step++) {
      await session.step(toyBatch(step));
      await plain.session.step(toyBatch(step));
    }
    assert.equal(events.length, 1);
    const knobsBefore = JSON.stringify(writtenKnobs(shared)),
      half = toyBatch(40, 2);
    shared.broken = true;
    await assert.rejects(session.step(half), /a forward that fails/);
    await assert.rejects(
      session.step(toyBatch(40)),
      /a forward that fails/,
      '`broken` has changed: the step is traced again',
    );
    assert.equal(JSON.stringify(writtenKnobs(shared)), knobsBefore);
    shared.broken = false;
    assert.equal((await session.step(half)).loss, (await plain.session.step(half)).loss);
    assert.equal((await session.step(toyBatch(41))).loss, (await plain.session.step(toyBatch(41))).loss);
    assert.deepEqual(fingerprint(session), fingerprint(plain.session));
    await session.close();
    await plain.session.close();
  },
);

test('a checkpoint sets knobs of the session, not of the model; keepSettings writes them to the model', async () => {
  const shared = new LM(),
    { session } = await open(shared, 'wasm', onlyFirst),
    again = new LM(),
    resumed = await open(again, 'wasm', onlyFirst),
    third = await open(again, 'wasm');
  for (let step = 0; step < 40; step++) await session.step(toyBatch(step));
  await resumed.session.deserialize(await session.serialize());
  assert.deepEqual(
    [
      resumed.session.settings('blocks.0.moe')['topK'],
      first(again).topK,
      third.session.settings('blocks.0.moe')['topK'],
    ],
    [1, 2, 2],
  );
  assert.equal((await resumed.session.step(toyBatch(40))).loss, (await session.step(toyBatch(40))).loss);
  await resumed.session.keepSettings();
  assert.deepEqual(
    [first(again).topK, first(again).frozen[0], third.session.settings('blocks.0.moe')['topK']],
    [1, true, 1],
  );
  assert.equal((await resumed.session.step(toyBatch(41))).loss, (await session.step(toyBatch(41))).loss);
  assert.throws(
    () => session.settings('blocks.9'),
    (error) => error instanceof UserError && /no module with knobs at "blocks.9"/.test(error.message),
  );
  for (const s of [session, resumed.session, third.session]) await s.close();
});
