// A small convolutional network that reads digits.
//   dynamoe train examples/mnist-cnn.ts --data FOLDER      FOLDER holds MNIST's files (train-images-idx3-ubyte.gz, ...)
import { metrics, nn, optim, type TrainConfig } from 'dynamoe';
import { mnist } from 'dynamoe/data';

export default {
  model: new nn.SmallCNN({ image: [28, 28, 1], outputs: 10, widths: [16, 32] }),
  data: ([folder]) => mnist(folder, { train: 8000, normalise: true }),
  optimizer: ({ steps }) =>
    optim.adamW({
      lr: optim.warmupCosine({ peak: 3e-3, warmup: Math.min(50, steps), total: steps }),
      weightDecay: 0.05,
    }),
  metrics: { accuracy: metrics.accuracy },
  steps: 750, // 6 epochs
  batch: 64,
} satisfies TrainConfig;
