// Failures below the engine: compilers, memory, listeners of events. None of them costs a step or changes a bit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { UserError } from '../../src/base/errors.ts';
import type { Session } from '../../src/session/session.ts';
import { fingerprint, noCompiler } from '../support/toy.ts';
import { blocks, inForce, open, steps, toPadded, stepsUntilEvents, type LM } from './lm.ts';

interface TestedExecutor {
  device: { compile(kernels: unknown): Promise<void> };
  reserve(program: unknown): void;
}
const executorOf = (session: Session): TestedExecutor => session.executor as unknown as TestedExecutor;

/** Replaces the compiler of a session's device. */
function replaceCompiler(session: Session, make: (real: () => Promise<void>) => Promise<void>): void {
  const { device } = executorOf(session),
    real = device.compile.bind(device);
  device.compile = (kernels) => make(() => real(kernels));
}

/** Calls `check` before memory is reserved for a program; it may throw. */
function checkReserve(session: Session, check: () => void): void {
  const executor = executorOf(session),
    real = executor.reserve.bind(executor);
  executor.reserve = (program) => {
    check();
    real(program);
  };
}

for (const device of ['wasm', 'native'] as const) {
  test(
    `${device}: a compiler that fails is reported, and the run continues`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const plain = await open({ device }),
        opened = await open({ device }),
        { session, events } = opened;
      await steps(session, 1);
      replaceCompiler(session, () => Promise.reject(new Error('internal compiler error\nand a page of it')));
      session.recompile<LM>({ ...toPadded, name: 'first', cooldown: 1000 });
      // With a rule, the program of steps is traced again, with statistics: it needs the real compiler.
      const { device: sessionDevice } = executorOf(session),
        fails = sessionDevice.compile;
      sessionDevice.compile = (Object.getPrototypeOf(sessionDevice) as typeof sessionDevice).compile;
      const losses = await steps(session, 1);
      sessionDevice.compile = fails;
      losses.push(...(await stepsUntilEvents(opened)), ...(await steps(session, 3)));
      const [, ...want] = await steps(plain.session, losses.length + 1);
      assert.deepEqual(losses, want);
      assert.deepEqual(fingerprint(session), fingerprint(plain.session));
      assert.equal(events.length, 1);
      assert.deepEqual(
        [events[0].error, events[0].kept, events[0].verified, events[0].effect],
        ['internal compiler error', false, null, null],
      );
      assert.ok(inForce(session).every((moe) => moe['dispatch'] === 'ragged'));
      await session.close();
      await plain.session.close();
    },
  );
}

test('a class N change waits for memory and takes effect when there is enough', async () => {
  const opened = await open(),
    { session, events } = opened,
    plain = await open(),
    refused: number[] = [];
  session.recompile<LM>(toPadded);
  await steps(session, 3);
  checkReserve(session, () => {
    if (refused.length < 2) {
      refused.push(session.steps);
      throw new UserError('the model needs more memory than there is');
    }
  });
  const losses = await stepsUntilEvents(opened);
  assert.equal(events.length, 1);
  assert.ok(events[0].kept && events[0].error === undefined, JSON.stringify(events[0]));
  assert.equal(refused.length, 2);
  assert.equal(refused[1] - refused[0], 32, 'memory is asked for again 32 steps later');
  assert.ok((events[0].effect ?? 0) > refused[1] + 32, `${events[0].effect} ${refused.join()}`);
  await steps(plain.session, 3);
  assert.deepEqual(losses, await steps(plain.session, losses.length));
  await session.close();
  await plain.session.close();
});

test('if there is never enough memory, a class N change is given up after four attempts, with the reason', async () => {
  const opened = await open(),
    { session, events } = opened,
    plain = await open();
  session.recompile<LM>(toPadded);
  let refused = 0;
  await steps(session, 3);
  checkReserve(session, () => {
    refused++;
    throw new UserError('the model needs more memory than there is');
  });
  await stepsUntilEvents(opened);
  await steps(plain.session, session.steps);
  assert.deepEqual(
    [refused, events.length, events[0].kept, events[0].error],
    [4, 1, false, 'the model needs more memory than there is'],
  );
  assert.deepEqual(fingerprint(session), fingerprint(plain.session));
  await session.close();
  await plain.session.close();
});

test('a class R change does not wait for memory: it takes effect at its step, or is given up', async () => {
  const opened = await open(),
    { session, events } = opened,
    plain = await open();
  session.recompile<LM>({
    name: 'one expert',
    trigger: (run) => run.step >= 4,
    alter: (m) => {
      blocks(m)[0].topK = 1;
    },
    budget: 1,
  });
  await steps(session, 3);
  checkReserve(session, () => {
    throw new UserError('the model needs more memory than there is');
  });
  await steps(session, 60);
  assert.deepEqual(
    [events.length, events[0].class, events[0].kept, events[0].error],
    [1, 'R', false, 'the model needs more memory than there is'],
  );
  assert.deepEqual(session.plan().engine?.log, [], 'a decision that was given up is not in the log');
  await steps(plain.session, 63);
  assert.deepEqual(fingerprint(session), fingerprint(plain.session));
  await session.close();
  await plain.session.close();
});

test('with random failures, every call of step makes one step, with the bits of a run without rules', async () => {
  const stream = new Stream(2, 'failures'),
    plain = await open(),
    { session, events } = await open({
      events: () => {
        if (draw() < 0.2) throw new Error('a listener that fails');
      },
    });
  let n = 0,
    at = 0,
    broken = false;
  function draw(): number {
    return stream.uniform(0, n++);
  }
  session.recompile<LM>({
    name: 'changing',
    cooldown: 0,
    measure: false,
    only: 'N',
    trigger: () => session.steps >= at && (at = session.steps + 1 + Math.floor(4 * draw())) > 0,
    alter: (m) => {
      // New settings each time, so that there is a plan to compile and to reserve memory for.
      for (const moe of blocks(m)) {
        moe.dispatch = draw() < 0.5 ? 'ragged' : 'padded';
        moe.overflow = 'spill';
        moe.capacity = 1 + Math.floor(64 * draw()) / 16;
      }
    },
  });
  await steps(session, 2);
  broken = true;
  replaceCompiler(session, (real) =>
    broken && draw() < 0.5 ? Promise.reject(new Error('a compiler that fails')) : real(),
  );
  checkReserve(session, () => {
    if (broken && draw() < 0.3) throw new UserError('memory that fails');
  });
  const losses: number[] = [];
  while (events.length < 60) {
    const before = session.steps;
    losses.push(...(await steps(session, 1)));
    assert.equal(session.steps, before + 1);
  }
  const [, , ...want] = await steps(plain.session, losses.length + 2);
  assert.deepEqual(losses, want);
  assert.deepEqual(fingerprint(session), fingerprint(plain.session));
  const failed = events.filter((e) => e.error !== undefined);
  assert.ok(
    failed.length >= 5 && events.some((e) => e.kept && e.verified),
    `${failed.length} of ${events.length} failed`,
  );
  await session.close();
  await plain.session.close();
});
