// Copies operands into the order in which the micro-kernel reads them. Never reads past an operand's last element.
#ifndef DM_PACK_H
#define DM_PACK_H
#include "microkernel.h"
#include <string.h>

typedef float dm_v8 __attribute__((vector_size(32)));
typedef float dm_u8 __attribute__((vector_size(32), aligned(4), may_alias));
typedef int dm_i8 __attribute__((vector_size(32)));
#ifdef __clang__
#define DM_SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define DM_SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (dm_i8){__VA_ARGS__})
#endif

// dst[c*ld + r] = src[r*s + c] for r, c < 8; p0, p3, p6 point at rows 0, 3 and 6.
DM_INLINE void dm_transpose8(const float *p0, const float *p3, const float *p6, int64_t s, float *dst, int64_t ld) {
  dm_v8 x[8], y[8];
  x[0] = *(const dm_u8 *)p0, x[1] = *(const dm_u8 *)(p0 + s), x[2] = *(const dm_u8 *)(p0 + 2 * s);
  x[3] = *(const dm_u8 *)p3, x[4] = *(const dm_u8 *)(p3 + s), x[5] = *(const dm_u8 *)(p3 + 2 * s);
  x[6] = *(const dm_u8 *)p6, x[7] = *(const dm_u8 *)(p6 + s);
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

// Width of a panel of nj (at most DM_NR) columns, rounded up to whole vectors.
DM_INLINE int64_t dm_width(int64_t nj) { return (nj + DM_VL - 1) / DM_VL * DM_VL; }

DM_INLINE void dm_panel(const float *b, int64_t sk, int64_t sj, int64_t nk, int64_t nj, float *dst, const int64_t w) {
  int64_t j8 = 0;
  if (sk == 1) {
    int64_t k8 = nk & -8;
    j8 = nj & -8;
    for (int64_t j = 0; j < j8; j += 8) {
      const float *p0 = b + j * sj, *p3 = p0 + 3 * sj, *p6 = p3 + 3 * sj;
      float *d = dst + j;
      for (int64_t q = 0; q < k8; q += 8, p0 += 8, p3 += 8, p6 += 8, d += 8 * w) {
        DM_HIDE(p0);
        DM_HIDE(p3);
        DM_HIDE(p6);
        dm_transpose8(p0, p3, p6, sj, d, w);
      }
    }
    for (int64_t q = k8; q < nk; q++)
      for (int64_t j = 0; j < j8; j++)
        dst[q * w + j] = b[q + j * sj];
  }
  if (j8 < w)
    for (int64_t q = 0; q < nk; q++) {
      for (int64_t j = j8; j < nj; j++)
        dst[q * w + j] = b[q * sk + j * sj];
      for (int64_t j = nj; j < w; j++)
        dst[q * w + j] = 0;
    }
}

// Packs one panel of B: dst[k*w + j]; the columns from nj to w become 0.
static __attribute__((noinline)) void dm_pack_panel(const float *b, int64_t sk, int64_t sj, int64_t nk, int64_t nj,
                                                    float *dst) {
  if (nj == DM_NR && sk == 1)
    dm_panel(b, 1, sj, nk, DM_NR, dst, DM_NR);
  else
    dm_panel(b, sk, sj, nk, nj, dst, dm_width(nj));
}

// dst[i*ld + k] = a[i*si + k]
static void dm_pack_rows(const float *a, int64_t si, int64_t nk, int64_t mr, float *dst, int64_t ld) {
  for (int64_t i = 0; i < mr; i++)
    memcpy(dst + i * ld, a + i * si, sizeof(float) * (size_t)nk);
}
#endif
