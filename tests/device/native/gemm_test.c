// Compares the matrix core with the naive loop, bit by bit: all forms of operands, ragged groups, several threads,
// canaries around every buffer. gemm.test.ts builds this file with gemm.c into one program. Argument 1 scales the
// number of random cases; 0: small shapes only.
#include "../../../src/device/native/gemm.h"
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define GUARD 64
#define CANARY 0x7fc0beefu // a NaN, so that reading it gives a wrong result

typedef struct {
  float *p, *raw;
  size_t n;
} guarded;
typedef struct {
  dm_gemm g;
  guarded A, B, C;
  int64_t a_group, b_group; // distance from one group's operand to that of the next group, in elements
  int64_t a_si, a_sk, b_sk, b_sj;
  int64_t ldc, rows;
  int32_t m_off[600], k_off[600], c_off[600];
} problem;
typedef struct {
  dm_ctx c;
  const dm_gemm *g;
  atomic_long *next;
  int64_t tasks;
  int whole;
} worker;

static uint64_t seed = 88172645463325252ull;
static uint32_t rnd(void) {
  seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
  return (uint32_t)(seed >> 32);
}
static int64_t below(int64_t n) { return (int64_t)(rnd() % (uint32_t)n); }
static float value(void) { return (float)((int32_t)rnd()) * (1.0f / 2147483648.0f); }

static guarded make(size_t n) {
  guarded b;
  b.n = n;
  b.raw = malloc((n + 2 * GUARD) * 4);
  b.p = b.raw + GUARD;
  for (size_t i = 0; i < n + 2 * GUARD; i++)
    ((uint32_t *)b.raw)[i] = CANARY;
  return b;
}
static int intact(guarded b) {
  for (size_t i = 0; i < GUARD; i++)
    if (((uint32_t *)b.raw)[i] != CANARY || ((uint32_t *)b.p)[b.n + i] != CANARY)
      return 0;
  return 1;
}

static problem *P(const dm_ctx *c) { return (problem *)c->buf[0]; }
static int64_t rows_of(const problem *p, int64_t z) { return p->g.m_off ? p->m_off[z + 1] - p->m_off[z] : p->g.m; }
static int64_t depth_of(const problem *p, int64_t z) { return p->g.k_off ? p->k_off[z + 1] - p->k_off[z] : p->g.k; }
// If rows are ragged, the rows of A of all groups lie in one buffer; if the depth is ragged, so do A and B.
static const float *a_at(const problem *p, int64_t z) {
  return p->A.p + z * p->a_group + (p->g.m_off ? p->m_off[z] * p->a_si : 0) + (p->g.k_off ? p->k_off[z] * p->a_sk : 0);
}
static const float *b_at(const problem *p, int64_t z) {
  return p->B.p + z * p->b_group + (p->g.k_off ? p->k_off[z] * p->b_sk : 0);
}
static const float *a_base(const dm_ctx *c, int64_t z) { return a_at(P(c), z); }
static const float *b_base(const dm_ctx *c, int64_t z) { return b_at(P(c), z); }
static void a_pack(const dm_ctx *c, int64_t z, int64_t i0, int64_t ni, int64_t k0, int64_t nk, float *dst, int64_t ld) {
  const problem *p = P(c);
  const float *a = a_at(p, z);
  if (ni <= 0 || nk <= 0 || i0 < 0 || k0 < 0 || i0 + ni > rows_of(p, z) || k0 + nk > depth_of(p, z))
    abort();
  for (int64_t i = 0; i < ni; i++)
    for (int64_t k = 0; k < nk; k++)
      dst[p->g.a_pack_cols ? k * ld + i : i * ld + k] = 2 * a[(i0 + i) * p->a_si + (k0 + k) * p->a_sk];
}
static void b_pack(const dm_ctx *c, int64_t z, int64_t k0, int64_t nk, int64_t j0, int64_t nj, float *dst, int64_t ld) {
  const problem *p = P(c);
  const float *b = b_at(p, z);
  if (nj <= 0 || nk <= 0 || j0 < 0 || k0 < 0 || j0 + nj > p->g.n || k0 + nk > depth_of(p, z))
    abort();
  for (int64_t k = 0; k < nk; k++)
    for (int64_t j = 0; j < nj; j++)
      dst[k * ld + j] = 2 * b[(k0 + k) * p->b_sk + (j0 + j) * p->b_sj];
}
static void store(const dm_ctx *c, int64_t z, int64_t i0, int64_t ni, int64_t j0, int64_t nj, const float *acc,
                  int64_t ld) {
  problem *p = P(c);
  if (ni <= 0 || nj <= 0 || i0 < 0 || j0 < 0 || i0 + ni > rows_of(p, z) || j0 + nj > p->g.n)
    abort();
  for (int64_t i = 0; i < ni; i++)
    for (int64_t j = 0; j < nj; j++) {
      uint32_t *d = (uint32_t *)&p->C.p[(p->c_off[z] + i0 + i) * p->ldc + j0 + j];
      if (*d != CANARY)
        abort(); // stored twice
      memcpy(d, acc + i * ld + j, 4);
    }
}
static const void *c_base(const dm_ctx *c, int64_t z) { return P(c)->C.p + P(c)->c_off[z] * P(c)->ldc; }
static void *work(void *arg) {
  worker *w = arg;
  for (int64_t t; (t = atomic_fetch_add(w->next, 1)) < w->tasks;) {
    if (w->whole && t + 1 < w->tasks && t % 3)
      dm_core_table.gemm_task(&w->c, w->g, DM_PREFETCH_TASK(t + 1));
    dm_core_table.gemm_task(&w->c, w->g, w->whole ? DM_GROUP_TASK(t) : t);
  }
  return 0;
}
// WHOLE: each task is a whole group; ONE: one group after the other runs alone.
enum { TASKS, WHOLE, ONE };
static void run(problem *p, int threads, int whole) {
  void *bufs[1] = {p};
  atomic_long next = 0;
  pthread_t id[8];
  worker w[8];
  static float *scratch[8]; // NaN at first, then what earlier cases left there
  for (int t = 0; t < threads; t++) {
    float *s = scratch[t];
    if (!s) {
      s = scratch[t] = aligned_alloc(64, DM_SCRATCH_BYTES + 64);
      for (size_t i = 0; i < (DM_SCRATCH_BYTES + 64) / 4; i++)
        ((uint32_t *)s)[i] = CANARY;
    }
    w[t] = (worker){{bufs, 0, s, &dm_core_table, t, threads, 0}, &p->g, &next, p->g.groups, whole == WHOLE};
  }
  for (int64_t z = 0; z < (whole == ONE ? p->g.groups : 1); z++) {
    next = 0;
    for (int t = 0; t < threads; t++) {
      w[t].c.only = whole == ONE ? z + 1 : 0;
      if (whole != WHOLE)
        w[t].tasks = dm_core_table.gemm_tasks(&w[t].c, &p->g);
    }
    for (int t = 1; t < threads; t++)
      pthread_create(&id[t], 0, work, &w[t]);
    work(&w[0]);
    for (int t = 1; t < threads; t++)
      pthread_join(id[t], 0);
  }
  for (int t = 0; t < threads; t++)
    for (int i = 0; i < 16; i++)
      if (((uint32_t *)(w[t].c.scratch + DM_SCRATCH_BYTES / 4))[i] != CANARY)
        printf("scratch overrun\n"), exit(1);
}

// form: bit 0: A is computed by a_pack; bit 1: A is stored by columns; bit 2: B is computed by b_pack; bit 3: B is
// transposed; bit 4: the address of C is given (`out` and `also`); bit 5: sums are stored in C without an epilogue
// (`plain`). ragged: bit 0: rows; bit 1: depth. Where the depth is not ragged, it is summed in random numbers of parts.
static int check(int64_t groups, int64_t m, int64_t n, int64_t k, int form, int ragged, int64_t pad, int threads) {
  problem *p = calloc(1, sizeof *p);
  if (form & 32 && below(2))
    n = (n + 15) / 16 * 16; // widths of whole vectors are stored in C directly
  dm_gemm *g = &p->g;
  *g = (dm_gemm){.groups = groups, .n = n, .m = m, .k = k, .store = store};
  if (!(ragged & 2) && below(2)) {
    g->parts = INT64_C(1) << below(5);
    for (g->sample = 1 + below(5); k % g->sample; g->sample--)
      ;
  }
  for (int64_t z = 0; z < groups; z++) {
    int64_t r = below(4)   ? below(2 * m + 1)
                : below(3) ? 0
                           : 3 * m,
            d = below(4)   ? below(2 * k + 1)
                : below(3) ? 0
                           : 3 * k;
    p->m_off[z + 1] = p->m_off[z] + (int32_t)r, p->k_off[z + 1] = p->k_off[z] + (int32_t)d;
  }
  if (ragged & 1)
    g->m_off = p->m_off, g->m = -1;
  if (ragged & 2)
    g->k_off = p->k_off, g->k = -1;
  int64_t ma = ragged & 1 ? p->m_off[groups] : m, ka = ragged & 2 ? p->k_off[groups] : k;
  int64_t nb = pad + n, za = ragged ? 1 : groups, zb = ragged & 2 ? 1 : groups;
  for (int64_t z = 0; z < groups; z++)
    p->c_off[z + 1] = p->c_off[z] + (int32_t)rows_of(p, z);
  p->rows = p->c_off[groups], p->ldc = n;
  int cols = (form >> 1) & 1, tb = (form >> 3) & 1;
  p->a_si = cols ? 1 : ka + pad, p->a_sk = cols ? ma + pad : 1;
  p->b_sk = tb ? 1 : nb, p->b_sj = tb ? ka + pad : 1;
  if (za > 1)
    p->a_group = ma * ka + pad * (cols ? ka : ma);
  if (zb > 1)
    p->b_group = n * ka + pad * (tb ? n : ka);
  // Each buffer ends with the last element that may be read, and a canary follows.
  size_t an = ma && ka ? (size_t)((za - 1) * p->a_group + (ma - 1) * p->a_si + (ka - 1) * p->a_sk + 1) : 0;
  size_t bn = n && ka ? (size_t)((zb - 1) * p->b_group + (ka - 1) * p->b_sk + (n - 1) * p->b_sj + 1) : 0;
  p->A = make(an), p->B = make(bn), p->C = make((size_t)(p->rows * n));
  for (size_t i = 0; i < an; i++)
    p->A.p[i] = value();
  for (size_t i = 0; i < bn; i++)
    p->B.p[i] = value();
  if (form & 1)
    g->a_pack = a_pack, g->a_pack_cols = cols;
  else
    g->a_base = a_base, g->a_si = p->a_si, g->a_sk = p->a_sk;
  if (form & 4)
    g->b_pack = b_pack;
  else
    g->b_base = b_base, g->b_sk = p->b_sk, g->b_sj = p->b_sj;
  if (form & 48)
    g->out = c_base, g->also = form & 32 ? 0 : c_base, g->out_si = 4 * n, g->plain = form >> 5;
  run(p, threads, ragged ? (int)below(3) : TASKS);
  int bad = !intact(p->A) || !intact(p->B) || !intact(p->C);
  float fa = form & 1 ? 2 : 1, fb = form & 4 ? 2 : 1;
  int64_t parts = g->parts > 1 ? g->parts : 1;
  float *rows = malloc((size_t)(parts * n + 1) * 4), *dense = malloc((bn + 1 + (size_t)(ka * n)) * 4);
  for (int64_t z = 0; z < groups && !bad; z++) { // the naive loop, a row of C at a time
    const float *a = a_at(p, z), *b = b_at(p, z);
    for (int64_t q = 0; q < depth_of(p, z); q++)
      for (int64_t j = 0; j < n; j++)
        dense[q * n + j] = fb * b[q * p->b_sk + j * p->b_sj];
    for (int64_t i = 0; i < rows_of(p, z) && !bad; i++) {
      memset(rows, 0, (size_t)(parts * n) * 4); // the sums of each part
      for (int64_t q = 0; q < depth_of(p, z); q++) {
        float x = fa * a[i * p->a_si + q * p->a_sk], *row = rows;
        for (int64_t e = 1; e < parts; e++)
          if (q >= k / g->sample * e / parts * g->sample)
            row = rows + e * n;
        for (int64_t j = 0; j < n; j++)
          row[j] = __builtin_fmaf(x, dense[q * n + j], row[j]);
      }
      for (int64_t w = 1; w < parts; w *= 2)
        for (int64_t e = 0; e < parts; e += 2 * w)
          for (int64_t j = 0; j < n; j++)
            rows[e * n + j] += rows[(e + w) * n + j];
      bad = memcmp(rows, &p->C.p[(p->c_off[z] + i) * n], (size_t)n * 4) != 0;
    }
  }
  free(rows), free(dense);
  if (bad)
    printf("FAIL groups %ld m %ld n %ld k %ld form %d ragged %d pad %ld threads %d parts %ld of %ld\n", (long)groups,
           (long)m, (long)n, (long)k, form, ragged, (long)pad, threads, (long)parts, (long)g->sample);
  free(p->A.raw), free(p->B.raw), free(p->C.raw), free(p);
  return bad;
}

// The two small helpers that kernels call: `product`, and `transpose` (rows to columns).
static int check_small(int64_t rows, int64_t width, int64_t depth, int64_t pad, int cols) {
  int64_t ldc = width + pad, bs = width + pad, si = cols ? 1 : depth + pad, sk = cols ? rows + pad : 1,
          an = (rows - 1) * si + (depth - 1) * sk + 1;
  guarded a = make((size_t)an), b = make((size_t)((depth - 1) * bs + width)),
          c = make((size_t)((rows - 1) * ldc + width)), want = make(c.n), to = make(16 * (size_t)depth);
  for (size_t i = 0; i < a.n; i++)
    a.p[i] = value();
  for (size_t i = 0; i < b.n; i++)
    b.p[i] = value();
  for (int64_t i = 0; i < rows; i++)
    for (int64_t j = 0; j < width; j++) {
      float sum = c.p[i * ldc + j] = value();
      for (int64_t k = 0; k < depth; k++)
        sum = __builtin_fmaf(a.p[i * si + k * sk], b.p[k * bs + j], sum);
      want.p[i * ldc + j] = sum;
    }
  dm_core_table.product(rows, width, depth, c.p, ldc, a.p, si, sk, b.p, bs);
  int bad = !intact(a) || !intact(b) || !intact(c) || memcmp(want.p, c.p, c.n * 4) != 0;
  if (!cols) {
    int64_t some = rows < 16 ? rows : 16;
    dm_core_table.transpose(some, depth, a.p, si, to.p);
    for (int64_t k = 0; k < depth; k++)
      for (int64_t i = 0; i < 16; i++)
        bad |= to.p[16 * k + i] != (i < some ? a.p[i * si + k] : 0);
    bad |= !intact(to) || !intact(a);
  }
  if (bad)
    printf("FAIL small product of %ld x %ld, depth %ld, pad %ld, columns %d\n", (long)rows, (long)width, (long)depth,
           (long)pad, cols);
  free(a.raw), free(b.raw), free(c.raw), free(want.raw), free(to.raw);
  return bad;
}

int main(int argc, char **argv) {
  long scale = argc > 1 ? atol(argv[1]) : 1, cases = 0, bad = 0;
  const int64_t edge[] = {1, 2, 3, 7, 8, 13, 14, 15, 16, 17, 28, 29, 31, 32, 33, 48, 63, 65, 100, 129};
  for (int i = 0; i < 20; i++) // small shapes around the sizes of tiles
    for (int j = 0; j < 20; j++)
      bad += check(1, edge[i], edge[j], 1 + below(70), (int)below(64), 0, below(3), 1 + (int)below(3)), cases++;
  for (long r = 0; r < 400 * scale; r++, cases++)
    bad += check(1 + below(6), below(70), 1 + below(150), below(150), (int)below(64), (int)below(4),
                 below(2) * below(20), 1 + (int)below(3));
  for (int f = 0; f < 16 && scale; f++) // many row, column and depth blocks; strides of powers of two
    for (int r = 0; r < 4; r++, cases++)
      bad += check(1 + (r & 1), 300 + below(200), 64 + below(600), 256 + below(600), f + 16 * (int)below(3), r, 0,
                   1 + (int)below(3));
  for (int f = 0; f < 16 && scale; f++, cases++)
    bad += check(1, 1 + below(40), 512, 1024, f + 16 * (int)below(3), 0, 0, 2) +
           check(1, 1 + below(40), 1 + below(70), 384 + 8 * below(500), f + 16 * (int)below(3), 0, 0, 2);
  for (int r = 0; r < 4 && scale; r++, cases++)
    bad += check(512, 3, 40, 20, (int)below(64), r, 0, 1 + (int)below(3));
  if (scale)
    bad += check(1, 20000, 8, 40, 0, 0, 0, 1) + check(1, 20000, 8, 40, 3, 0, 0, 2) +
           check(1, 5, 3000, 9, 12, 0, 0, 64 / 8),
        cases += 3;
  for (int64_t rows = 1; rows < 66; rows++)
    for (int64_t width = 16; width < 100; width += 16, cases++)
      bad += check_small(rows, width, 1 + below(70), below(2) * below(20), (int)below(2));
  printf("%ld cases, %ld wrong\n", cases, bad);
  return bad != 0;
}
