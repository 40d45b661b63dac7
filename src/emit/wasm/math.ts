// Elementary functions on four float32. Formulas and coefficients are those of device/native/math.h, which explains
// them; the operations are the same in the same order, so that both devices give the same bits.
import type { Func, Simd } from './binary.ts';
import { V128 } from './binary.ts';

const LOG2E = 1.44269502,
  ROUND = 12582912,
  ROUND_BITS = 0x4b400000,
  LN2_HI = 0.693147182,
  LN2_LO = -1.90465421e-9;

/** The local that holds a value of a formula. */
type V = number;

/** Writes formulas over vectors. `fused`: whether the engine's relaxed multiply-add rounds once. */
export class VectorMath {
  readonly #f: Func;
  readonly #fused: boolean;

  constructor(f: Func, fused: boolean) {
    this.#f = f;
    this.#fused = fused;
  }

  #do(names: Simd[], ...args: V[]): V {
    return this.#f
      .get(...args)
      .simd(...names)
      .keep(V128);
  }
  #c(value: number): V {
    const bits = new Int32Array(Float32Array.of(value).buffer)[0];
    return this.#f.v128([bits, bits, bits, bits]).keep(V128);
  }
  #n(value: number): V {
    return this.#f.v128([value, value, value, value]).keep(V128);
  }
  #add(a: V, b: V): V {
    return this.#do(['f32x4.add'], a, b);
  }
  #sub(a: V, b: V): V {
    return this.#do(['f32x4.sub'], a, b);
  }
  #mul(a: V, b: V): V {
    return this.#do(['f32x4.mul'], a, b);
  }
  #div(a: V, b: V): V {
    return this.#do(['f32x4.div'], a, b);
  }
  #fma(a: V, b: V, c: V): V {
    return this.#fused ? this.#do(['f32x4.relaxed_madd'], a, b, c) : this.#add(this.#mul(a, b), c);
  }
  #iadd(a: V, b: V): V {
    return this.#do(['i32x4.add'], a, b);
  }
  #isub(a: V, b: V): V {
    return this.#do(['i32x4.sub'], a, b);
  }
  #and(a: V, b: V): V {
    return this.#do(['v128.and'], a, b);
  }
  #or(a: V, b: V): V {
    return this.#do(['v128.or'], a, b);
  }
  #xor(a: V, b: V): V {
    return this.#do(['v128.xor'], a, b);
  }
  #shift(name: 'i32x4.shl' | 'i32x4.shr_s', a: V, by: number): V {
    return this.#f.get(a).i32(by).simd(name).keep(V128);
  }
  /** c ? a : b */
  #pick(c: V, a: V, b: V): V {
    return this.#do(['v128.bitselect'], a, b, c);
  }
  #lt(a: V, b: V): V {
    return this.#do(['f32x4.lt'], a, b);
  }
  /** x > limit ? limit : x */
  #atMost(x: V, limit: number): V {
    const l = this.#c(limit);
    return this.#pick(this.#lt(l, x), l, x);
  }
  #atLeast(x: V, limit: number): V {
    const l = this.#c(limit);
    return this.#pick(this.#lt(x, l), l, x);
  }
  #abs(x: V): V {
    return this.#and(x, this.#n(0x7fffffff));
  }
  #signOf(magnitude: V, sign: V): V {
    return this.#or(this.#abs(magnitude), this.#and(sign, this.#n(-0x80000000)));
  }
  /** Horner: the first coefficient times x plus the next, and so on. */
  #poly(x: V, first: number, ...rest: number[]): V {
    let p = this.#c(first);
    for (const c of rest) p = this.#fma(p, x, this.#c(c));
    return p;
  }

  /** t = x log2(e) + ROUND, and r = x - n ln 2. */
  #reduce(x: V): { t: V; r: V } {
    const t = this.#fma(x, this.#c(LOG2E), this.#c(ROUND)),
      n = this.#sub(t, this.#c(ROUND));
    return { t, r: this.#fma(n, this.#c(-LN2_LO), this.#fma(n, this.#c(-LN2_HI), x)) };
  }

  exp(input: V): V {
    const x = this.#atLeast(this.#atMost(input, 89), -104),
      { t, r } = this.#reduce(x);
    const q = this.#poly(r, 0.00138364348, 0.00836913101, 0.0416681059, 0.166665167, 0.49999994);
    const p = this.#add(this.#fma(this.#mul(r, r), q, r), this.#c(1));
    const i = this.#isub(t, this.#n(ROUND_BITS)),
      half = this.#shift('i32x4.shr_s', i, 1),
      bias = this.#n(127);
    const low = this.#shift('i32x4.shl', this.#iadd(half, bias), 23);
    const high = this.#shift('i32x4.shl', this.#iadd(this.#isub(i, half), bias), 23);
    return this.#mul(this.#mul(p, low), high);
  }

  log(x: V): V {
    const small = this.#lt(x, this.#c(2 ** -126)),
      zero = this.#c(0),
      infinity = this.#c(Infinity);
    const y = this.#pick(small, this.#mul(x, this.#c(2 ** 23)), x),
      bias = this.#pick(small, this.#c(-23), zero);
    const i = this.#isub(y, this.#n(0x3f2aaaab));
    const e = this.#add(this.#do(['f32x4.convert_i32x4_s'], this.#shift('i32x4.shr_s', i, 23)), bias);
    const f = this.#sub(this.#iadd(this.#and(i, this.#n(0x7fffff)), this.#n(0x3f2aaaab)), this.#c(1));
    const q = this.#poly(
      f,
      0.117258519,
      -0.128838643,
      0.108219057,
      -0.121878639,
      0.142989531,
      -0.166800857,
      0.199997649,
      -0.249998108,
      0.333333343,
    );
    const s = this.#mul(f, f);
    const p = this.#fma(e, this.#c(LN2_LO), this.#mul(q, this.#mul(s, f)));
    const r = this.#fma(e, this.#c(LN2_HI), this.#add(f, this.#fma(this.#c(-0.5), s, p)));
    const positive = this.#pick(this.#lt(x, infinity), r, x);
    const other = this.#pick(this.#do(['f32x4.eq'], x, zero), this.#c(-Infinity), this.#c(NaN));
    return this.#pick(this.#lt(zero, x), positive, other);
  }

  tanh(x: V): V {
    const limited = this.#atMost(this.#abs(x), 9.25),
      { t, r } = this.#reduce(this.#add(limited, limited));
    const q = this.#poly(r, 0.00138394115, 0.00836705696, 0.0416677445, 0.16666539, 0.49999997);
    const p = this.#fma(this.#mul(r, r), q, r);
    const scale = this.#shift('i32x4.shl', this.#iadd(this.#isub(t, this.#n(ROUND_BITS)), this.#n(127)), 23);
    const m = this.#fma(scale, p, this.#sub(scale, this.#c(1)));
    return this.#signOf(this.#div(m, this.#add(m, this.#c(2))), x);
  }

  sigmoid(x: V): V {
    const one = this.#c(1),
      e = this.exp(this.#xor(this.#abs(x), this.#n(-0x80000000)));
    return this.#div(this.#pick(this.#do(['f32x4.ge'], x, this.#c(0)), one, e), this.#add(one, e));
  }

  erf(x: V): V {
    const a = this.#abs(x),
      t = this.#atMost(a, 4),
      s = this.#mul(x, x);
    const q1 = this.#poly(s, -0.000602079963, 0.00499895914, -0.026770493, 0.112819217, -0.376125038, 0.128379151);
    const p = this.#fma(x, q1, x);
    const q2 = this.#poly(
      t,
      1.04295841e-5,
      -0.000314828969,
      0.00361025077,
      -0.0236944314,
      0.106158957,
      0.635198057,
      0.128637075,
    );
    const minusT = this.#xor(t, this.#n(-0x80000000));
    const q = this.#signOf(this.#sub(this.#c(1), this.exp(this.#fma(minusT, q2, minusT))), x);
    return this.#pick(this.#lt(a, this.#c(0.9)), p, this.#pick(this.#do(['f32x4.ge'], a, this.#c(0.9)), q, x));
  }

  /** quarter: 0 for sin, 1 for cos. */
  #circle(x: V, quarter: number): V {
    const t = this.#fma(x, this.#c(0.636619747), this.#c(ROUND)),
      n = this.#sub(t, this.#c(ROUND));
    const exact = this.#fma(
      n,
      this.#c(1.71512451e-15),
      this.#fma(n, this.#c(4.37113883e-8), this.#fma(n, this.#c(-1.57079637), x)),
    );
    const r = this.#atLeast(this.#atMost(exact, 1), -1),
      u = this.#mul(r, r);
    const sin = this.#fma(this.#mul(r, u), this.#poly(u, -0.000195180939, 0.00833218824, -0.166666552), r);
    const cos = this.#fma(
      this.#mul(u, u),
      this.#poly(u, 2.44323273e-5, -0.00138873095, 0.0416666456),
      this.#fma(this.#c(-0.5), u, this.#c(1)),
    );
    const i = this.#iadd(t, this.#n(quarter));
    const odd = this.#do(['i32x4.ne'], this.#and(i, this.#n(1)), this.#n(0));
    return this.#xor(this.#pick(odd, cos, sin), this.#shift('i32x4.shl', this.#and(i, this.#n(2)), 30));
  }
  sin(x: V): V {
    return this.#xor(this.#circle(this.#abs(x), 0), this.#and(x, this.#n(-0x80000000)));
  }
  cos(x: V): V {
    return this.#circle(this.#abs(x), 1);
  }
}

export const VECTOR_FUNCTIONS = ['exp', 'log', 'tanh', 'sigmoid', 'erf', 'sin', 'cos'] as const;
export type VectorFunction = (typeof VECTOR_FUNCTIONS)[number];

export const isVectorFunction = (name: string): name is VectorFunction =>
  (VECTOR_FUNCTIONS as readonly string[]).includes(name);
