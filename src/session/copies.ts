// Copies of what callers hand in, so that their buffers may be filled again as soon as a call has returned. Buffers of the session's own take
// turns: a copy costs no new memory from call to call.
import type { TypedArray } from '../base/dtype.ts';
import type { Batch, HostTensor } from '../base/tensor.ts';

/** Buffers that are kept while nobody uses them: x and y of a training batch and of another one. Smaller ones than that are copied anew. */
const KEPT = 4, SMALL = 4096; // bytes

type Arrays = Readonly<Record<string, TypedArray>>;

/** A batch of its own arrays. */
export function copyOf({ x, y, ids }: Batch): Batch {
  const of = (t: HostTensor): HostTensor => ({ dtype: t.dtype, shape: [...t.shape], data: t.data.slice() });
  return { x: of(x), y: of(y), ...(ids && { ids: ids.slice() }) };
}

export class Copies {
  readonly #kept: TypedArray[] = [];

  /** Calls `work` with copies of the arrays, which it may use until it is done. */
  async of<T>(given: Arrays, work: (copies: Record<string, TypedArray>) => Promise<T>): Promise<T> {
    const copies: Record<string, TypedArray> = {};
    for (const name of Object.keys(given)) copies[name] = this.#copy(given[name]);
    try {
      return await work(copies);
    } finally {
      for (const name of Object.keys(copies)) if (copies[name].byteLength > SMALL) this.#kept.unshift(copies[name]);
      if (this.#kept.length > KEPT) this.#kept.length = KEPT;
    }
  }

  /** The same for a batch. Its ids, which others keep, are copied anew. */
  ofBatch<T>(batch: Batch, work: (copy: Batch) => Promise<T>): Promise<T> {
    const { x, y, ids } = batch, same = x === y;
    return this.of({ x: x.data, ...(!same && { y: y.data }) }, (copies) => {
      const like = (t: HostTensor, data: TypedArray): HostTensor => ({ dtype: t.dtype, shape: [...t.shape], data }), own = like(x, copies['x']);
      return work({ x: own, y: same ? own : like(y, copies['y']), ...(ids && { ids: ids.slice() }) });
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
