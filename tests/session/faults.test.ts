// Failures below a session: of memory allocation, compilers and runs. The call that caused the work rejects; no promise
// rejects unhandled; nothing runs on freed memory; a call creates all of its states or none; close frees everything.
import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import type { Device } from '../../src/device/device.ts';
import { WasmDevice } from '../../src/device/wasm/wasm.ts';
import { crossEntropy, meanSquaredError } from '../../src/nn/loss.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import type { ProgramExecutor, LoadedProgram } from '../../src/run/program.ts';
import { generate } from '../../src/session/generate.ts';
import { compileOn } from '../../src/session/compile.ts';
import { compile, node, NOW } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions, Model } from '../../src/session/step.ts';
import { call } from '../../src/trace/trace.ts';
import { opened, peek } from '../support/delayed-device.ts';
import { CheckedDevice, type DeviceCall } from '../support/checked-device.ts';
import { fingerprint, noCompiler, toyBatch } from '../support/toy.ts';

const unhandled: unknown[] = [],
  recordRejection = (error: unknown): void => {
    unhandled.push(error);
  };
before(() => {
  process.on('unhandledRejection', recordRejection);
});
after(() => {
  process.off('unhandledRejection', recordRejection);
});

const nextTurn = (): Promise<void> =>
  new Promise((resolve) => {
    setImmediate(resolve);
  });
/** Asserts that no promise rejected without a handler. */
async function assertNoUnhandledRejection(): Promise<void> {
  for (let i = 0; i < 3; i++) await nextTurn();
  assert.deepEqual(unhandled.splice(0), []);
}

const open = (device: Device, model: Model, options: CompileOptions): Promise<Session> =>
  compileOn(
    { ...node, open: () => Promise.resolve(device), freeMemory: () => 2 ** 40 },
    model,
    {
      device: 'wasm',
      say: () => undefined,
      ...options,
    },
    NOW,
  );

const CONTEXT = 8;
const lm = (): TransformerLM =>
  new TransformerLM({
    vocab: 17,
    dModel: 8,
    layers: 1,
    heads: 1,
    context: CONTEXT,
    moe: { experts: 2, topK: 1, hidden: 8, routing: 'watched' },
  });
const batch = (n: number, size = 2): Batch => ({
  ...toyBatch(n, size, CONTEXT),
  ids: Int32Array.from({ length: size }, (_, i) => 5 * n + i),
});
const bad = (n: number): Batch => {
  const { x, ids } = batch(n);
  return {
    x,
    y: hostTensor(
      'int32',
      x.shape,
      x.data.map(() => 99),
    ),
    ...(ids && { ids }),
  };
};

for (const device of ['native', 'wasm'] as const) {
  test(
    `${device}: if the compiler fails while initial values are drawn, the call rejects, and close waits for the values`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const session = await compile(new MLP([512, 2048, 512]), {
        loss: meanSquaredError,
        optimizer: sgd({ lr: 1e-3 }),
        device,
        threads: 2,
      });
      const sessionDevice = (session.executor as ProgramExecutor).device,
        real = sessionDevice.compile.bind(sessionDevice),
        x = hostTensor('float32', [4, 512], new Float32Array(2048).fill(0.1));
      sessionDevice.compile = () => Promise.reject(new Error('no space left on device'));
      await assert.rejects(session.step({ x, y: x }), /no space left on device/);
      sessionDevice.compile = real;
      // The initial values are complete: the session continues as if nothing had failed.
      await using other = await compile(new MLP([512, 2048, 512]), {
        loss: meanSquaredError,
        optimizer: sgd({ lr: 1e-3 }),
        device,
        threads: 2,
      });
      assert.equal((await session.step({ x, y: x })).loss, (await other.step({ x, y: x })).loss);
      sessionDevice.compile = () => Promise.reject(new Error('no space left on device'));
      const failing = assert.rejects(session.forward({ x, y: x }), /no space left/);
      await session.close();
      await failing;
      await assertNoUnhandledRejection();
    },
  );

  test(
    `${device}: without memory for states that a rule's change needs, the rule fails with an error; steps continue`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const errors: (string | undefined)[] = [];
      const make = (events?: CompileOptions['events']): Promise<Session> =>
        compile(lm(), {
          loss: crossEntropy,
          optimizer: adamW({ lr: 1e-2 }),
          device,
          threads: 1,
          ...(events && { events }),
        });
      await using session = await make((e) => {
          errors.push(e.error);
        }),
        plain = await make();
      const { executor } = session,
        real = executor.setState.bind(executor);
      executor.setState = (name, ...rest) => {
        if (name.startsWith('optim/sum/blocks')) throw new UserError('out of memory: 64 bytes could not be had');
        real(name, ...rest);
      };
      session.recompile({
        name: 'split',
        budget: 1,
        trigger: (run) => run.step >= 3,
        alter: (_, __, out) => {
          if (out?.session) out.session.split = 2;
        },
      });
      for (let i = 0; i < 45; i++)
        assert.equal((await session.step(batch(i % 4))).loss, (await plain.step(batch(i % 4))).loss);
      assert.deepEqual(errors, ['out of memory: 64 bytes could not be had']);
      assert.ok(
        !executor.stateNames().some((name) => name.startsWith('optim/sum/')),
        'sums that were allocated before the failure are freed',
      );
      await assertNoUnhandledRejection();
    },
  );
}

test('all states are created or none, and parameters never exist without their initial values', async () => {
  for (let fails = 0; fails < 12; fails++) {
    const real = opened(await WasmDevice.open(1, { memory: 16e6 }));
    let allocs = 0,
      on = false;
    const device = new CheckedDevice(real, (call) => on && call === 'alloc' && allocs++ === fails);
    const session = await open(device, new MLP([4, 8, 4]), {
        loss: meanSquaredError,
        optimizer: adamW({ lr: 1e-2 }),
        seed: 2,
      }),
      x = hostTensor('float32', [2, 4], Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8));
    on = true;
    const first = await session.step({ x, y: x }).then(
      (r) => r.loss,
      (error: Error) => error.message,
    );
    if (first === 'alloc fails')
      assert.ok(
        session.executor.stateNames().length === 0 ||
          session
            .states()
            .filter(({ name }) => name.endsWith('weight'))
            .every(({ read }) => peek(read).data.some((v) => v !== 0)),
      );
    on = false;
    const second = await session.step({ x, y: x });
    await using plain = await compile(new MLP([4, 8, 4]), {
      loss: meanSquaredError,
      optimizer: adamW({ lr: 1e-2 }),
      seed: 2,
      device: 'wasm',
      threads: 1,
    });
    const want = [await plain.step({ x, y: x }), await plain.step({ x, y: x })];
    assert.equal(
      second.loss,
      typeof first === 'number' ? want[1].loss : want[0].loss,
      `allocation ${fails} fails: ${first}`,
    );
    await session.close();
    assert.deepEqual(device.wrong, []);
    await real.close();
  }
  await assertNoUnhandledRejection();
});

test('if memory is short, restore and load set all states or none', async () => {
  const real = opened(await WasmDevice.open(1, { memory: 16e6 }));
  let allocs = Infinity;
  const device = new CheckedDevice(real, (call) => call === 'alloc' && allocs-- <= 0),
    session = await open(device, new MLP([4, 8, 4]), { loss: meanSquaredError, optimizer: adamW({ lr: 1e-2 }) });
  await using trained = await compile(new MLP([4, 8, 4]), {
    loss: meanSquaredError,
    optimizer: adamW({ lr: 1e-2 }),
    device: 'wasm',
    threads: 1,
  });
  const x = hostTensor('float32', [2, 4], Float32Array.of(1, 2, 3, 4, 5, 6, 7, 8));
  await trained.step({ x, y: x });
  const bytes = await trained.serialize();
  session.states();
  const empty = fingerprint(session);
  for (let left = 0; left < 8; left++) {
    allocs = left;
    await assert.rejects(session.deserialize(bytes), /alloc fails/);
    allocs = Infinity;
    assert.deepEqual([fingerprint(session), session.steps], [empty, 0], `${left} allocations`);
  }
  await session.deserialize(bytes);
  assert.deepEqual([fingerprint(session), session.steps], [fingerprint(trained), 1]);
  await session.close();
  assert.deepEqual(device.wrong, []);
  await real.close();
});

test('programs are released and the arena is moved only after running programs have finished', async () => {
  const real = opened(await WasmDevice.open(1, { memory: 64e6 })),
    device = new CheckedDevice(real),
    session = await open(device, new MLP([4, 8, 4]), { loss: meanSquaredError, optimizer: sgd({ lr: 1e-2 }) });
  const executor = session.executor as ProgramExecutor,
    make = (rows: number): Batch => {
      const x = hostTensor('float32', [rows, 4], new Float32Array(4 * rows).fill(0.5));
      return { x, y: x };
    };
  await session.step(make(2));
  const small = (await session.prepare(make(2))) as LoadedProgram,
    times = executor.profile(small);
  executor.trim(0);
  executor.release(small);
  const large = session.step(make(4096)),
    profileDuringStep = executor.profile(small);
  assert.equal((await times).length, small.program.steps.length);
  await assert.rejects(profileDuringStep, /UserError.*this program was released/s);
  await large;
  await assert.rejects(executor.run(small, {}), /this program was released/);
  // Concurrent runs of one program do not mix their inputs and outputs.
  const program = (await session.prepare(make(3))) as LoadedProgram,
    inputs = (v: number) => ({
      x: new Float32Array(12).fill(v),
      y: new Float32Array(12),
      seed: Uint32Array.of(0),
      step: Uint32Array.of(0),
      commit: Int32Array.of(0),
      lr: Float32Array.of(1),
    });
  const [a, b, c] = await Promise.all([1, 2, 1].map((v) => executor.run(program, inputs(v))));
  assert.equal(a['loss'].data[0], c['loss'].data[0]);
  assert.notEqual(a['loss'].data[0], b['loss'].data[0]);
  const profiled = executor.profile(program),
    closing = session.close();
  await Promise.all([profiled, closing]);
  assert.deepEqual(device.wrong, []);
  assert.throws(() => executor.peekState('layers.0.weight'), /UserError.*closed/s);
  await assert.rejects(executor.run(program, inputs(1)), /closed/);
  await executor.close();
  await real.close();
});

interface Act {
  readonly does: keyof typeof ACTS;
  readonly n: number;
  readonly wait: number;
}

/** Calls on a session. They may reject: their callers expect that. */
const ACTS = {
  step: (s: Session, n: number) => s.step(batch(n)),
  large: (s: Session, n: number) => s.step(batch(n, 4)),
  bad: (s: Session, n: number) => s.step(bad(n)),
  forward: (s: Session, n: number) => s.forward(batch(n, 1 + (n % 3))),
  predict: (s: Session, n: number) => s.predict(batch(n, 2).x),
  evaluate: (s: Session, n: number) => s.evaluate([batch(n), batch(n + 1)]),
  async generate(s: Session, n: number) {
    for await (const t of generate(s, [n % 17], { tokens: 4, seed: n })) if (t === n) break;
  },
  prepare: (s: Session, n: number) => s.prepare(batch(n, 1 + (n % 4))),
  async profile(s: Session, n: number) {
    const p = await s.prepare(batch(n));
    await (s.executor as ProgramExecutor).profile(p as LoadedProgram);
  },
  serialize: (s: Session) => s.serialize(),
  async reload(s: Session) {
    await s.deserialize(await s.serialize());
  },
  restore: (s: Session, n: number) =>
    s.restore(n, [{ name: 'norm.gain', value: hostTensor('float32', [8], new Float32Array(8).fill(1)) }]),
  restorePlan: (s: Session, n: number) =>
    s.restorePlan({
      knobs: { 'blocks.0.moe': { ...s.plan().knobs['blocks.0.moe'], dispatch: n % 2 ? 'padded' : 'ragged' } },
      engine: null,
    }),
  trim: (s: Session) =>
    Promise.resolve().then(() => {
      s.executor.trim(0);
    }),
  async caches(s: Session, n: number) {
    const caches = s.openCaches(),
      rows = 1 + (n % 2);
    const run = s.runGraph(
      `cached ${rows}`,
      (t) => {
        t.output(
          'y',
          call(s.model as TransformerLM, t.input('input', 'x', { dtype: 'int32', shape: [rows, 1] }), {
            position: t.scalar('position', 'int32'),
          }),
        );
      },
      { x: new Int32Array(rows).fill(n), position: Int32Array.of(n % CONTEXT) },
      caches,
    );
    if (n < 5) caches.close();
    await run;
    caches.close();
  },
  read: (s: Session) => Promise.resolve().then(() => s.states().map(({ read }) => peek(read))),
  readAsync: (s: Session) => Promise.all(s.states().map(({ readAsync }) => readAsync())),
  bytes: (s: Session) => Promise.resolve().then(() => s.bytes()),
  assignments: (s: Session) => s.assignments('blocks.0.moe'),
  async rule(s: Session, n: number) {
    s.recompile<TransformerLM>(
      {
        name: `rule ${n}`,
        budget: 2,
        measure: false,
        trigger: () => true,
        alter(m, _, out) {
          const [{ moe }] = m.blocks;
          if (moe) {
            moe.dispatch = n % 2 ? 'padded' : 'ragged';
            moe.capacity = 1 + n / 8;
          }
          if (out?.session && n % 3 === 0) out.session.split = 2;
        },
      },
      n % 4 === 0 ? 'inference' : 'training',
    );
    await Promise.resolve();
  },
  close: (s: Session) => s.close(),
};

test(
  'random calls on a device that fails at random: every call settles, no freed memory is used, close completes',
  { timeout: 400_000 },
  async () => {
    const real = opened(await WasmDevice.open(1, { memory: 512e6 }));
    const acts: fc.Arbitrary<Act[]> = fc.array(
      fc.record({
        does: fc.constantFrom(...(Object.keys(ACTS) as (keyof typeof ACTS)[]), 'step', 'step'),
        n: fc.nat(9),
        wait: fc.nat(3),
      }),
      { minLength: 2, maxLength: 24 },
    );
    const faults = fc.constantFrom<{ of: DeviceCall[]; rate: number }[]>(
      { of: [], rate: 0 },
      { of: ['compile'], rate: 0.3 },
      { of: ['alloc'], rate: 0.05 },
      { of: ['run'], rate: 0.1 },
      { of: ['profile', 'bind', 'compile'], rate: 0.1 },
      { of: ['alloc', 'write', 'read', 'compile', 'bind', 'run', 'profile'], rate: 0.02 },
    );
    await fc.assert(
      fc.asyncProperty(
        acts,
        faults,
        fc.integer(),
        fc.constantFrom(1, 2),
        async (list, { of, rate }, seed, accumulate) => {
          let draws = seed >>> 0,
            on = false;
          const chance = (): number => {
            draws = (Math.imul(draws, 1664525) + 1013904223) >>> 0;
            return draws / 2 ** 32;
          };
          const device = new CheckedDevice(real, (call) => on && of.includes(call) && chance() < rate);
          const session = await open(device, lm(), { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), accumulate });
          on = true;
          const results: Promise<unknown>[] = [];
          for (const { does, n, wait } of list) {
            const act = ACTS[does] as (s: Session, n: number) => Promise<unknown>;
            results.push(
              (async () => act(session, n))().catch((error: unknown) => {
                assert.ok(error instanceof Error);
              }),
            );
            for (let i = 0; i < 4 ** wait - 1; i++) await nextTurn();
          }
          await Promise.all(results);
          await session.close();
          on = false;
          while (!device.idle) await nextTurn();
          await nextTurn();
          assert.deepEqual(device.wrong, []);
          await assertNoUnhandledRejection();
        },
      ),
      { numRuns: 60 },
    );
    await real.close();
  },
);
