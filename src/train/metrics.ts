// Metrics: numbers about a model's output that are no loss, measured with validation.
import type { Batch, HostTensor } from '../base/tensor.ts';

/** The mean of something over the samples of a batch. */
export type Metric = (output: HostTensor, batch: Batch) => number;

/** The share of rows whose largest output is the target: output [..., classes], targets int32 [...]. */
export const accuracy: Metric = (output, { y }) => {
  const classes = output.shape.at(-1) ?? 1, rows = y.data.length;
  let right = 0;
  for (let row = 0; row < rows; row++) {
    let best = 0;
    for (let c = 1; c < classes; c++) if (output.data[row * classes + c] > output.data[row * classes + best]) best = c;
    if (best === y.data[row]) right++;
  }
  return right / rows;
};
