// The kernel of random initial values. Each device has it as a routine of its own, because it runs while a model's
// kernels are being compiled, and compiling it first would delay the first step. base/random.ts defines its bits.
import { bytesPer, type DType } from '../base/dtype.ts';

/** In `compile` and `bind` it is used like any other kernel. */
export interface NormalsSource {
  readonly key: 'normals';
  readonly kernel: { readonly form: 'normals' };
}

/**
 * Fills float32[count] or bfloat16[count] with `std` times the normal numbers of a random stream, from number `first`
 * (even) on. Buffers: the numbers; TABLES of base/trig.ts. Integers: `normalsInts`.
 */
export const NORMALS: NormalsSource = { key: 'normals', kernel: { form: 'normals' } };

/** By key: reading the kernel of another source would schedule it. */
export const isNormals = (source: { readonly key: string }): source is NormalsSource => source.key === NORMALS.key;

/**
 * count, seed, the stream's name as a hash, the bits of `std` as a float64 (the low word, then the high word), the
 * bytes of a number, and half of `first`.
 */
export function normalsInts(
  count: number,
  seed: number,
  name: number,
  std: number,
  dtype: DType = 'float32',
  first = 0,
): number[] {
  const bits = new DataView(new ArrayBuffer(8));
  bits.setFloat64(0, std, true);
  return [count, seed, name, bits.getUint32(0, true), bits.getUint32(4, true), bytesPer(dtype), first / 2];
}
