// The data of the models. In: files, or nothing. Out: batches by step, the same for every row of the table, and
// held-out batches.
import { hostTensor, UserError, type Batch, type Batches } from 'dynamoe';
import { arrays, mnist, text, type ArrayDataset } from 'dynamoe/data';

export interface Source {
  /** The batch of a step; `seed` determines the order. */
  batch(seed: number, step: number): Promise<Batch>;
  /** Held-out batches with the size of training batches, because a capacity depends on the batch size. */
  readonly held: readonly Batch[];
  /** Steps per epoch. */
  readonly epoch: number;
}

const TRAIN = 8000; // of the 10,000 digits of t10k; of other files as many, too

/** Pixels as p / 255. */
export const digits = (folder: string, size: number): Promise<Source> =>
  fromArrays(mnist(folder, { train: TRAIN }), size);

/** Bytes of text in windows; the first `heldBatches` batches of the held-out tenth. */
export async function windows(
  paths: readonly string[],
  { size, context, heldBatches }: { readonly size: number; readonly context: number; readonly heldBatches: number },
): Promise<Source> {
  const data = text(paths, { say: () => undefined });
  return sourceOf((seed) => data.batches({ size, context, seed }), data.pass({ size, context }), size, heldBatches);
}

const fromArrays = (data: ArrayDataset, size: number): Promise<Source> =>
  sourceOf((seed) => data.batches({ size, seed }), data.pass({ size }), size);

async function sourceOf(
  orderOf: (seed: number) => Batches,
  pass: AsyncIterable<Batch>,
  size: number,
  heldBatches = Infinity,
): Promise<Source> {
  const held: Batch[] = [],
    orders = new Map<number, Batches>();
  for await (const batch of pass) {
    if (held.length === heldBatches || batch.x.shape[0] !== size) break; // the last one may be smaller
    held.push(batch);
  }
  if (held.length === 0) throw new UserError(`there are fewer than ${size} samples to measure with`);
  const order = (seed: number): Batches => {
    const known = orders.get(seed) ?? orderOf(seed);
    orders.set(seed, known);
    return known;
  };
  return { held, batch: (seed, step) => order(seed).at(step), epoch: Math.ceil((await order(0).samples()) / size) };
}

export interface TeacherOptions {
  readonly width: number;
  readonly hidden: number;
  readonly size: number;
  readonly train: number;
  readonly held: number;
}

/**
 * Random inputs [samples, width], and the outputs of a fixed random network with one small hidden layer: a function
 * that can be learned.
 */
export function teacher({ width, hidden, size, train, held }: TeacherOptions): Promise<Source> {
  const samples = train + held,
    normal = normals(1);
  const draw = (count: number, deviation: number): Float32Array =>
    Float32Array.from({ length: count }, () => deviation * normal());
  const a = draw(width * hidden, 1 / Math.sqrt(width)),
    b = draw(hidden * width, Math.sqrt(2 / hidden)),
    x = draw(samples * width, 1),
    y = new Float32Array(samples * width);
  const h = new Float32Array(hidden);
  for (let n = 0; n < samples; n++) {
    h.fill(0);
    for (let i = 0; i < width; i++) for (let j = 0; j < hidden; j++) h[j] += x[n * width + i] * a[i * hidden + j];
    for (let j = 0; j < hidden; j++)
      if (h[j] > 0) for (let i = 0; i < width; i++) y[n * width + i] += h[j] * b[j * width + i];
  }
  return fromArrays(
    arrays({ x: hostTensor('float32', [samples, width], x), y: hostTensor('float32', [samples, width], y) }, { train }),
    size,
  );
}

/** Standard normal numbers (Box-Muller) from a small generator (mulberry32). */
function normals(seed: number): () => number {
  let state = seed;
  const uniform = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(1 - uniform())) * Math.cos(2 * Math.PI * uniform());
}
