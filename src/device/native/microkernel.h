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

#define DM_JOINS 4

// A tile of sums in memory: `at` floats after base `in` of the step.
typedef struct {
  int64_t in, at;
} dm_sums;
enum { DM_NONE = -1, DM_TILES, DM_BLOCKS, DM_RESULT, DM_BASES };

// One chain of sums: k steps from `from` (from +0 if it is DM_NONE); then the tiles of `join` are added, one after the
// other; the result goes to `to`.
typedef struct {
  int64_t k, joins;
  dm_sums from, to, join[DM_JOINS];
} dm_run;

typedef struct {
  int64_t k; // depth, all runs together
  const float *a, *b;
  int64_t si, sk, bs; // strides of A; distance between rows of B
  int64_t runs;
  const dm_run *run; // one after the other along the depth
  float *base[DM_BASES];
  int64_t ld[DM_BASES];    // distance between rows
  const char *prefetch[2]; // cache lines to prefetch: those at prefetch[x] + q*pace[x], q < k
  int64_t pace[2];
} dm_step;

// Where a step stands on its way along the depth.
typedef struct {
  const float *a[(DM_MR + 2) / 3], *b; // rows 0, 3, 6, .. of A
  const char *prefetch[2];
} dm_at;

DM_INLINE dm_at dm_start(const int mr, const dm_step *t) {
  dm_at at = {.b = t->b, .prefetch = {t->prefetch[0], t->prefetch[1]}};
#pragma GCC unroll 8
  for (int i = 0; i < (mr + 2) / 3; i++) {
    at.a[i] = i ? at.a[i - 1] + 3 * t->si : t->a;
    DM_HIDE(at.a[i]);
  }
  return at;
}

DM_INLINE void dm_zero(const int mr, const int nv, dm_vec (*s)[DM_NV]) {
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      s[i][j] = (dm_vec){0};
}

// s = add ? s + m : m
DM_INLINE void dm_load(const int mr, const int nv, const int add, const dm_step *t, dm_sums from, dm_vec (*s)[DM_NV]) {
  const float *m = t->base[from.in] + from.at;
  const int64_t ld = t->ld[from.in];
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++, m += ld) {
    DM_HIDE(m);
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++) {
      dm_vec v = *(const dm_uvec *)(m + j * DM_VL);
      s[i][j] = add ? s[i][j] + v : v;
    }
  }
}

DM_INLINE void dm_store(const int mr, const int nv, const dm_step *t, dm_sums to, dm_vec (*s)[DM_NV]) {
  float *m = t->base[to.in] + to.at;
  const int64_t ld = t->ld[to.in];
#pragma GCC unroll 16
  for (int i = 0; i < mr; i++, m += ld) {
    DM_HIDE(m);
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      *(dm_uvec *)(m + j * DM_VL) = s[i][j];
  }
}

// s += A * B over k steps. prefetch: 1 if cache lines are prefetched beside.
DM_INLINE void dm_chain(const int mr, const int nv, const int prefetch, int64_t k, const dm_step *t, dm_at *at,
                        dm_vec (*s)[DM_NV]) {
  int64_t si = t->si, sk = t->sk, bs = t->bs, pace0 = t->pace[0], pace1 = t->pace[1];
  for (; k > 0; k--) {
    dm_vec v[DM_NV];
#pragma GCC unroll 4
    for (int j = 0; j < nv; j++)
      v[j] = *(const dm_uvec *)(at->b + j * DM_VL);
    at->b += bs;
    if (prefetch) {
      __builtin_prefetch(at->prefetch[0], 0, 2);
      at->prefetch[0] += pace0;
      __builtin_prefetch(at->prefetch[1], 0, 2);
      at->prefetch[1] += pace1;
    }
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++) {
      dm_vec x = dm_splat(at->a[i / 3][i % 3 * si]);
      if (i % 3 == 2 || i == mr - 1) {
        at->a[i / 3] += sk;
        DM_HIDE(at->a[i / 3]);
      }
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++)
        s[i][j] = DM_FMA(x, v[j], s[i][j]);
    }
  }
}

DM_INLINE void dm_tile(const int mr, const int nv, const dm_step *t) {
  dm_vec s[DM_MR][DM_NV];
  dm_at at = dm_start(mr, t);
  for (const dm_run *run = t->run, *end = run + t->runs; run < end; run++) {
    if (run->from.in >= 0)
      dm_load(mr, nv, 0, t, run->from, s);
    else
      dm_zero(mr, nv, s);
    dm_chain(mr, nv, 1, run->k, t, &at, s);
    for (int64_t q = 0; q < run->joins; q++)
      dm_load(mr, nv, 1, t, run->join[q], s);
    dm_store(mr, nv, t, run->to, s);
  }
}

#if DM_VL == 16
// Of two short runs the second is joined with the first. In half a tile there are registers for the sums of both, so
// that the first are never stored: stores would take a fifth of the time. Nothing is prefetched: half a tile computes
// too little beside its loads.
#define DM_HALF (DM_MR / 2)
#define DM_SHORT 32 // depth of a run

DM_INLINE void dm_pairs(const int mr, const int nv, const dm_step *t) {
  dm_at at = dm_start(mr, t);
  for (const dm_run *run = t->run + 1, *end = run + t->runs; run < end; run += 2) {
    dm_vec s[DM_HALF][DM_NV], r[DM_HALF][DM_NV];
    dm_zero(mr, nv, s);
    dm_chain(mr, nv, 0, run[-1].k, t, &at, s);
    dm_zero(mr, nv, r);
    dm_chain(mr, nv, 0, run->k, t, &at, r);
#pragma GCC unroll 16
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 4
      for (int j = 0; j < nv; j++)
        s[i][j] += r[i][j];
    for (int64_t q = 1; q < run->joins; q++)
      dm_load(mr, nv, 1, t, run->join[q], s);
    dm_store(mr, nv, t, run->to, s);
  }
}
#endif

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
#ifdef DM_HALF
#define DM_P(R)                                                                                                        \
  static void dm_p##R##_1(const dm_step *t) { dm_pairs(R, 1, t); }                                                     \
  static void dm_p##R##_2(const dm_step *t) { dm_pairs(R, 2, t); }
DM_P(1)
DM_P(2)
DM_P(3)
DM_P(4)
DM_P(5)
DM_P(6)
DM_P(7)
#define DM_PREF(R) {dm_p##R##_1, dm_p##R##_2}
static const dm_kernel dm_halves[DM_HALF][2] = {DM_PREF(1), DM_PREF(2), DM_PREF(3), DM_PREF(4),
                                                DM_PREF(5), DM_PREF(6), DM_PREF(7)};

static void dm_two_halves(dm_step *s, int64_t mr, int64_t nv) {
  int64_t first = (mr + 1) / 2;
  dm_halves[first - 1][nv - 1](s);
  if (mr == first)
    return;
  s->a += first * s->si;
  for (int i = 0; i < DM_BASES; i++)
    s->base[i] += first * s->ld[i];
  dm_halves[mr - first - 1][nv - 1](s);
}
#endif
#endif
