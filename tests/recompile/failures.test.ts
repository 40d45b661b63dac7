// What fails beneath the engine: compilers, memory, listeners. Nothing of it costs a step or changes a bit.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { UserError } from '../../src/base/errors.ts';
import type { Session } from '../../src/session/session.ts';
import { fingerprint, noCompiler } from '../support/toy.ts';
import { blocks, inForce, open, steps, toPadded, told, type LM } from './lm.ts';

interface Machine {
  device: { compile(kernels: unknown): Promise<void> };
  reserve(program: unknown): void;
}
const machineOf = (session: Session): Machine => session.executor as unknown as Machine;

/** Replaces what a session compiles with, from now on. */
function compiler(session: Session, make: (real: () => Promise<void>) => Promise<void>): void {
  const { device } = machineOf(session),
    real = device.compile.bind(device);
  device.compile = (kernels) => make(() => real(kernels));
}

/** Calls `check` before memory is taken for a program. */
function memory(session: Session, check: () => void): void {
  const executor = machineOf(session),
    real = executor.reserve.bind(executor);
  executor.reserve = (program) => {
    check();
    real(program);
  };
}

for (const device of ['wasm', 'native'] as const) {
  test(
    `a compiler that fails on ${device}: told, and the run goes on`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const plain = await open({ device }),
        opened = await open({ device }),
        { session, events } = opened;
      await steps(session, 1);
      compiler(session, () => Promise.reject(new Error('internal compiler error\nand a page of it')));
      session.recompile<LM>({ ...toPadded, name: 'first', cooldown: 1000 });
      // Rules change what is traced: that program is the run's own, not the rule's, and has to come from somewhere.
      const { device: machine } = machineOf(session),
        fails = machine.compile;
      machine.compile = (Object.getPrototypeOf(machine) as typeof machine).compile;
      const losses = await steps(session, 1);
      machine.compile = fails;
      losses.push(...(await told(opened)), ...(await steps(session, 3)));
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

test('a change of no result waits for memory, and comes when there is some', async () => {
  const opened = await open(),
    { session, events } = opened,
    plain = await open(),
    refused: number[] = [];
  session.recompile<LM>(toPadded);
  await steps(session, 3);
  memory(session, () => {
    if (refused.length < 2) {
      refused.push(session.steps);
      throw new UserError('the model needs more memory than there is');
    }
  });
  const losses = await told(opened);
  assert.equal(events.length, 1);
  assert.ok(events[0].kept && events[0].error === undefined, JSON.stringify(events[0]));
  assert.equal(refused.length, 2);
  assert.equal(refused[1] - refused[0], 32, 'it asks again 32 steps later');
  assert.ok((events[0].effect ?? 0) > refused[1] + 32, `${events[0].effect} ${refused.join()}`);
  await steps(plain.session, 3);
  assert.deepEqual(losses, await steps(plain.session, losses.length));
  await session.close();
  await plain.session.close();
});

test('memory that never comes: given up after four attempts, by name', async () => {
  const opened = await open(),
    { session, events } = opened,
    plain = await open();
  session.recompile<LM>(toPadded);
  let refused = 0;
  await steps(session, 3);
  memory(session, () => {
    refused++;
    throw new UserError('the model needs more memory than there is');
  });
  await told(opened);
  await steps(plain.session, session.steps);
  assert.deepEqual(
    [refused, events.length, events[0].kept, events[0].error],
    [4, 1, false, 'the model needs more memory than there is'],
  );
  assert.deepEqual(fingerprint(session), fingerprint(plain.session));
  await session.close();
  await plain.session.close();
});

test('a change of results does not wait for memory: it has its step, or is given up', async () => {
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
  memory(session, () => {
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

test('whatever fails at random beneath it, every step is one step, with the bits of a run without rules', async () => {
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
      // Settings that did not come before, so that there is something to compile and to take memory for.
      for (const moe of blocks(m)) {
        moe.dispatch = draw() < 0.5 ? 'ragged' : 'padded';
        moe.overflow = 'spill';
        moe.capacity = 1 + Math.floor(64 * draw()) / 16;
      }
    },
  });
  await steps(session, 2);
  broken = true;
  compiler(session, (real) => (broken && draw() < 0.5 ? Promise.reject(new Error('a compiler that fails')) : real()));
  memory(session, () => {
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
