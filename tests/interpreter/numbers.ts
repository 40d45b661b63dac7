// Exact arithmetic for the interpreter: what JavaScript's numbers do not have by themselves.
import { fromHalf, toHalf, type HalfDType } from '../../src/base/half.ts';

const float64 = new Float64Array(1),
  words = new Uint32Array(float64.buffer), // low, high
  float32 = new Float32Array(1),
  bits32 = new Int32Array(float32.buffer);

/** s + e, where e is the rest of s, rounded to odd: if the sum is not exact, the last bit of the result is 1. */
function toOdd(s: number, e: number): number {
  if (!(e > 0 || e < 0)) return s;
  float64[0] = s;
  if (words[0] & 1) return s;
  if (e > 0 === s > 0) words[0] |= 1;
  else {
    if (words[0] === 0) words[1]--;
    words[0]--;
  }
  return float64[0];
}

/** The rest of s = a + b (Knuth). */
function restOfSum(a: number, b: number, s: number): number {
  const v = s - a;
  return a - (s - v) + (b - v);
}

/** a * b + c of float32, rounded once: the product is exact in float64, and the sum is rounded to odd before. */
export function fma32(a: number, b: number, c: number): number {
  const p = a * b,
    s = p + c;
  return Math.fround(toOdd(s, restOfSum(p, c, s)));
}

const SPLIT = 2 ** 27 + 1;

/** The rest of p = a * b (Dekker). */
function restOfProduct(a: number, b: number, p: number): number {
  const s = SPLIT * a,
    ah = s - (s - a),
    al = a - ah,
    t = SPLIT * b,
    bh = t - (t - b),
    bl = b - bh;
  return ah * bh - p + ah * bl + al * bh + al * bl;
}

/** a * b + c of float64, rounded once (Boldo and Melquiond); with integers where intermediate results may not fit. */
export function fma64(a: number, b: number, c: number): number {
  const p = a * b,
    size = Math.abs(p),
    plain = Math.abs(a) < 2 ** 500 && Math.abs(b) < 2 ** 500 && Math.abs(c) < 2 ** 1000;
  if (!plain || (size < 2 ** -900 && size > 0) || p === 0 || (Math.abs(c) < 2 ** -900 && c !== 0))
    return exactFma(a, b, c);
  const low = restOfProduct(a, b, p),
    u = c + low,
    uRest = restOfSum(c, low, u),
    v = p + u,
    vRest = restOfSum(p, u, v),
    rest = uRest + vRest;
  return v + toOdd(rest, restOfSum(uRest, vRest, rest));
}

/** x = m * 2^e. */
function parts(x: number): [m: bigint, e: number] {
  float64[0] = x;
  const exponent = (words[1] >>> 20) & 0x7ff,
    m = (BigInt(words[1] & 0xfffff) << 32n) | BigInt(words[0]),
    sign = words[1] >>> 31 ? -1n : 1n;
  return exponent === 0 ? [sign * m, -1074] : [sign * (m | (1n << 52n)), exponent - 1075];
}

/** The same, with integers of any size. */
export function exactFma(a: number, b: number, c: number): number {
  const plain = a * b + c;
  if (!Number.isFinite(a) || !Number.isFinite(b) || a === 0 || b === 0) return plain;
  if (!Number.isFinite(c)) return c; // even if the product is too large
  const [ma, ea] = parts(a),
    [mb, eb] = parts(b),
    [mc, ec] = parts(c),
    e = Math.min(ea + eb, c === 0 ? Infinity : ec);
  const sum = ((ma * mb) << BigInt(ea + eb - e)) + (c === 0 ? 0n : mc << BigInt(ec - e));
  if (sum === 0n) return a * b + c === 0 ? plain : 0;
  // To 53 bits, or fewer for subnormals, ties to even.
  const negative = sum < 0n,
    m = negative ? -sum : sum,
    drop = Math.max(m.toString(2).length - 53, -1074 - e, 0),
    half = drop > 0 ? 1n << BigInt(drop - 1) : 0n,
    rest = m & ((1n << BigInt(drop)) - 1n),
    kept = m >> BigInt(drop),
    up = drop > 0 && (rest > half || (rest === half && (kept & 1n) === 1n)),
    size = scaled(Number(up ? kept + 1n : kept), e + drop);
  return negative ? -size : size;
}

/** m * 2^e without rounding on the way. */
const scaled = (m: number, e: number): number =>
  e < -1000 ? m * 2 ** (e + 100) * 2 ** -100 : e > 900 ? m * 2 ** 900 * 2 ** (e - 900) : m * 2 ** e;

/** To the nearest whole number, halves to the even one. */
export function nearest(x: number): number {
  if (!(Math.abs(x) < 2 ** 52)) return x;
  const r = Math.abs(x) + 2 ** 52 - 2 ** 52;
  return x < 0 || Object.is(x, -0) ? -r : r;
}

/** Numbers are truncated and clamped; NaN becomes 0. */
export const toInt32 = (x: number): number =>
  x >= 2147483647 ? 2147483647 : x <= -2147483648 ? -2147483648 : Math.trunc(x) | 0;
export const toUint32 = (x: number): number => (x >= 4294967295 ? 4294967295 : x > 0 ? Math.trunc(x) : 0);

export function bitsOf(x: number): number {
  float32[0] = x;
  return bits32[0];
}
export function floatOf(bits: number): number {
  bits32[0] = bits;
  return float32[0];
}

export const halfOf = (dtype: HalfDType, x: number): number => toHalf(dtype, [x])[0];
export const ofHalf = (dtype: HalfDType, bits: number): number => fromHalf(dtype, [bits], float32)[0];

/** The larger of two; NaN if either is NaN. */
export const larger = (x: number, y: number): number => (x > y || x !== x ? x : y);
