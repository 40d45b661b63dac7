// Adam's bias correction uses the age of moments: the number of steps that have updated the moments of a parameter, or
// of a part of it. Compared with Adam written out in float64.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import { mul } from '../../src/graph/ops/elementwise/mul.ts';
import { mean } from '../../src/graph/ops/reduce/sum.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { Ages } from '../../src/optim/ages.ts';
import * as optim from '../../src/optim/index.ts';
import type { Rule } from '../../src/recompile/rule.ts';
import { mergeExperts, splitExpert } from '../../src/recompile/policies/lifecycle.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import type { TransformerLM } from '../../src/nn/transformer.ts';
import { Parameter } from '../../src/trace/parameter.ts';
import { use } from '../../src/trace/trace.ts';
import { fingerprint, noCompiler, toyBatch, toyLM } from '../support/toy.ts';

const PARTS = 3,
  WIDTH = 2;

/** With `loss`: the gradient of each element of w is the mean of one column of x, as long as `other` is 1. */
class Columns {
  readonly w = new Parameter([PARTS, WIDTH], { kind: 'constant', value: 1 });
  readonly other = new Parameter([PARTS, WIDTH], { kind: 'constant', value: 1 });
  forward(x: Tensor): Tensor {
    return mul(mul(x, use(x, this.w)), use(x, this.other));
  }
}

const loss = (output: Tensor): Tensor => mul(mean(output), PARTS * WIDTH);
/** x: `rows` equal rows of `columns`. Each number of rows needs its own program. */
const batch = (columns: readonly number[], rows: number): Batch => ({
  x: hostTensor(
    'float32',
    [rows, PARTS, WIDTH],
    Float32Array.from({ length: rows * PARTS * WIDTH }, (_, i) => columns[i % (PARTS * WIDTH)]),
  ),
  y: hostTensor('float32', [rows, 1], new Float32Array(rows)),
});

const [LR, B1, B2, EPS] = [0.01, 0.9, 0.99, 1e-8];
const adam = (): optim.Optimizer => optim.adam({ lr: LR, betas: [B1, B2] });

/** Adam for one element, with its own step count `#t`. */
class Element {
  p = 1;
  #m = 0;
  #v = 0;
  #t = 0;
  step(g: number): void {
    this.#t++;
    this.#m = B1 * this.#m + (1 - B1) * g;
    this.#v = B2 * this.#v + (1 - B2) * g * g;
    this.p -= (LR * (this.#m / (1 - B1 ** this.#t))) / (Math.sqrt(this.#v / (1 - B2 ** this.#t)) + EPS);
  }
}

const frozenStates = fc.constantFrom<boolean | readonly boolean[]>(
  false,
  false,
  true,
  [true, false, false],
  [false, true, true],
  [true, true, false],
);
const slope = fc.integer({ min: -20, max: 20 }).map((n) => (n === 0 ? 1 : n) / 10);
const plan = fc.array(
  fc.record({
    frozen: frozenStates,
    columns: fc.tuple(slope, slope, slope, slope, slope, slope),
    resume: fc.boolean(),
  }),
  { minLength: 1, maxLength: 7 },
);

test('each part of a parameter has its own step count in Adam, also after resuming', async () => {
  await fc.assert(
    fc.asyncProperty(plan, fc.constantFrom('wasm' as const, 'reference' as const), async (steps, device) => {
      const model = new Columns(),
        make = (): Promise<Session> => compile(model, { loss, optimizer: adam(), device, threads: 1 });
      model.other.frozen = true;
      const own = Array.from({ length: PARTS * WIDTH }, () => new Element());
      let session = await make();
      try {
        for (const [i, { frozen, columns, resume }] of steps.entries()) {
          if (frozen === true) continue; // a step needs at least one parameter to train
          model.w.frozen = frozen;
          await session.step(batch(columns, i + 1));
          own.forEach((element, j) => {
            if (frozen === false || !frozen[Math.floor(j / WIDTH)]) element.step(columns[j]);
          });
          const got = session.executor.peekState('w').data;
          own.forEach(({ p }, j) =>
            assert.ok(Math.abs(p - got[j]) < 1e-5, `${device}, step ${i}, element ${j}: ${got[j]}, not ${p}`),
          );
          if (!resume) continue;
          const bytes = await session.serialize();
          await session.close();
          session = await make();
          await session.deserialize(bytes);
        }
      } finally {
        await session.close();
      }
    }),
    { numRuns: 25 },
  );
});

for (const device of ['native', 'wasm', 'reference'] as const) {
  test(
    `${device}: the first update of a parameter that was frozen for 500 steps is that of a first step`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const model = new Columns(),
        columns = [1, -2, 3, -4, 5, -6];
      await using session = await compile(model, {
        loss,
        optimizer: optim.adamW({ lr: 1e-3, weightDecay: 0 }),
        device,
      });
      model.w.frozen = true;
      for (let i = 0; i < 500; i++) await session.step(batch(columns, 1));
      model.w.frozen = false;
      await session.step(batch(columns, 2));
      for (const [i, v] of session.executor.peekState('w').data.entries())
        assert.ok(Math.abs(Math.abs(v - 1) - 1e-3) < 1e-6, `element ${i} moved by ${v - 1}`);
    },
  );

  test(
    `${device}: a late checkpoint of another optimiser: moments start from 0, and a message says so`,
    { skip: device === 'native' && noCompiler },
    async () => {
      const columns = [1, -2, 3, -4, 5, -6],
        messages: string[] = [],
        say = (line: string): void => {
          messages.push(line);
        };
      await using plain = await compile(new Columns(), {
          loss,
          optimizer: optim.sgd({ lr: 1e-5, momentum: 0.5 }),
          device,
          say,
        }),
        next = await compile(new Columns(), {
          loss,
          optimizer: optim.adamW({ lr: 1e-3, weightDecay: 0 }),
          device,
          say,
        });
      for (let i = 0; i < 500; i++) await plain.step(batch(columns, 1));
      await next.deserialize(await plain.serialize());
      assert.deepEqual(messages, [
        'the checkpoint was trained with sgd, and continues with adamW, whose moments start from 0; ' +
          '2 of its states are ignored',
      ]);
      assert.deepEqual(
        next
          .states()
          .map((s) => s.name)
          .sort(),
        ['other', 'w'],
      );
      const before = [...next.executor.peekState('w').data];
      assert.equal((await next.step(batch(columns, 1))).step, 501);
      for (const [i, v] of next.executor.peekState('w').data.entries())
        assert.ok(Math.abs(Math.abs(v - before[i]) - 1e-3) < 2e-6, `element ${i} moved by ${v - before[i]}`);
      // The checkpoint holds the ages: a session that resumes from it computes the same bits.
      await using again = await compile(new Columns(), {
        loss,
        optimizer: optim.adamW({ lr: 1e-3, weightDecay: 0 }),
        device,
        say,
      });
      await again.deserialize(await next.serialize());
      await next.step(batch(columns, 1));
      await again.step(batch(columns, 1));
      assert.deepEqual(fingerprint(again), fingerprint(next));
    },
  );
}

test('without ages in a checkpoint, moments are taken as updated in every step: the same bits', async () => {
  const make = (): Promise<Session> =>
    compile(toyLM(), { loss: crossEntropy, optimizer: optim.adamW({ lr: 1e-2 }), device: 'wasm', threads: 1 });
  await using session = await make(),
    other = await make();
  for (let i = 0; i < 3; i++) await session.step(toyBatch(i));
  // `restore` passes no ages, like checkpoints of versions that did not store them.
  const { steps } = session,
    values = session.states().map(({ name, read }) => ({ name, value: read() }));
  await other.restore(steps, values);
  await session.step(toyBatch(3));
  await other.step(toyBatch(3));
  assert.deepEqual(fingerprint(other), fingerprint(session));
});

test('restore keeps moments and their ages; a new session that restores only parameters starts at age 0', async () => {
  const columns = [1, 1, 1, 1, 1, 1],
    w = { name: 'w', value: hostTensor('float32', [PARTS, WIDTH], new Float32Array(6).fill(1)) };
  await using session = await compile(new Columns(), { loss, optimizer: adam(), device: 'reference' }),
    fresh = await compile(new Columns(), { loss, optimizer: adam(), device: 'reference' });
  const element = new Element(),
    first = (s: Session): number => s.executor.peekState('w').data[0];
  const step = async (g: number): Promise<void> => {
    element.step(g);
    await session.step(
      batch(
        columns.map(() => g),
        1,
      ),
    );
  };
  await step(1);
  await step(2);
  await session.restore(0, [w]);
  element.p = 1;
  await step(-1);
  // `other` is trained, too, so that the gradients of w are only nearly g.
  assert.ok(Math.abs(first(session) - element.p) < 1e-3, `${first(session)}, not ${element.p}`);
  await fresh.restore(1000, [w]);
  await fresh.step(batch(columns, 1));
  assert.ok(Math.abs(1 - first(fresh) - LR) < 1e-6);
});

test('ages move with the moments when experts are split and merged', async () => {
  const ages = new Ages(),
    frozen = new Map([['w1', { parts: [false, false, true, true], axis: 0 }]]),
    of = (): unknown => ages.of('w1'),
    count = (): number => 4;
  for (let i = 0; i < 10; i++) ages.countFrozenStep(frozen);
  ages.countFrozenStep(new Map([['w1', { parts: [true, false, true, true], axis: 0 }]]));
  assert.deepEqual(of(), { axis: 0, parts: [1, 0, 11, 11] });
  const place = (part: number) => ({ parameter: 'w1', axis: 0, part });
  const undo = ages.carry(
    [
      { to: place(2), from: place(0) },
      { to: place(1), from: place(1), mix: { with: place(3), share: 0.5 } },
    ],
    count,
  );
  assert.deepEqual(of(), { axis: 0, parts: [1, 6, 1, 11] });
  undo();
  assert.deepEqual(of(), { axis: 0, parts: [1, 0, 11, 11] });
});

test(
  'an expert that is split late: the copy gets the age of its original, and a resumed run has the same bits',
  { timeout: 120_000 },
  async () => {
    const rule = (
      name: string,
      at: number,
      alter: (moe: NonNullable<TransformerLM['blocks'][0]['moe']>) => void,
    ): Rule<TransformerLM> => ({
      name,
      budget: 1,
      trigger: (run) => run.step === at,
      alter: (m) => {
        const { moe } = m.blocks[0];
        if (moe) alter(moe);
      },
    });
    const open = async (): Promise<Session> => {
      const session = await compile(toyLM({ experts: 4 }), {
        loss: crossEntropy,
        optimizer: optim.adamW({ lr: 1e-2 }),
        device: 'wasm',
        threads: 1,
        seed: 3,
      });
      session.recompile(
        rule('merge', 2, (moe) => {
          mergeExperts(moe, 2, 3);
        }),
      );
      session.recompile(
        rule('split', 40, (moe) => {
          splitExpert(moe, 0, 3);
        }),
      );
      return session;
    };
    await using session = await open(),
      resumed = await open();
    let saved: Uint8Array<ArrayBuffer> | undefined;
    for (let step = 1; step <= 80; step++) {
      await session.step(toyBatch(step));
      if (step === 50) saved = await session.serialize();
    }
    assert.deepEqual(
      session.plan().engine?.log.map((d) => d.effect),
      [36, 74],
    );
    const { missed } = session.updating(),
      bank = missed?.['blocks.0.moe.experts.w1'],
      router = missed?.['blocks.0.moe.router.weight'];
    assert.deepEqual(
      [bank, router],
      [
        { axis: 0, parts: [0, 0, 0, 0] },
        { axis: 1, parts: [0, 0, 0, 0] },
      ],
    );
    await resumed.deserialize(saved ?? new Uint8Array());
    assert.deepEqual(
      (resumed.updating().missed?.['blocks.0.moe.experts.w1'] as { parts: readonly number[] }).parts,
      [0, 0, 0, 15],
    );
    for (let step = 51; step <= 80; step++) await resumed.step(toyBatch(step));
    assert.deepEqual(fingerprint(resumed), fingerprint(session));
  },
);

test('a checkpoint whose ages do not fit the model is refused and changes nothing', async () => {
  const model = new Columns(),
    optimizer = adam();
  await using session = await compile(model, { loss, optimizer, device: 'reference' });
  model.w.frozen = [true, false, false];
  await session.step(batch([1, 1, 1, 1, 1, 1], 1));
  const before = fingerprint(session),
    bytes = await session.serialize();
  const text = Buffer.from(bytes).toString('latin1'),
    good = '\\"w\\":{\\"axis\\":0,\\"parts\\":[1,0,0]}';
  assert.ok(text.includes(good));
  for (const bad of [
    '\\"w\\":{\\"axis\\":0,\\"parts\\":[1,0  ]}',
    '\\"w\\":{\\"axis\\":7,\\"parts\\":[1,0,0]}',
    '\\"w\\":{\\"axis\\":0,\\"parts\\":[1,0,{}}',
  ]) {
    const damaged = Buffer.from(text.replace(good, bad.padEnd(good.length)), 'latin1');
    await assert.rejects(session.deserialize(damaged), { name: 'UserError' }, bad);
    assert.deepEqual(fingerprint(session), before);
  }
  await session.deserialize(bytes);
});

test('parameter names that Object.prototype has, such as constructor, get no age by mistake', () => {
  const ages = new Ages(),
    names = ['constructor', 'toString', 'hasOwnProperty', 'own'];
  ages.restore(names, 0, 5, () => 'given', { own: 2 });
  assert.deepEqual(
    names.map((name) => ages.of(name)),
    [0, 0, 0, 2],
  );
});
