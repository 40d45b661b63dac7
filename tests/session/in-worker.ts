// A worker thread that trains a small model, posts the losses of its first 4 steps, and then trains until it is
// terminated. Started by several.test.ts.
import { parentPort, workerData } from 'node:worker_threads';
import { crossEntropy } from '../../src/nn/loss.ts';
import { adamW } from '../../src/optim/adam.ts';
import { compile } from '../../src/session/node.ts';
import { toyBatch, toyLM } from '../support/toy.ts';

const { device, seed } = workerData as { device: 'native' | 'wasm'; seed: number };
const session = await compile(toyLM(), {
  loss: crossEntropy,
  optimizer: adamW({ lr: 1e-2 }),
  device,
  threads: 2,
  seed,
});
const losses: number[] = [];
for (let i = 0; i < 4; i++) losses.push((await session.step(toyBatch(i))).loss);
parentPort?.postMessage(losses);
for (let i = 0; ; i++) await session.step(toyBatch(i));
