// What the engine tells of a decision is what happened, and what it holds against one is measured anew: tolerances,
// waiting, bytes, changes that did not pay, settings that somebody else changed. Clocks are the tests' own.
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { Rule } from '../../src/recompile/rule.ts';
import type { Session } from '../../src/session/session.ts';
import { toyBatch } from '../support/toy.ts';
import { blocks, inForce, open, steps, told, toPadded, type LM } from './lm.ts';

interface Machine {
  run(program: unknown, inputs: unknown): Promise<unknown>;
  device: { compile(kernels: unknown): Promise<void> };
}
const machineOf = (session: Session): Machine => session.executor as unknown as Machine;
const oneExpert = (at: (step: number) => boolean): Rule<LM> => ({
  name: 'one expert',
  trigger: (run) => at(run.step),
  alter: (m) => {
    blocks(m)[0].topK = 1;
  },
  budget: 1,
});

/** A clock that goes on when it is told to. */
function clockOf(t: TestContext): { now: number } {
  const clock = { now: 0 };
  t.mock.method(performance, 'now', () => clock.now);
  return clock;
}

test('a tolerance is measured at each change, and a resumed run decides the same', async () => {
  const batch = (step: number) => toyBatch(step < 76 ? step : 0),
    toggle: Rule<LM> = {
      name: 'toggle',
      cooldown: 0,
      tolerance: 0.02,
      trigger: (run) => [4, 40, 80].includes(run.step),
      alter: (m) => {
        for (const moe of blocks(m)) moe.topK = 3 - moe.topK;
      },
    };
  const go = async (session: Session, to: number): Promise<number[]> => {
    const losses: number[] = [];
    while (session.steps < to) losses.push((await session.step(batch(session.steps))).loss);
    return losses;
  };
  const straight = await open(),
    resumed = await open();
  for (const { session } of [straight, resumed]) session.recompile(toggle);
  await go(straight.session, 78);
  await resumed.session.deserialize(await straight.session.serialize());
  const [want, got] = [await go(straight.session, 120), await go(resumed.session, 120)];
  assert.deepEqual(
    straight.events.map((e) => [e.step, e.kept, e.verified]),
    [
      [6, true, true],
      [42, true, true],
      [82, false, false],
    ],
  );
  assert.match(straight.events[2].error ?? '', /does not agree with the old one: loss/);
  assert.deepEqual(got, want);
  for (const { session } of [straight, resumed]) await session.close();
});

test('what is set in other words is taken back all the same, and what changes nothing is no change', async () => {
  const { session, events } = await open();
  session.recompile<LM>({
    name: 'freeze',
    cooldown: 2,
    trigger: () => true,
    alter: (m) => {
      blocks(m)[0].frozen = true;
    },
    undo: (run) => run.step >= 40 && run.step < 50,
  });
  await steps(session, 80);
  assert.deepEqual(
    events.map((e) => [e.step, e.changes[0].to]),
    [
      [1, [true, true, true, true]],
      [42, [false, false, false, false]],
    ],
  );
  await session.close();
});

test('a setting that somebody else changed meanwhile is theirs', async () => {
  const opened = await open(),
    { session, events } = opened;
  session.recompile(oneExpert((step) => step >= 2));
  await steps(session, 10);
  blocks(session.model as LM)[0].topK = 3;
  await steps(session, 40);
  assert.deepEqual(
    [events.length, events[0].kept, events[0].error],
    [1, false, 'blocks.0.moe.topK was set by something else meanwhile'],
  );
  assert.equal(blocks(session.model as LM)[0].topK, 3);
  assert.deepEqual(session.plan().engine?.log, []);
  await session.close();
});

test('a step that waits for a compiler in vain is counted', async (t) => {
  const { session, events } = await open(),
    clock = clockOf(t);
  await steps(session, 1);
  session.recompile(oneExpert((step) => step >= 3));
  await steps(session, 1); // the rule's own way to look
  const { device } = machineOf(session);
  let fail = (_: Error): void => undefined;
  device.compile = () =>
    new Promise((_, reject) => {
      fail = reject;
    });
  await steps(session, 33); // decided before step 5: step 36 is the last before it takes effect
  const waiting = session.step(toyBatch(35));
  await new Promise((resolve) => {
    setImmediate(resolve);
  });
  clock.now += 1000;
  fail(new Error('a compiler that fails'));
  await waiting;
  assert.deepEqual([events.length, events[0].error, events[0].stall_ms], [1, 'a compiler that fails', 1000]);
  await session.close();
});

test(
  'planned bytes of the old plan are told, also where there was none when it was decided, and for the same ' +
    'shapes as of the new',
  async () => {
    const bytes = async (size: (i: number) => number, from: number): Promise<number> => {
      const { session, events } = await open();
      session.recompile<LM>({ ...toPadded, trigger: (run) => run.step >= from });
      for (let i = 0; events.length === 0; i++) await session.step(toyBatch(i, size(i)));
      await session.close();
      return events[0].before.bytes;
    };
    const large = await bytes(() => 12, 0);
    assert.ok(large > 0);
    assert.equal(await bytes((i) => (i % 2 === 0 ? 12 : 3), 4), large, 'decided before a small batch');
  },
);

test('a change that did not pay is tried again after twice the time, and twice that', async (t) => {
  const opened = await open(),
    { session, events } = opened,
    clock = clockOf(t),
    machine = machineOf(session),
    run = machine.run.bind(machine);
  machine.run = async (program, inputs) => {
    const slow = inForce(session)[0]['dispatch'] === 'padded';
    const out = await run(program, inputs);
    clock.now += slow ? 10 : 1;
    return out;
  };
  session.recompile<LM>({
    name: 'worse',
    cooldown: 50,
    trigger: () => true,
    alter: (m) => {
      for (const moe of blocks(m)) moe.dispatch = 'padded';
    },
  });
  await told(opened, 3);
  assert.ok(
    events.every((e) => !e.kept && e.ratio?.median === 0.1),
    JSON.stringify(events),
  );
  assert.deepEqual(
    events.map((e) => e.step),
    [1, 101, 301],
  );
  await session.close();
});
