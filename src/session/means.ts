// Means over pieces: of a batch that goes through in parts, and of batches of an evaluation. In: what a loss said its
// means are over (`Trace.addMean`); out: graphs of parts whose gradients and values add up to those of the whole, and
// the mean over batches.
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
import { evaluate } from '../run/reference.ts';
import type { CountedMean, Trace } from '../trace/trace.ts';
import { copyOf } from './copies.ts';

type Inputs = Readonly<Record<string, TypedArray>>;
type Outputs = Readonly<Record<string, HostTensor>>;

/** Graphs of counts that are kept: as many as programs. */
const KEPT = 32;

const COUNT = 'count:',
  TERM = 'term:';
/** The input that says how the part weighs beside an even one, for the mean of this number. */
const shareName = (i: number): string => `share${i}`;

/** How `value` follows from means, to first order: for each of them that it depends on, slope * mean. */
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

/** The means whose counts are known at run time alone, by their numbers. */
const varying = ({ means }: Trace): { readonly i: number; readonly count: Tensor }[] =>
  means.flatMap(({ count }, i) => (typeof count === 'number' ? [] : [{ i, count }]));

/**
 * In a part of a batch: `value` such that its mean over parts, and that of its gradients, are those over what
 * counts. A mean that `value` depends on is multiplied by its share, parts * count / sum of the counts of all parts,
 * an input. Where shares are 1, the bits are those of `value`.
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

/** Outputs from which `MeanLoss` joins batches: counts, and what of the loss goes with each. */
export function outputTerms(t: Trace, loss: Tensor): void {
  if (t.means.length === 0) return;
  let found: ReturnType<typeof terms>;
  // A loss that cannot be differentiated is one number as a whole.
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

/** The graph of the counts alone of a part of a batch; null where the graph alone decides them. */
function countsGraph(part: Graph): Graph | null {
  const outputs = part.outputs.filter(({ name }) => name.startsWith(COUNT));
  if (outputs.length === 0) return null;
  const needed = new Set(outputs.map((o) => o.value)),
    nodes = [...part.nodes]
      .reverse()
      .filter((node) => {
        if (!node.outputs.some((v) => needed.has(v))) return false;
        // Of an input that an op takes the type of, its sizes count alone.
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
      `what the loss counts depends on ${state.name}, and parts of a batch cannot be weighed before they are computed`,
      'what counts must follow from x and y alone where accumulate or split is above 1',
    );
  }
  return { ...part, inputs, nodes, outputs, updates: [] };
}

/** In the graph of a part, for `countsGraph`: of the means that a loss follows from, which `inShares` has found. */
export function outputCounts(t: Trace): void {
  const weighed = new Set(t.inputs.map(({ name }) => name));
  for (const { i, count } of varying(t)) if (weighed.has(shareName(i))) t.output(`${COUNT}${i}`, count);
}

/** What a sum is divided by to make a mean: losses divide by 1 where nothing counts. */
const divisor = (count: number): number => (count === 0 ? 1 : count);

/** The share of each part, by the names of inputs. Counts are evaluated on the host, in float64, from the batch:
 * nothing is read back from a device. */
function sharesOf(graph: Graph, parts: readonly Inputs[]): Inputs[] {
  const counts = parts.map((inputs) => {
    const values = evaluate(graph, ops, ({ kind, name, data = [] }) =>
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

/** The shares of the parts of one batch, by their number: they are asked for again and again while a step is
 * prepared. */
export type KnownShares = Map<number, readonly Inputs[]>;

/** The shares of batches that go through in parts. */
export class Shares {
  /** By the shapes of parts; null: their counts do not vary. */
  readonly #graphs = new Map<string, Graph | null>();

  /** Of each part. key: of their shapes; traced: the graph of one, with `outputCounts`. */
  of(known: KnownShares, parts: readonly Inputs[], key: string, traced: () => Graph): readonly Inputs[] {
    if (parts.length === 1) return [{}];
    const found = known.get(parts.length),
      before = this.#graphs.get(key);
    if (found) return found;
    const graph = before === undefined ? countsGraph(traced()) : before;
    keepRecent(this.#graphs, key, graph, KEPT);
    const shares = graph ? sharesOf(graph, parts) : parts.map(() => ({}));
    known.set(parts.length, shares);
    return shares;
  }
}

/** What one batch gave: loss and output, and the terms of the loss with what each is a mean over. */
export interface Measured {
  readonly outputs: Outputs;
  readonly loss: number;
  readonly samples: number;
  readonly terms: readonly { readonly value: number; readonly count: number }[];
}

/** From the outputs of an evaluation of one batch. */
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

/** The mean loss over batches: each term weighs by what it counts, the rest of a loss by samples. */
export class MeanLoss {
  #rest = 0;
  readonly #sums: { value: number; count: number }[] = [];
  #samples = 0;

  add({ loss, samples, terms }: Measured): void {
    const own = terms.reduce((n, t) => n + t.value, 0);
    this.#rest += (loss === own ? 0 : loss - own) * samples; // infinities, too
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

  /** loss: NaN where nothing counts. count: what the loss is a mean over, of several terms the most; samples where it
   * does not say, or where a part of it that does not say is all there is. */
  result(): Evaluation {
    const sums = this.#sums,
      samples = this.#samples;
    const most = Math.max(0, ...sums.map((s) => s.count)),
      count = sums.length === 0 || (most === 0 && this.#rest !== 0) ? samples : most;
    const loss = sums.reduce((n, s) => n + s.value / divisor(s.count), this.#rest / samples);
    return { loss: count === 0 ? NaN : loss, samples, count };
  }
}

/** Batches as they are now: a list may be changed once the call has returned; what comes bit by bit is looked at as it
 * comes. Throws UserError for what gives no batches. */
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

/** The mean over all batches. Throws UserError where there is nothing to be a mean over. */
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
