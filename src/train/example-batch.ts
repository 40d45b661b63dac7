// A batch to try a model on: for benchmarks, and for commands that show what the compiler does.
import type { Batch } from '../base/tensor.ts';
import { windowsShape } from '../data/windows.ts';
import type { Experiment } from './experiment.ts';

/**
 * A batch of the shape that the model trains on: from the data if the config names some, else of random bytes. shape:
 * only the shape matters.
 */
export async function exampleBatch(experiment: Experiment, shape = false): Promise<Batch> {
  const { config, context } = experiment,
    { batch: size, seed } = config;
  if (config.model === null || (!shape && config.data.length > 0)) {
    return experiment
      .data((line) => {
        process.stderr.write(`dynamoe: ${line}\n`);
      })
      .batches({ size, seed, context })
      .at(0);
  }
  if (shape) return windowsShape(size, context);
  const bytes = (start: number): Int32Array =>
    Int32Array.from({ length: size * context }, (_, i) => (Math.imul(i + start, 0x9e3779b1) >>> 24) & 0xff);
  return {
    x: { dtype: 'int32', shape: [size, context], data: bytes(0) },
    y: { dtype: 'int32', shape: [size, context], data: bytes(1) },
  };
}
