// RecompileEvents report what happened: waiting times, bytes, tolerances, changes that made steps no faster, settings
// that the user changed meanwhile. The clock is mocked.
import assert from 'node:assert/strict';
import { test, type TestContext } from 'node:test';
import type { Rule } from '../../src/recompile/rule.ts';
import type { Session } from '../../src/session/session.ts';
import { toyBatch } from '../support/toy.ts';
import { blocks, inForce, open, steps, stepsUntilEvents, toPadded, type LM } from './lm.ts';

interface TestedExecutor {
  run(program: unknown, inputs: unknown): Promise<unknown>;
  device: { compile(kernels: unknown): Promise<void> };
}
const executorOf = (session: Session): TestedExecutor => session.executor as unknown as TestedExecutor;
const oneExpert = (at: (step: number) => boolean): Rule<LM> => ({
  name: 'one expert',
  trigger: (run) => at(run.step),
  alter: (m) => {
    blocks(m)[0].topK = 1;
  },
  budget: 1,
});

/** Mocks `performance.now`: the clock stands still until the test sets `now` (ms). */
function mockClock(t: TestContext): { now: number } {
  const clock = { now: 0 };
  t.mock.method(performance, 'now', () => clock.now);
  return clock;
}

test('the tolerance is checked at each change, and a resumed run decides the same', async () => {
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
  const stepsTo = async (session: Session, to: number): Promise<number[]> => {
    const losses: number[] = [];
    while (session.steps < to) losses.push((await session.step(batch(session.steps))).loss);
    return losses;
  };
  const straight = await open(),
    resumed = await open();
  for (const { session } of [straight, resumed]) session.recompile(toggle);
  await stepsTo(straight.session, 78);
  await resumed.session.deserialize(await straight.session.serialize());
  const [want, got] = [await stepsTo(straight.session, 120), await stepsTo(resumed.session, 120)];
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

test('undo works for a knob set in short form (frozen = true), and setting an equal value is no change', async () => {
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

test('a change is given up if the user writes the knob between decision and effect', async () => {
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

test('time that a step waits for a compilation that then fails is reported', async (t) => {
  const { session, events } = await open(),
    clock = mockClock(t);
  await steps(session, 1);
  session.recompile(oneExpert((step) => step >= 3));
  await steps(session, 1); // compiles the program with statistics that the rule needs
  const { device } = executorOf(session);
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
  "events report the old plan's bytes, also if there was no old plan at the decision, and for the new plan's batch " +
    'shapes',
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
    assert.equal(
      await bytes((i) => (i % 2 === 0 ? 12 : 3), 4),
      large,
      'the decision comes before a step with a small batch',
    );
  },
);

test('a change that was not faster is tried again after twice the cooldown, then after four times', async (t) => {
  const opened = await open(),
    { session, events } = opened,
    clock = mockClock(t),
    executor = executorOf(session),
    run = executor.run.bind(executor);
  executor.run = async (program, inputs) => {
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
  await stepsUntilEvents(opened, 3);
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
