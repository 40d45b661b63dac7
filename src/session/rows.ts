// Batches of sequences as rows: the tokens of all samples one after the other, in one dimension that is segmented by
// sample. The first shape of batch has a program of its own, for fixed sizes. From the second shape on, one program
// takes rows: another length, an odd last batch or padding is then another count, not another program. Results have the
// same bits in both forms. In: a batch; out: the sizes of its program, and its inputs.
import { hostArray, type TypedArray } from '../base/dtype.ts';
import { UserError } from '../base/errors.ts';
import { PARTS } from '../base/parts.ts';
import { divided, type Segmented, type TensorType } from '../base/shape.ts';
import type { Batch, HostTensor } from '../base/tensor.ts';
import type { Tensor } from '../graph/tensor.ts';
import type { Knobs } from '../trace/knobs.ts';
import type { Trace } from '../trace/trace.ts';
import type { Model } from './step.ts';

/** The sizes of a program that takes rows. */
export interface RowBounds {
  /** The most rows, of all samples together. */
  readonly rows: number;
  /** A multiple of PARTS: part p of a sum begins at segment p segments / PARTS. Unused segments are empty. */
  readonly segments: number;
  /** The usual number of rows: the compiler weighs costs by it, so that larger bounds give the same kernels. */
  readonly usual: number;
}

/** What tracing reads of a batch. rows: the program takes rows. */
export type BatchType = {
  readonly x: Pick<HostTensor, 'dtype' | 'shape'>;
  readonly y: Pick<HostTensor, 'dtype' | 'shape'>;
  readonly ids?: Int32Array;
  readonly rows?: RowBounds | null;
};

/** The first bound has room for so many tokens of each sample. The next bounds are GROWTH times as large. */
const FIRST = 64,
  GROWTH = 4;

const NEEDED = 'x and y are [batch, time], and the model says sequences: { longest }, as TransformerLM does',
  LIVE = "routing: 'live' in the layers, or batches without ids";

/** Decides for each purpose which batches have a program for fixed sizes, and keeps the bounds of the one for rows. */
export class RowPrograms {
  readonly #model: Model;
  readonly #knobs: Pick<Knobs, 'all'>;
  readonly #say: (line: string) => void;
  /** By purpose: the shapes of the first batch; its number of rows; the bounds of the program for rows. */
  readonly #known = new Map<
    string,
    { readonly first: string; readonly usual: number; readonly bounds: RowBounds | null }
  >();
  /** Why no program takes rows, once a trace has failed. */
  #fails: string | null = null;

  constructor(model: Model, knobs: Pick<Knobs, 'all'>, say: (line: string) => void) {
    this.#model = model;
    this.#knobs = knobs;
    this.#say = say;
  }

  /**
   * The bounds of the program for rows that takes this batch; null: a program for its fixed sizes. shapes: of the
   * batch, as text. fits: traces the program for rows; called before the first one is used.
   */
  of(purpose: string, batch: Batch, shapes: string, fits: (bounds: RowBounds) => unknown): RowBounds | null {
    const { lengths } = batch,
      why = this.#refuses(batch);
    if (why !== null) {
      if (lengths) throw new UserError(`the batch has lengths: ${why}`, NEEDED);
      return null;
    }
    const known = this.#known.get(purpose);
    if (known?.first === shapes && !lengths) return null;
    const rows = rowsOfAll([batch]),
      own = known ?? { first: lengths ? '' : shapes, usual: rows, bounds: null };
    if (!known) this.#known.set(purpose, own);
    if (!known && !lengths) return null;
    if (batch.ids && this.#remembers()) {
      if (lengths) throw new UserError('the batch has lengths: choices that are remembered need a fixed size', LIVE);
      return null;
    }
    const bounds = this.#grown(own.bounds, batch, rows, own.usual);
    if (bounds !== own.bounds && !this.#traces(bounds, batch, fits)) return null;
    this.#known.set(purpose, { ...own, bounds });
    return bounds;
  }

  /** The reason why no program can take this batch as rows; null: a program can. */
  #refuses({ x, y }: Batch): string | null {
    const { longest } = this.#model.sequences ?? { longest: 0 };
    if (longest === 0) return 'the model takes no sequences of different lengths';
    if (x.shape.length !== 2 || x.shape[0] !== y.shape[0] || x.shape[1] !== y.shape[1])
      return 'x and y are not [batch, time]';
    return x.shape[1] > longest ? `sequences are longer than ${longest}` : this.#fails;
  }

  /** Whether layers remember the choices of samples. */
  #remembers(): boolean {
    return Object.values(this.#knobs.all()).some(({ routing = 'live' }) => routing !== 'live');
  }

  /** The bounds of before if the batch fits into them, else larger ones, so that few programs serve many lengths. */
  #grown(before: RowBounds | null, { x }: Batch, rows: number, usual: number): RowBounds {
    const [samples] = x.shape,
      segments = Math.max(before?.segments ?? 0, PARTS * ceilPower(Math.ceil(samples / PARTS)));
    if (before && segments === before.segments && rows <= before.rows) return before;
    const longest = this.#model.sequences?.longest ?? rows,
      least = samples * FIRST,
      wanted = Math.max(
        ceilPower(rows),
        least,
        before && rows > before.rows ? GROWTH * before.rows : (before?.rows ?? 0),
      );
    return { rows: Math.max(rows, Math.min(wanted, samples * longest)), segments, usual };
  }

  /**
   * Whether the model and the loss can be traced with rows. If they cannot, each shape of batch gets a program of its
   * own, and `say` gets the reason, once.
   */
  #traces(bounds: RowBounds, batch: Batch, fits: (bounds: RowBounds) => unknown): boolean {
    try {
      fits(bounds);
      return true;
    } catch (error) {
      if (!(error instanceof UserError) || batch.lengths) throw error;
      this.#fails = error.message.split('\n')[0];
      this.#say(`each shape of batch gets a program of its own, since model and loss take no rows: ${this.#fails}`);
      return false;
    }
  }
}

/** The rows of several batches together. */
export const rowsOfAll = (batches: readonly Batch[]): number =>
  batches.reduce((n, { x: { shape }, lengths }) => n + (lengths ? total(lengths) : shape[0] * shape[1]), 0);

/** What a program for rows depends on, as text. */
export const rowShapes = ({ x, y }: Pick<BatchType, 'x' | 'y'>, { rows, segments }: RowBounds): string =>
  [x, y].map(({ dtype, shape }) => `${dtype}[${[`<=${rows}/${segments}`, ...shape.slice(2)].join()}]`).join(' ');

const total = (lengths: ArrayLike<number>): number => Array.from(lengths).reduce((n, l) => n + l, 0);

const ceilPower = (n: number): number => 2 ** Math.ceil(Math.log2(Math.max(1, n)));

/** The inputs x and y of a trace; for rows, x [rows] and y [rows], whose samples lie between `offsets`. */
export function batchInputs(t: Trace, { x, y, rows }: BatchType): { readonly x: Tensor; readonly y: Tensor } {
  const input = (name: string, type: TensorType): Tensor => t.input('input', name, divided(type, 'batch'));
  if (!rows) return { x: input('x', x), y: input('y', y) };
  const { id } = t.input('input', 'offsets', { dtype: 'int32', shape: [rows.segments + 1] }),
    dim: Segmented = {
      kind: 'segmented',
      bound: rows.rows,
      segments: rows.segments,
      offsets: id,
      ...(rows.usual < rows.rows && { usual: rows.usual }),
    };
  t.rows = dim;
  const of = ({ dtype, shape }: Pick<HostTensor, 'dtype' | 'shape'>): TensorType => ({
    dtype,
    shape: [dim, ...shape.slice(2)],
  });
  return { x: input('x', of(x)), y: input('y', of(y)) };
}

/**
 * The segment of each of `samples` samples: part p of the samples lies in the segments from p segments / PARTS on.
 */
function segmentOf(samples: number, segments: number): number[] {
  const each = segments / PARTS;
  return Array.from({ length: PARTS }, (_, p) => {
    const [from, to] = [p, p + 1].map((q) => Math.floor((samples * q) / PARTS));
    return Array.from({ length: to - from }, (_, i) => p * each + i);
  }).flat();
}

/** int32 [segments + 1]: where the rows of each segment begin, for samples of these lengths. */
export function offsetsOf(lengths: ArrayLike<number>, segments: number): Int32Array {
  const offsets = new Int32Array(segments + 1),
    at = segmentOf(lengths.length, segments);
  at.forEach((segment, s) => {
    offsets[segment + 1] = lengths[s];
  });
  for (let s = 0; s < segments; s++) offsets[s + 1] += offsets[s];
  return offsets;
}

/** The inputs of a program for rows: x and y without padding, and the offsets of samples. */
export function rowInputs({ x, y, lengths }: Batch, { segments }: RowBounds): Record<string, TypedArray> {
  const [samples, time] = x.shape;
  return {
    x: lengths ? compact(x, lengths) : x.data,
    y: lengths ? compact(y, lengths) : y.data,
    offsets: offsetsOf(lengths ?? new Int32Array(samples).fill(time), segments),
  };
}

/** The first lengths[s] elements of each sample s, one sample after the other. */
function compact({ data, shape: [, time] }: HostTensor, lengths: ArrayLike<number>): TypedArray {
  const out = data.slice(0, total(lengths));
  let to = 0;
  for (let s = 0; s < lengths.length; s++) {
    out.set(data.subarray(s * time, s * time + lengths[s]), to);
    to += lengths[s];
  }
  return out;
}

/** Rows as [samples, time, ...], with zeros where a sample has no row. */
export function fromRows({ dtype, shape, data }: HostTensor, batch: Pick<Batch, 'x' | 'lengths'>): HostTensor {
  const [samples, time] = batch.x.shape,
    width = shape.slice(1).reduce((n, d) => n * d, 1),
    whole = { dtype, shape: [samples, time, ...shape.slice(1)] };
  const { lengths } = batch;
  if (!lengths) return { ...whole, data: data.slice(0, samples * time * width) };
  const out = hostArray(dtype, samples * time * width);
  let from = 0;
  for (let s = 0; s < samples; s++) {
    out.set(data.subarray(from * width, (from + lengths[s]) * width), s * time * width);
    from += lengths[s];
  }
  return { ...whole, data: out };
}
