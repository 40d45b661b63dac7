// Sessions on the cuda device, over the stand-in for libcuda: they have the bits of the native device, and what fails
// is told by name and changes nothing. A share of the drawn cases runs each time; DYNAMOE_FULL runs more.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { Stream } from '../../src/base/random.ts';
import { CudaDevice } from '../../src/device/cuda/cuda.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import { adamW } from '../../src/optim/adam.ts';
import { adaptCapacity } from '../../src/recompile/policies/adaptCapacity.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import type { DeviceName } from '../../src/session/platform.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions, Model } from '../../src/session/step.ts';
import { drawsFromEnv } from '../support/random-cases.ts';
import { failing, hasFired, noStandin } from '../support/cuda/standin.ts';
import { stateBits } from '../support/state-bits.ts';
import { toyBatch, toyLM } from '../support/toy.ts';

const skip = noStandin;
const FULL = Boolean(process.env['DYNAMOE_FULL']);
process.env['DYNAMOE_STANDIN_MEMORY'] = String(32 << 20);

const open = (model: Model, device: DeviceName, more: Partial<CompileOptions> = {}): Promise<Session> =>
  compile(model, {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2, clip: 1 }),
    seed: 1,
    device,
    say: () => undefined,
    ...more,
  });

/** Loss and norm of steps `from` to `to`. */
async function steps(session: Session, from: number, to: number, batch = toyBatch): Promise<number[]> {
  const told: number[] = [];
  for (let i = from; i < to; i++) {
    const { loss, gradNorm } = await session.step(batch(i));
    told.push(loss, gradNorm);
  }
  return told;
}

/** What a use of a session gives on native and on cuda must be the same. */
async function same(use: (device: 'native' | 'cuda') => Promise<unknown>): Promise<void> {
  const want = await use('native');
  assert.deepEqual(await use('cuda'), want);
}

test('a language model trains 20 steps with the bits of native', { skip }, () =>
  same(async (device) => {
    await using session = await open(toyLM({ dropout: 0.1 }), device);
    return [await steps(session, 0, 20), await stateBits(session)];
  }),
);

/** A classifier whose middle layer is a mixture of experts with a capacity. */
class Classifier {
  readonly first = new MLP([6, 16]);
  readonly moe: MoE;
  readonly last = new MLP([16, 3]);
  constructor(overflow: 'drop' | 'spill', capacity = 0.75) {
    this.moe = new MoE({ dModel: 16, experts: 4, topK: 2, hidden: 12, capacity, overflow });
  }
  forward(x: Parameters<MoE['forward']>[0]): ReturnType<MoE['forward']> {
    return this.last.forward(this.moe.forward(this.first.forward(x)));
  }
}

function points(step: number): Batch {
  const stream = new Stream(5, 'points'),
    x = Float32Array.from({ length: 40 * 6 }, (_, i) => 2 * stream.uniform(step, i) - 1);
  return {
    x: hostTensor('float32', [40, 6], x),
    y: hostTensor(
      'int32',
      [40],
      Int32Array.from({ length: 40 }, (_, i) => (x[6 * i] > 0.2 ? 0 : x[6 * i + 1] > 0 ? 1 : 2)),
    ),
  };
}

for (const overflow of ['drop', 'spill'] as const)
  test(`a classifier with experts that are full (${overflow}) trains 20 steps with the bits of native`, { skip }, () =>
    same(async (device) => {
      const model = new Classifier(overflow);
      await using session = await open(model, device);
      const told = await steps(session, 0, 10, points);
      // Another capacity is another table of steps, and the old one is used again.
      model.moe.capacity = 1.5;
      told.push(...(await steps(session, 10, 15, points)));
      model.moe.capacity = 0.75;
      told.push(...(await steps(session, 15, 20, points)));
      return [told, await stateBits(session), (await session.evaluate([points(30)])).loss];
    }),
  );

test('evaluation, prediction and generation have the bits of native', { skip }, () =>
  same(async (device) => {
    await using session = await open(toyLM(), device);
    await steps(session, 0, 2);
    const tokens: number[] = [];
    for await (const token of generate(session, [1, 2, 3], { tokens: 8, temperature: 0.8, seed: 5 }))
      tokens.push(token);
    const { loss } = await session.evaluate([toyBatch(7)]),
      { data } = await session.predict(toyBatch(8).x);
    return [tokens, loss, data];
  }),
);

test('a run goes on from a checkpoint of native on cuda, and the other way', { skip }, async () => {
  await using alone = await open(toyLM(), 'native');
  const want = await steps(alone, 0, 6);
  for (const [first, second] of [
    ['native', 'cuda'],
    ['cuda', 'native'],
  ] as const) {
    await using before = await open(toyLM(), first),
      after = await open(toyLM(), second);
    const told = await steps(before, 0, 3);
    await after.deserialize(await before.serialize());
    told.push(...(await steps(after, 3, 6)));
    assert.deepEqual(told, want);
    assert.deepEqual(await stateBits(after), await stateBits(alone));
  }
});

test('rules change plans as on native: what is neutral is compared, what changes results is planned', { skip }, () =>
  same(async (device) => {
    const events: RecompileEvent[] = [],
      once = (step: number, name: string, alter: Rule<Classifier>['alter']): Rule<Classifier> => ({
        name,
        trigger: (run) => run.step === step,
        alter,
      });
    await using session = await open(new Classifier('spill'), device, { events: (e) => events.push(e) });
    session.recompile<Classifier>(
      once(2, 'padded', ({ moe }) => {
        moe.dispatch = 'padded';
      }),
    );
    session.recompile<Classifier>(
      once(4, 'fewer', ({ moe }) => {
        moe.topK = 1;
      }),
    );
    const told = await steps(session, 0, 40, points);
    // Whether the neutral change is kept depends on times.
    const of = (name: string): unknown[] =>
      events.filter((e) => e.rule === name).map((e) => [e.class, e.verified, e.class === 'R' && e.kept, e.error]);
    assert.ok(events.some((e) => e.rule === 'fewer' && e.class === 'R' && e.kept));
    return [told, of('fewer'), await stateBits(session)];
  }),
);

test('capacities follow the load by a policy, as on native', { skip }, () =>
  same(async (device) => {
    const model = new Classifier('drop', 4),
      events: RecompileEvent[] = [];
    model.moe.dispatch = 'padded';
    await using session = await open(model, device, { events: (e) => events.push(e) });
    session.recompile(adaptCapacity());
    const told = await steps(session, 0, 54, points);
    assert.ok(events.some((e) => e.kept && (e.effect ?? Infinity) < 54));
    return [told, events.map((e) => [e.class, e.step, e.effect, e.changes]), await stateBits(session)];
  }),
);

test('a loss that is not finite names the same op, and changes nothing', { skip }, () =>
  same(async (device) => {
    await using session = await open(new Classifier('drop'), device);
    await steps(session, 0, 2, points);
    const before = await stateBits(session),
      { x, y } = points(2);
    const error = await session
      .step({
        x: hostTensor(
          'float32',
          [40, 6],
          (x.data as Float32Array).map((v, i) => (i === 9 ? Infinity : v)),
        ),
        y,
      })
      .then(
        () => 'no error',
        (e: unknown) => String(e),
      );
    assert.deepEqual(await stateBits(session), before);
    return [error, await steps(session, 2, 4, points)];
  }),
);

test('states are read while steps run, and have the values of the moment of the call', { skip }, async () => {
  await using session = await open(toyLM(), 'cuda');
  await steps(session, 0, 1);
  const [state] = session.states();
  assert.throws(() => state.read(), /UserError: state .*: device cuda cannot read its memory at once/);
  const early = state.readAsync(),
    step = session.step(toyBatch(1));
  const before = await early;
  await step;
  assert.notDeepEqual(before, await state.readAsync());
});

test('a profile has a time for each step, and stores nothing', { skip }, async () => {
  await using session = await open(toyLM(), 'cuda');
  await steps(session, 0, 1);
  const { executor } = session,
    before = await stateBits(session);
  assert.ok(executor instanceof ProgramExecutor);
  const [loaded] = executor.loadedPrograms(),
    ns = await executor.profile(loaded);
  assert.equal(ns.length, loaded.program.steps.length);
  assert.ok(ns.every((n) => n > 0));
  assert.deepEqual(await stateBits(session), before);
});

test('two sessions on one GPU take turns, each with its own results', { skip }, async () => {
  await using one = await open(toyLM(), 'cuda'),
    two = await open(toyLM(), 'cuda', { seed: 2 }),
    alone = await open(toyLM(), 'native'),
    other = await open(toyLM(), 'native', { seed: 2 });
  const [a, b] = await Promise.all([steps(one, 0, 3), steps(two, 0, 3)]);
  assert.deepEqual([a, b], [await steps(alone, 0, 3), await steps(other, 0, 3)]);
});

test('memory that the GPU does not have is refused before anything is computed', { skip }, async () => {
  process.env['DYNAMOE_STANDIN_MEMORY'] = String(16 << 10);
  try {
    await assert.rejects(
      open(toyLM(), 'cuda'),
      /MemoryError|UserError: the model needs at least .* are available \(free on GPU 0 when the device was opened\)/,
    );
  } finally {
    process.env['DYNAMOE_STANDIN_MEMORY'] = String(32 << 20);
  }
});

test(
  'where others take the memory of the GPU, a larger plan is refused by name and the run goes on',
  { skip },
  async () => {
    const model = new Classifier('drop'),
      like = new Classifier('drop');
    await using session = await open(model, 'cuda'),
      native = await open(like, 'native');
    for (const { moe } of [model, like]) moe.dispatch = 'padded';
    const told = await steps(session, 0, 2, points),
      others: CudaDevice[] = [];
    // Each leaves a part of what is free.
    for (let left = Infinity; left > 2000;) {
      const other = await CudaDevice.open();
      others.push(other);
      left = other.info.limit?.bytes ?? 0;
      if (left > 512) other.alloc(left - 256);
    }
    model.moe.capacity = 4;
    await assert.rejects(
      session.step(points(2)),
      /UserError: out of memory on the GPU: \d+ bytes could not be allocated/,
    );
    model.moe.capacity = 0.75;
    told.push(...(await steps(session, 2, 4, points)));
    for (const other of others) await other.close();
    model.moe.capacity = 4;
    told.push(...(await steps(session, 4, 6, points)));
    const want = await steps(native, 0, 4, points);
    like.moe.capacity = 4;
    want.push(...(await steps(native, 4, 6, points)));
    assert.deepEqual(told, want);
    assert.deepEqual(await stateBits(session), await stateBits(native));
  },
);

test('a session that is closed in the middle of a step ends it by name or with its result', { skip }, async () => {
  for (const turns of [0, 2]) {
    const session = await open(toyLM(), 'cuda');
    await steps(session, 0, 1);
    const step = session.step(toyBatch(1)).then(
      ({ loss }) => String(loss),
      (error: unknown) => String(error),
    );
    for (let i = 0; i < turns; i++)
      await new Promise((resolve) => {
        setImmediate(resolve);
      });
    await session.close();
    assert.match(await step, /^\d+\.\d+$|closed/);
  }
});

const { seed } = drawsFromEnv();
const CALLS = [
  'cuMemAlloc',
  'cuMemsetD8Async',
  'cuMemcpyHtoDAsync',
  'cuMemcpyDtoHAsync',
  'cuEventCreate',
  'cuEventRecord',
  'cuEventQuery',
  'cuCtxSetCurrent',
  'cuModuleLoadData',
  'cuModuleGetFunction',
  'cuGraphCreate',
  'cuGraphAddKernelNode',
  'cuGraphAddEmptyNode',
  'cuGraphInstantiate',
  'cuGraphUpload',
  'cuGraphLaunch',
  'cuStreamSynchronize',
  'kernel',
];

test(`a call that fails at any time ends its step by name and changes nothing, seed ${seed}`, { skip }, async () => {
  const draws = new Stream(seed, 'failing calls'),
    want = await (async () => {
      await using session = await open(new Classifier('spill'), 'native');
      return [await steps(session, 0, 3, points), await stateBits(session)];
    })();
  const chosen = FULL
    ? [...CALLS, ...CALLS, ...CALLS]
    : Array.from({ length: 8 }, (_, i) => CALLS[Math.floor(draws.uniform(0, i) * CALLS.length)]);
  let fired = 0;
  for (const [i, name] of chosen.entries()) {
    // Most calls come a few times; those of copies, nodes and allocations many times.
    const n = 1 + Math.floor(draws.uniform(1, i) ** 2 * 60);
    let session: Session | null = null;
    const errors: string[] = [],
      told: number[] = [];
    await failing(name, n, async () => {
      try {
        session = await open(new Classifier('spill'), 'cuda');
      } catch (error) {
        errors.push(String(error));
      }
      for (let at = 0, tries = 0; session && at < 3 && tries < 6; tries++)
        try {
          told.push(...(await steps(session, at, at + 1, points)));
          at++;
        } catch (error) {
          errors.push(String(error));
        }
      if (hasFired()) fired++;
    });
    const what = `${name}, call ${n}`;
    for (const error of errors) assert.match(error, new RegExp(`${name}|out of memory|the GPU stopped`), what);
    const ended = errors.some((e) => e.includes('the GPU stopped'));
    if (session && !ended) assert.deepEqual([told, await stateBits(session)], want, what);
    await (session as Session | null)?.close();
  }
  assert.ok(fired > 0, `${fired} calls failed`);
});
