// A program for cache.test.ts: trains a small model for three steps on the native device and prints the losses.
import { hostTensor } from '../../../src/base/tensor.ts';
import { meanSquaredError } from '../../../src/nn/loss.ts';
import { MLP } from '../../../src/nn/mlp.ts';
import { sgd } from '../../../src/optim/sgd.ts';
import { compile } from '../../../src/session/node.ts';

const session = await compile(new MLP([3, 8, 3]), {
  loss: meanSquaredError,
  optimizer: sgd({ lr: 0.1 }),
  device: 'native',
});
const x = hostTensor(
  'float32',
  [4, 3],
  Float32Array.from({ length: 12 }, (_, i) => Math.cos(i)),
);
for (let i = 0; i < 3; i++) console.log((await session.step({ x, y: x })).loss);
await session.close();
