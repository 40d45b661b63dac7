// MoE layers in a session whose batches change their shape: the program that takes rows has the bits of a session that
// begins with that shape, for every router, dispatch and kind of expert, also with activations in bfloat16.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import fc from 'fast-check';
import type { Batch } from '../../src/base/tensor.ts';
import type { Tensor } from '../../src/graph/tensor.ts';
import { Embedding } from '../../src/nn/embedding.ts';
import { Linear } from '../../src/nn/linear.ts';
import { crossEntropy } from '../../src/nn/loss.ts';
import { RMSNorm } from '../../src/nn/norm.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compile } from '../../src/session/node.ts';
import type { CompileOptions } from '../../src/session/step.ts';
import { call } from '../../src/trace/trace.ts';
import { D, layerOf, settings, type Settings } from '../nn/moe/any-layer.ts';
import { fingerprint, toyBatch } from '../support/toy.ts';

const VOCAB = 9;

class Model {
  readonly embedding = new Embedding(VOCAB, D);
  readonly before = new RMSNorm(D);
  readonly moe;
  readonly after = new RMSNorm(D);
  readonly head = new Linear(D, VOCAB);
  constructor(set: Settings) {
    this.moe = layerOf(set);
  }
  get sequences(): { readonly longest: number } {
    return { longest: 64 };
  }
  forward(x: Tensor): Tensor {
    const y = call(this.moe, call(this.before, call(this.embedding, x)), x);
    return call(this.head, call(this.after, y));
  }
}

const batchOf = ([samples, time]: readonly [number, number], seed: number): Batch =>
  toyBatch(seed, samples, time, VOCAB);

test('a step of another shape has the bits of a session that begins with it', async () => {
  const shape = fc.tuple(fc.integer({ min: 1, max: 9 }), fc.integer({ min: 1, max: 40 }));
  await fc.assert(
    fc.asyncProperty(
      settings,
      shape,
      shape,
      fc.constantFrom('float32' as const, 'bfloat16' as const),
      async (set, first, second, precision) => {
        const options: CompileOptions = {
          loss: crossEntropy,
          optimizer: adamW({ lr: 1e-3 }),
          device: 'wasm',
          threads: 2,
          seed: 3,
          precision,
          say: (line) => assert.fail(line),
        };
        await using run = await compile(new Model(set), options);
        await run.step(batchOf(first, 1));
        const before = await run.serialize(),
          batch = batchOf(second, 2);
        await using alone = await compile(new Model(set), options);
        await alone.deserialize(before);
        assert.deepEqual(await run.step(batch), await alone.step(batch));
        assert.deepEqual(fingerprint(run), fingerprint(alone));
        assert.deepEqual(await run.forward(batch), await alone.forward(batch));
      },
    ),
    { numRuns: 12, seed: 6 },
  );
});
