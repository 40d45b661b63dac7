// Losses: from a model's output and the targets to one number.
import type { Tensor } from '../graph/tensor.ts';
import { crossEntropy as crossEntropyRows } from '../graph/ops/crossEntropy.ts';
import { mul } from '../graph/ops/mul.ts';
import { sub } from '../graph/ops/sub.ts';
import { mean } from '../graph/ops/sum.ts';

export type Loss = (output: Tensor, target: Tensor) => Tensor;

/** Mean over all rows of -log softmax(logits)[target], in nats. logits [..., classes], targets int32 [...]. */
export const crossEntropy: Loss = (logits, targets) => mean(crossEntropyRows(logits, targets));

/** Mean squared difference of two tensors of one shape. */
export const meanSquaredError: Loss = (output, target) => {
  const d = sub(output, target);
  return mean(mul(d, d));
};
