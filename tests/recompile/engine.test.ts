// The recompilation engine on a small language model: which changes it decides, at which step, and that class N changes
// change no bit and failures cost no step.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { Stream } from '../../src/base/random.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import { adamW } from '../../src/optim/adam.ts';
import { alone, type Agreement, type Readiness } from '../../src/recompile/agreement.ts';
import { NOTICE } from '../../src/recompile/engine.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { temporaryFolder } from '../io/folder.ts';
import type { KnobRules } from '../../src/trace/knobs.ts';
import { fingerprint, toyBatch } from '../support/toy.ts';
import { inForce } from './lm.ts';

type LM = TransformerLM;
const model = (capacity: 'dropless' | number = 'dropless'): LM =>
  new TransformerLM({
    vocab: 17,
    dModel: 16,
    layers: 2,
    heads: 2,
    context: 12,
    moe: { experts: 4, topK: 2, hidden: 24, capacity },
  });

interface Opened {
  session: Session;
  events: RecompileEvent[];
}
async function open(options: { agreement?: Agreement; capacity?: number } = {}): Promise<Opened> {
  const events: RecompileEvent[] = [];
  const session = await compile(model(options.capacity), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device: 'wasm',
    threads: 1,
    seed: 3,
    memory: 256e6,
    events: (e) => events.push(e),
    ...(options.agreement && { agreement: options.agreement }),
  });
  return { session, events };
}

async function steps(session: Session, count: number): Promise<number[]> {
  const losses: number[] = [];
  for (let i = 0; i < count; i++) losses.push((await session.step(toyBatch(session.steps))).loss);
  return losses;
}

/** Steps until `count` events were reported; how many steps that takes depends on the compiler. Returns the losses. */
async function stepsUntilEvents({ session, events }: Opened, count = 1): Promise<number[]> {
  const losses: number[] = [];
  while (events.length < count) losses.push(...(await steps(session, 1)));
  return losses;
}

const blocks = (m: LM) =>
  m.blocks.map((b) => {
    assert.ok(b.moe);
    return b.moe;
  });
const toPadded: Rule<LM> = {
  name: 'padded',
  trigger: (run) => run.step === 4,
  alter: (m) => {
    for (const moe of blocks(m)) moe.dispatch = 'padded';
  },
};

test('a class N change is verified, measured and reported; losses are those of a run without it', async () => {
  const plain = await open(),
    watched = await open();
  watched.session.recompile(toPadded);
  const got = await stepsUntilEvents(watched),
    want = await steps(plain.session, got.length);
  assert.deepEqual(got, want);
  assert.deepEqual(fingerprint(watched.session), fingerprint(plain.session));
  const [event] = watched.events;
  assert.equal(watched.events.length, 1);
  assert.equal(event.class, 'N');
  assert.equal(event.step, 6, 'rules see the statistics of step 4 before step 6');
  assert.ok(
    event.verified && event.effect !== null && event.ratio && event.after.ms !== null && event.before.bytes > 0,
  );
  assert.deepEqual(
    event.changes.map((c) => [c.path, c.knob, c.from, c.to]),
    [
      ['blocks.0.moe', 'dispatch', 'ragged', 'padded'],
      ['blocks.1.moe', 'dispatch', 'ragged', 'padded'],
    ],
  );
  assert.equal(inForce(watched.session)[0]['dispatch'], event.kept ? 'padded' : 'ragged');
  await plain.session.close();
  await watched.session.close();
});

test('loads of a batch in parts equal those of the whole batch', async () => {
  const load = async (accumulate: number): Promise<number[]> => {
    await using session = await compile(model(), {
      loss: crossEntropy,
      optimizer: adamW({ lr: 1e-2 }),
      device: 'wasm',
      threads: 1,
      seed: 3,
      memory: 256e6,
      accumulate,
    });
    return Array.from((await session.step(toyBatch(0))).stats['blocks.0.moe/load'].data, Number);
  };
  assert.deepEqual(await load(3), await load(1));
});

test('a class R change takes effect exactly 32 steps after its decision, and can be undone', async () => {
  const { session, events } = await open();
  session.recompile<LM>({
    name: 'one expert',
    trigger: (run) => run.step >= 5,
    alter: (m) => {
      blocks(m)[1].topK = 1;
    },
    undo: (run) => run.step >= 60,
    cooldown: 10,
    budget: 2,
    reason: (run) => `second weight ${run.layer('blocks.1.moe').secondGateWeight.toFixed(3)}`,
  });
  const loads: number[] = [];
  for (let i = 0; i < 110; i++) {
    const { stats } = await session.step(toyBatch(i));
    loads.push(Array.from(stats['blocks.1.moe/load'].data, Number).reduce((a, b) => a + b));
  }
  const [first, second] = events;
  assert.equal(events.length, 2);
  assert.deepEqual([first.class, first.step, first.effect, first.kept], ['R', 7, 7 + NOTICE, true]);
  assert.match(first.reason, /^second weight 0\.[0-4]\d+$/);
  const changed = loads.findIndex((n) => n === 36) + 1,
    back = loads.findIndex((n, i) => i >= changed && n === 72) + 1;
  assert.deepEqual([changed, back], [first.effect, second.effect]);
  assert.deepEqual([second.reason, second.step], ['taken back', 62]);
  await session.close();
});

test('1,000 forced recompilations, a quarter of which fail, change no bit and cost no step', async () => {
  const plain = await open(),
    forced = await open(),
    stream = new Stream(1, 'forced');
  let tries = 0,
    at = 0;
  const fails = (): number => (tries % 4 === 0 ? 1 + ((tries / 4) % 4) : 0);
  forced.session.recompile<LM>({
    name: 'forced',
    cooldown: 0,
    measure: false,
    only: 'N',
    trigger: () => {
      if (forced.session.steps < at) return false;
      at = forced.session.steps + 1 + Math.floor(3 * stream.uniform(0, tries++));
      if (fails() === 1) throw new Error('a trigger that fails');
      return true;
    },
    alter: (m) => {
      const [moe] = blocks(m);
      if (fails() === 2) throw new Error('an alter that fails');
      if (fails() === 3) (moe as { dispatch: string }).dispatch = 'nonsense';
      else if (fails() === 4) (m as { embedding: unknown }).embedding = null;
      else moe.dispatch = moe.dispatch === 'ragged' ? 'padded' : 'ragged';
    },
  });
  const losses: number[] = [];
  while (forced.events.length < 1000) losses.push((await forced.session.step(toyBatch(forced.session.steps))).loss);
  assert.deepEqual(losses, await steps(plain.session, losses.length));
  assert.deepEqual(fingerprint(forced.session), fingerprint(plain.session));
  const failed = forced.events.filter((e) => e.error !== undefined);
  assert.ok(failed.length >= 200 && failed.length <= 300, `${failed.length} failed`);
  for (const what of [
    /a trigger that fails/,
    /an alter that fails/,
    /no dispatch named nonsense/,
    /embedding cannot be set/,
  ])
    assert.ok(
      failed.some((e) => what.test(e.error ?? '')),
      String(what),
    );
  assert.ok(forced.events.every((e) => e.error !== undefined || (e.kept && e.verified)));
  assert.ok(
    forced.events.some((e) => e.cached),
    'plans that were compiled before are reused',
  );
  await plain.session.close();
  await forced.session.close();
});

test('a plan whose results differ is dropped, and the event says so', async () => {
  const opened = await open({ capacity: 0.5 }),
    { session, events } = opened,
    plain = await open({ capacity: 0.5 });
  // Declares every change of capacity as class N. If choices are dropped, a larger capacity changes results.
  class WrongKnobRules extends MoE {
    static override readonly knobs: KnobRules = { ...MoE.knobs, capacity: () => true };
  }
  const moe = blocks(session.model as LM)[0];
  Object.setPrototypeOf(moe, WrongKnobRules.prototype);
  session.recompile<LM>({
    name: 'wrongly neutral',
    trigger: (run) => run.step >= 3,
    budget: 1,
    alter: (m) => {
      blocks(m)[0].capacity = 2;
    },
  });
  const got = await stepsUntilEvents(opened);
  got.push(...(await steps(session, 3)));
  assert.deepEqual(got, await steps(plain.session, got.length));
  assert.equal(events.length, 1);
  assert.match(events[0].error ?? '', /does not agree with the old one: .* differs/);
  assert.deepEqual([events[0].verified, events[0].kept, events[0].effect], [false, false, null]);
  assert.equal(inForce(session)[0]['capacity'], 0.5);
  await session.close();
  await plain.session.close();
});

test('a rule that reads a clock may not change results', async () => {
  const { session, events } = await open();
  session.recompile<LM>({
    name: 'by the clock',
    trigger: (run) => run.ms > 0,
    alter: (m) => {
      blocks(m)[0].topK = 1;
    },
  });
  await steps(session, 320);
  assert.equal(events.length, 3, 'the rule is disabled after three failures');
  assert.ok(events.every((e) => /reads a clock/.test(e.error ?? '')));
  assert.match(events[2].error ?? '', /left out/);
  await session.close();
});

test('a run that is saved and loaded between decision and effect continues like one run', async (t) => {
  const folder = await temporaryFolder(t),
    rule = (): Rule<LM> => ({
      name: 'one expert',
      trigger: (run) => run.step === 6,
      alter: (m) => {
        blocks(m)[0].topK = 1;
      },
    });
  const whole = await open();
  whole.session.recompile(rule());
  const want = await steps(whole.session, 60);
  for (const at of [5, 7, 8, 20, 39, 40, 41, 55]) {
    const first = await open(),
      path = join(folder, `${at}.safetensors`);
    first.session.recompile(rule());
    const before = await steps(first.session, at);
    await first.session.save(path);
    await first.session.close();
    const second = await open();
    second.session.recompile(rule());
    await second.session.load(path);
    assert.deepEqual([...before, ...(await steps(second.session, 60 - at))], want, `stopped after step ${at}`);
    assert.deepEqual(second.session.plan().engine?.log, whole.session.plan().engine?.log);
    await second.session.close();
  }
  await whole.session.close();
});

test('two executors that compile at different speeds swap at the same step', async () => {
  // Each process waits for the answer of the other one: they swap if both are ready.
  const waiting: { own: Readiness; resolve(all: Readiness): void }[] = [];
  const agreement: Agreement = {
    ...alone,
    reduceStats: (own) => Promise.resolve({ ...own, ms: 1 }),
    agree: (own) =>
      new Promise((resolve) => {
        const other = waiting.pop();
        if (!other) {
          waiting.push({ own, resolve });
          return;
        }
        const all = { ...own, ready: own.ready && other.own.ready };
        resolve(all);
        other.resolve(all);
      }),
  };
  const a = await open({ agreement }),
    b = await open({ agreement });
  // The compiler of b is slow: from the second compilation on, it takes 20 steps.
  const { device } = b.session.executor as unknown as { device: { compile(kernels: unknown): Promise<void> } },
    real = device.compile.bind(device);
  let seen = 0,
    finishCompiling = (): void => undefined;
  device.compile = async (kernels) => {
    await real(kernels);
    if (++seen > 1)
      await new Promise<void>((resolve) => {
        finishCompiling = resolve;
      });
  };
  for (const { session } of [a, b]) session.recompile<LM>({ ...toPadded, measure: false });
  for (let i = 0; a.events.length + b.events.length < 2; i++) {
    if (i >= 20) finishCompiling();
    await Promise.all([a, b].map(({ session }) => session.step(toyBatch(i))));
  }
  const [[first], [second]] = [a.events, b.events];
  assert.ok(first.kept && second.kept && (first.effect ?? 0) > 20);
  assert.equal(first.effect, second.effect);
  assert.deepEqual(fingerprint(a.session), fingerprint(b.session));
  await a.session.close();
  await b.session.close();
});

test('a step with a loss that is not finite during a trial changes nothing', async () => {
  const opened = await open(),
    { session, events } = opened,
    plain = await open();
  session.recompile(toPadded);
  await steps(session, 20);
  const before = fingerprint(session),
    bad = toyBatch(20),
    broken = { ...bad, y: { ...bad.y, data: Int32Array.from(bad.y.data, () => 99) } };
  await assert.rejects(session.step(broken), /is not finite/);
  assert.deepEqual(fingerprint(session), before);
  assert.equal(inForce(session)[0]['dispatch'], 'ragged', 'between steps of a trial the old plan is in force');
  await stepsUntilEvents(opened);
  await steps(plain.session, session.steps);
  assert.deepEqual(fingerprint(session), fingerprint(plain.session));
  assert.equal(events.length, 1);
  await session.close();
  await plain.session.close();
});

test('a class R change is decided at its step, also while another recompilation is in progress', async () => {
  const run = async (withOtherRule: boolean): Promise<RecompileEvent | undefined> => {
    const { session, events } = await open();
    if (withOtherRule) session.recompile<LM>({ ...toPadded, trigger: (stats) => stats.step >= 4 });
    session.recompile<LM>({
      name: 'one expert',
      trigger: (stats) => stats.step === 10,
      alter: (m) => {
        blocks(m)[1].topK = 1;
      },
    });
    await steps(session, 50);
    await session.close();
    return events.find((e) => e.rule === 'one expert');
  };
  const [alone, beside] = [await run(false), await run(true)];
  assert.deepEqual([alone?.step, alone?.effect, alone?.kept], [12, 44, true]);
  assert.deepEqual([beside?.step, beside?.effect, beside?.kept], [12, 44, true]);
});

test('recompilation with micro-batches, batches of two sizes, and close during a compilation', async () => {
  const events: RecompileEvent[] = [],
    make = async (watched: boolean): Promise<Session> => {
      const session = await compile(model(), {
        loss: crossEntropy,
        optimizer: adamW({ lr: 1e-2 }),
        device: 'wasm',
        threads: 1,
        seed: 3,
        memory: 256e6,
        accumulate: 2,
        events: (e) => events.push(e),
      });
      if (watched) session.recompile<LM>({ ...toPadded, measure: false });
      return session;
    };
  const [plain, watched] = [await make(false), await make(true)];
  for (let i = 0; i < 30 || events.length === 0; i++)
    for (const session of [plain, watched]) await session.step(toyBatch(i, i % 3 === 0 ? 2 : 4));
  assert.deepEqual(fingerprint(watched), fingerprint(plain));
  assert.ok(events.length === 1 && events[0].kept, JSON.stringify(events));
  await plain.close();
  await watched.close();
  const last = await make(true);
  for (let i = 0; i < 6; i++) await last.step(toyBatch(i, 4));
  await last.close();
  assert.equal(events.length, 1);
});
