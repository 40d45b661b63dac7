// Elementary functions for kernels. The float32 ones are our own: branch-free, without tables or library calls, made of
// IEEE basic operations, explicit fused multiply-adds, comparisons with selects, integer adds and shifts, so that a
// loop over them becomes vector code and any device with the same operations (WebAssembly SIMD with a fusing relaxed
// madd, a GPU) computes the same bits. Keep it so: every fma is written out, and nothing here may be compiled with
// fast-math or contraction. The float64 ones promise no bits.
//
// The polynomials are minimax (Remez) for the relative error of the function's result on the reduced interval.
// Coefficients were rounded to float32 one by one, lowest first, each time fitting the remaining ones again. Noted with
// each: what p approximates, in which variable, on which interval, and the relative error that it alone causes (with
// the rounded coefficients). tests/device/native has the measured ulps.
#ifndef DM_MATH_H
#define DM_MATH_H
#include <stdint.h>
#include <string.h>

static inline int32_t dm_bits(float x) {
  int32_t i;
  memcpy(&i, &x, 4);
  return i;
}
static inline float dm_float(int32_t i) {
  float x;
  memcpy(&x, &i, 4);
  return x;
}
static inline float dm_fma(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
static inline float dm_sign_of(float magnitude, float sign) {
  return dm_float((dm_bits(magnitude) & 0x7fffffff) | (dm_bits(sign) & INT32_MIN));
}

#define DM_INF __builtin_inff()
#define DM_NAN __builtin_nanf("")
// 1.5 * 2^23: y + DM_ROUND has the integer nearest to y (ties to even) in its low bits, for |y| < 2^22; minus DM_ROUND
// gives it as a float.
#define DM_ROUND 12582912.0f
#define DM_ROUND_BITS 0x4b400000
#define DM_LN2_HI 0.693147182f
#define DM_LN2_LO -1.90465421e-9f
#define DM_LOG2E 1.44269502f

// exp(r) for r = x - n ln 2, |r| <= ln(2)/2: 1 + r + r^2 p(r), p = (e^r - 1 - r) / r^2 of degree 4: 2^-28.2.
static inline float dm_exp_rest(float x, float n) {
  const float r = dm_fma(n, -DM_LN2_LO, dm_fma(n, -DM_LN2_HI, x));
  float p = dm_fma(0.00138364348f, r, 0.00836913101f);
  p = dm_fma(p, r, 0.0416681059f);
  p = dm_fma(p, r, 0.166665167f);
  p = dm_fma(p, r, 0.49999994f);
  return dm_fma(r * r, p, r) + 1.0f;
}

// exp(x) = 2^n exp(r), n = round(x / ln 2). 2^n is applied in two factors, so that results down to the subnormals are
// rounded once; the clamps go to inf and to 0.
static inline float dm_expf(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const float t = dm_fma(x, DM_LOG2E, DM_ROUND), n = t - DM_ROUND;
  const float p = dm_exp_rest(x, n);
  const int32_t i = (int32_t)((uint32_t)dm_bits(t) - DM_ROUND_BITS), half = i >> 1;
  const float low = dm_float((int32_t)(((uint32_t)half + 127u) << 23)),
              high = dm_float((int32_t)(((uint32_t)i - (uint32_t)half + 127u) << 23));
  return p * low * high;
}

// log(x) = e ln 2 + log(1 + f), x = 2^e (1 + f), 1 + f in [2/3, 4/3). log(1 + f) = f - f^2/2 + f^3 p(f),
// p = (log(1+f) - f + f^2/2) / f^3 of degree 8: 2^-29.1.
static inline float dm_logf(float x) {
  const float y = x < 0x1p-126f ? x * 0x1p23f : x, bias = x < 0x1p-126f ? -23.0f : 0.0f;
  const uint32_t i = (uint32_t)dm_bits(y) - 0x3f2aaaabu; // the bits of 2/3
  const float e = (float)((int32_t)i >> 23) + bias, f = dm_float((int32_t)((i & 0x7fffffu) + 0x3f2aaaabu)) - 1.0f;
  float p = dm_fma(0.117258519f, f, -0.128838643f);
  p = dm_fma(p, f, 0.108219057f);
  p = dm_fma(p, f, -0.121878639f);
  p = dm_fma(p, f, 0.142989531f);
  p = dm_fma(p, f, -0.166800857f);
  p = dm_fma(p, f, 0.199997649f);
  p = dm_fma(p, f, -0.249998108f);
  p = dm_fma(p, f, 0.333333343f);
  const float s = f * f;
  p = dm_fma(e, DM_LN2_LO, p * (s * f));
  p = f + dm_fma(-0.5f, s, p);
  const float r = dm_fma(e, DM_LN2_HI, p);
  return x > 0.0f ? (x < DM_INF ? r : x) : (x == 0.0f ? -DM_INF : DM_NAN);
}

// tanh(x) = m / (m + 2) with m = e^(2|x|) - 1 = 2^n (e^r - 1) + (2^n - 1), one rounding; e^r - 1 = r + r^2 p(r), p as
// in exp but minimax for e^r - 1: 2^-26.1. From |x| = 9.02 on the float32 nearest to tanh is 1.
static inline float dm_tanhf(float x) {
  float a = dm_float(dm_bits(x) & 0x7fffffff);
  a = a > 9.25f ? 9.25f : a;
  a = a + a;
  const float t = dm_fma(a, DM_LOG2E, DM_ROUND), n = t - DM_ROUND;
  const float r = dm_fma(n, -DM_LN2_LO, dm_fma(n, -DM_LN2_HI, a));
  float p = dm_fma(0.00138394115f, r, 0.00836705696f);
  p = dm_fma(p, r, 0.0416677445f);
  p = dm_fma(p, r, 0.16666539f);
  p = dm_fma(p, r, 0.49999997f);
  p = dm_fma(r * r, p, r);
  const float scale = dm_float((int32_t)(((uint32_t)dm_bits(t) - DM_ROUND_BITS + 127u) << 23));
  const float m = dm_fma(scale, p, scale - 1.0f);
  return dm_sign_of(m / (m + 2.0f), x);
}

// sigmoid(x) = 1 / (1 + e^-x), for negative x as e^x / (1 + e^x): no cancellation, no overflow, right down to the
// subnormals. The same e^-|x| as dm_expf gives, in fewer steps, because n <= 0: t holds n + 160, whose place is that of
// the exponent of 2^(n + 33).
static inline float dm_sigmoidf(float x) {
  float y = dm_float(dm_bits(x) | INT32_MIN);
  y = y < -104.0f ? -104.0f : y;
  const float t = dm_fma(y, DM_LOG2E, DM_ROUND + 160.0f), n = t - (DM_ROUND + 160.0f);
  const float p = dm_exp_rest(y, n);
  const float e = p * dm_float((int32_t)((uint32_t)dm_bits(t) << 23)) * 0x1p-33f;
  return (x >= 0.0f ? 1.0f : e) / (1.0f + e);
}

// erf(x) = x + x p(x^2) for |x| < 0.9, p = erf(x)/x - 1 of degree 5: 2^-26.0;
// otherwise 1 - exp(-t - t q(t)), t = min(|x|, 4), q = -log(erfc(t))/t - 1 of degree 6 on [0.9, 4]: 2^-29.9.
static inline float dm_erff(float x) {
  const float a = dm_float(dm_bits(x) & 0x7fffffff), t = a > 4.0f ? 4.0f : a, s = x * x;
  float p = dm_fma(-0.000602079963f, s, 0.00499895914f);
  p = dm_fma(p, s, -0.026770493f);
  p = dm_fma(p, s, 0.112819217f);
  p = dm_fma(p, s, -0.376125038f);
  p = dm_fma(p, s, 0.128379151f);
  p = dm_fma(x, p, x);
  float q = dm_fma(1.04295841e-5f, t, -0.000314828969f);
  q = dm_fma(q, t, 0.00361025077f);
  q = dm_fma(q, t, -0.0236944314f);
  q = dm_fma(q, t, 0.106158957f);
  q = dm_fma(q, t, 0.635198057f);
  q = dm_fma(q, t, 0.128637075f);
  q = dm_sign_of(1.0f - dm_expf(dm_fma(-t, q, -t)), x);
  return a < 0.9f ? p : (a >= 0.9f ? q : x);
}

// |x| = n pi/2 + r, |r| <= pi/4: pi/2 in three parts, exact enough for |x| <= 2^17; the result is bounded (meaningless)
// beyond |x| = 2^22, NaN for infinities. sin(r) = r + r^3 p(r^2), p of degree 2: 2^-27.9. cos(r) = 1 - r^2/2 + r^4
// q(r^2), q of degree 2: 2^-33.0. quarter: 0 for sin, 1 for cos.
static inline float dm_circlef(float x, int32_t quarter) {
  const float t = dm_fma(x, 0.636619747f, DM_ROUND), n = t - DM_ROUND;
  float r = dm_fma(n, 1.71512451e-15f, dm_fma(n, 4.37113883e-8f, dm_fma(n, -1.57079637f, x)));
  r = r > 1.0f ? 1.0f : r;
  r = r < -1.0f ? -1.0f : r;
  const float u = r * r;
  float p = dm_fma(-0.000195180939f, u, 0.00833218824f);
  p = dm_fma(p, u, -0.166666552f);
  p = dm_fma(r * u, p, r);
  float q = dm_fma(2.44323273e-5f, u, -0.00138873095f);
  q = dm_fma(q, u, 0.0416666456f);
  q = dm_fma(u * u, q, dm_fma(-0.5f, u, 1.0f));
  const int32_t i = dm_bits(t) + quarter; // the low two bits: which quarter
  const float v = i & 1 ? q : p;
  return dm_float(dm_bits(v) ^ (int32_t)(((uint32_t)i & 2u) << 30));
}
static inline float dm_sinf(float x) {
  const float v = dm_circlef(dm_float(dm_bits(x) & 0x7fffffff), 0);
  return dm_float(dm_bits(v) ^ (dm_bits(x) & INT32_MIN));
}
static inline float dm_cosf(float x) { return dm_circlef(dm_float(dm_bits(x) & 0x7fffffff), 1); }

// Float64: within 1 ulp of the correctly rounded result. The C library's tanh may err by 2, and 1 / (1 + e^-x) by as
// much.
static inline double dm_exp(double x) { return __builtin_exp(x); }
static inline double dm_log(double x) { return __builtin_log(x); }
static inline double dm_erf(double x) { return __builtin_erf(x); }
static inline double dm_sin(double x) { return __builtin_sin(x); }
static inline double dm_cos(double x) { return __builtin_cos(x); }
static inline double dm_pow(double x, double y) { return __builtin_pow(x, y); }

// e^x = scale (1 + high + low), |high| < 0.42, for -746 < x <= 0, as src/base/math64.ts.
typedef struct {
  double scale, high, low;
} dm_power;
static inline dm_power dm_power_of(double x) {
  const double k = __builtin_floor(x * 1.4426950408889634 + 0.5);
  // r + rest = x - k ln 2: the first part of ln 2 times k is exact (fdlibm).
  const double near = x - k * 6.93147180369123816490e-1, small = k * 1.90821492927058770002e-10, r = near - small,
               gone = r - near;
  const double rest = (near - (r - gone)) - (small + gone);
  static const double c[] = {1.1470745597729725e-11,
                             1.6059043836821613e-10,
                             2.08767569878681e-9,
                             2.505210838544172e-8,
                             2.755731922398589e-7,
                             2.7557319223985893e-6,
                             2.48015873015873e-5,
                             1.984126984126984e-4,
                             1.388888888888889e-3,
                             8.333333333333333e-3,
                             4.1666666666666664e-2,
                             1.6666666666666666e-1,
                             0.5};
  double p = 7.647163731819816e-13;
  for (int i = 0; i < 13; i++)
    p = p * r + c[i];
  const double tail = rest + p * (r * r), high = r + tail;
  return (dm_power){__builtin_ldexp(1.0, (int)k), high, tail - (high - r)};
}

// (a + b) / (c + d), b and d small beside a and c: the quotient of a and c, and what is missing.
static inline double dm_quotient(double a, double b, double c, double d) {
  const double q = a / c;
  return q + (__builtin_fma(-q, c, a) + b - q * d) / c;
}

static inline double dm_sigmoid(double x) {
  if (!(__builtin_fabs(x) < 745.0))
    return x != x ? x : x > 0.0 ? 1.0 : __builtin_exp(x);
  const dm_power p = dm_power_of(-__builtin_fabs(x));
  const double e = 1.0 + p.high, rest = p.low + (p.high - (e - 1.0)), c = 1.0 + p.scale * e,
               d = (p.scale * e - (c - 1.0)) + p.scale * rest;
  return x >= 0.0 ? dm_quotient(1.0, 0.0, c, d) : p.scale * dm_quotient(e, rest, c, d);
}

static inline double dm_tanh(double x) {
  const double a = __builtin_fabs(x);
  if (!(a > 1e-8))
    return x;
  if (a > 22.0)
    return x > 0.0 ? 1.0 : -1.0;
  const dm_power p = dm_power_of(-2.0 * a);
  // m + rest = e^-2a - 1; tanh a = -m / (2 + m).
  double m = p.high, rest = p.low;
  if (p.scale != 1.0) {
    const double one = 1.0 + p.high, e = p.scale * one;
    m = e - 1.0;
    rest = (e - (m + 1.0)) + p.scale * (p.low + (p.high - (one - 1.0)));
  }
  const double c = 2.0 + m, d = (m - (c - 2.0)) + rest, y = dm_quotient(-m, -rest, c, d);
  return x > 0.0 ? y : -y;
}

// The first output word of Threefry-2x32 with 20 rounds (Random123), as src/base/random.ts.
static inline uint32_t dm_threefry_first(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1) {
  const uint32_t k2 = 0x1bd11bdau ^ k0 ^ k1;
  uint32_t a = c0 + k0, b = c1 + k1;
#define DM_MIX(r) (a += b, b = ((b << (r)) | (b >> (32 - (r)))) ^ a)
#define DM_EVEN(x, y, i) (DM_MIX(13), DM_MIX(15), DM_MIX(26), DM_MIX(6), a += (x), b += (y) + (i))
#define DM_ODD(x, y, i) (DM_MIX(17), DM_MIX(29), DM_MIX(16), DM_MIX(24), a += (x), b += (y) + (i))
  DM_EVEN(k1, k2, 1u);
  DM_ODD(k2, k0, 2u);
  DM_EVEN(k0, k1, 3u);
  DM_ODD(k1, k2, 4u);
  DM_EVEN(k2, k0, 5u);
#undef DM_MIX
#undef DM_EVEN
#undef DM_ODD
  return a;
}
#endif
