// 16-bit floats on the host, as bits: bfloat16 (8 bits of exponent, 7 of mantissa) and float16 (IEEE 754 binary16: 5
// and 10). Kernels convert by the same rules (device/native/kernel.h, emit/wasm/words.ts): to the nearest, ties to
// even, rounded once from any type of number; numbers beyond the largest finite one become infinite; small numbers
// become subnormal; NaN stays NaN.

export type HalfDType = 'bfloat16' | 'float16';

const float = new Float32Array(1),
  word = new Uint32Array(float.buffer);

/**
 * The bits of a float32 that is rounded to odd: if the other half of the number's bits is not 0, the last bit is 1. A
 * later rounding to 22 bits or fewer then gives the same result as rounding the number itself.
 */
function oddBits(x: number): number {
  float[0] = x;
  const near = float[0],
    bits = word[0];
  if (near === x || near !== near) return bits;
  return (Math.abs(near) > Math.abs(x) ? bits - 1 : bits) | 1;
}

function toBfloat16(bits: number): number {
  if ((bits & 0x7fffffff) > 0x7f800000) return (bits >>> 16) | 0x40;
  return (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
}

function toFloat16(bits: number): number {
  const sign = (bits >>> 16) & 0x8000,
    magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x1ff);
  if (magnitude >= 0x47800000) return sign | 0x7c00;
  if (magnitude < 0x38800000) {
    // Below the smallest normal number: in x + 1/2 the last bit of the mantissa stands for 2^-24, the unit of the
    // subnormals.
    word[0] = magnitude;
    float[0] += 0.5;
    return sign | (word[0] - 0x3f000000);
  }
  return sign | ((magnitude - 0x38000000 + 0xfff + ((magnitude >>> 13) & 1)) >>> 13);
}

const SCALE = 2 ** 112; // from float16's exponents to float32's

function fromFloat16(bits: number): number {
  const magnitude = bits & 0x7fff;
  if (magnitude >= 0x7c00) return magnitude > 0x7c00 ? NaN : bits & 0x8000 ? -Infinity : Infinity;
  word[0] = magnitude << 13;
  return bits & 0x8000 ? -float[0] * SCALE : float[0] * SCALE;
}

/** Numbers to the bits of 16-bit floats. */
export function toHalf(
  dtype: HalfDType,
  values: ArrayLike<number>,
  into = new Uint16Array(values.length),
): Uint16Array {
  const convert = dtype === 'bfloat16' ? toBfloat16 : toFloat16;
  for (let i = 0; i < into.length; i++) into[i] = convert(oddBits(values[i]));
  return into;
}

/** The bits of 16-bit floats to numbers: exact, in float32 as in float64. */
export function fromHalf<T extends Float32Array | Float64Array>(dtype: HalfDType, bits: ArrayLike<number>, into: T): T {
  if (dtype === 'float16') {
    for (let i = 0; i < into.length; i++) into[i] = fromFloat16(bits[i]);
  } else {
    for (let i = 0; i < into.length; i++) {
      word[0] = bits[i] << 16;
      into[i] = float[0];
    }
  }
  return into;
}

export const isHalf = (dtype: string): dtype is HalfDType => dtype === 'bfloat16' || dtype === 'float16';
