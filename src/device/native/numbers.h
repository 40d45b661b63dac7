// Arithmetic of kernels that has the same bits on every device, in the part of C that CUDA C++ has too. Whoever
// includes it has defined DM_FUNCTION (the words before a function), int32_t and the like, and dm_bits and dm_float,
// which give the bits of a float32 as an int32, and the float32 that has them.
#ifndef DM_NUMBERS_H
#define DM_NUMBERS_H
// Integer division truncates towards zero; x / 0 is 0, and INT32_MIN / -1 is INT32_MIN (modulo 2^32).
DM_FUNCTION int32_t dm_div_int32(int32_t a, int32_t b) {
  return b == 0 ? 0 : b == -1 ? (int32_t)(0u - (uint32_t)a) : a / b;
}
DM_FUNCTION uint32_t dm_div_uint32(uint32_t a, uint32_t b) { return b == 0 ? 0 : a / b; }
// Floats are truncated and clamped; NaN becomes 0.
DM_FUNCTION int32_t dm_to_int32(double x) {
  return x >= 2147483647.0 ? INT32_MAX : x <= -2147483648.0 ? INT32_MIN : x == x ? (int32_t)x : 0;
}
DM_FUNCTION uint32_t dm_to_uint32(double x) { return x >= 4294967295.0 ? UINT32_MAX : x > 0.0 ? (uint32_t)x : 0; }
// Conversions between float32 and 16-bit floats as bits: to the nearest, ties to even (see src/base/half.ts). The 16
// bits are the low ones of an int32: loops over one width of values are vectorised better.
DM_FUNCTION float dm_from_bfloat16(int32_t b) { return dm_float((int32_t)((uint32_t)b << 16)); }
DM_FUNCTION float dm_from_float16(int32_t b) {
  const uint32_t m = (uint32_t)b & 0x7fffu, s = (uint32_t)(b & 0x8000u) << 16;
  const float x = dm_float((int32_t)(m << 13)) * 0x1p112f;
  return dm_float((int32_t)(s | (m >= 0x7c00u ? 0x7f800000u | m << 13 : (uint32_t)dm_bits(x))));
}
DM_FUNCTION int32_t dm_to_bfloat16(int32_t bits) {
  const uint32_t b = (uint32_t)bits;
  return (int32_t)((b & 0x7fffffffu) > 0x7f800000u ? b >> 16 | 0x40u : (b + 0x7fffu + (b >> 16 & 1u)) >> 16);
}
DM_FUNCTION int32_t dm_to_float16(int32_t bits) {
  const uint32_t b = (uint32_t)bits, s = b >> 16 & 0x8000u, m = b & 0x7fffffffu;
  const uint32_t small = (uint32_t)dm_bits(dm_float((int32_t)m) + 0.5f) - 0x3f000000u,
                 normal = (m - 0x38000000u + 0xfffu + (m >> 13 & 1u)) >> 13;
  const uint32_t large = m > 0x7f800000u ? 0x7e00u | (m >> 13 & 0x1ffu) : 0x7c00u;
  return (int32_t)(s | (m >= 0x47800000u ? large : m < 0x38800000u ? small : normal));
}
// Bits of x rounded to odd as float32. Rounding that to 22 bits or fewer gives the same result as rounding x.
DM_FUNCTION int32_t dm_odd(double x) {
  const float near = (float)x;
  const double size = near < 0.0f ? -(double)near : (double)near;
  const int32_t bits = dm_bits(near);
  if ((double)near == x || x != x)
    return bits;
  return (size > (x < 0.0 ? -x : x) ? bits - 1 : bits) | 1;
}

// Threefry-2x32 with 20 rounds (Random123), as src/base/random.ts: both output words.
typedef struct {
  uint32_t first, second;
} dm_words;
DM_FUNCTION dm_words dm_threefry(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1) {
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
  dm_words words;
  words.first = a;
  words.second = b;
  return words;
}
DM_FUNCTION uint32_t dm_threefry_first(uint32_t k0, uint32_t k1, uint32_t c0, uint32_t c1) {
  return dm_threefry(k0, k1, c0, c1).first;
}
#endif
