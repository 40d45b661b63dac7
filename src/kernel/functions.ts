// Elementary functions of float32, written in the kernel language. They have no branches, no tables and no calls of a
// library: only IEEE basic operations, fused multiply-adds, comparisons with selects, integer additions and shifts. So
// a loop over them becomes vector code, and every device with these operations computes the same bits. (The functions
// of float64 promise no bits: each device has its own, src/base/math64.ts and device/native/math.h.)
//
// The polynomials are minimax (Remez) for the relative error of the function's result on the reduced interval.
// Coefficients were rounded to float32 one by one, lowest first, each time fitting the remaining ones again. Noted with
// each: what p approximates, in which variable, on which interval, and the relative error that it alone causes (with
// the rounded coefficients). tests/device/native has the measured ulps.
import { Exprs, type Expr, type Scalar, type ScalarOp } from './expr.ts';

export const ELEMENTARY = ['exp', 'log', 'tanh', 'sigmoid', 'erf', 'sin', 'cos'] as const;
export type Elementary = (typeof ELEMENTARY)[number];

export const isElementary = (op: string): op is Elementary => (ELEMENTARY as readonly string[]).includes(op);

/** The value of a function: `body`, in which `argument` stands for the argument. */
export interface ScalarFunction {
  readonly argument: Expr;
  readonly body: Expr;
}

const defined = new Map<Elementary, ScalarFunction>();

/** The definition of an elementary function of float32. */
export function functionOf(op: Elementary): ScalarFunction {
  let found = defined.get(op);
  if (found === undefined) {
    const formulas = new Formulas();
    found = { argument: formulas.argument, body: formulas[op](formulas.argument) };
    defined.set(op, found);
  }
  return found;
}

/** The same; null for other operations and types. */
export const definitionOf = (op: ScalarOp, of: Scalar): ScalarFunction | null =>
  of === 'float32' && isElementary(op) ? functionOf(op) : null;

// 1.5 * 2^23: y + ROUND has the integer nearest to y (ties to even) in its low bits, for |y| < 2^22; minus ROUND gives
// it as a float.
const ROUND = 12582912,
  ROUND_BITS = 0x4b400000,
  LN2_HIGH = 0.693147182,
  LN2_LOW = -1.90465421e-9,
  LOG2E = 1.44269502,
  TWO_THIRDS_BITS = 0x3f2aaaab,
  SIGN = -0x80000000;

type Operand = Expr | number;

/** The formulas of one function. Numbers are constants: of float32 in `f` and `is`, of int32 in `i`. */
class Formulas {
  readonly #e = new Exprs();
  readonly argument = this.#e.local(0, 'float32');

  #op(op: ScalarOp, of: Scalar, to: Scalar, args: readonly Operand[]): Expr {
    const exact = (n: number): number => (of === 'float32' ? Math.fround(n) : n);
    const operands = args.map((a) => (typeof a === 'number' ? this.#e.const(exact(a), of) : a));
    return this.#e.op(op, operands, to);
  }
  #f(op: ScalarOp, ...args: Operand[]): Expr {
    return this.#op(op, 'float32', 'float32', args);
  }
  #i(op: ScalarOp, ...args: Operand[]): Expr {
    return this.#op(op, 'int32', 'int32', args);
  }
  #is(op: 'lt' | 'le' | 'eq', a: Operand, b: Operand): Expr {
    return this.#op(op, 'float32', 'bool', [a, b]);
  }
  #bits(x: Expr): Expr {
    return this.#i('bitcast', x);
  }
  #float(bits: Expr): Expr {
    return this.#f('bitcast', bits);
  }
  #signOf(x: Expr): Expr {
    return this.#i('and', this.#bits(x), SIGN);
  }
  /** 2^n, for n that a normal float32 can be. */
  #power(n: Expr): Expr {
    return this.#float(this.#i('shl', this.#i('add', n, 127), 23));
  }
  /** Horner: the first coefficient times x plus the next, and so on. */
  #polynomial(x: Expr, first: number, second: number, ...rest: number[]): Expr {
    return rest.reduce((p, c) => this.#f('fma', p, x, c), this.#f('fma', first, x, second));
  }
  /** r = x - n ln 2. */
  #rest(x: Expr, n: Expr): Expr {
    return this.#f('fma', n, -LN2_LOW, this.#f('fma', n, -LN2_HIGH, x));
  }

  // exp(r) for r = x - n ln 2, |r| <= ln(2)/2: 1 + r + r^2 p(r), p = (e^r - 1 - r) / r^2 of degree 4: 2^-28.2.
  #expOfRest(x: Expr, n: Expr): Expr {
    const r = this.#rest(x, n),
      p = this.#polynomial(r, 0.00138364348, 0.00836913101, 0.0416681059, 0.166665167, 0.49999994);
    return this.#f('add', this.#f('fma', this.#f('mul', r, r), p, r), 1);
  }

  // exp(x) = 2^n exp(r), n = round(x / ln 2). 2^n is applied in two factors, so that results down to the subnormals are
  // rounded once; the clamps go to inf and to 0.
  exp(argument: Expr): Expr {
    const x = this.#f('max', -104, this.#f('min', 89, argument)),
      t = this.#f('fma', x, LOG2E, ROUND),
      p = this.#expOfRest(x, this.#f('sub', t, ROUND)),
      n = this.#i('sub', this.#bits(t), ROUND_BITS),
      half = this.#i('shr', n, 1);
    return this.#f('mul', this.#f('mul', p, this.#power(half)), this.#power(this.#i('sub', n, half)));
  }

  // log(x) = e ln 2 + log(1 + f), x = 2^e (1 + f), 1 + f in [2/3, 4/3). log(1 + f) = f - f^2/2 + f^3 p(f),
  // p = (log(1+f) - f + f^2/2) / f^3 of degree 8: 2^-29.1.
  log(x: Expr): Expr {
    const subnormal = this.#is('lt', x, 2 ** -126),
      y = this.#f('select', subnormal, this.#f('mul', x, 2 ** 23), x),
      i = this.#i('sub', this.#bits(y), TWO_THIRDS_BITS),
      whole = this.#f('cast', this.#i('shr', i, 23)),
      e = this.#f('add', whole, this.#f('select', subnormal, -23, 0)),
      f = this.#f('sub', this.#float(this.#i('add', this.#i('and', i, 0x7fffff), TWO_THIRDS_BITS)), 1),
      s = this.#f('mul', f, f);
    const p = this.#polynomial(
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
    const low = this.#f('fma', e, LN2_LOW, this.#f('mul', p, this.#f('mul', s, f))),
      r = this.#f('fma', e, LN2_HIGH, this.#f('add', f, this.#f('fma', -0.5, s, low)));
    const positive = this.#f('select', this.#is('lt', x, Infinity), r, x),
      other = this.#f('select', this.#is('eq', x, 0), -Infinity, NaN);
    return this.#f('select', this.#is('lt', 0, x), positive, other);
  }

  // tanh(x) = m / (m + 2) with m = e^(2|x|) - 1 = 2^n (e^r - 1) + (2^n - 1), one rounding; e^r - 1 = r + r^2 p(r), p as
  // in exp but minimax for e^r - 1: 2^-26.1. From |x| = 9.02 on the float32 nearest to tanh is 1.
  tanh(x: Expr): Expr {
    const limited = this.#f('min', 9.25, this.#f('abs', x)),
      a = this.#f('add', limited, limited),
      t = this.#f('fma', a, LOG2E, ROUND),
      r = this.#rest(a, this.#f('sub', t, ROUND)),
      p = this.#polynomial(r, 0.00138394115, 0.00836705696, 0.0416677445, 0.16666539, 0.49999997),
      scale = this.#power(this.#i('sub', this.#bits(t), ROUND_BITS)),
      m = this.#f('fma', scale, this.#f('fma', this.#f('mul', r, r), p, r), this.#f('sub', scale, 1));
    return this.#withSign(this.#f('div', m, this.#f('add', m, 2)), x);
  }

  /** The magnitude of one number with the sign of another. */
  #withSign(x: Expr, sign: Expr): Expr {
    return this.#float(this.#i('or', this.#i('and', this.#bits(x), 0x7fffffff), this.#signOf(sign)));
  }

  // sigmoid(x) = 1 / (1 + e^-x), for negative x as e^x / (1 + e^x): no cancellation, no overflow, right down to the
  // subnormals. The same e^-|x| as exp gives, in fewer steps, because n <= 0: t holds n + 160, whose place is that of
  // the exponent of 2^(n + 33).
  sigmoid(x: Expr): Expr {
    const y = this.#f('max', -104, this.#f('neg', this.#f('abs', x))),
      t = this.#f('fma', y, LOG2E, ROUND + 160),
      p = this.#expOfRest(y, this.#f('sub', t, ROUND + 160)),
      power = this.#float(this.#i('shl', this.#bits(t), 23)),
      e = this.#f('mul', this.#f('mul', p, power), 2 ** -33);
    return this.#f('div', this.#f('select', this.#is('le', 0, x), 1, e), this.#f('add', 1, e));
  }

  // erf(x) = x + x p(x^2) for |x| < 0.9, p = erf(x)/x - 1 of degree 5: 2^-26.0;
  // otherwise 1 - exp(-t - t q(t)), t = min(|x|, 4), q = -log(erfc(t))/t - 1 of degree 6 on [0.9, 4]: 2^-29.9.
  erf(x: Expr): Expr {
    const a = this.#f('abs', x),
      t = this.#f('min', 4, a),
      minusT = this.#f('neg', t);
    const p = this.#polynomial(
      this.#f('mul', x, x),
      -0.000602079963,
      0.00499895914,
      -0.026770493,
      0.112819217,
      -0.376125038,
      0.128379151,
    );
    const q = this.#polynomial(
      t,
      1.04295841e-5,
      -0.000314828969,
      0.00361025077,
      -0.0236944314,
      0.106158957,
      0.635198057,
      0.128637075,
    );
    const large = this.#f('sub', 1, this.#f('exp', this.#f('fma', minusT, q, minusT)));
    const orNaN = this.#f('select', this.#is('le', 0.9, a), this.#withSign(large, x), x);
    return this.#f('select', this.#is('lt', a, 0.9), this.#f('fma', x, p, x), orNaN);
  }

  // |x| = n pi/2 + r, |r| <= pi/4: pi/2 in three parts, exact enough for |x| <= 2^17. Beyond |x| = 2^22 the result is
  // bounded and meaningless, for infinities NaN. sin(r) = r + r^3 p(r^2), p of degree 2: 2^-27.9.
  // cos(r) = 1 - r^2/2 + r^4 q(r^2), q of degree 2: 2^-33.0. quarter: 0 for sin, 1 for cos.
  #circle(argument: Expr, quarter: number): Expr {
    const x = this.#f('abs', argument),
      t = this.#f('fma', x, 0.636619747, ROUND),
      n = this.#f('sub', t, ROUND);
    const high = this.#f('fma', n, -1.57079637, x),
      exact = this.#f('fma', n, 1.71512451e-15, this.#f('fma', n, 4.37113883e-8, high)),
      r = this.#f('max', -1, this.#f('min', 1, exact)),
      u = this.#f('mul', r, r);
    const p = this.#polynomial(u, -0.000195180939, 0.00833218824, -0.166666552),
      q = this.#polynomial(u, 2.44323273e-5, -0.00138873095, 0.0416666456),
      sin = this.#f('fma', this.#f('mul', r, u), p, r),
      cos = this.#f('fma', this.#f('mul', u, u), q, this.#f('fma', -0.5, u, 1));
    // The low two bits of i say which quarter.
    const i = quarter === 0 ? this.#bits(t) : this.#i('add', this.#bits(t), quarter),
      odd = this.#op('ne', 'int32', 'bool', [this.#i('and', i, 1), 0]),
      sign = this.#i('shl', this.#i('and', i, 2), 30);
    return this.#i('xor', this.#bits(this.#f('select', odd, cos, sin)), sign);
  }
  sin(x: Expr): Expr {
    return this.#float(this.#i('xor', this.#circle(x, 0), this.#signOf(x)));
  }
  cos(x: Expr): Expr {
    return this.#float(this.#circle(x, 1));
  }
}
