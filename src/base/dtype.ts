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

const ARRAYS = {
  float64: Float64Array,
  float32: Float32Array,
  bfloat16: Uint16Array,
  float16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  bool: Uint8Array,
} as const;

/** The kind of typed array that holds elements of `dtype` on the host. */
export const arrayKind = (dtype: DType): (typeof ARRAYS)[DType] => ARRAYS[dtype];

/** A zeroed host array for `length` elements of `dtype`. */
export const hostArray = (dtype: DType, length: number): TypedArray => new ARRAYS[dtype](length);
