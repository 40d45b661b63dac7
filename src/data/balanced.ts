// An order of samples in which every batch brings the experts nearly the same load. In: which experts each sample chose
// (what a session remembers: `session.assignments`), the size of a batch; out: an order for `batches({ order })`.
//
// Samples come in the shuffled order of (seed, epoch). 16 batches are open at a time. Each sample goes to the open
// batch whose loads come nearest to an even share of all samples (least growth of the squared distance); a full batch
// is replaced by the next. No sample is postponed, so that no batch collects the difficult ones. If all samples
// together prefer an expert, every batch prefers it by the same amount.
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aNumber, anything, needed } from '../base/kinds.ts';
import { Stream } from '../base/random.ts';
import type { Assignments } from '../nn/moe/memory.ts';
import { wholeNumber } from './batches.ts';
import type { EpochOrder } from './dataset.ts';

const OPEN_BATCHES = 16; // batches that are filled at a time

export interface BalancedOptions {
  /** Samples in a batch: the same number as `size` of `batches`. */
  readonly size: number;
  /** Seed of the shuffled order whose samples are distributed; default 0. */
  readonly seed?: number;
}
const KEYS: KeysOf<BalancedOptions> = { size: needed(aNumber), seed: anything };

/**
 * Batches of even load: `data.batches({ size, order: balancedOrder(known, { size }) })` with `known` what
 * `session.assignments(path)` gave, of one layer or of several. Each sample comes once in every epoch; for a sample
 * that is not remembered, the mean load of the others is assumed. The order depends on `known`: to resume a run
 * exactly, pass the same value again, for example the assignments of the last whole epoch.
 */
export function balancedOrder(known: Assignments | readonly Assignments[], options: BalancedOptions): EpochOrder {
  checkOptions('balancedOrder', options, KEYS);
  const { size, seed = 0 } = options;
  wholeNumber('balancedOrder', 'size', size, 1);
  const layers = Array.isArray(known) ? (known as readonly Assignments[]) : [known as Assignments],
    stream = new Stream(seed, 'data.order');
  const width = layers.reduce((n, l) => n + l.experts, 0);
  let made: { readonly loads: Float64Array; readonly mean: Float64Array } | null = null;
  return (epoch, count) => {
    if (made?.loads.length !== count * width) made = loadsOf(layers, count, width);
    return fillBatches(stream.permutation(epoch, count), made, width, roomOf(epoch, count, size));
  };
}

/**
 * Choices of each expert by each sample, [count, width], and their mean, which stands for samples that are not known.
 */
function loadsOf(
  layers: readonly Assignments[],
  count: number,
  width: number,
): { loads: Float64Array; mean: Float64Array } {
  const loads = new Float64Array(count * width),
    mean = new Float64Array(width);
  let first = 0;
  for (const layer of layers) {
    const unknown: number[] = [];
    for (let id = 0; id < count; id++) {
      const own = layer.of(id);
      if (!own) unknown.push(id);
      else for (const expert of own) loads[id * width + first + expert]++;
    }
    const seen = Math.max(1, count - unknown.length);
    for (let e = first; e < first + layer.experts; e++) {
      for (let id = 0; id < count; id++) mean[e] += loads[id * width + e] / seen;
      for (const id of unknown) loads[id * width + e] = mean[e];
    }
    first += layer.experts;
  }
  return { loads, mean };
}

/**
 * How many samples of an epoch each of its batches takes. The first may complete a batch of the epoch before; the last
 * may be completed by the next epoch.
 */
function roomOf(epoch: number, count: number, size: number): number[] {
  const rooms: number[] = [];
  for (let at = epoch * count, end = at + count; at < end;) {
    const room = Math.min(size - (at % size), end - at);
    rooms.push(room);
    at += room;
  }
  return rooms;
}

function fillBatches(
  order: Uint32Array,
  { loads, mean }: { readonly loads: Float64Array; readonly mean: Float64Array },
  width: number,
  rooms: readonly number[],
): Uint32Array {
  // excess [width]: the loads of a batch minus the even shares of its samples
  const batches = rooms.map((room) => ({ room, samples: [] as number[], excess: new Float64Array(width) }));
  const open = batches.slice(0, OPEN_BATCHES);
  let next = open.length;
  for (const id of order) {
    let best = 0,
      least = Infinity;
    open.forEach(({ excess }, b) => {
      let growth = 0;
      for (let e = 0; e < width; e++) {
        const step = loads[id * width + e] - mean[e];
        growth += step * (2 * excess[e] + step);
      }
      if (growth < least) {
        least = growth;
        best = b;
      }
    });
    const batch = open[best];
    batch.samples.push(id);
    for (let e = 0; e < width; e++) batch.excess[e] += loads[id * width + e] - mean[e];
    if (batch.samples.length < batch.room) continue;
    if (next < batches.length) open[best] = batches[next++];
    else open.splice(best, 1);
  }
  return Uint32Array.from(batches.flatMap((b) => b.samples));
}
