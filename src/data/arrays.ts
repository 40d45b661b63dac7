// Samples in memory, as rows of two tensors. In: x [n, ...] and y [n, ...], or a function that loads them; out: a
// dataset.
import { bytesPer, hostArray } from '../base/dtype.ts';
import { ShapeError, UserError } from '../base/errors.ts';
import { checkOptions, type KeysOf } from '../base/options.ts';
import { aNumber, anything, needed } from '../base/kinds.ts';
import { hostTensor, type Batch, type HostTensor } from '../base/tensor.ts';
import { bytesOf } from '../base/same.ts';
import { fingerprintOf } from './fingerprint.ts';
import { ordered, shuffled, wholeNumber, type Samples } from './batches.ts';
import {
  BATCH_KEYS,
  PASS_KEYS,
  type Batches,
  type BatchOptions,
  type Dataset,
  type PassOptions,
  type Split,
} from './dataset.ts';

/** Rows 0..n-1: sample i is row i of x and row i of y. */
export interface Rows {
  readonly x: HostTensor;
  readonly y: HostTensor;
}
export interface Parts {
  readonly train: Rows;
  readonly test: Rows;
}

export interface ArrayOptions {
  /** How many rows are for training, the first ones; the rest is held out. Default: all. */
  readonly train?: number;
}
const KEYS: KeysOf<ArrayOptions> = { train: aNumber };
const ROW_KEYS: KeysOf<Rows> = { x: needed(anything), y: needed(anything) };

/**
 * A dataset of rows in memory, which are not copied and must not change. `train`: how many rows are for training, from
 * the first; the others are held out; by default all are for training. Throws ShapeError if x and y have different
 * numbers of rows, or data of another length than their shapes say.
 */
export function arrays(rows: Rows, options: ArrayOptions = {}): ArrayDataset {
  for (const name of ['x', 'y'] as const) checkTensor(name, (rows as Partial<Rows> | undefined)?.[name]);
  checkOptions('arrays: rows', rows, ROW_KEYS);
  checkOptions('arrays', options, KEYS);
  const parts = splitRows(rows, options.train ?? rows.x.shape[0], 'arrays');
  return new ArrayDataset('arrays', () => Promise.resolve(parts));
}

/** Checks types, for callers without TypeScript. */
function checkTensor(name: string, tensor: Partial<HostTensor> | undefined): void {
  const { dtype, shape, data } = tensor ?? {},
    hint = "hostTensor('float32', [rows, columns], values)";
  if (!dtype || !Array.isArray(shape) || !ArrayBuffer.isView(data))
    throw new UserError(`arrays: ${name} must be a tensor of the host { dtype, shape, data }`, hint);
  if (hostTensor(dtype, shape, data).data !== data)
    throw new UserError(`arrays: ${name} is ${dtype}, its data a ${data.constructor.name}`, hint);
}

export class ArrayDataset implements Dataset {
  readonly #name: string;
  readonly #load: () => Promise<Parts>;
  #parts: Promise<Parts> | undefined;

  constructor(name: string, load: () => Promise<Parts>) {
    this.#name = name;
    this.#load = load;
  }

  /** Shuffled rows: x [size, ...], y [size, ...], ids int32 [size] = row numbers in the split. */
  batches(options: BatchOptions): Batches {
    checkOptions('batches', options, BATCH_KEYS);
    return shuffled(() => this.#samples(options.split ?? 'train'), options);
  }

  /** Every row of a split once, in order; the last batch has the remaining rows. */
  pass(options: PassOptions): AsyncIterable<Batch> {
    checkOptions('pass', options, PASS_KEYS);
    return ordered(() => this.#samples(options.split ?? 'test'), options);
  }

  /** All rows of a split as one batch, not copied. */
  async all(split: Split): Promise<Batch> {
    return this.#rows(split);
  }

  async fingerprint(): Promise<string> {
    const { train, test } = await this.#read();
    return fingerprintOf(
      [train.x, train.y, test.x, test.y].flatMap(({ dtype, shape, data }) => [
        `${dtype} ${shape.join()} `,
        bytesOf(data),
      ]),
    );
  }

  #read(): Promise<Parts> {
    return (this.#parts ??= this.#load());
  }

  async #rows(split: Split): Promise<Rows> {
    const parts = await this.#read();
    return split === 'train' ? parts.train : parts.test;
  }

  async #samples(split: Split): Promise<Samples> {
    const { x, y } = await this.#rows(split);
    const count = x.shape[0];
    if (count === 0)
      throw new UserError(`${this.#name}: the ${split} split has no samples`, 'change how many are for training');
    return { count, gather: (ids) => ({ x: take(x, ids), y: take(y, ids), ids }) };
  }
}

/** The first `train` rows and the rest, over the same memory. */
export function splitRows({ x, y }: Rows, train: number, where: string): Parts {
  const count = x.shape[0];
  if (count === undefined || y.shape[0] !== count) {
    throw new ShapeError(
      `${where}: x is [${x.shape.join(', ')}] and y is [${y.shape.join(', ')}]`,
      'the first dimension of both must be the number of samples',
    );
  }
  wholeNumber(where, 'train', train, 0);
  if (train > count)
    throw new UserError(`${where}: ${train} samples to train on, but there are ${count}`, `use at most ${count}`);
  return {
    train: { x: slice(x, 0, train), y: slice(y, 0, train) },
    test: { x: slice(x, train, count), y: slice(y, train, count) },
  };
}

const rowSize = (t: HostTensor): number => t.shape.slice(1).reduce((n, d) => n * d, 1);

function slice(t: HostTensor, from: number, to: number): HostTensor {
  const size = rowSize(t);
  return { dtype: t.dtype, shape: [to - from, ...t.shape.slice(1)], data: t.data.subarray(from * size, to * size) };
}

function take(t: HostTensor, ids: Int32Array): HostTensor {
  const size = rowSize(t);
  const data = allocate(t, ids.length, size); // [ids, ...]
  ids.forEach((id, row) => {
    data.set(t.data.subarray(id * size, (id + 1) * size), row * size);
  });
  return { dtype: t.dtype, shape: [ids.length, ...t.shape.slice(1)], data };
}

function allocate({ dtype }: HostTensor, rows: number, size: number): HostTensor['data'] {
  try {
    return hostArray(dtype, rows * size);
  } catch (error) {
    throw new UserError(
      `a batch of ${rows} samples needs ${rows * size * bytesPer(dtype)} bytes of memory, more than there is`,
      'choose a smaller batch',
      error,
    );
  }
}
