// Several rules: who comes first, who waits, and rules that come late.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { fingerprint } from '../support/toy.ts';
import { ruleOf } from '../../src/recompile/rule.ts';
import { blocks, inForce, open, steps, toPadded, told, type LM } from './lm.ts';

const toggle = (block: number) => (m: LM): void => { const moe = blocks(m)[block]; moe.topK = 3 - moe.topK; };

test('rules are asked in their order, each within its cooldown and budget', async () => {
  const { session, events } = await open();
  session.recompile<LM>({ name: 'a', trigger: (run) => run.step >= 3, alter: toggle(0), cooldown: 40, budget: 2 });
  session.recompile<LM>({ name: 'b', trigger: (run) => run.step >= 3, alter: toggle(1), cooldown: 0, budget: 1 });
  await steps(session, 150);
  // Decided at the boundary after what they waited for; in force 32 steps later. At 38 `a` is still in its cooldown.
  assert.deepEqual(events.map((e) => [e.rule, e.step, e.effect, e.kept]), [['a', 5, 37, true], ['b', 38, 70, true], ['a', 71, 103, true]]);
  assert.deepEqual([inForce(session).map((m) => m['topK']), blocks(session.model as LM).map((m) => m.topK)], [[2, 1], [2, 2]]);
  await session.close();
});

test('a rule that asks for nothing lets the next one speak, and a name is given once', async () => {
  const { session, events } = await open();
  session.recompile<LM>({ name: 'idle', trigger: () => true, alter: (m) => { blocks(m)[0].topK = 2; } });
  session.recompile<LM>({ name: 'busy', trigger: () => true, alter: toggle(0), budget: 1 });
  assert.throws(() => { session.recompile<LM>({ name: 'busy', trigger: () => true, alter: () => undefined }); }, /there is a rule named "busy" already/);
  await steps(session, 40);
  assert.deepEqual(events.map((e) => e.rule), ['busy']);
  await session.close();
});

test('what is no rule is refused when it is given', () => {
  const whole = { name: 'r', trigger: () => true, alter: () => undefined };
  ruleOf({ ...whole, undo: () => true, reason: () => 'why', measure: false, cooldown: 0, budget: Infinity, tolerance: 0.1 });
  for (const [wrong, message] of [[{ undo: true }, /undo must be a function/], [{ reason: 'why' }, /reason must be a function/], [{ only: 'R' }, /only must be 'N', got R/], [{ measure: 'no' }, /measure must be true or false/],
    [{ cooldown: NaN }, /cooldown must be a whole number/], [{ alter: null }, /no function alter/], [{ name: '' }, /needs a name/]] as const) {
    assert.throws(() => { ruleOf({ ...whole, ...wrong }); }, { name: 'UserError', message });
  }
});

test('a change of results that is due with one of no result comes first, so that it never depends on a compiler', async () => {
  for (const order of [['padded', 'one expert'], ['one expert', 'padded']]) {
    const { session, events } = await open();
    for (const name of order) session.recompile<LM>(name === 'padded' ? { ...toPadded, trigger: (run) => run.step === 10 || run.step === 60 } : { name, trigger: (run) => run.step === 10, alter: toggle(1) });
    await steps(session, 50);
    assert.deepEqual(events.map((e) => [e.rule, e.class, e.step, e.effect]), [['one expert', 'R', 12, 44]], order.join());
    await steps(session, 12);
    assert.equal(session.plan().engine?.neutral['padded'].last, 62, 'the other one has not used its cooldown or budget');
    await session.close();
  }
});

test('a rule may come in the middle of a run, and changes no bit of it', async () => {
  const plain = await open(), late = await open(), want: number[] = [], got: number[] = [];
  got.push(...await steps(late.session, 10));
  late.session.recompile<LM>({ ...toPadded, name: 'late' });
  got.push(...await told(late));
  late.session.recompile<LM>({ name: 'later', trigger: () => true, alter: (m) => { for (const moe of blocks(m)) moe.dispatch = 'ragged'; }, budget: 1, measure: false });
  got.push(...await told(late, 2));
  want.push(...await steps(plain.session, got.length));
  assert.deepEqual(got, want);
  assert.deepEqual(fingerprint(late.session), fingerprint(plain.session));
  assert.deepEqual(late.events.map((e) => [e.rule, e.kept]), [['late', true], ['later', true]]);
  assert.ok(late.events[0].step >= 13, 'the loads of a step are seen two steps later, and only from the first rule on');
  await plain.session.close();
  await late.session.close();
});
