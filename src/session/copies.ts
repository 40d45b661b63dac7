// Copies of the arrays that callers pass in: a caller may refill its arrays as soon as a call has returned. A call
// that can run at once writes them to the device before it returns and needs no copy. For a call that has to wait,
// copies are made before it returns, into buffers that are used again by later calls.
import type { DType, TypedArray } from '../base/dtype.ts';
import type { Batch, HostTensor } from '../base/tensor.ts';

/**
 * Number of unused buffers that are kept: x and y of two batches, such as a training and a validation batch. Arrays of
 * at most SMALL bytes get new memory.
 */
const KEPT = 4,
  SMALL = 4096; // bytes

type Arrays = Readonly<Record<string, TypedArray>>;

/** Copies of what a batch says of each sample besides x and y, for the samples `from` to `to` - 1 (all by default). */
export const perSample = ({ ids, lengths }: Batch, from?: number, to?: number): Pick<Batch, 'ids' | 'lengths'> => ({
  ...(ids && { ids: ids.slice(from, to) }),
  ...(lengths && { lengths: lengths.slice(from, to) }),
});

/** A deep copy of a batch. */
export function copyOf(batch: Batch): Batch {
  const of = (t: HostTensor): HostTensor => ({ dtype: t.dtype, shape: [...t.shape], data: t.data.slice() });
  return { x: of(batch.x), y: of(batch.y), ...perSample(batch) };
}

/** The input arrays of one call: the caller's arrays until the call returns, then copies. */
export class Loan {
  #arrays: Arrays;
  readonly #records: Record<string, TypedArray>[] = [];
  #needed = true;

  constructor(given: Arrays) {
    this.#arrays = given;
  }

  /** The arrays to read now. */
  get arrays(): Arrays {
    return this.#arrays;
  }

  /** Registers a record: when the call returns, arrays in it (or views of them) are replaced by the copies. */
  note<R extends Record<string, TypedArray>>(record: R): R {
    this.#records.push(record);
    return record;
  }

  /** Tells that the arrays were written to the device and will not be read again, so that no copies are made. */
  readonly done = (): void => {
    this.#needed = false;
  };

  /** Call it when the call returns. Makes the copies, if still needed, and returns them. */
  end(copy: (data: TypedArray) => TypedArray): readonly TypedArray[] {
    if (!this.#needed) return [];
    const given = this.#arrays,
      copies: Record<string, TypedArray> = {};
    for (const name of Object.keys(given)) copies[name] = copy(given[name]);
    this.#arrays = copies;
    for (const record of this.#records.splice(0)) {
      for (const key of Object.keys(record)) {
        const name = Object.keys(given).find((n) => isViewOf(record[key], given[n]));
        if (name !== undefined) record[key] = sameView(record[key], given[name], copies[name]);
      }
    }
    return Object.values(copies);
  }
}

/** Whether `part` is `whole` or a view into it. */
const isViewOf = (part: TypedArray, whole: TypedArray): boolean =>
  part.constructor === whole.constructor &&
  part.buffer === whole.buffer &&
  part.byteOffset >= whole.byteOffset &&
  part.byteOffset + part.byteLength <= whole.byteOffset + whole.byteLength;

/** The view of `copy` at the position that `part` has in `whole`. */
function sameView(part: TypedArray, whole: TypedArray, copy: TypedArray): TypedArray {
  const at = (part.byteOffset - whole.byteOffset) / whole.BYTES_PER_ELEMENT;
  return part.length === whole.length ? copy : copy.subarray(at, at + part.length);
}

/** A tensor of a call: its data is an array of the loan. */
class Lent implements HostTensor {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly #loan: Loan;
  readonly #name: string;

  constructor({ dtype, shape }: HostTensor, loan: Loan, name: string) {
    this.dtype = dtype;
    this.shape = [...shape];
    this.#loan = loan;
    this.#name = name;
  }

  get data(): TypedArray {
    return this.#loan.arrays[this.#name];
  }
}

export class Copies {
  readonly #kept: TypedArray[] = [];

  /**
   * Calls `work` with a Loan of the arrays. After its first await, `work` must read them from the loan or from a
   * record that it registered with `note`.
   */
  async of<T>(given: Arrays, work: (loan: Loan) => Promise<T>): Promise<T> {
    const loan = new Loan(given),
      running = work(loan),
      copies = loan.end((data) => this.#copy(data));
    try {
      return await running;
    } finally {
      for (const copy of copies) if (copy.byteLength > SMALL) this.#kept.unshift(copy);
      if (this.#kept.length > KEPT) this.#kept.length = KEPT;
    }
  }

  /** The same for a batch. Its ids and lengths are copied at once, because statistics keep them. */
  ofBatch<T>(batch: Batch, work: (own: Batch, loan: Loan) => Promise<T>): Promise<T> {
    const { x, y } = batch,
      same = x === y;
    return this.of({ x: x.data, ...(!same && { y: y.data }) }, (loan) => {
      const own = new Lent(x, loan, 'x');
      return work({ x: own, y: same ? own : new Lent(y, loan, 'y'), ...perSample(batch) }, loan);
    });
  }

  #copy(data: TypedArray): TypedArray {
    if (data.byteLength <= SMALL) return data.slice();
    const at = this.#kept.findIndex((k) => k.length === data.length && k.constructor === data.constructor);
    if (at < 0) return data.slice();
    const [found] = this.#kept.splice(at, 1);
    found.set(data);
    return found;
  }
}
