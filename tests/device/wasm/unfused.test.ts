// An engine whose relaxed multiply-add rounds the product before it adds: results differ in their last bits, the
// device's description says so, and the model learns equally well.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { WasmDevice } from '../../../src/device/wasm/wasm.ts';
import { crossEntropy } from '../../../src/nn/loss.ts';
import { adamW } from '../../../src/optim/adam.ts';
import type { Platform } from '../../../src/session/platform.ts';
import { compileOn } from '../../../src/session/compile.ts';
import { LATER } from '../../../src/session/later.ts';
import { toyBatch, toyLM } from '../../support/toy.ts';

const platform = (fuse: boolean): Platform => ({
  open: (_, request) => WasmDevice.open(request.threads, { memory: request.memory, fuse }),
  threads: () => 2,
  freeMemory: () => 256e6,
  files: null,
});

test('without fused multiply-adds the device says so, and a model learns equally well', async () => {
  const run = async (fuse: boolean): Promise<{ losses: number[]; description: string }> => {
    const session = await compileOn(
        platform(fuse),
        toyLM(),
        {
          loss: crossEntropy,
          optimizer: adamW({ lr: 1e-2 }),
          device: 'wasm',
          seed: 1,
        },
        LATER,
      ),
      losses: number[] = [];
    for (let i = 0; i < 60; i++) losses.push((await session.step(toyBatch(i % 4))).loss);
    const { description } = session.executor;
    await session.close();
    return { losses, description };
  };
  const fused = await run(true),
    rounded = await run(false);
  assert.match(rounded.description, /rounds products before it adds/);
  assert.doesNotMatch(fused.description, /rounds/);
  assert.notDeepEqual(rounded.losses, fused.losses);
  assert.ok(Math.abs(rounded.losses[0] - fused.losses[0]) < 1e-5, 'the first step differs in its last bits only');
  const late = (losses: readonly number[]): number => losses.slice(-8).reduce((a, b) => a + b) / 8;
  assert.ok(
    late(fused.losses) < 0.8 * fused.losses[0] &&
      Math.abs(late(rounded.losses) - late(fused.losses)) < 0.1 * late(fused.losses),
    `${late(rounded.losses)} and ${late(fused.losses)}`,
  );
});
