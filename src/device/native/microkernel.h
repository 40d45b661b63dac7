// The inner loop of the matrix product: an MR x (NV vectors) tile of C in registers, one chain of fused multiply-adds
// for each element, k ascending. B is a panel whose rows are `bs` floats apart and a whole number of vectors wide; A
// may have any strides.
#ifndef DM_MICROKERNEL_H
#define DM_MICROKERNEL_H
#include <stdint.h>

#if defined(__AVX512F__)
#define DM_VL 16
#define DM_MR 14
#elif defined(__AVX2__) && defined(__FMA__)
#define DM_VL 8
#define DM_MR 6
#elif defined(__aarch64__)
#define DM_VL 4
#define DM_MR 12
#else
#define DM_VL 4
#define DM_MR 4
#endif
#define DM_NV 2
#define DM_NR (DM_NV * DM_VL)

typedef float dm_vec __attribute__((vector_size(DM_VL * 4)));
typedef float dm_uvec __attribute__((vector_size(DM_VL * 4), aligned(4), may_alias));
#define DM_INLINE static inline __attribute__((always_inline))

#ifdef __has_builtin
#if __has_builtin(__builtin_elementwise_fma)
#define DM_FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#endif
#endif
#if !defined(DM_FMA) && defined(__GNUC__) && !defined(__clang__) && DM_VL == 16
#define DM_FMA(a, b, c) __builtin_ia32_vfmaddps512_mask(a, b, c, -1, 4)
#elif !defined(DM_FMA) && defined(__GNUC__) && !defined(__clang__) && DM_VL == 8
#define DM_FMA(a, b, c) __builtin_ia32_vfmaddps256(a, b, c)
#elif !defined(DM_FMA)
DM_INLINE dm_vec dm_fma_lanes(dm_vec a, dm_vec b, dm_vec c) {
  dm_vec r;
  for (int l = 0; l < DM_VL; l++)
    r[l] = __builtin_fmaf(a[l], b[l], c[l]);
  return r;
}
#define DM_FMA(a, b, c) dm_fma_lanes(a, b, c)
#endif

DM_INLINE dm_vec dm_splat(float x) { return x - (dm_vec){0}; } // x - (+0) is x, also for -0

// Hides a pointer's origin from the compiler, which otherwise replaces several advancing pointers by one pointer and a
// dozen offsets that it spills to the stack.
#define DM_HIDE(x) __asm__("" : "+r"(x))

typedef struct {
  int64_t k; // depth
  const float *a, *b;
  int64_t si, sk, bs; // strides of A; distance between rows of B
  float *c;
  int64_t ldc, more;       // more: sums start from the values in c, otherwise from +0
  const char *prefetch[2]; // cache lines to prefetch: those at prefetch[x] + q*pace[x], q < k
  int64_t pace[2];
} dm_step;

// c[mr][nv vectors] = (0, or c itself if `more`) + A * B.
DM_INLINE void dm_tile(const int mr, const int nv, const dm_step *t) {
  dm_vec s[DM_MR][DM_NV];
  int64_t k = t->k, si = t->si, sk = t->sk, bs = t->bs, ldc = t->ldc, pace0 = t->pace[0], pace1 = t->pace[1];
  const float *b = t->b, *p[(DM_MR + 2) / 3];
  const char *prefetch0 = t->prefetch[0], *prefetch1 = t->prefetch[1];
  float *c = t->c;
  if (t->more) {
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++, c += ldc) {
      DM_HIDE(c);
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++)
        s[i][j] = *(const dm_uvec *)(c + j * DM_VL);
    }
    c = t->c;
  } else {
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++)
        s[i][j] = (dm_vec){0};
  }
#pragma GCC unroll 8
  for (int i = 0; i < (mr + 2) / 3; i++) {
    p[i] = i ? p[i - 1] + 3 * si : t->a;
    DM_HIDE(p[i]);
  }
  for (; k > 0; k--) {
    dm_vec v[DM_NV];
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      v[j] = *(const dm_uvec *)(b + j * DM_VL);
    b += bs;
    __builtin_prefetch(prefetch0, 0, 2);
    prefetch0 += pace0;
    __builtin_prefetch(prefetch1, 0, 2);
    prefetch1 += pace1;
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
      dm_vec x = dm_splat(p[i / 3][i % 3 * si]);
      if (i % 3 == 2 || i == mr - 1) {
        p[i / 3] += sk;
        DM_HIDE(p[i / 3]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++)
        s[i][j] = DM_FMA(x, v[j], s[i][j]);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++, c += ldc) {
    DM_HIDE(c);
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      *(dm_uvec *)(c + j * DM_VL) = s[i][j];
  }
}

typedef void (*dm_kernel)(const dm_step *);
#define DM_K(R, V)                                                                                                     \
  static void dm_k##R##_##V(const dm_step *t) { dm_tile(R, V, t); }
#define DM_KS(R) DM_K(R, 1) DM_K(R, 2)
#define DM_REF(R) {dm_k##R##_1, dm_k##R##_2}
DM_KS(1)
DM_KS(2)
DM_KS(3)
DM_KS(4)
#if DM_MR >= 6
DM_KS(5)
DM_KS(6)
#endif
#if DM_MR >= 12
DM_KS(7)
DM_KS(8)
DM_KS(9)
DM_KS(10)
DM_KS(11)
DM_KS(12)
#endif
#if DM_MR >= 14
DM_KS(13)
DM_KS(14)
#endif
static const dm_kernel dm_kernels[DM_MR][2] = {
    DM_REF(1),  DM_REF(2),  DM_REF(3), DM_REF(4),
#if DM_MR >= 6
    DM_REF(5),  DM_REF(6),
#endif
#if DM_MR >= 12
    DM_REF(7),  DM_REF(8),  DM_REF(9), DM_REF(10), DM_REF(11), DM_REF(12),
#endif
#if DM_MR >= 14
    DM_REF(13), DM_REF(14),
#endif
};
#endif
