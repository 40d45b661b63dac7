// The default language model has the same losses, bit for bit, on the native and the wasm device, with 1 and with 2
// threads.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { crossEntropy } from '../../src/nn/loss.ts';
import { TransformerLM } from '../../src/nn/transformer.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compile } from '../../src/session/node.ts';
import { noCompiler, toyBatch } from '../support/toy.ts';

async function losses(device: 'native' | 'wasm', threads: number): Promise<number[]> {
  const model = new TransformerLM({
    vocab: 256,
    dModel: 128,
    layers: 4,
    heads: 4,
    context: 64,
    moe: { experts: 8, topK: 2, hidden: 256, capacity: 'dropless' },
  });
  await using session = await compile(model, {
    loss: crossEntropy,
    optimizer: adamW({ lr: 3e-3, clip: 1 }),
    device,
    threads,
    seed: 1,
    memory: 1e9,
  });
  const losses: number[] = [];
  for (let i = 0; i < 6; i++) losses.push((await session.step(toyBatch(i, 12, 64, 256))).loss);
  return losses;
}

test('the default model has the same losses on wasm and native, with 1 and with 2 threads', async (t) => {
  const want = await losses('wasm', 2);
  assert.deepEqual(await losses('wasm', 1), want);
  if (noCompiler) {
    t.diagnostic(`native: ${noCompiler}`);
    return;
  }
  assert.deepEqual(await losses('native', 1), want);
  assert.deepEqual(await losses('native', 2), want);
});
