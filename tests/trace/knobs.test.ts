// A knob has one value per session. A value that a session's rules have set holds in that session alone. A value that
// the user writes on a module holds in every session and replaces what rules have set.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { MoE } from '../../src/nn/moe/moe.ts';
import { Knobs, type Change, type KnobRules, type KnobValue } from '../../src/trace/knobs.ts';
import { nameParameters } from '../../src/trace/module.ts';

/** A module as a user may write it: its knobs are fields, and the setter of `least` depends on `scale`. */
class Plain {
  static readonly knobs: KnobRules = { scale: () => false, list: () => true, least: () => false };
  scale = 1;
  list: readonly number[] = [1, 2];
  #least = 0;
  get least(): number {
    return this.#least;
  }
  set least(least: number) {
    if (least > this.scale) throw new Error(`least ${least} is above scale ${this.scale}`);
    this.#least = least;
  }
  forward(): void {
    /* not traced here */
  }
}
class Model {
  readonly moe = new MoE({ dModel: 4, experts: 4, topK: 2, hidden: 4, capacity: 1 });
  readonly plain = new Plain();
}

const VALUES: Readonly<Record<string, readonly KnobValue[]>> = {
  'moe topK': [1, 2, 3],
  'moe dispatch': ['ragged', 'padded'],
  'moe capacity': [1, 2, [1, 2, 3, 4], 'dropless'],
  'moe frozen': [
    [false, false, false, false],
    [true, false, true, false],
  ],
  'plain scale': [1, 2, 3],
  'plain list': [[1, 2], [3]],
};
const KEYS = Object.keys(VALUES),
  split = (key: string): [path: string, knob: string] => key.split(' ') as [string, string];
/** Whether writing the same value again counts as a write: MoE calls `noticeWrites`, Plain does not. */
const noticed = (key: string): boolean => key.startsWith('moe ');

type Action =
  | {
      readonly does: 'write' | 'decide' | 'neutral';
      readonly session: number;
      readonly key: string;
      readonly value: KnobValue;
    }
  | { readonly does: 'undo' | 'save' | 'restore' | 'fail' | 'keep' | 'decided'; readonly session: number };
const action: fc.Arbitrary<Action> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.constantFrom(...KEYS).chain((key) =>
      fc.record({
        does: fc.constantFrom('write' as const, 'decide' as const, 'neutral' as const),
        session: fc.nat(1),
        key: fc.constant(key),
        value: fc.constantFrom(...VALUES[key]),
      }),
    ),
  },
  {
    weight: 2,
    arbitrary: fc.record({
      does: fc.constantFrom(
        'undo' as const,
        'save' as const,
        'restore' as const,
        'fail' as const,
        'keep' as const,
        'decided' as const,
      ),
      session: fc.nat(1),
    }),
  },
);

const same = (a: unknown, b: unknown): boolean => JSON.stringify(a) === JSON.stringify(b);

/** The expected state: what the rules of each session have set, by knob, and what the user wrote. */
class Expected {
  readonly user = new Map<string, KnobValue>(KEYS.map((key) => [key, VALUES[key][0]]));
  readonly own = [new Map<string, KnobValue>(), new Map<string, KnobValue>()];
  constructor() {
    this.user.set('moe topK', 2);
  }
  of(session: number): Map<string, KnobValue> {
    return new Map(KEYS.map((key) => [key, this.own[session].get(key) ?? this.user.get(key) ?? 0]));
  }
  write(key: string, value: KnobValue): void {
    if (noticed(key) || !same(this.user.get(key), value)) for (const own of this.own) own.delete(key);
    this.user.set(key, value);
  }
}

test('random writes by the user and random changes of two sessions: every knob has the expected value', () => {
  fc.assert(
    fc.property(fc.array(action, { maxLength: 40 }), (actions) => {
      const model = new Model(),
        named = nameParameters(model),
        sessions = [new Knobs(named), new Knobs(named)],
        expected = new Expected();
      const back: (null | { undo: () => void; key: string; before: KnobValue | undefined })[] = [null, null];
      const saved: (ReturnType<Knobs['all']> | null)[] = [null, null],
        modules = model as unknown as Record<string, Record<string, KnobValue>>;
      for (const a of actions) {
        const knobs = sessions[a.session];
        switch (a.does) {
          case 'write': {
            const [path, knob] = split(a.key);
            modules[path][knob] = a.value;
            expected.write(a.key, a.value);
            break;
          }
          case 'decide':
          case 'neutral': {
            const [path, knob] = split(a.key),
              change: Change = { path, knob, from: knobs.settings(path)[knob], to: a.value },
              own = expected.own[a.session];
            back[a.session] = { undo: knobs.apply([change]), key: a.key, before: own.get(a.key) };
            if (a.does === 'decide') knobs.becameDeterministic([change]);
            else knobs.becameNeutral([change]);
            own.set(a.key, a.value);
            break;
          }
          case 'undo': {
            // `undo` restores a knob only if the user has not written to it since.
            const last = back[a.session];
            if (last) {
              const own = expected.own[a.session],
                touched = !own.has(last.key);
              last.undo();
              if (!touched) {
                if (last.before === undefined) own.delete(last.key);
                else own.set(last.key, last.before);
              }
            }
            back[a.session] = null;
            break;
          }
          case 'save':
            saved[a.session] = knobs.all();
            break;
          case 'restore': {
            const all = saved[a.session];
            if (!all) break;
            knobs.restore(all);
            for (const key of KEYS) {
              const [path, knob] = split(key);
              expected.own[a.session].set(key, all[path][knob]);
            }
            back[a.session] = null;
            break;
          }
          case 'fail':
            assert.throws(
              () =>
                knobs.onModules(() => {
                  for (const [key, value] of expected.of(a.session)) {
                    const [path, knob] = split(key);
                    assert.deepEqual(modules[path][knob], value, `${key} while it is traced`);
                  }
                  throw new Error('while it is traced');
                }),
              /while it is traced/,
            );
            break;
          case 'decided':
            knobs.with(knobs.toDeterministic(), () => {
              knobs.onModules(() => undefined);
            });
            break;
          case 'keep':
            for (const [key, value] of expected.of(a.session))
              if (!same(expected.user.get(key), value)) expected.write(key, value);
            knobs.keep();
            expected.own[a.session].clear();
            back.fill(null);
            break;
        }
        for (const [session, own] of sessions.entries())
          for (const [key, value] of expected.of(session)) {
            const [path, knob] = split(key);
            assert.deepEqual(own.settings(path)[knob], value, `${JSON.stringify(a)}: ${key} of session ${session}`);
          }
        for (const [key, value] of expected.user) {
          const [path, knob] = split(key);
          assert.deepEqual(modules[path][knob], value, `${JSON.stringify(a)}: ${key} as the user wrote it`);
        }
        assert.equal(
          sessions[0].key() === sessions[1].key(),
          same([...expected.of(0)], [...expected.of(1)]),
          'two sessions have equal keys if and only if their settings are equal',
        );
      }
    }),
    { numRuns: 300, seed: 7 },
  );
});

test('settings that one session writes on modules while it is traced are no writes of the user in another', () => {
  const model = new Model(),
    named = nameParameters(model),
    [a, b] = [new Knobs(named), new Knobs(named)];
  a.apply([
    { path: 'moe', knob: 'topK', from: 2, to: 1 },
    { path: 'plain', knob: 'scale', from: 1, to: 3 },
  ]);
  b.apply([{ path: 'moe', knob: 'topK', from: 2, to: 3 }]);
  a.onModules(() => {
    assert.deepEqual(
      [
        model.moe.topK,
        model.plain.scale,
        b.settings('moe')['topK'],
        b.settings('plain')['scale'],
        b.initial('moe')['topK'],
      ],
      [1, 3, 3, 1, 2],
    );
    b.onModules(() => {
      assert.deepEqual([model.moe.topK, model.plain.scale], [3, 1], 'calls of onModules may be nested');
    });
    assert.deepEqual([model.moe.topK, model.plain.scale], [1, 3]);
    model.plain.scale = 5;
    model.moe.topK = 1; // the module holds 1 already; MoE counts this as a write of the user
  });
  assert.deepEqual([model.moe.topK, model.plain.scale], [1, 5]);
  assert.deepEqual(
    [a.settings('moe')['topK'], a.settings('plain')['scale'], b.settings('moe')['topK'], b.settings('plain')['scale']],
    [1, 5, 1, 5],
  );
});

test('knobs whose setters depend on each other are set in a valid order; a refused change has no effect', () => {
  const model = new Model(),
    knobs = new Knobs(nameParameters(model));
  knobs.apply([
    { path: 'plain', knob: 'least', from: 0, to: 2 },
    { path: 'plain', knob: 'scale', from: 1, to: 2 },
  ]);
  assert.deepEqual(
    knobs.onModules(() => [model.plain.least, model.plain.scale]),
    [2, 2],
  );
  assert.deepEqual([model.plain.least, model.plain.scale], [0, 1]);
  assert.throws(
    () =>
      knobs.apply([
        { path: 'plain', knob: 'scale', from: 2, to: 3 },
        { path: 'plain', knob: 'least', from: 2, to: 9 },
      ]),
    /least 9 is above scale 3/,
  );
  assert.deepEqual(
    [knobs.settings('plain'), model.plain.least, model.plain.scale],
    [{ scale: 2, list: [1, 2], least: 2 }, 0, 1],
  );
  model.plain.scale = 1; // the same value again: Plain does not call noticeWrites, so this is no write
  assert.equal(knobs.settings('plain')['scale'], 2);
  knobs.keep();
  assert.deepEqual([model.plain.least, model.plain.scale], [2, 2]);
});
