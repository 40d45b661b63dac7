// Copies of operands in the order in which the micro-kernel reads them. None reads past an operand's last element.
#ifndef DM_PACK_H
#define DM_PACK_H
#include "microkernel.h"
#include <string.h>

typedef float dm_v8 __attribute__((vector_size(32)));
typedef float dm_u8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef float dm_u4 __attribute__((vector_size(16), aligned(4), may_alias));
typedef int dm_i8 __attribute__((vector_size(32)));
#ifdef __clang__
#define DM_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define DM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (dm_i8){__VA_ARGS__})
#endif

// dst[c*ld + r] = src[r*s + c] for r, c < 8.
DM_INLINE void dm_transpose8(const float *src, int64_t s, float *dst, int64_t ld) {
  dm_v8 x[8], y[8];
#pragma GCC unroll 8
  for (int r = 0; r < 8; r++) x[r] = *(const dm_u8 *)(src + r * s);
#pragma GCC unroll 4
  for (int r = 0; r < 8; r += 2) {
    y[r] = DM_SHUFFLE(x[r], x[r + 1], 0, 8, 1, 9, 4, 12, 5, 13);
    y[r + 1] = DM_SHUFFLE(x[r], x[r + 1], 2, 10, 3, 11, 6, 14, 7, 15);
  }
#pragma GCC unroll 2
  for (int r = 0; r < 8; r += 4) {
    x[r] = DM_SHUFFLE(y[r], y[r + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    x[r + 1] = DM_SHUFFLE(y[r], y[r + 2], 2, 3, 10, 11, 6, 7, 14, 15);
    x[r + 2] = DM_SHUFFLE(y[r + 1], y[r + 3], 0, 1, 8, 9, 4, 5, 12, 13);
    x[r + 3] = DM_SHUFFLE(y[r + 1], y[r + 3], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int c = 0; c < 4; c++) {
    *(dm_u8 *)(dst + c * ld) = DM_SHUFFLE(x[c], x[c + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    *(dm_u8 *)(dst + (c + 4) * ld) = DM_SHUFFLE(x[c], x[c + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

// Width of the panel that holds nj (at most DM_NR) columns: whole vectors.
DM_INLINE int64_t dm_width(int64_t nj) { return (nj + DM_VL - 1) / DM_VL * DM_VL; }

// One panel of B: dst[k*w + j]; the columns from nj to w become 0.
static void dm_pack_panel(const float *b, int64_t sk, int64_t sj, int64_t nk, int64_t nj, float *dst) {
  int64_t w = dm_width(nj), k = 0, j8 = 0;
  if (sk == 1) {
    for (j8 = nj & -8, k = nk & -8; j8 > 0 && k > 0;) {
      for (int64_t j = 0; j < j8; j += 8)
        for (int64_t q = 0; q < k; q += 8) dm_transpose8(b + j * sj + q, sj, dst + q * w + j, w);
      break;
    }
    for (int64_t q = k; q < nk; q++)
      for (int64_t j = 0; j < j8; j++) dst[q * w + j] = b[q + j * sj];
  }
  if (j8 < w)
    for (int64_t q = 0; q < nk; q++) {
      for (int64_t j = j8; j < nj; j++) dst[q * w + j] = b[q * sk + j * sj];
      for (int64_t j = nj; j < w; j++) dst[q * w + j] = 0;
    }
}

// dst[k*16 + i] = a[k*sk + i] for i < mr <= 16.
static void dm_pack_columns(const float *a, int64_t sk, int64_t nk, int64_t mr, float *dst) {
  if (mr >= 8)
    for (int64_t k = 0; k < nk; k++) {
      dm_u8 x = *(const dm_u8 *)(a + k * sk), y = *(const dm_u8 *)(a + k * sk + mr - 8);
      *(dm_u8 *)(dst + k * 16) = x, *(dm_u8 *)(dst + k * 16 + mr - 8) = y;
    }
  else if (mr >= 4)
    for (int64_t k = 0; k < nk; k++) {
      dm_u4 x = *(const dm_u4 *)(a + k * sk), y = *(const dm_u4 *)(a + k * sk + mr - 4);
      *(dm_u4 *)(dst + k * 16) = x, *(dm_u4 *)(dst + k * 16 + mr - 4) = y;
    }
  else
    for (int64_t k = 0; k < nk; k++)
      for (int64_t i = 0; i < mr; i++) dst[k * 16 + i] = a[k * sk + i];
}

// dst[i*ld + k] = a[i*si + k]
static void dm_pack_rows(const float *a, int64_t si, int64_t nk, int64_t mr, float *dst, int64_t ld) {
  for (int64_t i = 0; i < mr; i++) memcpy(dst + i * ld, a + i * si, sizeof(float) * (size_t)nk);
}
#endif
