// Elementary functions of float64 for kernels; those of float32 are written in the kernel language
// (src/kernel/functions.ts). The functions of float64 promise no bits. Other arithmetic is in numbers.h.
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
#define DM_FUNCTION static inline
#include "numbers.h"

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
#endif
