// Helpers for generated kernels.
#ifndef DM_KERNEL_H
#define DM_KERNEL_H
#include "math.h"
#include "runtime.h"
// The iterations of the following loop are independent, even if it writes an array that it reads.
#if defined(__clang__)
#define DM_VECTOR _Pragma("clang loop vectorize(assume_safety)")
#else
// Without "unroll 1", gcc may unroll the loop before it vectorises, and then not vectorise it.
#define DM_VECTOR _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#endif
// Put first in the body of a loop around vector loops, so that compilers do not transform the outer loop. GCC 12 may
// otherwise vectorise the outer loop and compute wrong results if a row's first iterations are a special case (rows
// 0..7 right, row 8 wrong; tests/conformance: pad of [31, 2]).
#define DM_OUTER __asm__ volatile("");
// Integer division truncates towards zero; x / 0 is 0, and INT32_MIN / -1 is INT32_MIN (modulo 2^32).
static inline int32_t dm_div_int32(int32_t a, int32_t b) { return b == 0 ? 0 : b == -1 ? -a : a / b; }
static inline uint32_t dm_div_uint32(uint32_t a, uint32_t b) { return b == 0 ? 0 : a / b; }
static inline int32_t dm_to_int32(double x) {
  return x >= 2147483647.0 ? INT32_MAX : x <= -2147483648.0 ? INT32_MIN : x == x ? (int32_t)x : 0;
}
static inline uint32_t dm_to_uint32(double x) { return x >= 4294967295.0 ? UINT32_MAX : x > 0.0 ? (uint32_t)x : 0; }
// Conversions between float32 and 16-bit floats as bits: to the nearest, ties to even (see src/base/half.ts). The 16
// bits are the low ones of an int32: loops over one width of values are vectorised better.
static inline float dm_from_bfloat16(int32_t b) { return dm_float((int32_t)((uint32_t)b << 16)); }
static inline float dm_from_float16(int32_t b) {
  const uint32_t m = (uint32_t)b & 0x7fffu, s = (uint32_t)(b & 0x8000u) << 16;
  const float x = dm_float((int32_t)(m << 13)) * 0x1p112f;
  return dm_float((int32_t)(s | (m >= 0x7c00u ? 0x7f800000u | m << 13 : (uint32_t)dm_bits(x))));
}
static inline int32_t dm_to_bfloat16(int32_t bits) {
  const uint32_t b = (uint32_t)bits;
  return (int32_t)((b & 0x7fffffffu) > 0x7f800000u ? b >> 16 | 0x40u : (b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}
static inline int32_t dm_to_float16(int32_t bits) {
  const uint32_t b = (uint32_t)bits, s = b >> 16 & 0x8000u, m = b & 0x7fffffffu;
  const uint32_t small = (uint32_t)dm_bits(dm_float((int32_t)m) + 0.5f) - 0x3f000000u,
                 normal = (m - 0x38000000u + 0xfffu + (m >> 13 & 1u)) >> 13;
  const uint32_t large = m > 0x7f800000u ? 0x7e00u | (m >> 13 & 0x1ffu) : 0x7c00u;
  return (int32_t)(s | (m >= 0x47800000u ? large : m < 0x38800000u ? small : normal));
}
// Bits of x rounded to odd as float32. Rounding that to 22 bits or fewer gives the same result as rounding x.
static inline int32_t dm_odd(double x) {
  const float near = (float)x;
  const int32_t bits = dm_bits(near);
  if ((double)near == x || x != x)
    return bits;
  return (__builtin_fabs((double)near) > __builtin_fabs(x) ? bits - 1 : bits) | 1;
}
#endif
