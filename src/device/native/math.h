// Transcendental functions as branch-free polynomials: only IEEE basic operations, explicit fused multiply-adds and bit casts, so
// that any device with them computes the same bits, and compilers vectorise loops that call them.
// exp, log, tanh, sin, cos follow the single-precision polynomials of Cephes (Moshier); erf is a two-interval minimax fit.
#ifndef DM_MATH_H
#define DM_MATH_H
#include <stdint.h>

double exp(double), log(double), tanh(double), erf(double), sin(double), cos(double);

static inline float dm_float(uint32_t bits) { union { uint32_t u; float f; } c = {bits}; return c.f; }
static inline uint32_t dm_bits(float f) { union { float f; uint32_t u; } c = {f}; return c.u; }

// Adding 1.5 * 2^23 leaves the nearest integer in the low bits.
#define DM_MAGIC 12582912.0f

// e^x = 2^n e^r with |r| <= ln(2)/2. 2^n is applied in two halves, so that results may be subnormal.
static inline float dm_expf(float x) {
  x = x > 89.0f ? 89.0f : x;
  x = x < -104.0f ? -104.0f : x;
  const float shifted = __builtin_fmaf(x, 1.44269504f, DM_MAGIC), n = shifted - DM_MAGIC;
  const int32_t i = (int32_t)dm_bits(shifted) - (int32_t)0x4b400000;
  float r = __builtin_fmaf(n, -0.693359375f, x);
  r = __builtin_fmaf(n, 2.12194440e-4f, r);
  float p = 1.9875691500e-4f;
  p = __builtin_fmaf(p, r, 1.3981999507e-3f);
  p = __builtin_fmaf(p, r, 8.3334519073e-3f);
  p = __builtin_fmaf(p, r, 4.1665795894e-2f);
  p = __builtin_fmaf(p, r, 1.6666665459e-1f);
  p = __builtin_fmaf(p, r, 5.0000001201e-1f);
  p = __builtin_fmaf(p, r * r, r) + 1.0f;
  const int32_t half = i >> 1;
  return p * dm_float((uint32_t)(half + 127) << 23) * dm_float((uint32_t)(i - half + 127) << 23);
}

// x = 2^e m with m in [sqrt(1/2), sqrt(2)).
static inline float dm_logf(float x) {
  const int tiny = x < 1.17549435e-38f;
  const float scaled = tiny ? x * 8388608.0f : x;
  const uint32_t bits = dm_bits(scaled);
  const int32_t shift = (int32_t)(bits - 0x3f3504f3u) >> 23;
  const float e = (float)shift - (tiny ? 23.0f : 0.0f);
  const float m = dm_float(bits - ((uint32_t)shift << 23)) - 1.0f, z = m * m;
  float p = 7.0376836292e-2f;
  p = __builtin_fmaf(p, m, -1.1514610310e-1f);
  p = __builtin_fmaf(p, m, 1.1676998740e-1f);
  p = __builtin_fmaf(p, m, -1.2420140846e-1f);
  p = __builtin_fmaf(p, m, 1.4249322787e-1f);
  p = __builtin_fmaf(p, m, -1.6668057665e-1f);
  p = __builtin_fmaf(p, m, 2.0000714765e-1f);
  p = __builtin_fmaf(p, m, -2.4999993993e-1f);
  p = __builtin_fmaf(p, m, 3.3333331174e-1f);
  float y = p * m * z;
  y = __builtin_fmaf(e, -2.12194440e-4f, y);
  y = __builtin_fmaf(z, -0.5f, y);
  y = __builtin_fmaf(e, 0.693359375f, m + y);
  y = x == dm_float(0x7f800000u) ? x : y;
  y = x == 0.0f ? -dm_float(0x7f800000u) : y;
  return x < 0.0f || x != x ? dm_float(0x7fc00000u) : y;
}

static inline float dm_sigmoidf(float x) { return 1.0f / (1.0f + dm_expf(-x)); }

static inline float dm_tanhf(float x) {
  const float a = __builtin_fabsf(x), z = x * x;
  const float big = 1.0f - 2.0f / (dm_expf(2.0f * a) + 1.0f);
  float p = -5.70498872745e-3f;
  p = __builtin_fmaf(p, z, 2.06390887954e-2f);
  p = __builtin_fmaf(p, z, -5.37397155531e-2f);
  p = __builtin_fmaf(p, z, 1.33314422036e-1f);
  p = __builtin_fmaf(p, z, -3.33332819422e-1f);
  const float small = __builtin_fmaf(p * z, x, x);
  return a < 0.625f ? small : x < 0.0f ? -big : x != x ? x : big;
}

static inline float dm_erff(float x) {
  const float t = __builtin_fabsf(x), s = x * x;
  float r = __builtin_fmaf(-1.72853470e-5f, t, 3.83197126e-4f);
  r = __builtin_fmaf(r, s, __builtin_fmaf(-3.88396438e-3f, t, 2.42546219e-2f));
  r = __builtin_fmaf(r, t, -1.06777877e-1f);
  r = __builtin_fmaf(r, t, -6.34846687e-1f);
  r = __builtin_fmaf(r, t, -1.28717512e-1f);
  const float tail = 1.0f - dm_expf(__builtin_fmaf(r, t, -t));
  float q = -5.96761703e-4f;
  q = __builtin_fmaf(q, s, 4.99119423e-3f);
  q = __builtin_fmaf(q, s, -2.67681349e-2f);
  q = __builtin_fmaf(q, s, 1.12819925e-1f);
  q = __builtin_fmaf(q, s, -3.76125336e-1f);
  q = __builtin_fmaf(q, s, 1.28379166e-1f);
  const float near = __builtin_fmaf(q, x, x);
  return t > 0.927734375f ? (t > 9.0f ? (x < 0.0f ? -1.0f : 1.0f) : x < 0.0f ? -tail : tail) : near;
}

// x = n pi/2 + r; good for |x| below about 10^5.
static inline float dm_sincosf(float x, int quarter) {
  const float shifted = __builtin_fmaf(x, 0.636619772f, DM_MAGIC), n = shifted - DM_MAGIC;
  const uint32_t q = dm_bits(shifted) + (uint32_t)quarter;
  float r = __builtin_fmaf(n, -1.5707962513e+0f, x);
  r = __builtin_fmaf(n, -7.5497894159e-8f, r);
  r = __builtin_fmaf(n, -5.3903029534e-15f, r);
  const float z = r * r;
  float s = -1.9515295891e-4f;
  s = __builtin_fmaf(s, z, 8.3321608736e-3f);
  s = __builtin_fmaf(s, z, -1.6666654611e-1f);
  s = __builtin_fmaf(s * z, r, r);
  float c = 2.443315711809948e-5f;
  c = __builtin_fmaf(c, z, -1.388731625493765e-3f);
  c = __builtin_fmaf(c, z, 4.166664568298827e-2f);
  c = __builtin_fmaf(c, z * z, __builtin_fmaf(z, -0.5f, 1.0f));
  const float v = q & 1u ? c : s;
  return q & 2u ? -v : v;
}
static inline float dm_sinf(float x) { return dm_sincosf(x, 0); }
static inline float dm_cosf(float x) { return dm_sincosf(x, 1); }

static inline double dm_exp(double x) { return exp(x); }
static inline double dm_log(double x) { return log(x); }
static inline double dm_tanh(double x) { return tanh(x); }
static inline double dm_erf(double x) { return erf(x); }
static inline double dm_sin(double x) { return sin(x); }
static inline double dm_cos(double x) { return cos(x); }
static inline double dm_sigmoid(double x) { return 1.0 / (1.0 + exp(-x)); }

// First word of Threefry-2x32 with 20 rounds (Salmon et al., SC 2011).
static inline uint32_t dm_threefry_first(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1) {
  const uint32_t k2 = 0x1bd11bdau ^ k0 ^ k1;
  uint32_t x0 = c0 + k0, x1 = c1 + k1;
#define DM_ROUND(r) x0 += x1; x1 = (x1 << r) | (x1 >> (32 - r)); x1 ^= x0;
  DM_ROUND(13) DM_ROUND(15) DM_ROUND(26) DM_ROUND(6)
  x0 += k1; x1 += k2 + 1u;
  DM_ROUND(17) DM_ROUND(29) DM_ROUND(16) DM_ROUND(24)
  x0 += k2; x1 += k0 + 2u;
  DM_ROUND(13) DM_ROUND(15) DM_ROUND(26) DM_ROUND(6)
  x0 += k0; x1 += k1 + 3u;
  DM_ROUND(17) DM_ROUND(29) DM_ROUND(16) DM_ROUND(24)
  x0 += k1; x1 += k2 + 4u;
  DM_ROUND(13) DM_ROUND(15) DM_ROUND(26) DM_ROUND(6)
  x0 += k2; x1 += k0 + 5u;
#undef DM_ROUND
  return x0;
}
#endif
