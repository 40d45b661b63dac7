// What callers hand in: their buffers may be filled again as soon as a call has returned. A call that can run at once
// has brought them to the device by then. For the others copies are made before they return. Buffers of the session's
// own take turns: a copy costs no new memory from call to call.
import type { TypedArray } from '../base/dtype.ts';
import type { Batch, HostTensor } from '../base/tensor.ts';

/**
 * Buffers that are kept while nobody uses them: x and y of a training batch and of another one. Smaller ones than that
 * are copied anew.
 */
const KEPT = 4,
  SMALL = 4096; // bytes

type Arrays = Readonly<Record<string, TypedArray>>;

/** A batch of its own arrays. */
export function copyOf({ x, y, ids }: Batch): Batch {
  const of = (t: HostTensor): HostTensor => ({ dtype: t.dtype, shape: [...t.shape], data: t.data.slice() });
  return { x: of(x), y: of(y), ...(ids && { ids: ids.slice() }) };
}

/** What one call works on: the caller's arrays until the call returns, copies of them after that. */
export class Loan {
  #arrays: Arrays;
  readonly #records: Record<string, TypedArray>[] = [];
  #needed = true;

  constructor(given: Arrays) {
    this.#arrays = given;
  }

  /** The arrays as they are to be read at this moment. */
  get arrays(): Arrays {
    return this.#arrays;
  }

  /** Where the record holds one of the arrays, or a part of one, it holds the copy once the call has returned. */
  note<R extends Record<string, TypedArray>>(record: R): R {
    this.#records.push(record);
    return record;
  }

  /** The arrays are on the device and nothing reads them again: no copies are needed. */
  readonly done = (): void => {
    this.#needed = false;
  };

  /** The call returns. Gives the copies that were made. */
  end(copy: (data: TypedArray) => TypedArray): readonly TypedArray[] {
    if (!this.#needed) return [];
    const given = this.#arrays,
      copies: Record<string, TypedArray> = {};
    for (const name of Object.keys(given)) copies[name] = copy(given[name]);
    this.#arrays = copies;
    for (const record of this.#records.splice(0)) {
      for (const key of Object.keys(record)) {
        const name = Object.keys(given).find((n) => lies(record[key], given[n]));
        if (name !== undefined) record[key] = sameParts(record[key], given[name], copies[name]);
      }
    }
    return Object.values(copies);
  }
}

/** Whether `part` is a view of memory that `whole` has. */
const lies = (part: TypedArray, whole: TypedArray): boolean =>
  part.constructor === whole.constructor &&
  part.buffer === whole.buffer &&
  part.byteOffset >= whole.byteOffset &&
  part.byteOffset + part.byteLength <= whole.byteOffset + whole.byteLength;

/** The part of `copy` that `part` is of `whole`. */
function sameParts(part: TypedArray, whole: TypedArray, copy: TypedArray): TypedArray {
  const at = (part.byteOffset - whole.byteOffset) / whole.BYTES_PER_ELEMENT;
  return part.length === whole.length ? copy : copy.subarray(at, at + part.length);
}

export class Copies {
  readonly #kept: TypedArray[] = [];

  /**
   * Calls `work` with the arrays. What it reads of them after its first wait it must have noted, or take from the loan.
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

  /** The same for a batch. Its ids, which others keep, are copied at once. */
  ofBatch<T>({ x, y, ids }: Batch, work: (own: Batch, loan: Loan) => Promise<T>): Promise<T> {
    const same = x === y;
    return this.of({ x: x.data, ...(!same && { y: y.data }) }, (loan) => {
      const tensor = ({ dtype, shape }: HostTensor, name: string): HostTensor => ({
        dtype,
        shape: [...shape],
        get data() {
          return loan.arrays[name];
        },
      });
      const own = tensor(x, 'x');
      return work({ x: own, y: same ? own : tensor(y, 'y'), ...(ids && { ids: ids.slice() }) }, loan);
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
