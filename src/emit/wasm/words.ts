// Operations on what stands on the stack: constants, conversions, random words.
import { bytesPer } from '../../base/dtype.ts';
import { VerifyError } from '../../base/errors.ts';
import type { Scalar } from '../../kernel/expr.ts';
import { F32, F64, I32, V128, type Func, type ValueType } from './binary.ts';

export const typeOf = (dtype: Scalar): ValueType => (dtype === 'float32' ? F32 : dtype === 'float64' ? F64 : I32);
/** Bytes of an element; indices have 32 bits here. */
export const sizeOf = (d: Scalar): number => (d === 'index' ? 4 : bytesPer(d));
const isInt = (d: Scalar): boolean => d === 'int32' || d === 'uint32' || d === 'index';

export function pushConstant(f: Func, value: number, dtype: Scalar): void {
  if (dtype === 'float32') f.f32(value);
  else if (dtype === 'float64') f.f64(value);
  else f.i32(dtype === 'bool' ? (value ? 1 : 0) : Math.trunc(value));
}

/** Converts the scalar on the stack: floats to integers truncate and saturate, NaN is 0. */
export function castScalar(f: Func, to: Scalar, from: Scalar): void {
  if (to === from) return;
  if (to === 'bool') {
    pushConstant(f, 0, from);
    f.op(from === 'float32' ? 'f32.ne' : from === 'float64' ? 'f64.ne' : 'i32.ne');
  } else if (to === 'float32') f.op(from === 'float64' ? 'f32.demote_f64' : from === 'uint32' ? 'f32.convert_i32_u' : 'f32.convert_i32_s');
  else if (to === 'float64') f.op(from === 'float32' ? 'f64.promote_f32' : from === 'uint32' ? 'f64.convert_i32_u' : 'f64.convert_i32_s');
  else if (from === 'float32') f.truncate(to === 'uint32' ? 1 : 0);
  else if (from === 'float64') f.truncate(to === 'uint32' ? 3 : 2);
}

/** The same for four values of 32 bits. */
export function castVector(f: Func, to: Scalar, from: Scalar): void {
  if (to === from) return;
  if (to === 'bool') f.v128([0, 0, 0, 0]).simd(from === 'float32' ? 'f32x4.ne' : 'i32x4.ne');
  else if (from === 'bool') {
    const one = to === 'float32' ? 0x3f800000 : 1;
    f.v128([one, one, one, one]).simd('v128.and');
  } else if (to === 'float32') f.simd(from === 'uint32' ? 'f32x4.convert_i32x4_u' : 'f32x4.convert_i32x4_s');
  else if (from === 'float32') f.simd(to === 'uint32' ? 'i32x4.trunc_sat_f32x4_u' : 'i32x4.trunc_sat_f32x4_s');
  else if (!isInt(to) || !isInt(from)) throw new VerifyError('emit', `no cast of ${from} to ${to} in lanes`);
}

/** Threefry-2x32 with 20 rounds (Random123), as src/base/random.ts, for one counter or four: locals with the two output words. */
export function threefry(f: Func, [k0, k1, c0, c1]: readonly number[], vector: boolean): readonly [first: number, second: number] {
  const type = vector ? V128 : I32;
  const add = (): void => { if (vector) f.simd('i32x4.add'); else f.op('i32.add'); };
  const xor = (): void => { if (vector) f.simd('v128.xor'); else f.op('i32.xor'); };
  const word = (n: number): void => { if (vector) f.v128([n, n, n, n]); else f.i32(n); };
  word(0x1bd11bda); f.get(k0); xor(); f.get(k1); xor();
  const keys = [k0, k1, f.keep(type)], a = f.local(type), b = f.local(type);
  f.get(c0, k0); add(); f.set(a).get(c1, k1); add(); f.set(b);
  for (let round = 0; round < 5; round++) {
    for (const by of round % 2 === 0 ? [13, 15, 26, 6] : [17, 29, 16, 24]) {
      f.get(a, b); add(); f.set(a).get(b).i32(by);
      if (vector) f.simd('i32x4.shl').get(b).i32(32 - by).simd('i32x4.shr_u', 'v128.or'); else f.op('i32.rotl');
      f.get(a); xor(); f.set(b);
    }
    f.get(a, keys[(round + 1) % 3]); add(); f.set(a).get(b, keys[(round + 2) % 3]); add(); word(round + 1); add(); f.set(b);
  }
  return [a, b];
}
