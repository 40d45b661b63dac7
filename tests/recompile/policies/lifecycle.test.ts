// Experts that are split, merged and pruned during a run: a change takes effect with its moved values or not at all, a
// split does not change the loss, and a run that is stopped at any step resumes with the same bits.
import assert from 'node:assert/strict';
import { join } from 'node:path';
import { test } from 'node:test';
import { crossEntropy } from '../../../src/nn/loss.ts';
import { TransformerLM } from '../../../src/nn/transformer.ts';
import { adamW } from '../../../src/optim/adam.ts';
import { NOTICE } from '../../../src/recompile/engine.ts';
import { activeOf, readSlots, type SlotsValue } from '../../../src/nn/moe/slots.ts';
import { mergeExperts, pruneExpert, splitExpert } from '../../../src/recompile/policies/lifecycle.ts';
import type { RecompileEvent, Rule } from '../../../src/recompile/rule.ts';
import { compile } from '../../../src/session/node.ts';
import type { DeviceName } from '../../../src/session/platform.ts';
import type { Session } from '../../../src/session/session.ts';
import { temporaryFolder } from '../../io/folder.ts';
import { peek } from '../../support/delayed-device.ts';
import { fingerprint, noCompiler, toyBatch } from '../../support/toy.ts';
import { blocks, inForce, steps, type LM } from '../lm.ts';

interface Opened {
  session: Session;
  events: RecompileEvent[];
}
async function open(
  rules: readonly Rule<LM>[] = [],
  { device = 'wasm', accumulate = 1 }: { device?: DeviceName; accumulate?: number } = {},
): Promise<Opened> {
  const events: RecompileEvent[] = [],
    model = new TransformerLM({
      vocab: 17,
      dModel: 16,
      layers: 2,
      heads: 2,
      context: 12,
      moe: { experts: 6, active: 4, topK: 2, hidden: 24 },
    });
  const session = await compile(model, {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device,
    threads: 1,
    seed: 3,
    memory: 256e6,
    accumulate,
    events: (e) => events.push(e),
    observe: true,
  });
  for (const rule of rules) session.recompile<LM>(rule);
  return { session, events };
}
const ruleAt = (step: number, name: string, alter: Rule<LM>['alter'], more: Partial<Rule<LM>> = {}): Rule<LM> => ({
  name,
  trigger: (run) => run.step === step,
  alter,
  cooldown: 8,
  ...more,
});
const splitRule = (step: number, more: Partial<Rule<LM>> = {}): Rule<LM> =>
  ruleAt(
    step,
    'split',
    (m) => {
      splitExpert(blocks(m)[1], 2);
    },
    more,
  );
const slotsOf = (session: Session): SlotsValue => inForce(session)[1]['slots'] as SlotsValue;
const activeIn = (session: Session): boolean[] => activeOf(readSlots(slotsOf(session)).families);
const bytes = (session: Session, name: string): string => fingerprint(session)[name];

for (const device of ['wasm', 'native'] as const) {
  test(
    `${device}: a split is verified and takes effect at its step, whose loss is that of a run without it`,
    { skip: device === 'native' && noCompiler },
    async () => {
      // If the dry run did not use the copied values, its loss would differ by more than this tolerance: the free slot
      // holds an expert that was never trained.
      const plain = await open([], { device }),
        { session, events } = await open([splitRule(4, { tolerance: 1e-5 })], { device });
      const want = await steps(plain.session, 60),
        got = await steps(session, 60),
        effect = 6 + NOTICE;
      assert.equal(events.length, 1);
      const [{ error, ...event }] = events;
      assert.deepEqual(
        [event.class, event.step, event.effect, event.verified, event.kept, error],
        ['R', 6, effect, true, true, undefined],
      );
      assert.deepEqual(event.changes, [
        {
          path: 'blocks.1.moe',
          knob: 'slots',
          from: ['on', 'on', 'on', 'on', 'off', 'off'],
          to: ['on', 'on', 'on', 'on', 'off', 'off', 1, 'split 2 into 4'],
        },
      ]);
      assert.deepEqual(got.slice(0, effect - 1), want.slice(0, effect - 1), 'the same bits until the split');
      assert.ok(
        Math.abs(got[effect - 1] - want[effect - 1]) < 1e-5 * want[effect - 1],
        `${got[effect - 1]} and ${want[effect - 1]}`,
      );
      assert.ok(
        got.slice(effect).some((loss, i) => loss !== want[effect + i]),
        'after the split the copies train differently',
      );
      const load = new Array<number>(6).fill(0);
      for (let i = 0; i < 20; i++)
        (await session.step(toyBatch(session.steps))).stats['blocks.1.moe/load'].data.forEach((n, e) => {
          load[e] += Number(n);
        });
      assert.deepEqual(
        load.map((n) => n > 0),
        [true, true, true, true, true, false],
        load.join(),
      );
      await session.close();
      await plain.session.close();
    },
  );
}

test('a change whose loss exceeds the tolerance is dropped and changes nothing', async () => {
  const plain = await open(),
    { session, events } = await open([
      ruleAt(
        4,
        'prune',
        (m) => {
          pruneExpert(blocks(m)[1], 0);
          mergeExperts(blocks(m)[0], 1, 2, 0.3);
        },
        { tolerance: 1e-9 },
      ),
    ]);
  assert.deepEqual(await steps(session, 50), await steps(plain.session, 50));
  assert.deepEqual(fingerprint(session), fingerprint(plain.session));
  assert.equal(events.length, 1);
  assert.match(events[0].error ?? '', /does not agree with the old one: loss/);
  assert.deepEqual(
    [events[0].verified, events[0].kept, events[0].effect, session.plan().engine?.log],
    [false, false, null, []],
  );
  assert.deepEqual(activeIn(session), [true, true, true, true, false, false]);
  await session.close();
  await plain.session.close();
});

test('if any write of moved values fails, all are put back and the run continues', async () => {
  // Writes of one split: three parameters with two moments each.
  const plain = await open(),
    want = await steps(plain.session, 50),
    kept = fingerprint(plain.session),
    writes = 9;
  // The split writes them three times: for the dry run, to put them back, and when it takes effect.
  for (const fails of [1, 2, 5, writes, 2 * writes + 1, 2 * writes + 6, 3 * writes, 3 * writes + 1]) {
    const { session, events } = await open([splitRule(4)]),
      got = await steps(session, 4 + NOTICE),
      executor = session.executor,
      write = executor.setPart.bind(executor);
    let count = 0;
    executor.setPart = (...part) => {
      if (++count === fails) throw new Error('memory that cannot be written');
      write(...part);
    };
    got.push(...(await steps(session, 50 - got.length)));
    assert.equal(events.length, 1);
    assert.equal(events[0].kept, fails > 3 * writes, `write ${fails} of ${count}`);
    if (!events[0].kept) {
      assert.deepEqual(got, want, `write ${fails}`);
      assert.ok(
        Object.entries(fingerprint(session)).every(([name, bits]) => bits === kept[name]),
        `write ${fails}`,
      );
      assert.match(events[0].error ?? '', /memory that cannot be written/);
      assert.ok(!activeIn(session)[4]);
    }
    await session.close();
  }
  await plain.session.close();
});

test('a run that is saved and resumed at any step continues with the same bits', async (t) => {
  const rules = (): Rule<LM>[] => [
    splitRule(4),
    ruleAt(44, 'fewer', (m) => {
      const [first, second] = blocks(m);
      pruneExpert(first, 3);
      mergeExperts(second, 4, 2, 0.75);
      splitExpert(second, 0);
    }),
    ruleAt(
      80,
      'back',
      (m) => {
        splitExpert(blocks(m)[0], 0, 3);
      },
      { budget: 1 },
    ),
  ];
  const folder = await temporaryFolder(t),
    whole = await open(rules()),
    want = await steps(whole.session, 125),
    log = whole.session.plan().engine?.log;
  assert.deepEqual(
    log?.map((d) => [d.rule, d.step, d.effect]),
    [
      ['split', 6, 38],
      ['fewer', 46, 78],
      ['back', 82, 114],
    ],
  );
  assert.deepEqual(slotsOf(whole.session).slice(6), [2, 'merge 2 into 4 by 0.75', 'split 0 into 2']);
  for (const stop of [5, 6, 36, 37, 38, 46, 77, 78, 113]) {
    const first = await open(rules()),
      path = join(folder, `${stop}.safetensors`),
      before = await steps(first.session, stop);
    await first.session.save(path);
    await first.session.close();
    const second = await open(rules());
    await second.session.load(path);
    assert.deepEqual([...before, ...(await steps(second.session, 125 - stop))], want, `stopped after step ${stop}`);
    assert.deepEqual(second.session.plan().engine?.log, log);
    assert.deepEqual(fingerprint(second.session), fingerprint(whole.session));
    await second.session.close();
  }
  await whole.session.close();
});

test('a pruned expert keeps its values and moments until the pruning is undone', async () => {
  const { session, events } = await open([
    ruleAt(
      4,
      'prune',
      (m) => {
        pruneExpert(blocks(m)[1], 1);
      },
      { undo: (run) => run.step >= 60, budget: 2 },
    ),
  ]);
  const names = ['experts.w1', 'experts.w2', 'router.weight'].flatMap((n) =>
    ['', 'optim/m/', 'optim/v/'].map((kind) => `${kind}blocks.1.moe.${n}`),
  );
  const part = (name: string): string => {
    const { data, shape } = peek(() => session.executor.peekState(name)),
      [axis, inner] = name.endsWith('router.weight') ? [1, 1] : [0, shape[1] * shape[2]];
    return Array.from(data, Number)
      .filter((_, i) => Math.floor(i / inner) % shape[axis] === 1)
      .join();
  };
  await steps(session, 5 + NOTICE);
  const before = names.map(part),
    load = async (): Promise<number> =>
      Number((await session.step(toyBatch(session.steps))).stats['blocks.1.moe/load'].data[1]);
  assert.equal(await load(), 0);
  await steps(session, 54);
  assert.equal(session.steps, 92);
  assert.deepEqual(names.map(part), before);
  const undoneAt = 62 + NOTICE;
  assert.deepEqual([await load(), events.length], [0, 1]);
  assert.ok((await load()) > 0, 'tokens choose the expert again');
  assert.deepEqual(
    events.map((e) => [e.effect, e.reason]),
    [
      [6 + NOTICE, 'prune'],
      [undoneAt, 'taken back'],
    ],
  );
  assert.notDeepEqual(names.map(part), before);
  await session.close();
});

test('if the loss is not finite where a split takes effect, the step changes nothing, the split stays', async () => {
  const one = await open([splitRule(4)]),
    two = await open([splitRule(4)]),
    bad = toyBatch(37);
  await steps(one.session, 37);
  await assert.rejects(
    one.session.step({ ...bad, y: { ...bad.y, data: Int32Array.from(bad.y.data, () => 99) } }),
    /is not finite/,
  );
  assert.equal(one.session.steps, 37);
  assert.ok(activeIn(one.session)[4]);
  for (const name of ['blocks.1.moe.experts.w1', 'optim/v/blocks.1.moe.experts.w2']) {
    const { data, shape } = peek(() => one.session.executor.peekState(name)),
      n = shape[1] * shape[2];
    assert.deepEqual(data.slice(4 * n, 5 * n), data.slice(2 * n, 3 * n), name);
  }
  assert.deepEqual(await steps(one.session, 13), (await steps(two.session, 50)).slice(37));
  assert.deepEqual(fingerprint(one.session), fingerprint(two.session));
  for (const { session } of [one, two]) await session.close();
});

test('micro-batches: all parts of a step are verified and run with the same experts', async () => {
  const plain = await open([], { accumulate: 3 }),
    { session, events } = await open([splitRule(4, { tolerance: 1e-5 })], { accumulate: 3 });
  const [want, got] = [await steps(plain.session, 45), await steps(session, 45)];
  assert.ok(events[0].kept && events[0].verified, JSON.stringify(events));
  assert.ok(Math.abs(got[37] - want[37]) < 1e-5 * want[37]);
  assert.equal(
    bytes(session, 'optim/sum/blocks.1.moe.experts.w1'),
    bytes(plain.session, 'optim/sum/blocks.1.moe.experts.w1'),
    'sums of gradients are cleared',
  );
  await session.close();
  await plain.session.close();
});

test('an impossible change is reported at once as an error of the rule, and costs nothing', async () => {
  const plain = await open(),
    { session, events } = await open([
      ruleAt(4, 'too many', (m) => {
        const [moe] = blocks(m);
        for (const e of [0, 1, 2]) pruneExpert(moe, e);
      }),
      ruleAt(5, 'by hand', (m) => {
        blocks(m)[0].slots = ['on', 'off', 'off', 'off', 'off', 'off'];
      }),
    ]);
  assert.deepEqual(await steps(session, 12), await steps(plain.session, 12));
  assert.deepEqual(
    events.map((e) => [e.rule, e.step, e.effect, e.kept]),
    [
      ['too many', 6, null, false],
      ['by hand', 7, null, false],
    ],
  );
  for (const { error } of events)
    assert.match(error ?? '', /topK 2 needs as many experts to choose from, and there are 1/);
  assert.deepEqual(fingerprint(session), fingerprint(plain.session));
  await session.close();
  await plain.session.close();
});
