// Converts values from one dtype to another on the host, by the rules of `ops.cast`.
import { DTYPES, hostArray, isFloat, type DType, type TypedArray } from './dtype.ts';
import { UserError } from './errors.ts';
import { fromHalf, isHalf, toHalf } from './half.ts';
import { hostTensor, type HostTensor } from './tensor.ts';

/**
 * A number converted to another dtype. Floats to integers: truncated towards zero and clamped to the range; NaN is 0.
 * Integers to integers: modulo 2^32. To bool: whether it is not 0. To floats: rounded to the nearest, ties to even; a
 * number beyond the largest becomes infinite.
 */
export function castValue(x: number, dtype: DType, from: DType): number {
  if (!isFloat(from) && (dtype === 'int32' || dtype === 'uint32')) return dtype === 'int32' ? x | 0 : x >>> 0;
  switch (dtype) {
    case 'float64':
      return x;
    case 'float32':
      return Math.fround(x);
    case 'bfloat16':
    case 'float16':
      return fromHalf(dtype, toHalf(dtype, [x]), new Float64Array(1))[0];
    case 'bool':
      return x !== 0 ? 1 : 0;
    case 'int32':
      return Number.isNaN(x) ? 0 : Math.min(0x7fffffff, Math.max(-0x80000000, Math.trunc(x))) + 0;
    case 'uint32':
      return Number.isNaN(x) ? 0 : Math.min(0xffffffff, Math.max(0, Math.trunc(x))) + 0;
  }
}

/** The numbers of a tensor. bfloat16 and float16, whose data are bits, are given as float32; other data as it is. */
export const numbersOf = ({ dtype, data }: Pick<HostTensor, 'dtype' | 'data'>): Exclude<TypedArray, Uint16Array> =>
  isHalf(dtype) ? fromHalf(dtype, data, new Float32Array(data.length)) : (data as Exclude<TypedArray, Uint16Array>);

/**
 * A tensor of the host as another dtype, by the rules of `ops.cast`: floats are rounded to the nearest, ties to even,
 * and beyond the largest finite number become infinite; NaN stays NaN. Floats to integers are truncated towards zero
 * and end at the least and the largest integer; NaN becomes 0. int32 and uint32 become each other modulo 2^32. Every
 * bfloat16 and float16 is exact as float32. The result has data of its own. Throws UserError for a dtype that there is
 * not, and where shape and data do not agree.
 */
export function convert(tensor: HostTensor, dtype: DType): HostTensor {
  if (!DTYPES.includes(dtype)) throw new UserError(`no dtype named ${String(dtype)}`, `one of ${DTYPES.join(', ')}`);
  const { shape, data } = hostTensor(tensor.dtype, tensor.shape, tensor.data);
  if (tensor.dtype === dtype) return { dtype, shape, data: data.slice() };
  const numbers = numbersOf(tensor);
  if (isHalf(dtype)) return { dtype, shape, data: toHalf(dtype, numbers) };
  const out = hostArray(dtype, numbers.length);
  if (dtype === 'float32' || dtype === 'float64') out.set(numbers);
  else for (let i = 0; i < out.length; i++) out[i] = castValue(numbers[i], dtype, tensor.dtype);
  return { dtype, shape, data: out };
}
