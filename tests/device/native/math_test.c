// Compares the elementary functions of float32 (functions.h, which driver.test.ts writes from their definition in the
// kernel language) with the float64 functions of the C library, and Threefry with its published answers. Prints one
// line for each test: "ok NAME - details" or "not ok NAME - details". Argument: the step between the float32 bit
// patterns that are tested; 1 tests all of them.
#include "../../../src/device/native/math.h"
#include "functions.h"
#include <stdio.h>
#include <stdlib.h>

static double sigmoid(double x) { return 1 / (1 + __builtin_exp(-x)); }
static double call_exp(double x) { return __builtin_exp(x); }
static double call_log(double x) { return __builtin_log(x); }
static double call_tanh(double x) { return __builtin_tanh(x); }
static double call_erf(double x) { return __builtin_erf(x); }
static double call_sin(double x) { return __builtin_sin(x); }
static double call_cos(double x) { return __builtin_cos(x); }

#define LANES 1024
#define ROW(name)                                                                                                      \
  static void row_##name(float *restrict y, const float *restrict x) {                                                 \
    for (int l = 0; l < LANES; l++)                                                                                    \
      y[l] = name##_float32(x[l]);                                                                                     \
  }
ROW(exp)
ROW(log)
ROW(tanh)
ROW(sigmoid)
ROW(erf)
ROW(sin)
ROW(cos)

typedef struct {
  const char *name;
  void (*row)(float *restrict, const float *restrict);
  double (*exact)(double);
  double range,
      ulps; // |x| <= range: so many units in the last place of the exact result; beyond: finite results within [-1, 1]
} function;
static const function functions[] = {
    {"exp", row_exp, call_exp, __builtin_inf(), 1.1},
    {"log", row_log, call_log, __builtin_inf(), 1.1},
    {"tanh", row_tanh, call_tanh, __builtin_inf(), 3},
    {"sigmoid", row_sigmoid, sigmoid, __builtin_inf(), 2.5},
    {"erf", row_erf, call_erf, __builtin_inf(), 2},
    {"sin", row_sin, call_sin, 131072, 2},
    {"cos", row_cos, call_cos, 131072, 2},
};

// Distance in units of the float32 spacing at `exact`.
static double distance(float got, double exact) {
  if (exact != exact)
    return got != got ? 0 : 1e30;
  if (got != got)
    return 1e30;
  const float near = (float)exact;
  if (got == near)
    return __builtin_isinf(near)
               ? 0
               : __builtin_fabs(got - exact) /
                     __builtin_fmax(0x1p-149, __builtin_ldexp(1, (near ? __builtin_ilogb(exact) : -200) - 23));
  if (__builtin_isinf(near) || __builtin_isinf(got))
    return __builtin_fabs(exact) < 3.4028236e38 && __builtin_fabs(exact) > 3.4028230e38 ? 1 : 1e30;
  return __builtin_fabs(got - exact) / __builtin_fmax(0x1p-149, __builtin_ldexp(1, __builtin_ilogb(exact) - 23));
}

static int accuracy(const function *f, uint64_t step) {
  double worst = 0;
  float at = 0;
  static float x[LANES], y[LANES];
  for (uint64_t i = 0; i < 1ull << 32;) {
    for (int l = 0; l < LANES; l++, i += step) {
      const uint32_t bits = (uint32_t)i;
      memcpy(&x[l], &bits, 4);
    }
    f->row(y, x);
    for (int l = 0; l < LANES; l++) {
      const int outside = __builtin_fabs(x[l]) > f->range && !__builtin_isinf(x[l]);
      const double d = outside ? (__builtin_fabsf(y[l]) <= 1 ? 0 : 1e30) : distance(y[l], f->exact(x[l]));
      if (d > worst)
        worst = d, at = x[l];
    }
  }
  const int ok = worst <= f->ulps;
  printf("%s math %s - %.3f ulp at %.9g, allowed %.3f\n", ok ? "ok" : "not ok", f->name, worst, at, f->ulps);
  return ok;
}

typedef struct {
  float x, y;
} pair;
static int exact_values(const char *name, float (*f)(float), const pair *p, int n) {
  int ok = 1;
  for (int i = 0; i < n; i++) {
    const float got = f(p[i].x);
    const int same = p[i].y != p[i].y ? got != got : dm_bits(got) == dm_bits(p[i].y);
    if (!same)
      printf("not ok math special %s - f(%g) = %g, not %g\n", name, p[i].x, got, p[i].y), ok = 0;
  }
  if (ok)
    printf("ok math special %s - %d values\n", name, n);
  return ok;
}

#define INF __builtin_inff()
#define NaN __builtin_nanf("")
#define SPECIAL(name, ...)                                                                                             \
  do {                                                                                                                 \
    const pair p[] = {__VA_ARGS__};                                                                                    \
    ok &= exact_values(#name, name##_float32, p, sizeof p / sizeof p[0]);                                              \
  } while (0)
static int specials(void) {
  int ok = 1;
  SPECIAL(exp, {0, 1}, {-0.0f, 1}, {INF, INF}, {-INF, 0}, {NaN, NaN}, {1000, INF}, {-1000, 0}, {88.73f, INF},
          {1e-30f, 1});
  SPECIAL(log, {1, 0}, {0, -INF}, {-0.0f, -INF}, {-1, NaN}, {-INF, NaN}, {INF, INF}, {NaN, NaN}, {-1e-40f, NaN},
          {0x1p-149f, -103.278929903f});
  SPECIAL(tanh, {0, 0}, {-0.0f, -0.0f}, {INF, 1}, {-INF, -1}, {NaN, NaN}, {10, 1}, {-10, -1}, {1e-40f, 1e-40f});
  SPECIAL(sigmoid, {0, 0.5f}, {-0.0f, 0.5f}, {INF, 1}, {-INF, 0}, {NaN, NaN}, {100, 1}, {-200, 0});
  SPECIAL(erf, {0, 0}, {-0.0f, -0.0f}, {INF, 1}, {-INF, -1}, {NaN, NaN}, {5, 1}, {-5, -1});
  SPECIAL(sin, {0, 0}, {-0.0f, -0.0f}, {INF, NaN}, {-INF, NaN}, {NaN, NaN});
  SPECIAL(cos, {0, 1}, {-0.0f, 1}, {INF, NaN}, {-INF, NaN}, {NaN, NaN});
  return ok;
}

// Random123's known answers for threefry2x32_R(20) (first words).
static int threefry(void) {
  const uint32_t a = dm_threefry_first(0, 0, 0, 0), b = dm_threefry_first(~0u, ~0u, ~0u, ~0u),
                 c = dm_threefry_first(0x13198a2e, 0x03707344, 0x243f6a88, 0x85a308d3);
  const int ok = a == 0x6b200159u && b == 0x1cb996fcu && c == 0xc4923a9cu;
  printf("%s threefry - %08x %08x %08x\n", ok ? "ok" : "not ok", a, b, c);
  return ok;
}

int main(int argc, char **argv) {
  const uint64_t step = argc > 1 ? strtoull(argv[1], NULL, 10) : 4999;
  int ok = threefry() & specials();
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++)
    ok &= accuracy(&functions[i], step);
  return !ok;
}
