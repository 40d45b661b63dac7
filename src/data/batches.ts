// From samples to batches. In: samples that can be gathered by id; out: shuffled batches by (seed, step), or one
// ordered pass. Sample number step * size + j of the endless sequence is sample `order(epoch)[position]`, where epoch
// and position are the quotient and remainder by the number of samples, and order(epoch) is a permutation that the seed
// and the epoch alone decide.
import { UserError } from '../base/errors.ts';
import { refuseUnused } from '../base/options.ts';
import { Stream } from '../base/random.ts';
import type { Batch } from '../base/tensor.ts';
import type { Batches, BatchOptions, EpochOrder, PassOptions } from './dataset.ts';

/** One split of a dataset, in memory. Ids are 0..count-1. */
export interface Samples {
  readonly count: number;
  /** The samples of these ids, in this order. */
  gather(ids: Int32Array): Batch;
}

/** Shuffled batches of the samples that `load` gives; `load` throws a UserError if there are none. */
export function shuffled(load: () => Promise<Samples>, options: BatchOptions): Batches {
  const { size, seed = 0, from = 0, limit = Infinity } = options;
  if (limit !== Infinity) wholeNumber('batches', 'limit', limit, 0);
  refuseUnused('batches', options, { seed: options.order && 'it seeds the shuffling, which `order` replaces' });
  const stream = new Stream(seed, 'data.order'),
    order = epochOrders(
      options.order ? checkedOrder(options.order) : (epoch, count) => stream.permutation(epoch, count),
    );
  const at = async (step: number): Promise<Batch> => {
    wholeNumber('batches', 'step', step, 0);
    const samples = await load();
    const ids = new Int32Array(size);
    for (let j = 0; j < size; j++) {
      const place = step * size + j;
      ids[j] = order(Math.floor(place / samples.count), samples.count)[place % samples.count];
    }
    return samples.gather(ids);
  };
  return {
    at,
    samples: async () => (await load()).count,
    [Symbol.asyncIterator]: () => prefetched(at, from, from + limit),
  };
}

/** Permutations by epoch; the last two are kept, because a batch may span two epochs. */
function epochOrders(make: EpochOrder): EpochOrder {
  const kept = new Map<number, ArrayLike<number>>();
  return (epoch, count) => {
    const known = kept.get(epoch);
    if (known !== undefined) return known;
    const order = make(epoch, count);
    kept.set(epoch, order);
    for (const old of kept.keys()) if (kept.size > 2 && old !== epoch) kept.delete(old);
    return order;
  };
}

/** The caller's own order. Throws UserError if a sample is missing or comes twice. */
const checkedOrder =
  (own: EpochOrder): EpochOrder =>
  (epoch, count) => {
    const order = own(epoch, count),
      seen = new Uint8Array(count);
    for (let i = 0; i < order.length; i++) seen[order[i]] = 1;
    if (order.length !== count || seen.includes(0))
      throw new UserError(`batches: order(${epoch}, ${count}) must give each of the numbers 0..${count - 1} once`);
    return order;
  };

/**
 * Calls a function as soon as the running code waits for something. Browsers have no setImmediate, and a timer may wait
 * for 4 ms there; a message does not.
 */
function whenIdle(f: () => void): void {
  if (typeof setImmediate === 'function') {
    setImmediate(f);
    return;
  }
  const { port1, port2 } = new MessageChannel();
  port1.onmessage = () => {
    port1.close();
    f();
  };
  port2.postMessage(null);
}

/** at(from) .. at(end - 1); the next one is prepared as soon as the caller waits for something. */
async function* prefetched(
  at: (step: number) => Promise<Batch>,
  from: number,
  end: number,
): AsyncGenerator<Batch, void, undefined> {
  const prefetch = (step: number): Promise<Batch> => {
    const made = new Promise<Batch>((resolve, reject) => {
      whenIdle(() => {
        at(step).then(resolve, reject);
      });
    });
    made.catch(() => undefined); // the error is thrown again where `made` is awaited
    return made;
  };
  if (from >= end) return;
  let next = prefetch(from);
  for (let step = from; step < end; step++) {
    const batch = await next;
    if (step + 1 < end) next = prefetch(step + 1);
    yield batch;
  }
}

/** Every sample once, in order of ids; the last batch has the remaining samples. */
export async function* ordered(
  load: () => Promise<Samples>,
  { size }: PassOptions,
): AsyncGenerator<Batch, void, undefined> {
  const samples = await load();
  for (let first = 0; first < samples.count; first += size) {
    yield samples.gather(Int32Array.from({ length: Math.min(size, samples.count - first) }, (_, j) => first + j));
  }
}

/** Throws UserError unless `value` is a whole number of at least `least`. */
export function wholeNumber(where: string, name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new UserError(`${where}: ${name} must be a whole number of at least ${least}, got ${value}`);
}
