// The paper's classifier of digits with eight experts, on made digits: a pattern for each class, with noise. A config
// file of `dynamoe train`.
import { hostTensor, optim, type TrainConfig } from 'dynamoe';
import { arrays } from 'dynamoe/data';
import { Classifier } from '../../examples/paper/models.ts';
import { Stream } from '../../src/base/random.ts';

const SAMPLES = 512,
  PIXELS = 784,
  CLASSES = 10,
  random = new Stream(0, 'made digits'),
  patterns = random.normals(0, 1, new Float32Array(CLASSES * PIXELS), 0),
  x = random.normals(1, 1, new Float32Array(SAMPLES * PIXELS), 0),
  y = Int32Array.from({ length: SAMPLES }, (_, i) => i % CLASSES);
x.forEach((noise, i) => {
  x[i] = noise / 2 + patterns[y[Math.floor(i / PIXELS)] * PIXELS + (i % PIXELS)];
});

export default {
  model: new Classifier({ experts: 8, kind: 'dense', lambda: 0.04 }, { dispatch: 'ragged', capacity: 2 }),
  data: () =>
    arrays({ x: hostTensor('float32', [SAMPLES, PIXELS], x), y: hostTensor('int32', [SAMPLES], y) }, { train: 448 }),
  optimizer: () => optim.sgd({ lr: 0.05 }),
  steps: 120,
  batch: 64,
} satisfies TrainConfig;
