// Several rules: their order, cooldowns and budgets, invalid rules, and rules that are added during a run.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fingerprint } from '../support/toy.ts';
import { ruleOf } from '../../src/recompile/rule.ts';
import { blocks, inForce, open, steps, toPadded, stepsUntilEvents, type LM } from './lm.ts';

const toggle =
  (block: number) =>
  (m: LM): void => {
    const moe = blocks(m)[block];
    moe.topK = 3 - moe.topK;
  };

test('rules are called in the order in which they were added, within cooldown and budget', async () => {
  const { session, events } = await open();
  session.recompile<LM>({ name: 'a', trigger: (run) => run.step >= 3, alter: toggle(0), cooldown: 40, budget: 2 });
  session.recompile<LM>({ name: 'b', trigger: (run) => run.step >= 3, alter: toggle(1), cooldown: 0, budget: 1 });
  await steps(session, 150);
  // A decision takes effect 32 steps later; then the next one is decided. At step 38, `a` is still in its cooldown.
  assert.deepEqual(
    events.map((e) => [e.rule, e.step, e.effect, e.kept]),
    [
      ['a', 5, 37, true],
      ['b', 38, 70, true],
      ['a', 71, 103, true],
    ],
  );
  assert.deepEqual(
    [inForce(session).map((m) => m['topK']), blocks(session.model as LM).map((m) => m.topK)],
    [
      [2, 1],
      [2, 2],
    ],
  );
  await session.close();
});

test('if a rule changes nothing, the next one is called; names of rules are unique', async () => {
  const { session, events } = await open();
  session.recompile<LM>({
    name: 'idle',
    trigger: () => true,
    alter: (m) => {
      blocks(m)[0].topK = 2;
    },
  });
  session.recompile<LM>({ name: 'busy', trigger: () => true, alter: toggle(0), budget: 1 });
  assert.throws(() => {
    session.recompile<LM>({ name: 'busy', trigger: () => true, alter: () => undefined });
  }, /there is a rule named "busy" already/);
  await steps(session, 40);
  assert.deepEqual(
    events.map((e) => e.rule),
    ['busy'],
  );
  await session.close();
});

test('session.recompile refuses an invalid rule', () => {
  const whole = { name: 'r', trigger: () => true, alter: () => undefined };
  ruleOf({
    ...whole,
    undo: () => true,
    reason: () => 'why',
    measure: false,
    cooldown: 0,
    budget: Infinity,
    tolerance: 0.1,
  });
  for (const [wrong, message] of [
    [{ undo: true }, /undo must be a function/],
    [{ reason: 'why' }, /reason must be a function/],
    [{ only: 'R' }, /only must be 'N', got R/],
    [{ measure: 'no' }, /measure must be true or false/],
    [{ cooldown: NaN }, /cooldown must be a whole number/],
    [{ cooldown: 1.5 }, /cooldown must be a whole number/],
    [{ budget: '3' }, /budget must be a whole number of at least 0, got 3/],
    [{ tolerance: -1 }, /tolerance must be a number of at least 0/],
    [{ first: 1 }, /first must be true or false/],
    [{ triger: () => true }, /no setting named "triger"[\s\S]*trigger/],
    [{ count: 0 }, /no setting named "count"[\s\S]*a variable or a private field/],
    [{ only: 'N', undo: () => true }, /undo has no effect beside only: 'N'/],
    [{ only: 'N', tolerance: 1 }, /tolerance has no effect/],
    [{ name: 'two\nlines' }, /a line of at most 200 characters/],
    [{ name: 'x'.repeat(201) }, /at most 200/],
    [{ name: '\ud800' }, /a rule's name must be a line/],
    [{ alter: null }, /no function alter/],
    [{ name: '' }, /needs a name/],
  ] as const) {
    assert.throws(
      () => {
        ruleOf({ ...whole, ...wrong });
      },
      { name: 'UserError', message },
    );
  }
});

test('a rule is read once, with getters and methods of its class; later writes have no effect', async () => {
  class Counting {
    #asked = 0;
    get name(): string {
      return 'counting';
    }
    get budget(): number {
      return 1;
    }
    trigger(): boolean {
      return ++this.#asked > 3;
    }
    alter(m: LM): void {
      blocks(m)[0].topK = 1;
    }
  }
  const { session, events } = await open(),
    changedLater = {
      name: 'changed later',
      trigger: () => false,
      alter: (m: LM) => {
        blocks(m)[1].topK = 1;
      },
    };
  session.recompile<LM>(new Counting());
  session.recompile<LM>(changedLater);
  changedLater.trigger = () => true;
  changedLater.name = 'other';
  await steps(session, 60);
  assert.deepEqual(
    events.map((e) => [e.rule, e.kept]),
    [['counting', true]],
  );
  await session.close();
});

test('a failing rule is reported once with its name and error; listeners get an event for each failure', async () => {
  const messages: string[] = [],
    throws = (what: string) => (): never => {
      throw new Error(`${what} fails\nand a second line`);
    },
    { session, events } = await open({ say: (line) => messages.push(line) });
  session.recompile<LM>({ name: 'trigger', cooldown: 2, trigger: throws('trigger'), alter: () => undefined });
  session.recompile<LM>({ name: 'alter', cooldown: 2, trigger: () => true, alter: throws('alter') });
  session.recompile<LM>({
    name: 'reason',
    cooldown: 2,
    trigger: () => true,
    alter: (m) => {
      blocks(m)[0].chunks = 2;
    },
    reason: throws('reason'),
  });
  session.recompile<LM>({
    name: 'later',
    cooldown: 2,
    trigger: (() => Promise.resolve(true)) as never,
    alter: () => undefined,
  });
  session.recompile<LM>({ name: 'never', cooldown: 2, trigger: (() => undefined) as never, alter: () => undefined });
  session.recompile<LM>({ name: 'count', cooldown: 2, trigger: (() => 1) as never, alter: () => undefined });
  session.recompile<LM>({
    name: 'async',
    cooldown: 2,
    trigger: () => true,
    alter: (): unknown => Promise.reject(new Error('nobody waits for it')),
  });
  await steps(session, 20);
  const messagesAbout = (rule: string): string[] => messages.filter((line) => line.startsWith(`the rule "${rule}": `)),
    errorEvents = (rule: string): number => events.filter((e) => e.rule === rule && e.error !== undefined).length;
  for (const [rule, text] of [
    ['trigger', /it failed: trigger fails \(/],
    ['alter', /alter fails/],
    ['reason', /reason fails/],
    ['later', /trigger must give its answer at once, not a promise/],
    ['never', /trigger must answer true or false, got nothing \(undefined\)/],
    ['count', /trigger must answer true or false, got 1/],
    ['async', /alter must give its answer at once, not a promise/],
  ] as const) {
    assert.equal(messagesAbout(rule).length, 1, messages.join('\n'));
    assert.match(messagesAbout(rule)[0], text);
    assert.equal(errorEvents(rule), 3, `${rule} is disabled after three failures`);
  }
  assert.equal(messages.length, 7);
  await session.close();
});

test('class R changes are decided before class N changes, so that their step depends on no compiler', async () => {
  for (const order of [
    ['padded', 'one expert'],
    ['one expert', 'padded'],
  ]) {
    const { session, events } = await open();
    for (const name of order)
      session.recompile<LM>(
        name === 'padded'
          ? { ...toPadded, trigger: (run) => run.step === 10 || run.step === 60 }
          : { name, trigger: (run) => run.step === 10, alter: toggle(1) },
      );
    await steps(session, 50);
    assert.deepEqual(
      events.map((e) => [e.rule, e.class, e.step, e.effect]),
      [['one expert', 'R', 12, 44]],
      order.join(),
    );
    await steps(session, 12);
    assert.equal(
      session.plan().engine?.neutral['padded'].last,
      62,
      'the rule "padded" has used neither cooldown nor budget at step 12',
    );
    await session.close();
  }
});

test('a rule may be added during a run, and class N changes of it change no bit', async () => {
  const plain = await open(),
    late = await open(),
    want: number[] = [],
    got: number[] = [];
  got.push(...(await steps(late.session, 10)));
  late.session.recompile<LM>({ ...toPadded, name: 'late' });
  got.push(...(await stepsUntilEvents(late)));
  late.session.recompile<LM>({
    name: 'later',
    trigger: () => true,
    alter: (m) => {
      for (const moe of blocks(m)) moe.dispatch = 'ragged';
    },
    budget: 1,
    measure: false,
  });
  got.push(...(await stepsUntilEvents(late, 2)));
  want.push(...(await steps(plain.session, got.length)));
  assert.deepEqual(got, want);
  assert.deepEqual(fingerprint(late.session), fingerprint(plain.session));
  assert.deepEqual(
    late.events.map((e) => [e.rule, e.kept]),
    [
      ['late', true],
      ['later', true],
    ],
  );
  assert.ok(
    late.events[0].step >= 13,
    'rules see loads two steps later, and only of steps after the first rule was added',
  );
  await plain.session.close();
  await late.session.close();
});
