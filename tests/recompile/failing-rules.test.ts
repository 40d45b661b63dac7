// Failures in rules, or in the engine while it works for a rule: one message with the rule's name, an event for each
// failure, and the run continues with the old plan and the same bits.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { alone, type Agreement } from '../../src/recompile/agreement.ts';
import { mergeExperts, splitExpert } from '../../src/recompile/policies/lifecycle.ts';
import type { RecompileEvent, Rule } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { fingerprint, toyBatch } from '../support/toy.ts';

class LM extends TransformerLM {
  constructor() {
    super({
      vocab: 17,
      dModel: 8,
      layers: 1,
      heads: 2,
      context: 12,
      moe: { experts: 4, active: 3, topK: 2, hidden: 8 },
    });
  }
  get broken(): number {
    throw new Error('a getter that fails');
  }
  write(): void {
    this.blocks[0].recompute = true;
  }
}
const moeOf = (m: LM) => {
  const { moe } = m.blocks[0];
  assert.ok(moe);
  return moe;
};
const fails = (what: string): never => {
  throw new Error(what);
};
const padded: Pick<Rule<LM>, 'trigger' | 'alter'> = {
  trigger: () => true,
  alter: (m) => {
    moeOf(m).dispatch = 'padded';
  },
};

/** Rules that never achieve a change. */
const KINDS: Readonly<Record<string, Partial<Rule<LM>>>> = {
  'trigger throws': { trigger: () => fails('one') },
  'trigger throws a string': {
    trigger: () => {
      throw 'text'; // eslint-disable-line @typescript-eslint/only-throw-error
    },
  },
  'trigger throws undefined': {
    trigger: () => {
      throw undefined; // eslint-disable-line @typescript-eslint/only-throw-error
    },
  },
  'trigger reads a layer that does not exist': { trigger: (run) => run.layer('nowhere').load.length > 0 },
  'trigger returns a number': { trigger: (() => 3) as never },
  'trigger returns a promise': { trigger: (() => Promise.reject(new Error('late'))) as never },
  'alter throws': { alter: () => fails('two') },
  'alter reads a getter that throws': {
    alter: (m) => {
      moeOf(m).topK = m.broken;
    },
  },
  'alter sets a property that is no knob': {
    alter: (m) => {
      (m as unknown as Record<string, unknown>)['blocks'] = [];
    },
  },
  'alter calls a method': {
    alter: (m) => {
      m.write();
    },
  },
  'alter sets a value that the setter refuses': {
    alter: (m) => {
      moeOf(m).topK = 99;
    },
  },
  'alter sets an object': {
    alter: (m) => {
      moeOf(m).capacity = {} as never;
    },
  },
  'alter sets knobs that contradict each other': {
    alter: (m) => {
      moeOf(m).topK = 3;
      mergeExperts(moeOf(m), 0, 1);
    },
  },
  'alter splits an expert without a free slot': {
    alter: (m) => {
      splitExpert(moeOf(m), 0);
      splitExpert(moeOf(m), 1);
    },
  },
  'alter throws after it has asked for the bytes of a plan': {
    alter: (m, _, outlook) => {
      moeOf(m).chunks = 2;
      outlook?.bytes();
      throw new Error('after all');
    },
  },
  'alter returns a promise': { alter: (): unknown => Promise.reject(new Error('late')) },
  'reason throws': { ...padded, reason: () => fails('three') },
  'reason returns a promise': { ...padded, reason: (() => Promise.reject(new Error('late'))) as never },
  'trigger reads a clock and alter changes results': {
    trigger: (run) => run.ms >= 0,
    alter: (m) => {
      moeOf(m).topK = 1;
    },
  },
  'first, with a change that moves values': {
    first: true,
    trigger: () => false,
    alter: (m) => {
      splitExpert(moeOf(m), 0);
    },
  },
  'alter deletes a property': {
    alter: (m) => {
      delete (m as { blocks?: unknown }).blocks;
    },
  },
  'alter writes into a list': {
    alter: (m) => {
      (moeOf(m).frozen as boolean[])[0] = true;
    },
  },
  'the loss exceeds the tolerance': {
    tolerance: 0,
    trigger: () => true,
    alter: (m) => {
      moeOf(m).topK = 1;
    },
  },
};

interface Opened {
  session: Session;
  events: RecompileEvent[];
  messages: string[];
}
async function open(
  agreement: Agreement = alone,
  events: (e: RecompileEvent) => void = () => undefined,
): Promise<Opened> {
  const received: RecompileEvent[] = [],
    messages: string[] = [];
  const session = await compile(new LM(), {
    loss: crossEntropy,
    optimizer: adamW({ lr: 1e-2 }),
    device: 'wasm',
    threads: 1,
    seed: 3,
    memory: 128e6,
    agreement,
    observe: true,
    events: (e) => {
      received.push(e);
      events(e);
    },
    say: (line) => {
      messages.push(line);
    },
  });
  return { session, events: received, messages };
}

const STEPS = 44;
const plain: Promise<{ losses: number[]; bits: Record<string, string> }> = (async () => {
  const { session } = await open(),
    losses: number[] = [];
  for (let i = 0; i < STEPS; i++) losses.push((await session.step(toyBatch(i))).loss);
  const bits = fingerprint(session);
  await session.close();
  return { losses, bits };
})();

/** Steps, and asserts the losses, states and knobs of a run without rules, and one message for each failing rule. */
async function assertRunUnchanged({ session, events, messages }: Opened, names: readonly string[]): Promise<void> {
  const want = await plain,
    before = session.plan().knobs;
  for (let i = 0; i < STEPS; i++)
    assert.equal((await session.step(toyBatch(i))).loss, want.losses[i], `${names.join()}: step ${i}`);
  assert.deepEqual(fingerprint(session), want.bits, names.join());
  assert.deepEqual(session.plan().knobs, before, names.join());
  for (const e of events) assert.ok(!e.kept && e.error !== undefined, JSON.stringify(e));
  for (const name of names) {
    const lines = messages.filter((line) => line.startsWith(`the rule "${name}"`));
    assert.equal(
      lines.length,
      events.some((e) => e.rule === name && !/a change of results came between/.test(e.error ?? '')) ? 1 : 0,
      `${name}: ${lines.join(' | ')}`,
    );
  }
}

const ruleOfKind = (name: string, cooldown: number): Rule<LM> => ({
  ...padded,
  ...KINDS[name],
  name,
  cooldown,
  alter: KINDS[name].alter ?? padded.alter,
});

for (const name of Object.keys(KINDS)) {
  test(`one failing rule: ${name}`, async () => {
    const opened = await open(),
      { session, events } = opened;
    session.recompile<LM>(ruleOfKind(name, 0));
    await assertRunUnchanged(opened, [name]);
    assert.ok(events.length > 0, 'the failure is reported as an event');
    await session.close();
  });
}

test('random failing rules, in any number and order', { timeout: 240_000 }, async () => {
  await fc.assert(
    fc.asyncProperty(
      fc.shuffledSubarray(Object.keys(KINDS), { minLength: 1, maxLength: 6 }),
      fc.nat(3),
      fc.boolean(),
      async (kinds, cooldown, listens) => {
        const opened = await open(alone, () => {
            if (!listens) throw new Error('a listener that fails');
          }),
          { session } = opened;
        for (const name of kinds) session.recompile<LM>(ruleOfKind(name, cooldown));
        await assertRunUnchanged(opened, kinds);
        await session.close();
      },
    ),
    { numRuns: 10, seed: 4 },
  );
});

interface TestedExecutor {
  device: { compile(kernels: unknown): Promise<void> };
  reserve(program: unknown): void;
  load(program: unknown): unknown;
  setPart(name: string, ...rest: unknown[]): void;
  run(program: unknown, inputs: Record<string, ArrayLike<number>>): Promise<unknown>;
}

test(
  'random failures of compiler, memory, loading, moving values and dry runs, while the engine works for a rule',
  { timeout: 240_000 },
  async () => {
    const good: readonly Rule<LM>[] = [
      { name: 'padded', ...padded, budget: 3, cooldown: 4 },
      {
        name: 'one expert',
        trigger: (run) => run.step >= 1,
        alter: (m) => {
          moeOf(m).topK = 1;
        },
        cooldown: 4,
        tolerance: 1,
      },
      {
        name: 'split',
        trigger: (run) => run.step >= 1,
        alter: (m) => {
          splitExpert(moeOf(m), 0);
        },
        cooldown: 4,
      },
    ];
    await fc.assert(
      fc.asyncProperty(
        fc.constantFrom('compile', 'compile later', 'reserve', 'load', 'setPart', 'dry run'),
        fc.subarray([...good], { minLength: 1 }),
        async (where, some) => {
          const rules = where === 'setPart' ? good.slice(2) : some; // only this rule moves values
          const opened = await open(),
            { session, events } = opened,
            executor = session.executor as unknown as TestedExecutor;
          // The first plan is compiled before anything fails: later failures are those of plans for rules.
          await session.step(toyBatch(0));
          const bits = await session.serialize();
          await session.deserialize(bits);
          const throws = (): never => fails(`${where} fails`),
            run = executor.run.bind(executor);
          for (const rule of rules) session.recompile<LM>(rule);
          if (where === 'compile') executor.device.compile = () => Promise.reject(new Error('compile fails'));
          else if (where === 'compile later')
            executor.device.compile = () =>
              new Promise((_, reject) => {
                setTimeout(() => {
                  reject(new Error('compile later fails'));
                }, 5);
              });
          else if (where === 'dry run')
            executor.run = (program, inputs) =>
              inputs['commit']?.[0] === 0 ? Promise.reject(new Error('dry run fails')) : run(program, inputs);
          else executor[where as 'reserve'] = throws;
          const want = await plain;
          for (let i = 1; i < STEPS; i++)
            assert.equal((await session.step(toyBatch(i))).loss, want.losses[i], `${where}: step ${i}`);
          const kept = events.filter((e) => e.kept);
          assert.ok(
            kept.every((e) => e.class === 'N'),
            JSON.stringify(kept.map((e) => [e.rule, e.class])),
          );
          if (kept.length === 0) assert.deepEqual(fingerprint(session), want.bits);
          await session.close();
        },
      ),
      { numRuns: 14, seed: 9 },
    );
  },
);

for (const method of ['reduceStats', 'agree'] as const) {
  test(`if other processes do not answer (${method}), one message says so and the run continues`, async () => {
    const opened = await open({ ...alone, [method]: () => Promise.reject(new Error('nobody there')) }),
      { session, messages } = opened;
    session.recompile<LM>({ name: 'padded', ...padded, cooldown: 2 });
    await assertRunUnchanged(opened, []);
    assert.equal(messages.length, 1, messages.join(' | '));
    assert.match(messages[0], /nobody there/);
    await session.close();
  });
}

test('without `say`, a failing rule writes one line to console.warn, without a stack', async (t) => {
  const warn = t.mock.method(console, 'warn', () => undefined);
  const options = { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), device: 'wasm', threads: 1, seed: 1 } as const;
  await using session = await compile(new LM(), options);
  session.recompile({ name: 'faulty', trigger: () => fails('one'), alter: () => undefined });
  for (let i = 0; i < 3; i++) await session.step(toyBatch(i, 4, 12));
  assert.equal(warn.mock.callCount(), 1);
  assert.deepEqual(warn.mock.calls[0].arguments.length, 1);
  assert.match(String(warn.mock.calls[0].arguments[0]), /the rule "faulty": it failed: one \(said once; .*\)$/);
});
