// Means over the parts of a batch, and over the batches of an evaluation. In: the means that a loss declared
// (`Trace.addMean`); out: graphs of parts whose gradients and values add up to those of the whole batch, and the mean
// over batches.
import type { TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { keepRecent } from '../base/recent.ts';
import type { Batch, HostTensor } from '../base/tensor.ts';
import { gradients } from '../grad/differentiate.ts';
import { dimValues, type Graph } from '../graph/graph.ts';
import { add } from '../graph/ops/elementwise/add.ts';
import { cast } from '../graph/ops/elementwise/cast.ts';
import { ops } from '../graph/ops/index.ts';
import { mul } from '../graph/ops/elementwise/mul.ts';
import { stopGradient } from '../graph/ops/elementwise/stopGradient.ts';
import { sub } from '../graph/ops/elementwise/sub.ts';
import { scalar, type Tensor } from '../graph/tensor.ts';
import type { Reference } from '../run/reference.ts';
import type { CountedMean, Trace } from '../trace/trace.ts';
import { copyOf } from './copies.ts';

type Inputs = Readonly<Record<string, TypedArray>>;
type Outputs = Readonly<Record<string, HostTensor>>;

/** Number of count graphs that are kept. */
const KEPT = 32;

const COUNT = 'count:',
  TERM = 'term:';
/** Name of the input that holds the part's share for mean i: its weight relative to an even split. */
const shareName = (i: number): string => `share${i}`;

/** Linearises `value` in the means: for each mean that it depends on, slope * mean. */
function terms(
  t: Trace,
  value: Tensor,
  means: readonly CountedMean[],
): { readonly index: number; readonly term: Tensor }[] {
  const slopes = gradients(
    t,
    value,
    means.map((m) => m.mean),
  );
  return means.flatMap(({ mean }, index) => {
    const slope = slopes[index];
    return slope ? [{ index, term: mean.id === value.id ? mean : mul(stopGradient(slope), mean) }] : [];
  });
}

/** The dtype of a count, and of the shares that follow from it. */
const floatOf = ({ dtype }: Pick<Tensor, 'dtype'>): 'float32' | 'float64' => (dtype === 'float64' ? dtype : 'float32');

/** The means whose counts are known only at run time, with their index. */
const varying = ({ means }: Trace): { readonly i: number; readonly count: Tensor }[] =>
  means.flatMap(({ count }, i) => (typeof count === 'number' ? [] : [{ i, count }]));

/**
 * In a part of a batch: corrects `value` so that its mean over the parts (and that of its gradients) is the mean over
 * everything counted in the batch. Each mean that `value` depends on is multiplied by its share, an input: parts *
 * count / (sum of the counts of all parts). If all shares are 1, the bits are those of `value`.
 */
export function inShares(t: Trace, value: Tensor): Tensor {
  const own = varying(t);
  if (own.length === 0) return value;
  return terms(
    t,
    value,
    own.map(({ i }) => t.means[i]),
  ).reduce((sum, { index, term }) => {
    const { i, count } = own[index],
      share = cast(t.scalar(shareName(i), floatOf(count)), term.dtype);
    return add(sum, mul(term, sub(share, scalar(share, 1))));
  }, value);
}

/** Adds the outputs that `MeanLoss` needs to join batches: each count, and the term of the loss that belongs to it. */
export function outputTerms(t: Trace, loss: Tensor): void {
  if (t.means.length === 0) return;
  let found: ReturnType<typeof terms>;
  // A loss that is not differentiable has no terms: it is weighted by samples.
  try {
    found = terms(t, loss, t.means);
  } catch (error) {
    if (error instanceof UserError) return;
    throw error;
  }
  for (const { index, term } of found) {
    const { count } = t.means[index];
    t.output(`${COUNT}${index}`, typeof count === 'number' ? scalar(loss, count, 'float32') : count);
    t.output(`${TERM}${index}`, term);
  }
}

/** The graph that computes only the counts of a part; null where no count depends on the data. */
function countsGraph(part: Graph): Graph | null {
  const outputs = part.outputs.filter(({ name }) => name.startsWith(COUNT));
  if (outputs.length === 0) return null;
  const needed = new Set(outputs.map((o) => o.value)),
    nodes = [...part.nodes]
      .reverse()
      .filter((node) => {
        if (!node.outputs.some((v) => needed.has(v))) return false;
        // `unread` inputs give only their type: their sizes are needed, their values are not.
        const unread = ops.get(node.op)?.unread ?? [];
        node.inputs.forEach((v, i) => {
          if (!unread.includes(i)) needed.add(v);
        });
        for (const v of [...node.inputs, ...node.outputs]) for (const d of dimValues(part.types[v])) needed.add(d);
        return true;
      })
      .reverse();
  const inputs = part.inputs.filter((i) => needed.has(i.value)),
    state = inputs.find((i) => i.kind === 'state');
  if (state) {
    throw new UserError(
      `the loss counts something that depends on ${state.name}, so parts of a batch cannot be weighted in advance`,
      'with accumulate or split above 1, counts must depend on x and y only',
    );
  }
  return { ...part, inputs, nodes, outputs, updates: [] };
}

/** Adds the counts that `countsGraph` extracts: those of the means that `inShares` found in a loss. */
export function outputCounts(t: Trace): void {
  const weighed = new Set(t.inputs.map(({ name }) => name));
  for (const { i, count } of varying(t)) if (weighed.has(shareName(i))) t.output(`${COUNT}${i}`, count);
}

/** The divisor of a mean: losses divide by 1 where nothing is counted. */
const divisor = (count: number): number => (count === 0 ? 1 : count);

/**
 * The shares of each part, by input name. Counts are evaluated on the host in float64 from the batch, so nothing is
 * read back from a device.
 */
function sharesOf(graph: Graph, parts: readonly Inputs[], { here }: Reference): Inputs[] {
  if (!here) throw new Error('the evaluation of graphs is not loaded');
  const counts = parts.map((inputs) => {
    const values = here.evaluate(graph, ops, ({ kind, name, data = [] }) =>
      Float64Array.from(kind === 'constant' ? data : inputs[name]),
    );
    return graph.outputs.map(({ value }) => values[value][0]);
  });
  return counts.map((own) =>
    Object.fromEntries(
      graph.outputs.map(({ name, value }, j) => {
        const share = (parts.length * divisor(own[j])) / divisor(counts.reduce((n, c) => n + c[j], 0));
        const data = floatOf(graph.types[value]) === 'float64' ? Float64Array.of(share) : Float32Array.of(share);
        return [shareName(Number(name.slice(COUNT.length))), data];
      }),
    ),
  );
}

/** The shares of one batch by number of parts: a step asks for them several times. */
export type KnownShares = Map<number, readonly Inputs[]>;

/** Computes the shares of the parts of batches. */
export class Shares {
  readonly #reference: Reference;
  /** Count graphs by the shapes of parts; null: no count depends on the data. */
  readonly #graphs = new Map<string, Graph | null>();

  constructor(reference: Reference) {
    this.#reference = reference;
  }

  /** The shares of each part. key: the shapes of a part; traced: traces one part with `outputCounts`. */
  of(known: KnownShares, parts: readonly Inputs[], key: string, traced: () => Graph): readonly Inputs[] {
    const found = known.get(parts.length),
      before = this.#graphs.get(key);
    if (found) return found;
    const graph = before === undefined ? countsGraph(traced()) : before;
    keepRecent(this.#graphs, key, graph, KEPT);
    const shares = graph ? sharesOf(graph, parts, this.#reference) : parts.map(() => ({}));
    known.set(parts.length, shares);
    return shares;
  }
}

/** The result of one batch: outputs, loss, and the loss's terms with the count of each. */
export interface Measured {
  readonly outputs: Outputs;
  readonly loss: number;
  readonly samples: number;
  readonly terms: readonly { readonly value: number; readonly count: number }[];
}

/** Reads the outputs of an evaluation of one batch. */
export function measured({ x }: Batch, out: Outputs): Measured {
  const inner = (name: string): boolean => name.startsWith(COUNT) || name.startsWith(TERM);
  const number = (name: string): number => Number(out[name].data[0]);
  const terms = Object.keys(out)
    .filter((name) => name.startsWith(TERM))
    .map((name) => ({ value: number(name), count: number(COUNT + name.slice(TERM.length)) }));
  const outputs = Object.fromEntries(Object.entries(out).filter(([name]) => !inner(name)));
  return { outputs, loss: number('loss'), samples: x.shape[0], terms };
}

export interface Evaluation {
  readonly loss: number;
  readonly samples: number;
  readonly count: number;
}

/** The mean loss over batches: each term is weighted by its count, the rest of the loss by samples. */
export class MeanLoss {
  #rest = 0;
  readonly #sums: { value: number; count: number }[] = [];
  #samples = 0;

  add({ loss, samples, terms }: Measured): void {
    const own = terms.reduce((n, t) => n + t.value, 0);
    this.#rest += (loss === own ? 0 : loss - own) * samples; // avoids Infinity - Infinity
    this.#samples += samples;
    terms.forEach(({ value, count }, i) => {
      const sum = (this.#sums[i] ??= { value: 0, count: 0 });
      sum.value += value * divisor(count);
      sum.count += count;
    });
  }

  get samples(): number {
    return this.#samples;
  }

  /**
   * loss: NaN where nothing was counted. count: what the loss is a mean over; of several terms the largest; the number
   * of samples if the loss declares no count, or if only undeclared parts of it are not 0.
   */
  result(): Evaluation {
    const sums = this.#sums,
      samples = this.#samples;
    const most = Math.max(0, ...sums.map((s) => s.count)),
      count = sums.length === 0 || (most === 0 && this.#rest !== 0) ? samples : most;
    const loss = sums.reduce((n, s) => n + s.value / divisor(s.count), this.#rest / samples);
    return { loss: count === 0 ? NaN : loss, samples, count };
  }
}

/**
 * Copies a list of batches, so that the caller may change it; an iterable is returned as it is, and its batches are
 * checked as they come. Throws UserError for anything else.
 */
export function batchesOf(given: unknown, check: (batch: Batch) => void): AsyncIterable<Batch> | readonly Batch[] {
  if (Array.isArray(given))
    return given.map((batch: Batch) => {
      check(batch);
      return copyOf(batch);
    });
  const iterable =
    typeof given === 'object' && given !== null && (Symbol.asyncIterator in given || Symbol.iterator in given);
  if (iterable) return given as AsyncIterable<Batch>;
  const hint = 'a dataset gives them: data.pass({ size: 8 }), of text data.windows({ size: 8, context: 32 })';
  throw new UserError('evaluate: expected batches', hint);
}

/** The mean over all batches. Throws UserError if there are no batches, or if nothing was counted. */
export async function meanOverBatches(
  batches: AsyncIterable<Batch> | readonly Batch[],
  measure: (batch: Batch) => Promise<Measured>,
  progress?: (samples: number) => void,
): Promise<Evaluation> {
  const mean = new MeanLoss();
  for await (const batch of batches) {
    mean.add(await measure(batch));
    progress?.(mean.samples);
  }
  const found = mean.result();
  if (found.samples === 0) throw new UserError('evaluate: there are no batches');
  if (found.count === 0) throw nothingCounts('evaluate', found.samples);
  return found;
}

export const nothingCounts = (who: string, samples: number): UserError =>
  new UserError(
    `${who}: the loss counts nothing in ${samples} samples`,
    'every target is ignored, or every weight is 0',
  );
