// Windows over text: the samples of a language model. In: parts (one file's training or validation bytes each) and a
// context; out: samples. Window i of a part is its bytes [i * context, i * context + context] (context + 1 of them):
// the first `context` are x, the last `context` are y, the next byte at every place. Windows predict different bytes,
// never cross a file's end, and what is left at the end of a part (fewer than context + 1 bytes) belongs to none. Ids
// count on from part to part.
import type { Batch } from '../base/tensor.ts';
import type { Samples } from './batches.ts';

/** How many windows a part of `bytes` bytes has. */
export const windowCount = (bytes: number, context: number): number => Math.max(0, Math.floor((bytes - 1) / context));

/**
 * A batch of zeros with the shape of windows, for use where only the shape matters. x and y share memory, which the
 * system allocates only when it is written to.
 */
export function windowsShape(size: number, context: number): Batch {
  const zeros = { dtype: 'int32', shape: [size, context], data: new Int32Array(size * context) } as const;
  return { x: zeros, y: zeros, ids: new Int32Array(size) };
}

export function windowSamples(parts: readonly Uint8Array[], context: number): Samples {
  const first = new Float64Array(parts.length + 1); // first[p]: id of part p's window 0
  parts.forEach((part, p) => {
    first[p + 1] = first[p] + windowCount(part.length, context);
  });
  return {
    count: first[parts.length],
    gather(ids: Int32Array): Batch {
      const shape = [ids.length, context];
      const x = new Int32Array(ids.length * context); // [windows, context]
      const y = new Int32Array(ids.length * context); // [windows, context]
      ids.forEach((id, row) => {
        const p = lastAtMost(first, id);
        const at = (id - first[p]) * context;
        x.set(parts[p].subarray(at, at + context), row * context);
        y.set(parts[p].subarray(at + 1, at + 1 + context), row * context);
      });
      return { x: { dtype: 'int32', shape, data: x }, y: { dtype: 'int32', shape, data: y }, ids };
    },
  };
}

/** The last index p with sorted[p] <= value: the part that contains a window; parts without windows are skipped. */
function lastAtMost(sorted: Float64Array, value: number): number {
  let low = 0,
    high = sorted.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >>> 1;
    if (sorted[middle] <= value) low = middle;
    else high = middle - 1;
  }
  return low;
}
