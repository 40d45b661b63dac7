// Whatever fails in rules, or in the engine on their behalf: it is said once by name, told each time, and the run goes
// on by the old plan, to the bit.
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

/** Rules that never come to anything. */
const KINDS: Readonly<Record<string, Partial<Rule<LM>>>> = {
  'trigger throws': { trigger: () => fails('one') },
  'trigger throws no error': {
    trigger: () => {
      throw 'text'; // eslint-disable-line @typescript-eslint/only-throw-error
    },
  },
  'trigger throws nothing': {
    trigger: () => {
      throw undefined; // eslint-disable-line @typescript-eslint/only-throw-error
    },
  },
  'trigger asks for a layer that is not there': { trigger: (run) => run.layer('nowhere').load.length > 0 },
  'trigger gives a number': { trigger: (() => 3) as never },
  'trigger gives a promise': { trigger: (() => Promise.reject(new Error('late'))) as never },
  'alter throws': { alter: () => fails('two') },
  'alter reads a getter that throws': {
    alter: (m) => {
      moeOf(m).topK = m.broken;
    },
  },
  'alter sets what is no knob': {
    alter: (m) => {
      (m as unknown as Record<string, unknown>)['blocks'] = [];
    },
  },
  'alter calls a method': {
    alter: (m) => {
      m.write();
    },
  },
  'alter sets what a setter refuses': {
    alter: (m) => {
      moeOf(m).topK = 99;
    },
  },
  'alter sets an object': {
    alter: (m) => {
      moeOf(m).capacity = {} as never;
    },
  },
  'alter sets what cannot be together': {
    alter: (m) => {
      moeOf(m).topK = 3;
      mergeExperts(moeOf(m), 0, 1);
    },
  },
  'alter splits where nothing is free': {
    alter: (m) => {
      splitExpert(moeOf(m), 0);
      splitExpert(moeOf(m), 1);
    },
  },
  'alter asks for bytes of what cannot be traced': {
    alter: (m, _, outlook) => {
      moeOf(m).chunks = 2;
      outlook?.bytes();
      throw new Error('after all');
    },
  },
  'alter gives a promise': { alter: (): unknown => Promise.reject(new Error('late')) },
  'reason throws': { ...padded, reason: () => fails('three') },
  'reason gives a promise': { ...padded, reason: (() => Promise.reject(new Error('late'))) as never },
  'looks at a clock and changes results': {
    trigger: (run) => run.ms >= 0,
    alter: (m) => {
      moeOf(m).topK = 1;
    },
  },
  'first and values that move': {
    first: true,
    trigger: () => false,
    alter: (m) => {
      splitExpert(moeOf(m), 0);
    },
  },
  deletes: {
    alter: (m) => {
      delete (m as { blocks?: unknown }).blocks;
    },
  },
  'writes into a list': {
    alter: (m) => {
      (moeOf(m).frozen as boolean[])[0] = true;
    },
  },
  'the loss goes too far': {
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
  said: string[];
}
async function open(
  agreement: Agreement = alone,
  events: (e: RecompileEvent) => void = () => undefined,
): Promise<Opened> {
  const told: RecompileEvent[] = [],
    said: string[] = [];
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
      told.push(e);
      events(e);
    },
    say: (line) => {
      said.push(line);
    },
  });
  return { session, events: told, said };
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

async function goesOn({ session, events, said }: Opened, names: readonly string[]): Promise<void> {
  const want = await plain,
    before = session.plan().knobs;
  for (let i = 0; i < STEPS; i++)
    assert.equal((await session.step(toyBatch(i))).loss, want.losses[i], `${names.join()}: step ${i}`);
  assert.deepEqual(fingerprint(session), want.bits, names.join());
  assert.deepEqual(session.plan().knobs, before, names.join());
  for (const e of events) assert.ok(!e.kept && e.error !== undefined, JSON.stringify(e));
  for (const name of names) {
    const lines = said.filter((line) => line.startsWith(`the rule "${name}"`));
    assert.equal(
      lines.length,
      events.some((e) => e.rule === name && !/a change of results came between/.test(e.error ?? '')) ? 1 : 0,
      `${name}: ${lines.join(' | ')}`,
    );
  }
}

const given = (name: string, cooldown: number): Rule<LM> => ({
  ...padded,
  ...KINDS[name],
  name,
  cooldown,
  alter: KINDS[name].alter ?? padded.alter,
});

for (const name of Object.keys(KINDS)) {
  test(`a rule alone: ${name}`, async () => {
    const opened = await open(),
      { session, events } = opened;
    session.recompile<LM>(given(name, 0));
    await goesOn(opened, [name]);
    assert.ok(events.length > 0, 'it was told');
    await session.close();
  });
}

test('random rules that fail, in any number and order', { timeout: 240_000 }, async () => {
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
        for (const name of kinds) session.recompile<LM>(given(name, cooldown));
        await goesOn(opened, kinds);
        await session.close();
      },
    ),
    { numRuns: 10, seed: 4 },
  );
});

interface Machine {
  device: { compile(kernels: unknown): Promise<void> };
  reserve(program: unknown): void;
  load(program: unknown): unknown;
  setPart(name: string, ...rest: unknown[]): void;
  run(program: unknown, inputs: Record<string, ArrayLike<number>>): Promise<unknown>;
}

test(
  'what the engine does for a rule fails at random: compiler, memory, loading, moving of values, dry runs',
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
          const rules = where === 'setPart' ? good.slice(2) : some; // of the others none moves a value
          const opened = await open(),
            { session, events } = opened,
            machine = session.executor as unknown as Machine;
          // The plan that runs is there: what fails from now on is the rules'.
          await session.step(toyBatch(0));
          const bits = await session.serialize();
          await session.deserialize(bits);
          const boom = (): never => fails(`${where} fails`),
            run = machine.run.bind(machine);
          for (const rule of rules) session.recompile<LM>(rule);
          if (where === 'compile') machine.device.compile = () => Promise.reject(new Error('compile fails'));
          else if (where === 'compile later')
            machine.device.compile = () =>
              new Promise((_, reject) => {
                setTimeout(() => {
                  reject(new Error('compile later fails'));
                }, 5);
              });
          else if (where === 'dry run')
            machine.run = (program, inputs) =>
              inputs['commit']?.[0] === 0 ? Promise.reject(new Error('dry run fails')) : run(program, inputs);
          else machine[where as 'reserve'] = boom;
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

for (const method of ['reduceStats', 'agreeSwapStep', 'anyFailed'] as const) {
  test(`other processes that cannot be asked (${method}): said once, and the run goes on`, async () => {
    const opened = await open({ ...alone, [method]: () => Promise.reject(new Error('nobody there')) }),
      { session, said } = opened;
    session.recompile<LM>({ name: 'padded', ...padded, cooldown: 2 });
    await goesOn(opened, []);
    assert.equal(said.length, 1, said.join(' | '));
    assert.match(said[0], /nobody there/);
    await session.close();
  });
}

test('where nobody is told, one line goes to the console, with nothing behind it', async (t) => {
  const warn = t.mock.method(console, 'warn', () => undefined);
  const options = { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), device: 'wasm', threads: 1, seed: 1 } as const;
  await using session = await compile(new LM(), options);
  session.recompile({ name: 'faulty', trigger: () => fails('one'), alter: () => undefined });
  for (let i = 0; i < 3; i++) await session.step(toyBatch(i, 4, 12));
  assert.equal(warn.mock.callCount(), 1);
  assert.deepEqual(warn.mock.calls[0].arguments.length, 1);
  assert.match(String(warn.mock.calls[0].arguments[0]), /the rule "faulty": it failed: one \(said once; .*\)$/);
});
