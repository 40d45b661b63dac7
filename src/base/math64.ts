// Float64 functions that JavaScript does not have, or has with larger errors: each result is within 1 ulp of the exact
// one. Functions that JavaScript has with such an error (exp, log, sin, cos, pow) are passed on. Kernels of the wasm
// device import these functions, and the reference uses them. device/native/math.h has the same sigmoid and tanh in C,
// and takes the others from the C library.

export interface Math64 {
  exp(x: number): number;
  log(x: number): number;
  sin(x: number): number;
  cos(x: number): number;
  pow(x: number, y: number): number;
  tanh(x: number): number;
  sigmoid(x: number): number;
  erf(x: number): number;
}

/** The function must not refer to anything outside itself: its text is sent to workers (device/wasm/pool.ts). */
export function makeMath64(): Math64 {
  // Results of the last call: e^x = 2^k (1 + high + low), |high| < 0.42, for -745 < x <= 0.
  let k = 0,
    high = 0,
    low = 0;
  // ln 2 in two parts; k times the first part is exact (fdlibm).
  const LN2_HIGH = 6.9314718036912381649e-1,
    LN2_LOW = 1.90821492927058770002e-10;
  // 1 / 15!, 1 / 14!, ... 1 / 2!
  const TAYLOR: number[] = [];
  for (let n = 2, factorial = 2; n <= 15; factorial *= ++n) TAYLOR.unshift(1 / factorial);

  function power(x: number): void {
    k = Math.round(x / Math.LN2);
    // r + rest = x - k ln 2, |r| <= ln(2) / 2.
    const near = x - k * LN2_HIGH,
      small = k * LN2_LOW,
      r = near - small,
      gone = r - near,
      rest = near - (r - gone) - (small + gone);
    let p = TAYLOR[0];
    for (let i = 1; i < 14; i++) p = p * r + TAYLOR[i];
    const tail = rest + p * (r * r);
    high = r + tail;
    low = tail - (high - r);
  }

  /** (a + b) / (c + d), where b and d are the low parts of two numbers: the quotient of a and c, plus a correction. */
  function quotient(a: number, b: number, c: number, d: number): number {
    const q = a / c,
      product = q * c;
    // product + error = q c exactly (Dekker).
    const s = q * 134217729,
      qh = s - (s - q),
      ql = q - qh,
      t = c * 134217729,
      ch = t - (t - c),
      cl = c - ch;
    const error = qh * ch - product + qh * cl + ql * ch + ql * cl;
    return q + (a - product - error + b - q * d) / c;
  }

  function sigmoid(x: number): number {
    if (!(Math.abs(x) < 745)) return Number.isNaN(x) ? x : x > 0 ? 1 : Math.exp(x);
    power(-Math.abs(x));
    // e^-|x| = scale (e + rest); 1 + e^-|x| = c + d.
    const scale = 2 ** k,
      e = 1 + high,
      rest = low + (high - (e - 1)),
      c = 1 + scale * e,
      d = scale * e - (c - 1) + scale * rest;
    return x >= 0 ? quotient(1, 0, c, d) : scale * quotient(e, rest, c, d);
  }

  function tanh(x: number): number {
    const a = Math.abs(x);
    if (!(a > 1e-8)) return x;
    if (a > 22) return x > 0 ? 1 : -1;
    power(-2 * a);
    // m + rest = e^-2a - 1; tanh a = -m / (2 + m).
    let m = high,
      rest = low;
    if (k !== 0) {
      const scale = 2 ** k,
        e = scale * (1 + high),
        tail = scale * (low + (high - (1 + high - 1)));
      m = e - 1;
      rest = e - (m + 1) + tail;
    }
    const c = 2 + m,
      d = m - (c - 2) + rest,
      y = quotient(-m, -rest, c, d);
    return x > 0 ? y : -y;
  }

  // fdlibm's s_erf.c. Copyright (C) 1993 by Sun Microsystems, Inc. All rights reserved. Developed at SunPro, a Sun
  // Microsystems, Inc. business. Permission to use, copy, modify, and distribute this software is freely granted,
  // provided that this notice is preserved.
  const polynomial = (x: number, c: readonly number[]): number => c.reduce((p, a) => p * x + a);
  const PP = [
    -2.37630166566501626084e-5, -5.77027029648944159157e-3, -2.84817495755985104766e-2, -3.2504210724700149937e-1,
    1.28379167095512558561e-1,
  ];
  const QQ = [
    -3.9602282787753681232e-6, 1.32494738004321644526e-4, 5.08130628187576562776e-3, 6.50222499887672944485e-2,
    3.97917223959155352819e-1, 1,
  ];
  const PA = [
    -2.166375594868790843e-3, 3.54783043256182359371e-2, -1.10894694282396677476e-1, 3.18346619901161753674e-1,
    -3.72207876035701323847e-1, 4.14856118683748331666e-1, -2.36211856075265944077e-3,
  ];
  const QA = [
    1.1984499846799107417e-2, 1.36370839120290507362e-2, 1.26171219808761642112e-1, 7.18286544141962662868e-2,
    5.40397917702171048937e-1, 1.06420880400844228286e-1, 1,
  ];
  const RA = [
    -9.81432934416914548592, -8.12874355063065934246e1, -1.84605092906711035994e2, -1.62396669462573470355e2,
    -6.23753324503260060396e1, -1.05586262253232909814e1, -6.93858572707181764372e-1, -9.86494403484714822705e-3,
  ];
  const SA = [
    -6.04244152148580987438e-2, 6.57024977031928170135, 1.08635005541779435134e2, 4.29008140027567833386e2,
    6.45387271733267880336e2, 4.34565877475229228821e2, 1.376577541435190426e2, 1.96512716674392571292e1, 1,
  ];
  const RB = [
    -4.83519191608651397019e2, -1.02509513161107724954e3, -6.37566443368389627722e2, -1.60636384855821916062e2,
    -1.77579549177547519889e1, -7.99283237680523006574e-1, -9.86494292470009928597e-3,
  ];
  const SB = [
    -2.24409524465858183362e1, 4.74528541206955367215e2, 2.55305040643316442583e3, 3.19985821950859553908e3,
    1.53672958608443695994e3, 3.25792512996573918826e2, 3.03380607434824582924e1, 1,
  ];
  const single = new Float32Array(1);

  function erf(x: number): number {
    const a = Math.abs(x),
      sign = x < 0 ? -1 : 1;
    if (!(a < 6)) return Number.isNaN(x) ? x : sign;
    if (a < 0.84375) {
      if (a < 2 ** -28)
        return a < 1e-300 ? 0.125 * (8 * x + 1.02703333676410069053 * x) : x + 1.28379167095512586316e-1 * x;
      const z = x * x;
      return x + x * (polynomial(z, PP) / polynomial(z, QQ));
    }
    if (a < 1.25) {
      const s = a - 1;
      return sign * (8.45062911510467529297e-1 + polynomial(s, PA) / polynomial(s, QA));
    }
    const s = 1 / (a * a),
      ratio = a < 1 / 0.35 ? polynomial(s, RA) / polynomial(s, SA) : polynomial(s, RB) / polynomial(s, SB);
    single[0] = a;
    const z = single[0]; // its square is exact
    return sign * (1 - (Math.exp(-z * z - 0.5625) * Math.exp((z - a) * (z + a) + ratio)) / a);
  }

  return { exp: Math.exp, log: Math.log, sin: Math.sin, cos: Math.cos, pow: Math.pow, tanh, sigmoid, erf };
}

export const math64 = makeMath64();
