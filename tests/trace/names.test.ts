// Names that a user may choose: of properties that hold parameters and modules, and of rules. Each name either works
// in training, recompilation, checkpoints and printing, or is refused when the model is compiled or the rule is added.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { UserError } from '../../src/base/errors.ts';
import { printStage } from '../../src/cli/stages.ts';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { add } from '../../src/graph/ops/elementwise/add.ts';
import { Dropout } from '../../src/nn/dropout.ts';
import { Linear } from '../../src/nn/linear.ts';
import { meanSquaredError } from '../../src/nn/loss.ts';
import { MoE } from '../../src/nn/moe/moe.ts';
import { adamW } from '../../src/optim/adam.ts';
import type { RecompileEvent } from '../../src/recompile/rule.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import { nameParameters } from '../../src/trace/module.ts';
import { call } from '../../src/trace/trace.ts';
import { fingerprint } from '../support/toy.ts';

/** A module whose parts have these names. */
class Named {
  constructor(names: readonly string[]) {
    const parts = [
      new Linear(4, 4),
      { inner: new Linear(4, 4) },
      new MoE({ dModel: 4, experts: 2, topK: 2, hidden: 4 }),
      [new Dropout(0.1), new Linear(4, 4)],
    ];
    names.forEach((name, i) => {
      Object.defineProperty(this, name, { value: parts[i], enumerable: true, writable: true, configurable: true });
    });
  }
  forward(x: Tensor): Tensor {
    const [linear, { inner }, moe, [dropout, last]] = Object.values(this) as [
      Linear,
      { inner: Linear },
      MoE,
      [Dropout, Linear],
    ];
    return add(call(moe, call(inner, call(linear, x))), call(last, call(dropout, x)));
  }
}

const TRICKY = [
  '',
  '.',
  'a.b',
  'a/b',
  'optim/m/x',
  'cache/k',
  'assigned/choices/x',
  '@session',
  '@sessions',
  'grad/w',
  'stat:load',
  'aux:balance',
  'input x',
  '__proto__',
  'constructor',
  'prototype',
  'hasOwnProperty',
  'toString',
  'then',
  '__metadata__',
  'loss',
  'total',
  'flag',
  'output',
  'x',
  'y',
  'ids',
  'step',
  'seed',
  'commit',
  'lr',
  'length',
  'forwards',
  'weight',
  'bias',
  'experts',
  'router',
  'frozen',
  'knobs',
  '0',
  '-1',
  ' ',
  'two words',
  'tab\tin',
  'line\nbreak',
  'null\0',
  'Gr\u00fc\u00dfe',
  '\u540d\u524d',
  '\ud83d\ude80',
  'e\u0301',
  '\u00e9',
  '\ud800',
  '\u2028',
  '*/',
  '"',
  "'",
  '\\',
  '%s',
  '{}',
  '<b>',
  '${x}',
  'x'.repeat(1000),
];
const name = fc.oneof(
  { weight: 3, arbitrary: fc.constantFrom(...TRICKY) },
  fc.string({ unit: 'grapheme', maxLength: 12 }),
  fc.string({ unit: 'binary', maxLength: 6 }),
  fc.stringMatching(/^[a-z][A-Za-z0-9_$]{0,8}$/),
);
// JavaScript lists integer keys before all others, so such names would reorder the parts of Named.
const ordered = (names: readonly string[]): boolean =>
  names.every((n) => !/^\d+$/.test(n)) && !names.includes('forward');

const batch = (step: number): Batch => ({
  x: hostTensor(
    'float32',
    [8, 4],
    Float32Array.from({ length: 32 }, (_, i) => Math.sin(i + step)),
  ),
  y: hostTensor(
    'float32',
    [8, 4],
    Float32Array.from({ length: 32 }, (_, i) => Math.cos(i * step)),
  ),
});
const open = async (names: readonly string[], events: RecompileEvent[] = []): Promise<Session> =>
  compile(new Named(names), {
    loss: meanSquaredError,
    optimizer: adamW({ lr: 0.01 }),
    device: 'wasm',
    threads: 1,
    seed: 2,
    memory: 64e6,
    observe: true,
    events: (e) => {
      events.push(e);
    },
    say: () => undefined,
  });

/** The names that nameParameters refuses. */
const refused = (names: readonly string[]): string[] =>
  names.filter(
    (n) =>
      n === '' ||
      /[./]|[\p{Cc}\p{Cs}\u2028\u2029]/u.test(n) ||
      n === '__proto__' ||
      n === '@session' ||
      n === '__metadata__',
  );

async function worksOrIsRefused(names: readonly string[]): Promise<'works' | 'refused'> {
  const wrong = refused(names);
  if (wrong.length > 0) {
    await assert.rejects(
      open(names),
      (error) => error instanceof UserError && wrong.some((n) => error.message.includes(JSON.stringify(n))),
      `${JSON.stringify(names)} was not refused`,
    );
    return 'refused';
  }
  const events: RecompileEvent[] = [],
    session = await open(names, events),
    path = names[2];
  session.recompile({
    name: 'padded',
    trigger: () => true,
    budget: 1,
    measure: false,
    alter: (m) => {
      (m as unknown as Record<string, MoE>)[path].dispatch = 'padded';
    },
  });
  while (events.length === 0) await session.step(batch(session.steps));
  const result = await session.step(batch(session.steps));
  assert.deepEqual([events[0].error, events[0].changes[0].path], [undefined, path], JSON.stringify(names));
  assert.ok(
    result.stats[`${path}/load`] && result.aux[`${path}/balance`] !== undefined,
    `${JSON.stringify(names)}: ${Object.keys(result.stats).join()}`,
  );
  assert.equal(session.settings(path)['dispatch'], 'padded');
  const parameters = [...session.named.parameters.keys()];
  assert.ok(
    parameters.includes(`${names[0]}.weight`) &&
      parameters.includes(`${names[1]}.inner.bias`) &&
      parameters.includes(`${names[3]}.1.weight`),
    parameters.join(),
  );
  assert.ok(session.states().some((s) => s.name === `optim/m/${names[0]}.weight`));
  const graph = session.trainGraph(batch(0));
  for (const stage of ['graph', 'kernels', 'program'] as const) assert.ok(printStage(graph, stage).length > 0);
  const bytes = await session.serialize(),
    other = await open(names);
  await other.deserialize(bytes);
  assert.deepEqual(other.settings(path), session.settings(path));
  assert.deepEqual(JSON.parse(JSON.stringify(other.plan().knobs)), JSON.parse(JSON.stringify(session.plan().knobs)));
  assert.equal((await other.step(batch(9))).loss, (await session.step(batch(9))).loss, JSON.stringify(names));
  assert.deepEqual(fingerprint(other), fingerprint(session), JSON.stringify(names));
  await session.close();
  await other.close();
  return 'works';
}

test(
  'random property names: the model trains, recompiles, saves and loads, or compiling it refuses the name',
  { timeout: 240_000 },
  async () => {
    const seen = { works: 0, refused: 0 };
    await fc.assert(
      fc.asyncProperty(fc.uniqueArray(name, { minLength: 4, maxLength: 4 }).filter(ordered), async (names) => {
        seen[await worksOrIsRefused(names)]++;
      }),
      { numRuns: 24, seed: 6 },
    );
    assert.ok(seen.works > 5 && seen.refused > 5, JSON.stringify(seen));
  },
);

test(
  'each name with a meaning elsewhere is refused, or works in a model with three other such names',
  { timeout: 240_000 },
  async () => {
    const fine = TRICKY.filter((n) => refused([n]).length === 0 && ordered([n]));
    for (const n of TRICKY.filter((one) => refused([one]).length > 0))
      for (let at = 0; at < 4; at++)
        assert.equal(await worksOrIsRefused(['a', 'b', 'c', 'd'].map((own, i) => (i === at ? n : own))), 'refused');
    for (let i = 0; i < fine.length; i += 4)
      assert.equal(await worksOrIsRefused(Array.from({ length: 4 }, (_, j) => fine[(i + j) % fine.length])), 'works');
  },
);

test('properties that hold neither parameters nor modules may have any name', async () => {
  const model = {
    layer: new Linear(4, 4),
    vocabulary: { '.': 0, '': 1, 'a/b': 2, __metadata__: { 'x.y': [3] } },
    forward: (x: Tensor): Tensor => call(model.layer, x),
  };
  assert.deepEqual([...nameParameters(model).parameters.keys()], ['layer.weight', 'layer.bias']);
  const session = await compile(model, {
    loss: meanSquaredError,
    optimizer: adamW({ lr: 0.01 }),
    device: 'wasm',
    threads: 1,
  });
  await session.step(batch(0));
  await session.close();
});

test(
  'random rule names: the rule acts, its events have the name, a checkpoint resumes it; or the name is refused at once',
  { timeout: 240_000 },
  async () => {
    const names = ['a', 'b', 'c', 'd'],
      rule = (n: string) => ({
        name: n,
        trigger: (run: { step: number }) => run.step >= 1,
        budget: 1,
        alter: (m: object) => {
          (m as Record<string, MoE>)['c'].topK = 1;
        },
      });
    await fc.assert(
      fc.asyncProperty(
        fc.oneof(name, fc.constantFrom('__proto__', 'constructor', 'a, b', 'R', 'x'.repeat(200), 'x'.repeat(201))),
        async (n) => {
          const events: RecompileEvent[] = [],
            session = await open(names, events);
          if (n === '' || n.length > 200 || /[\p{Cc}\p{Cs}\u2028\u2029]/u.test(n))
            assert.throws(() => {
              session.recompile(rule(n));
            }, UserError);
          else {
            session.recompile(rule(n));
            assert.throws(
              () => {
                session.recompile(rule(n));
              },
              (error) => error instanceof UserError && error.message.includes(n),
            );
            for (let i = 0; i < 10; i++) await session.step(batch(i));
            const bytes = await session.serialize(),
              told: RecompileEvent[] = [],
              resumed = await open(names, told);
            resumed.recompile(rule(n));
            await resumed.deserialize(bytes);
            for (let i = 10; i < 40; i++) {
              await session.step(batch(i));
              await resumed.step(batch(i));
            }
            assert.deepEqual(
              [events.map((e) => [e.rule, e.step, e.kept]), told.map((e) => [e.rule, e.step, e.kept])],
              [[[n, 3, true]], [[n, 3, true]]],
              JSON.stringify(n),
            );
            assert.deepEqual(fingerprint(resumed), fingerprint(session));
            await resumed.close();
          }
          await session.close();
        },
      ),
      { numRuns: 12, seed: 8 },
    );
  },
);
