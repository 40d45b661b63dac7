// The element types of tensors: their sizes, their kinds and the typed arrays that hold them on the host.
// bfloat16 and float16 are storage types: kernels load and store them, and compute in float32.

export const DTYPES = ['float64', 'float32', 'bfloat16', 'float16', 'int32', 'uint32', 'bool'] as const;
export type DType = (typeof DTYPES)[number];

/** Host storage of a tensor. bool is one byte an element; bfloat16 and float16 are their 16 bits. */
export type TypedArray = Float64Array | Float32Array | Uint16Array | Int32Array | Uint32Array | Uint8Array;

const BYTES: Record<DType, number> = { float64: 8, float32: 4, bfloat16: 2, float16: 2, int32: 4, uint32: 4, bool: 1 };

export const bytesPer = (dtype: DType): number => BYTES[dtype];

export const isFloat = (dtype: DType): boolean =>
  dtype === 'float64' || dtype === 'float32' || dtype === 'bfloat16' || dtype === 'float16';

/** The smallest value: the start of a search for the maximum. */
export const leastOf = (dtype: DType | 'index'): number =>
  dtype === 'int32' ? -0x80000000 : dtype === 'uint32' || dtype === 'bool' || dtype === 'index' ? 0 : -Infinity;

/** A zeroed host array for `length` elements of `dtype`. */
export function hostArray(dtype: DType, length: number): TypedArray {
  switch (dtype) {
    case 'float64':
      return new Float64Array(length);
    case 'float32':
      return new Float32Array(length);
    case 'bfloat16':
    case 'float16':
      return new Uint16Array(length);
    case 'int32':
      return new Int32Array(length);
    case 'uint32':
      return new Uint32Array(length);
    case 'bool':
      return new Uint8Array(length);
  }
}
