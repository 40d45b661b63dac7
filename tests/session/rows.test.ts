// Sequences of any length (docs/architecture/rows.md). The first shape of batch has a program for its fixed sizes, all
// others share one that takes rows. Both have the same bits, and those of a sample do not depend on the samples beside
// it or on padding.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import { hostTensor, type Batch } from '../../src/base/tensor.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { reshape } from '../../src/graph/ops/shape/reshape.ts';
import { Linear } from '../../src/nn/linear.ts';
import { Embedding } from '../../src/nn/embedding.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM, type TransformerOptions } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { sgd } from '../../src/optim/sgd.ts';
import { ProgramExecutor } from '../../src/run/program.ts';
import { compile } from '../../src/session/node.ts';
import type { Session } from '../../src/session/session.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { call } from '../../src/trace/trace.ts';
import { fingerprint, noCompiler, toyBatch } from '../support/toy.ts';

const VOCAB = 19,
  CONTEXT = 90;

type Shape = readonly [samples: number, time: number];

/** Random tokens and targets. */
const batchOf = ([samples, time]: Shape, seed = 1): Batch => toyBatch(seed, samples, time, VOCAB);

/** Random models run on wasm, which compiles fast; on native one model of a kind, with both numbers of threads. */
const devices: readonly (readonly [device: 'native' | 'wasm', threads: number, runs: number])[] = [
  ['wasm', 1, 6],
  ['wasm', 2, 3],
  ...(noCompiler ? [] : [['native', 1, 1] as const, ['native', 2, 1] as const]),
];

const shapes = fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: CONTEXT }));

/** Models that differ in attention, feed-forward layers and dropout. */
const models: fc.Arbitrary<TransformerOptions> = fc
  .record({
    heads: fc.constantFrom(2, 4),
    kvHeads: fc.constantFrom(1, 2),
    layers: fc.constantFrom(1, 2),
    tied: fc.boolean(),
    dropout: fc.constantFrom(0, 0.1),
    recompute: fc.boolean(),
    moe: fc.option(
      fc
        .record({
          experts: fc.constantFrom(2, 5),
          topK: fc.constantFrom(1, 2),
          hidden: fc.constant(8),
          dispatch: fc.constantFrom('ragged' as const, 'padded' as const),
          room: fc.constantFrom(
            {},
            { capacity: 1, priority: 'position' as const },
            { capacity: 0.6, priority: 'probs' as const },
            { capacity: 0.8, priority: 'choice' as const },
            { capacity: 0.7, overflow: 'spill' as const },
          ),
        })
        .map(({ room, ...moe }) => ({ ...moe, ...room })),
      { nil: undefined, freq: 4 },
    ),
  })
  .map(({ moe, ...model }) => ({ vocab: VOCAB, dModel: 16, context: CONTEXT, ...model, ...(moe && { moe }) }));

for (const [device, threads, numRuns] of devices)
  test(`a step of any shape has the bits of a session that begins with it: ${device}, ${threads} threads`, async () => {
    await fc.assert(
      fc.asyncProperty(
        models,
        fc.array(shapes, { minLength: 2, maxLength: 3 }),
        fc.constantFrom(1, 2),
        async (model, all, accumulate) => {
          const lengths = all.map(([samples, time]): Shape => [samples * accumulate, time]),
            options: CompileOptions = {
              loss: crossEntropy,
              optimizer: adamW({ lr: 1e-3 }),
              device,
              threads,
              accumulate,
              seed: 3,
              say: (line) => assert.fail(line),
            };
          await using run = await compile(new TransformerLM(model), options);
          for (const [i, shape] of lengths.entries()) {
            const before = await run.serialize(),
              batch = batchOf(shape, i);
            await using alone = await compile(new TransformerLM(model), options);
            await alone.deserialize(before);
            const [own, want] = [await run.step(batch), await alone.step(batch)];
            assert.deepEqual(own, want, `step ${i} of shape ${shape.join()}`);
            assert.deepEqual(fingerprint(run), fingerprint(alone));
            assert.deepEqual(await run.forward(batch), await alone.forward(batch));
          }
        },
      ),
      { numRuns, seed: 5 + threads },
    );
  });

/** The first `lengths[s]` elements of each sample count. */
const withLengths = (batch: Batch, lengths: readonly number[]): Batch => ({
  ...batch,
  lengths: Int32Array.from(lengths),
});

/** Sample s of a batch, without padding. */
function sampleOf({ x, y }: Batch, s: number, length: number): Batch {
  const [, time] = x.shape,
    of = ({ dtype, data }: Batch['x']): Batch['x'] =>
      hostTensor(dtype, [1, length], data.slice(s * time, s * time + length) as Int32Array);
  return { x: of(x), y: of(y) };
}

/** Gradients of one batch, which a step leaves in the moments. */
async function gradientsOf(session: Session, start: Uint8Array, batch: Batch): Promise<Record<string, string>> {
  await session.deserialize(start);
  await session.step(batch);
  return Object.fromEntries(Object.entries(fingerprint(session)).filter(([name]) => name.startsWith('optim/')));
}

for (const [device, threads, numRuns] of devices)
  test(`a sample has the same bits alone, padded or packed with others: ${device}, ${threads} threads`, async () => {
    await fc.assert(
      fc.asyncProperty(
        models.map((model) => ({
          ...model,
          dropout: 0,
          // A capacity and a balance loss are shared by the samples of a batch.
          ...(model.moe && { moe: { experts: model.moe.experts, topK: model.moe.topK, hidden: 8, losses: {} } }),
        })),
        fc.array(fc.integer({ min: 1, max: 40 }), { minLength: 2, maxLength: 4 }),
        async (model, lengths) => {
          const IGNORED = -1,
            time = Math.max(...lengths) + 3,
            batch = batchOf([lengths.length, time]);
          const session = (): Promise<Session> =>
            compile(new TransformerLM(model), {
              loss: (out, target) => crossEntropy(out, target, { ignoreIndex: IGNORED }),
              optimizer: sgd({ lr: 1, momentum: 0.5 }),
              device,
              threads,
              seed: 3,
              say: (line) => assert.fail(line),
            });
          await using packed = await session();
          await using fixed = await session();
          const start = await packed.serialize(),
            together = (await packed.forward(withLengths(batch, lengths)))['output'],
            padded = (await fixed.forward(batch))['output'];
          for (const [s, length] of lengths.entries()) {
            const own = sampleOf(batch, s, length);
            await using alone = await session();
            const want = (await alone.forward(own))['output'].data,
              from = s * time * VOCAB,
              found = together.data.slice(from, from + length * VOCAB);
            assert.deepEqual(found, want, `output of sample ${s}`);
            assert.deepEqual(padded.data.slice(from, from + length * VOCAB), want, `padded: sample ${s}`);
            assert.ok(
              together.data.subarray(from + length * VOCAB, from + time * VOCAB).every((v) => v === 0),
              'outputs of padding are 0',
            );
            // If the targets of all others are ignored, loss and gradient are those of this sample.
            const y = hostTensor(
              'int32',
              batch.y.shape,
              Int32Array.from(batch.y.data, (t, i) => (Math.floor(i / time) === s ? t : IGNORED)),
            );
            assert.deepEqual(
              await gradientsOf(packed, start, withLengths({ x: batch.x, y }, lengths)),
              await gradientsOf(alone, start, own),
              `gradient of sample ${s}`,
            );
          }
        },
      ),
      { numRuns, seed: 6 + threads },
    );
  });

test('400 lengths in one run need at most four programs, in any order', async () => {
  for (const order of [(i: number) => 1 + ((i * 37) % 400), (i: number) => i, (i: number) => 401 - i]) {
    await using session = await compile(
      new TransformerLM({
        vocab: VOCAB,
        dModel: 8,
        layers: 1,
        heads: 2,
        context: 512,
        moe: { experts: 4, topK: 2, hidden: 8, capacity: 1 },
      }),
      { loss: crossEntropy, device: 'wasm', threads: 1, say: (line) => assert.fail(line) },
    );
    for (let i = 1; i <= 400; i++) {
      const [samples, time]: Shape = [1, order(i)],
        { shape } = await session.predict(batchOf([samples, time]).x);
      assert.deepEqual(shape, [samples, time, VOCAB]);
    }
    assert.ok(session.executor instanceof ProgramExecutor);
    const count = session.executor.loadedPrograms().length;
    assert.ok(count <= 4, `${count} programs`);
  }
});

test('a model that cannot be traced with rows gets a program for each shape, and a line says why', async () => {
  class Fixed {
    readonly embedding = new Embedding(VOCAB, 4);
    readonly head = new Linear(4, VOCAB);
    readonly sequences = { longest: 20 };
    forward(x: Tensor): Tensor {
      const [samples, time] = x.shape as number[];
      return reshape(call(this.head, call(this.embedding, reshape(x, [samples * time]))), [samples, time, VOCAB]);
    }
  }
  const said: string[] = [];
  await using session = await compile(new Fixed(), {
    loss: crossEntropy,
    device: 'wasm',
    threads: 1,
    say: (line) => said.push(line),
  });
  for (const time of [3, 5, 7, 5]) {
    const { shape } = await session.predict(batchOf([2, time]).x);
    assert.deepEqual(shape, [2, time, VOCAB]);
  }
  assert.equal(said.length, 1);
  assert.match(said[0], /each shape of batch gets a program of its own/);
  await assert.rejects(session.forward(withLengths(batchOf([2, 4]), [2, 3])), /the batch has lengths/);
});

test('outputs of padding are 0, also if the batch with its padding has more rows than the program', async () => {
  await using session = await compile(new TransformerLM({ vocab: VOCAB, dModel: 8, layers: 1, heads: 2, context: 4 }), {
    loss: crossEntropy,
    device: 'wasm',
    threads: 1,
  });
  await session.forward(withLengths(batchOf([1, 4]), [4])); // a program for up to 4 rows
  const batch = batchOf([3, 4]),
    { output } = await session.forward(withLengths(batch, [0, 2, 1])),
    whole = await session.predict(batch.x);
  assert.deepEqual(output.shape, [3, 4, VOCAB]);
  assert.equal(output.data.length, 12 * VOCAB);
  for (let i = 0; i < 12; i++) {
    const [own, want] = [output, whole].map(({ data }) => data.slice(i * VOCAB, (i + 1) * VOCAB));
    assert.deepEqual(own, [4, 5, 8].includes(i) ? want : want.fill(0), `position ${i}`);
  }
});

test('lengths that do not fit are refused by name', async () => {
  await using session = await compile(new TransformerLM({ vocab: VOCAB, dModel: 8, layers: 1, heads: 2, context: 8 }), {
    loss: crossEntropy,
    device: 'wasm',
    threads: 1,
  });
  const refused: readonly [Int32Array, RegExp][] = [
    [Int32Array.of(3), /lengths must be an Int32Array of 2/],
    [Int32Array.of(3, 5), /length 1 of the batch is 5, the sequences of x have 4 elements/],
    [Int32Array.of(-1, 2), /length 0 of the batch is -1/],
    [Int32Array.of(0, 0), /all of the batch's lengths are 0/],
  ];
  for (const [lengths, message] of refused)
    await assert.rejects(session.forward({ ...batchOf([2, 4]), lengths }), message);
  await assert.rejects(session.predict(batchOf([1, 9]).x), /a sequence of 9 tokens is longer/);
});
