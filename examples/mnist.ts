// A mixture-of-experts classifier of digits: each digit is processed by two of eight experts.
import { metrics, nn, ops, optim, call, type TrainConfig, type Tensor } from 'dynamoe';
import { mnist } from 'dynamoe/data';

class Classifier {
  readonly input = new nn.Linear(784, 64);
  readonly moe = new nn.MoE({ dModel: 64, experts: 8, topK: 2, hidden: 64, activation: 'relu' });
  readonly output = new nn.Linear(64, 10);

  /** float32 [batch, 784] -> logits [batch, 10] */
  forward(x: Tensor): Tensor {
    const h = ops.relu(call(this.input, x)); // [batch, 64]
    return call(this.output, ops.add(h, call(this.moe, h)));
  }
}

export default {
  model: new Classifier(),
  data: ([folder]) => mnist(folder, { train: 8000, normalise: true }),
  optimizer: ({ steps }) =>
    optim.adamW({
      lr: optim.warmupCosine({ peak: 2e-3, warmup: Math.min(50, steps), total: steps }),
      weightDecay: 0.05,
    }),
  metrics: { accuracy: metrics.accuracy },
  steps: 1250, // 10 epochs
  batch: 64,
} satisfies TrainConfig;
