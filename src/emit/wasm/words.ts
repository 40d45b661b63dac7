// Operations on what is on the stack: constants, conversions, random words.
import { bytesPer } from '../../base/dtype.ts';
import { isHalf, toHalf } from '../../base/half.ts';
import { VerifyError } from '../../base/errors.ts';
import { minOf, type Expr, type Scalar } from '../../kernel/expr.ts';
import { F32, F64, I32, V128, type Func, type ValueType } from './binary.ts';

export const typeOf = (dtype: Scalar): ValueType => (dtype === 'float32' ? F32 : dtype === 'float64' ? F64 : I32);
/** Bytes of an element; an index has 32 bits in WebAssembly. */
export const sizeOf = (d: Scalar): number => (d === 'index' ? 4 : bytesPer(d));
const isInt = (d: Scalar): boolean => d === 'int32' || d === 'uint32' || d === 'index';

export function pushConstant(f: Func, value: number, dtype: Scalar): void {
  if (dtype === 'float32') f.f32(value);
  else if (dtype === 'float64') f.f64(value);
  else if (isHalf(dtype)) f.i32(toHalf(dtype, [value])[0]);
  else f.i32(dtype === 'bool' ? (value ? 1 : 0) : Math.trunc(value));
}

/** Replaces the address on the stack by the element that lies there. */
export function loadScalar(f: Func, dtype: Scalar, offset: number): void {
  f.memory(
    dtype === 'float32'
      ? 'f32.load'
      : dtype === 'float64'
        ? 'f64.load'
        : dtype === 'bool'
          ? 'i32.load8_u'
          : isHalf(dtype)
            ? 'i32.load16_u'
            : 'i32.load',
    offset,
  );
}

export function storeScalar(f: Func, dtype: Scalar, offset: number): void {
  f.memory(
    dtype === 'float32'
      ? 'f32.store'
      : dtype === 'float64'
        ? 'f64.store'
        : dtype === 'bool'
          ? 'i32.store8'
          : isHalf(dtype)
            ? 'i32.store16'
            : 'i32.store',
    offset,
  );
}

/**
 * Divides the integers on the stack, truncating towards zero. x / 0 is 0, and the smallest integer / -1 is itself:
 * WebAssembly would trap in both cases.
 */
export function divide(f: Func, signed: boolean): void {
  const b = f.keep(I32),
    a = f.keep(I32);
  // Pushes whether b is 0 or -1 (for unsigned integers: 0). For these, b + 1 is below 2.
  const special = (): void => {
    if (signed) f.get(b).i32(1).op('i32.add').i32(2).op('i32.lt_u');
    else f.get(b).op('i32.eqz');
  };
  f.get(a).i32(1).get(b);
  special();
  f.op('select');
  f.op(signed ? 'i32.div_s' : 'i32.div_u');
  const quotient = f.keep(I32);
  // For b = -1 and b = 0 the quotient is a * b.
  f.get(a, b).op('i32.mul').get(quotient);
  special();
  f.op('select');
}

/** Division of indices is unsigned if they are known not to be negative: division by a power of 2 is then a shift. */
export const division = (a: Expr): '_s' | '_u' =>
  a.dtype === 'uint32' || (a.dtype === 'index' && minOf(a) >= 0) ? '_u' : '_s';

/** Converts the bits of a 16-bit float on the stack to a float32 (src/base/half.ts). */
function fromHalf(f: Func, from: Scalar): void {
  if (from === 'bfloat16') {
    f.i32(16).op('i32.shl', 'f32.reinterpret_i32');
    return;
  }
  const bits = f.keep(I32),
    magnitude = f.get(bits).i32(0x7fff).op('i32.and').keep(I32);
  f.get(magnitude).i32(13).op('i32.shl').i32(0x7f800000).op('i32.or');
  f.get(magnitude)
    .i32(13)
    .op('i32.shl', 'f32.reinterpret_i32')
    .f32(2 ** 112)
    .op('f32.mul', 'i32.reinterpret_f32');
  f.get(magnitude).i32(0x7c00).op('i32.ge_u', 'select');
  f.get(bits).i32(0x8000).op('i32.and').i32(16).op('i32.shl', 'i32.or', 'f32.reinterpret_i32');
}

/** Converts four float32 on the stack to bfloat16 as `toHalf16` does. */
function toBfloat16Vector(f: Func): void {
  const four = (n: number): Func => f.v128([n, n, n, n]),
    bits = f.keep(V128);
  f.get(bits).i32(16).simd('i32x4.shr_u');
  four(0x40).simd('v128.or').get(bits);
  four(0x7fff).simd('i32x4.add').get(bits).i32(16).simd('i32x4.shr_u');
  four(1).simd('v128.and', 'i32x4.add').i32(16).simd('i32x4.shr_u').get(bits);
  four(0x7fffffff).simd('v128.and');
  four(0x7f800000).simd('i32x4.gt_u', 'v128.bitselect');
}

/**
 * Converts a float32 or float64 on the stack to the bits of a 16-bit float: to the nearest, ties to even, rounded once.
 */
function toHalf16(f: Func, to: Scalar, from: Scalar): void {
  if (from === 'float64') roundToOdd(f);
  else f.op('i32.reinterpret_f32');
  const bits = f.keep(I32),
    magnitude = f.get(bits).i32(0x7fffffff).op('i32.and').keep(I32);
  const isNaN = (): void => {
    f.get(magnitude).i32(0x7f800000).op('i32.gt_u');
  };
  if (to === 'bfloat16') {
    f.get(bits).i32(16).op('i32.shr_u').i32(0x40).op('i32.or');
    f.get(bits)
      .i32(0x7fff)
      .op('i32.add')
      .get(bits)
      .i32(16)
      .op('i32.shr_u')
      .i32(1)
      .op('i32.and', 'i32.add')
      .i32(16)
      .op('i32.shr_u');
    isNaN();
    f.op('select');
    return;
  }
  f.i32(0x7e00).get(magnitude).i32(13).op('i32.shr_u').i32(0x1ff).op('i32.and', 'i32.or').i32(0x7c00);
  isNaN();
  f.op('select');
  f.get(magnitude)
    .op('f32.reinterpret_i32')
    .f32(0.5)
    .op('f32.add', 'i32.reinterpret_f32')
    .i32(0x3f000000)
    .op('i32.sub');
  f.get(magnitude)
    .i32(0x38000000 - 0xfff)
    .op('i32.sub')
    .get(magnitude)
    .i32(13)
    .op('i32.shr_u')
    .i32(1)
    .op('i32.and', 'i32.add')
    .i32(13)
    .op('i32.shr_u');
  f.get(magnitude).i32(0x38800000).op('i32.lt_u', 'select');
  f.get(magnitude).i32(0x47800000).op('i32.ge_u', 'select');
  f.get(bits).i32(16).op('i32.shr_u').i32(0x8000).op('i32.and', 'i32.or');
}

/** Converts a float64 on the stack to the bits of a float32, rounded to odd. */
function roundToOdd(f: Func): void {
  const x = f.keep(F64),
    near = f.get(x).op('f32.demote_f64').keep(F32),
    bits = f.get(near).op('i32.reinterpret_f32').keep(I32);
  f.get(bits);
  f.get(bits).get(near).op('f64.promote_f32', 'f64.abs').get(x).op('f64.abs', 'f64.gt', 'i32.sub').i32(1).op('i32.or');
  f.get(near).op('f64.promote_f32').get(x).op('f64.eq').get(x, x).op('f64.ne', 'i32.or', 'select');
}

/**
 * Converts the scalar on the stack: floats to integers are truncated and clamped to the range, NaN is 0; integers keep
 * their bits.
 */
export function castScalar(f: Func, to: Scalar, from: Scalar): void {
  if (to === from) return;
  if (isHalf(from)) {
    fromHalf(f, from);
    castScalar(f, to, 'float32');
    return;
  }
  if (isHalf(to)) {
    if (isInt(from) || from === 'bool') castScalar(f, 'float64', from);
    toHalf16(f, to, from === 'float32' ? from : 'float64');
    return;
  }
  if (to === 'bool') {
    pushConstant(f, 0, from);
    f.op(from === 'float32' ? 'f32.ne' : from === 'float64' ? 'f64.ne' : 'i32.ne');
  } else if (to === 'float32')
    f.op(from === 'float64' ? 'f32.demote_f64' : from === 'uint32' ? 'f32.convert_i32_u' : 'f32.convert_i32_s');
  else if (to === 'float64')
    f.op(from === 'float32' ? 'f64.promote_f32' : from === 'uint32' ? 'f64.convert_i32_u' : 'f64.convert_i32_s');
  else if (from === 'float32') f.truncate(to === 'uint32' ? 1 : 0);
  else if (from === 'float64') f.truncate(to === 'uint32' ? 3 : 2);
}

/** The same for a vector of four 32-bit values; to bfloat16 only from float32. */
export function castVector(f: Func, to: Scalar, from: Scalar): void {
  if (to === from) return;
  if (from === 'bfloat16') {
    f.i32(16).simd('i32x4.shl');
    castVector(f, to, 'float32');
    return;
  }
  if (to === 'bfloat16' && from === 'float32') {
    toBfloat16Vector(f);
    return;
  }
  if (to === 'bool') f.v128([0, 0, 0, 0]).simd(from === 'float32' ? 'f32x4.ne' : 'i32x4.ne');
  else if (from === 'bool') {
    const one = to === 'float32' ? 0x3f800000 : 1;
    f.v128([one, one, one, one]).simd('v128.and');
  } else if (to === 'float32') f.simd(from === 'uint32' ? 'f32x4.convert_i32x4_u' : 'f32x4.convert_i32x4_s');
  else if (from === 'float32') f.simd(to === 'uint32' ? 'i32x4.trunc_sat_f32x4_u' : 'i32x4.trunc_sat_f32x4_s');
  else if (!isInt(to) || !isInt(from)) throw new VerifyError('emit', `no cast of ${from} to ${to} in lanes`);
}

/**
 * Threefry-2x32 with 20 rounds (Random123), as in src/base/random.ts, for one counter or for four. Gives the locals of
 * the two output words.
 */
export function threefry(
  f: Func,
  [k0, k1, c0, c1]: readonly number[],
  vector: boolean,
): readonly [first: number, second: number] {
  const type = vector ? V128 : I32;
  const add = (): void => {
    if (vector) f.simd('i32x4.add');
    else f.op('i32.add');
  };
  const xor = (): void => {
    if (vector) f.simd('v128.xor');
    else f.op('i32.xor');
  };
  const word = (n: number): void => {
    if (vector) f.v128([n, n, n, n]);
    else f.i32(n);
  };
  word(0x1bd11bda);
  f.get(k0);
  xor();
  f.get(k1);
  xor();
  const keys = [k0, k1, f.keep(type)],
    a = f.local(type),
    b = f.local(type);
  f.get(c0, k0);
  add();
  f.set(a).get(c1, k1);
  add();
  f.set(b);
  for (let round = 0; round < 5; round++) {
    for (const by of round % 2 === 0 ? [13, 15, 26, 6] : [17, 29, 16, 24]) {
      f.get(a, b);
      add();
      f.set(a).get(b).i32(by);
      if (vector)
        f.simd('i32x4.shl')
          .get(b)
          .i32(32 - by)
          .simd('i32x4.shr_u', 'v128.or');
      else f.op('i32.rotl');
      f.get(a);
      xor();
      f.set(b);
    }
    f.get(a, keys[(round + 1) % 3]);
    add();
    f.set(a).get(b, keys[(round + 2) % 3]);
    add();
    word(round + 1);
    add();
    f.set(b);
  }
  return [a, b];
}
