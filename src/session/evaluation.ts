// The mean loss over batches. In: batches, and what gives the loss of one; out: the mean, and of how many samples.
import { UserError } from '../base/errors.ts';
import type { Batch } from '../base/tensor.ts';
import { copyOf } from './copies.ts';

export interface Evaluation { readonly loss: number; readonly samples: number }

/** Batches as they are now: a list may be changed once the call has returned; what comes bit by bit is looked at as it comes. Throws UserError for what
 * gives no batches. */
export function batchesOf(given: unknown, check: (batch: Batch) => void): AsyncIterable<Batch> | readonly Batch[] {
  if (Array.isArray(given)) return given.map((batch: Batch) => { check(batch); return copyOf(batch); });
  if (typeof given === 'object' && given !== null && (Symbol.asyncIterator in given || Symbol.iterator in given)) return given as AsyncIterable<Batch>;
  throw new UserError('evaluate: expected batches', 'a dataset gives them: data.pass({ size: 8 }), of text data.windows({ size: 8, context: 32 })');
}

/** Weighted by the batches' sizes. */
export async function evaluation(batches: AsyncIterable<Batch> | readonly Batch[], lossOf: (batch: Batch) => Promise<number>, progress?: (samples: number) => void): Promise<Evaluation> {
  let total = 0, samples = 0;
  for await (const batch of batches) {
    const loss = await lossOf(batch);
    total += loss * batch.x.shape[0];
    samples += batch.x.shape[0];
    progress?.(samples);
  }
  if (samples === 0) throw new UserError('evaluate: there are no batches');
  return { loss: total / samples, samples };
}
