// Calls that are not awaited: each gives the same bits as if each call were awaited before the next one. Callers may
// overwrite the buffers of a batch as soon as the call has returned.
import assert from 'node:assert/strict';
import { createHash } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { test } from 'node:test';
import fc from 'fast-check';
import type { TypedArray } from '../../src/base/dtype.ts';
import { hostTensor, type Batch, type HostTensor } from '../../src/base/tensor.ts';
import { crossEntropy, meanSquaredError } from '../../src/nn/loss.ts';
import { MLP } from '../../src/nn/mlp.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import type { Rule } from '../../src/recompile/rule.ts';
import { generate } from '../../src/session/generate.ts';
import { compile } from '../../src/session/node.ts';
import { Order } from '../../src/session/order.ts';
import type { PlanState, Session } from '../../src/session/session.ts';
import { NonFiniteError, type CompileOptions } from '../../src/session/step.ts';
import { call } from '../../src/trace/trace.ts';
import { temporaryFolder } from '../io/folder.ts';
import { peek } from '../support/delayed-device.ts';
import { fingerprint, noCompiler, toyBatch } from '../support/toy.ts';

const CONTEXT = 8;
const model = (): TransformerLM =>
  new TransformerLM({
    vocab: 17,
    dModel: 8,
    layers: 1,
    heads: 2,
    context: CONTEXT,
    dropout: 0.2,
    moe: { experts: 4, topK: 2, hidden: 8, routing: 'watched' },
  });
const open = (device: 'native' | 'wasm', of = model()): Promise<Session> =>
  compile(of, { loss: crossEntropy, optimizer: adamW({ lr: 1e-2 }), device, threads: 1, seed: 5, memory: 256e6 });
const batch = (n: number, size = 2): Batch => ({
  ...toyBatch(n, size, CONTEXT),
  ids: Int32Array.from({ length: size }, (_, i) => 10 * n + i),
});

const bytesOf = (data: TypedArray): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
const hash = (...parts: Uint8Array[]): string =>
  parts.reduce((h, p) => h.update(p), createHash('sha256')).digest('hex');
const hashOutputs = (out: Readonly<Record<string, HostTensor>>): string =>
  Object.entries(out)
    .map(([name, t]) => `${name} ${hash(bytesOf(t.data))}`)
    .join();
/** A text that is equal for equal parameters, moments, step count and knobs. */
const stateOf = (session: Session): string =>
  `${session.steps} ${hash(Buffer.from(JSON.stringify([fingerprint(session), session.plan().knobs])))}`;

async function tokens(session: Session, prompt: readonly number[], count: number): Promise<string> {
  const made: number[] = [];
  for await (const t of generate(session, prompt, { tokens: count, seed: 3 })) made.push(t);
  return made.join();
}

interface Fixtures {
  readonly folder: string;
  readonly plan: PlanState;
  /** A checkpoint with other knobs. */
  readonly other: Uint8Array;
  /** Path of a file with a checkpoint with other knobs. */
  readonly file: string;
}
interface Call {
  /** Whether the call changes values or settings of the session. */
  readonly writes: boolean;
  readonly does: (session: Session, fixtures: Fixtures) => Promise<unknown>;
}
let rules = 0;

/** Every method of a session that is asynchronous or queued. A generator makes one call for each token. */
const CALLS: Readonly<Record<string, Call>> = {
  step: {
    writes: true,
    does: async (s) => {
      const { step, loss, gradNorm, stats } = await s.step(batch(1));
      return [step, loss, gradNorm, hashOutputs(stats)];
    },
  },
  'step of another shape': { writes: true, does: async (s) => (await s.step(batch(2, 4))).loss },
  'step that fails': {
    writes: true,
    does: (s) => {
      const { x, ids } = batch(3);
      return s
        .step({
          x,
          y: hostTensor(
            'int32',
            x.shape,
            x.data.map(() => 999),
          ),
          ...(ids && { ids }),
        })
        .then(
          () => 'done',
          (e: unknown) => {
            if (e instanceof NonFiniteError) return e.name;
            throw e;
          },
        );
    },
  },
  forward: { writes: false, does: async (s) => hashOutputs(await s.forward(batch(4))) },
  predict: { writes: false, does: async (s) => hashOutputs({ output: await s.predict(batch(5).x) }) },
  evaluate: { writes: false, does: (s) => s.evaluate([batch(6), batch(7), batch(8)]) },
  token: { writes: false, does: (s) => tokens(s, [1, 2, 3], 1) },
  runGraph: {
    writes: false,
    does: async (s) =>
      hashOutputs(
        await s.runGraph(
          'double',
          (t) => {
            t.output('y', call(s.model, t.input('input', 'x', { dtype: 'int32', shape: [1, CONTEXT] })));
          },
          { x: batch(9, 1).x.data },
        ),
      ),
  },
  prepare: { writes: true, does: async (s) => (await s.prepare(batch(1))).bytes },
  assignments: {
    writes: false,
    does: async (s) => {
      const a = await s.assignments('blocks.0.moe');
      return a && [...a.ids].map((id) => [id, a.of(id)?.join()]);
    },
  },
  serialize: { writes: false, does: async (s) => hash(await s.serialize()) },
  save: {
    writes: false,
    does: async (s, { folder }) => {
      await s.save(join(folder, 'saved'));
      return hash(await readFile(join(folder, 'saved')));
    },
  },
  load: { writes: true, does: (s, { file }) => s.load(file) },
  deserialize: { writes: true, does: (s, { other }) => s.deserialize(other) },
  restore: {
    writes: true,
    does: (s) =>
      s.restore(40, [{ name: 'head.weight', value: hostTensor('float32', [8, 17], new Float32Array(136).fill(0.25)) }]),
  },
  restorePlan: { writes: true, does: (s, { plan }) => s.restorePlan(plan) },
  recompile: {
    writes: true,
    does: async (s) => {
      s.recompile({ name: `rule ${rules++}`, trigger: () => false, alter: () => undefined });
      await Promise.resolve();
    },
  },
};

for (const device of ['native', 'wasm'] as const) {
  test(
    `${device}: any two calls that are not awaited give the bits of the same calls, awaited one after the other`,
    { skip: device === 'native' && noCompiler, timeout: 400_000 },
    async (t) => {
      await using session = await open(device),
        trainedAside = await open(device);
      const folder = await temporaryFolder(t),
        other = batch(11);
      const {
        knobs: { 'blocks.0.moe': knobs },
      } = session.plan();
      await trainedAside.restorePlan({ knobs: { 'blocks.0.moe': { ...knobs, dispatch: 'padded' } }, engine: null });
      for (let i = 0; i < 3; i++) await trainedAside.step(other);
      const fixtures: Fixtures = {
        folder,
        other: await trainedAside.serialize(),
        file: join(folder, 'other'),
        plan: { knobs: { 'blocks.0.moe': { ...knobs, capacity: 1.5 } }, engine: null },
      };
      await trainedAside.save(fixtures.file);
      session.recompile({ name: 'first', trigger: () => false, alter: () => undefined });
      for (let i = 0; i < 2; i++) await session.step(batch(0));
      const start = await session.serialize();
      for (const [a, first] of Object.entries(CALLS)) {
        for (const [b, second] of Object.entries(CALLS)) {
          await session.deserialize(start);
          const apart = [await first.does(session, fixtures), await second.does(session, fixtures), stateOf(session)];
          await session.deserialize(start);
          const together = [
            ...(await Promise.all([first.does(session, fixtures), second.does(session, fixtures)])),
            stateOf(session),
          ];
          assert.deepEqual(together, apart, `${a}, then ${b}`);
        }
      }
      // Generators run at the same time as calls that only read.
      for (const [name, { writes, does }] of Object.entries(CALLS)) {
        if (writes) continue;
        const apart = [await tokens(session, [1, 2], 7), await does(session, fixtures), await tokens(session, [3], 7)];
        assert.deepEqual(
          await Promise.all([tokens(session, [1, 2], 7), does(session, fixtures), tokens(session, [3], 7)]),
          apart,
          name,
        );
      }
    },
  );

  test(
    `${device}: calls made before close complete; later calls are refused`,
    { skip: device === 'native' && noCompiler, timeout: 100_000 },
    async (t) => {
      const folder = await temporaryFolder(t),
        one = await open(device),
        other = await open(device),
        fixtures: Fixtures = { folder, other: await one.serialize(), file: join(folder, 'one'), plan: one.plan() };
      await one.save(fixtures.file);
      const apart: unknown[] = [],
        calls = Object.values(CALLS);
      for (const { does } of calls) apart.push(await does(one, fixtures));
      // The first step of `other` draws initial values and compiles; close waits for these, too.
      const together = calls.map(({ does }) => does(other, fixtures)),
        closing = other.close();
      for (const [name, { does }] of Object.entries(CALLS)) {
        if (name !== 'restorePlan')
          await assert.rejects(async () => does(other, fixtures), /UserError.*this session is closed/s, name);
      }
      assert.deepEqual(await Promise.all(together), apart);
      await closing;
      await other.close();
      assert.throws(() => other.openCaches(), /this session is closed/);
      await one.close();
    },
  );

  test(
    `${device}: a caller may overwrite its buffers as soon as a call has returned`,
    { skip: device === 'native' && noCompiler, timeout: 100_000 },
    async () => {
      await using session = await open(device);
      await session.step(batch(0));
      const start = await session.serialize();
      /** Calls with new arrays. fill: whether these are overwritten as soon as the call has returned. */
      const CALLED: Readonly<Record<string, (fill: boolean) => Promise<unknown>>> = {
        step: (fill) => callThenOverwrite(batch(1), fill, async (b) => (await session.step(b)).loss),
        forward: (fill) => callThenOverwrite(batch(1), fill, async (b) => hashOutputs(await session.forward(b))),
        predict: (fill) =>
          callThenOverwrite(batch(1), fill, async (b) => hashOutputs({ y: await session.predict(b.x) })),
        evaluate: (fill) => callThenOverwrite(batch(1), fill, (b) => session.evaluate([b])),
        runGraph: (fill) =>
          callThenOverwrite(batch(1), fill, async (b) =>
            hashOutputs(
              await session.runGraph(
                'double',
                (t) => {
                  t.output('y', call(session.model, t.input('input', 'x', { dtype: 'int32', shape: [2, CONTEXT] })));
                },
                { x: b.x.data },
              ),
            ),
          ),
        generate: (fill) => {
          const prompt = Int32Array.of(1, 2, 3),
            made = tokens(session, prompt as unknown as number[], 3);
          if (fill) prompt.fill(0);
          return made;
        },
        restore: (fill) => {
          const value = hostTensor('float32', [8, 17], new Float32Array(136).fill(0.5)),
            done = session.restore(1, [{ name: 'head.weight', value }]);
          if (fill) value.data.fill(7);
          return done;
        },
        deserialize: (fill) => {
          const bytes = start.slice(),
            done = session.deserialize(bytes);
          if (fill) bytes.fill(0);
          return done;
        },
      };
      for (const [name, does] of Object.entries(CALLED)) {
        for (const busy of [false, true]) {
          const results: unknown[] = [];
          for (const fill of [false, true]) {
            await session.deserialize(start);
            const before = busy ? session.step(batch(4, 4)) : Promise.resolve(),
              [result] = await Promise.all([does(fill), before]);
            results.push([result, stateOf(session)]);
          }
          assert.deepEqual(results[1], results[0], `${name}${busy ? ' queued after a step' : ''}`);
        }
      }
    },
  );

  test(
    `${device}: buffers of steps may be overwritten: with parts, recompilations, queued steps and failing steps`,
    { skip: device === 'native' && noCompiler, timeout: 100_000 },
    async () => {
      const settings: readonly Partial<CompileOptions>[] = [{}, { split: 2 }, { accumulate: 2 }];
      for (const more of settings) {
        for (const recompiled of [false, true]) {
          const run = async (fill: boolean): Promise<unknown[]> => {
            await using session = await compile(model(), {
              loss: crossEntropy,
              optimizer: adamW({ lr: 1e-2 }),
              device,
              threads: 1,
              seed: 5,
              memory: 256e6,
              ...more,
            });
            if (recompiled) session.recompile<TransformerLM>(alternateDispatch());
            const results: Promise<unknown>[] = [];
            for (let n = 0; n < 12; n++) {
              const good = batch(n, 4),
                b =
                  n % 4 === 2
                    ? {
                        ...good,
                        y: hostTensor(
                          'int32',
                          good.y.shape,
                          good.y.data.map(() => 999),
                        ),
                      }
                    : good;
              const step = callThenOverwrite(b, fill, (own) => session.step(own)).then(({ loss }) => loss, String);
              results.push(step);
              if (n % 3 > 0) await step; // otherwise the next step is queued while this one runs
            }
            return [...(await Promise.all(results)), fingerprint(session)];
          };
          const expected = await run(false);
          assert.match(
            String(expected[2]),
            /NonFiniteError: step \d+: the loss is not finite; first produced by crossEntropy/,
          );
          assert.deepEqual(await run(true), expected, JSON.stringify(more));
        }
      }
    },
  );

  test(
    `${device}: a restore that is called during a step runs after it, as a whole`,
    { skip: device === 'native' && noCompiler },
    async () => {
      await using session = await compile(new MLP([64, 256, 64]), {
        loss: meanSquaredError,
        optimizer: sgd({ lr: 1e-2 }),
        device,
        threads: 2,
      });
      const x = hostTensor(
          'float32',
          [64, 64],
          Float32Array.from({ length: 4096 }, (_, i) => Math.sin(i)),
        ),
        step = (): ReturnType<Session['step']> => session.step({ x, y: x });
      await step();
      const values = (v: number) =>
        session
          .states()
          .filter(({ name }) => session.named.parameters.has(name))
          .map(({ name, shape }) => ({
            name,
            value: hostTensor('float32', shape, new Float32Array(shape.reduce((a, b) => a * b, 1)).fill(v)),
          }));
      for (let wait = 0; wait < 4; wait++) {
        const stepped = step(),
          read = (): unknown[] => peek(() => session.states().map((s) => s.read()));
        await new Promise((resolve) => {
          setTimeout(resolve, wait / 2);
        });
        const restored = session.restore(7, values(0.5));
        await stepped;
        assert.equal(session.steps, 7, 'the queued restore is done before code that awaits the step continues');
        for (const { name, read: value } of session.states())
          assert.ok(
            peek(value).data.every((v) => v === 0.5),
            name,
          );
        await restored;
        const next = step();
        // While a step runs on the device, values that it changes cannot be read.
        let refused = '';
        for (let i = 0; i < 100 && refused === ''; i++) {
          await Promise.resolve();
          try {
            read();
          } catch (error) {
            refused = String(error);
          }
        }
        assert.match(refused, /UserError.*is in use.*await/s);
        await next;
        assert.equal(read().length, 4);
      }
    },
  );
}

/** A rule that changes the dispatch each time it is asked: ragged, padded, ragged and so on. Results stay the same. */
const alternateDispatch = (): Rule<TransformerLM> => ({
  name: 'alternate dispatch',
  cooldown: 0,
  measure: false,
  only: 'N',
  trigger: () => true,
  alter: (lm) => {
    const { moe } = lm.blocks[0];
    if (moe) moe.dispatch = moe.dispatch === 'ragged' ? 'padded' : 'ragged';
  },
});

const callThenOverwrite = <T>(b: Batch, fill: boolean, does: (b: Batch) => Promise<T>): Promise<T> => {
  const result = does(b);
  if (fill) for (const data of [b.x.data, b.y.data, ...(b.ids ? [b.ids] : [])]) data.fill(3);
  return result;
};

test('an iterator of evaluation batches may call the session; steps wait until it ends', async () => {
  await using session = await open('wasm');
  const seen: string[] = [];
  async function* own(): AsyncGenerator<Batch> {
    for (let i = 0; i < 3; i++) {
      const { x } = batch(i),
        { data } = await session.predict(x);
      yield {
        x,
        y: hostTensor(
          'int32',
          x.shape,
          Array.from({ length: x.data.length }, (_, j) => Math.abs(Math.round(data[17 * j] * 100)) % 17),
        ),
      };
    }
  }
  const evaluated = session.evaluate(own(), (n) => {
    seen.push(`${n} samples`);
  });
  await new Promise((resolve) => {
    setTimeout(resolve, 1);
  });
  const stepped = evaluated
    .then(() => session.step(batch(1)))
    .then(() => {
      seen.push('step');
    });
  await stepped;
  assert.deepEqual(seen, ['2 samples', '4 samples', '6 samples', 'step']);
  const [, two] = await Promise.all([
    session.evaluate([batch(1), batch(2)], (n) => {
      seen.push(`${n} again`);
    }),
    session.step(batch(1)).then((r) => {
      seen.push('another step');
      return r;
    }),
  ]);
  assert.equal(two.step, 2);
  assert.deepEqual(seen.slice(4), ['2 again', '4 again', 'another step']);
});

test(
  "an iterator's batches are copied when they arrive: an iterator that reuses its buffers gives the same result as a " +
    'list of batches',
  async () => {
    const session = await open('wasm'),
      list = [6, 7, 8, 9].map((n) => batch(n));
    async function* refilled(): AsyncGenerator<Batch> {
      const { x, y } = batch(1);
      for (const b of list) {
        x.data.set(b.x.data);
        y.data.set(b.y.data);
        await Promise.resolve();
        yield { x, y };
      }
      x.data.fill(0);
    }
    const expected = await session.evaluate(list),
      both = await Promise.all([session.evaluate(refilled()), session.evaluate(list)]);
    assert.deepEqual(both, [expected, expected]);
    await session.close();
  },
);

test('random calls run in order, one at a time; between the runs of a reading only other readings run', async () => {
  const kinds = fc.constantFrom('write', 'read', 'change', 'long', 'failing');
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.record({ kind: kinds, turns: fc.nat(3), wait: fc.nat(2) }), { maxLength: 25 }),
      async (list) => {
        const order = new Order(),
          began: number[] = [],
          running = new Set<number>(),
          all: Promise<unknown>[] = [],
          turn = (): Promise<void> =>
            new Promise((resolve) => {
              setImmediate(resolve);
            });
        const exclusiveWork = (i: number, turns: number) => async (): Promise<number> => {
          began.push(i);
          for (const other of running) assert.ok(list[other].kind === 'long', `${i} beside ${other}`);
          if (running.size > 0) assert.ok(list[i].kind !== 'write' && list[i].kind !== 'change');
          running.add(i);
          for (let n = 0; n < turns; n++) await turn();
          running.delete(i);
          if (list[i].kind === 'failing') throw new Error(`call ${i}`);
          return i;
        };
        for (const [i, { kind, turns, wait }] of list.entries()) {
          const work = exclusiveWork(i, turns);
          const made =
            kind === 'change'
              ? order.change(() => {
                  began.push(i);
                  assert.equal(running.size, 0);
                })
              : kind === 'long'
                ? order.read(async () => {
                    began.push(i);
                    running.add(i);
                    for (let n = 0; n < 2; n++) await order.run(turn, { within: true });
                    running.delete(i);
                  })
                : order.run(work, { writes: kind === 'write' });
          all.push(
            made.then(
              () => 'done',
              (e: Error) => e.message,
            ),
          );
          for (let n = 0; n < wait; n++) await turn();
        }
        const closed = order.close(() => Promise.resolve());
        const results = await Promise.all(all);
        await closed;
        list.forEach(({ kind }, i) => {
          assert.equal(results[i], kind === 'failing' ? `call ${i}` : 'done');
        });
        assert.deepEqual(
          began,
          list.map((_, i) => i),
        );
        await assert.rejects(
          order.run(() => 1),
          /closed/,
        );
        assert.throws(() => {
          void order.change(() => undefined);
        }, /closed/);
      },
    ),
    { numRuns: 150 },
  );
});
