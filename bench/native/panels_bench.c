// Compares products whose right-hand matrix lies in panels with the same products on rows: in pairs of calls, one after
// the other on different matrices of 256 MB together, with one thread. To build and run it (gemm.c is in
// src/device/native):
//   cc -O3 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math -std=gnu11 gemm.c
//     bench/native/panels_bench.c -o /tmp/panels_bench && /tmp/panels_bench [seconds per product] [small pages: 1]
#define _GNU_SOURCE
#include "../../src/device/native/gemm.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#define BYTES ((int64_t)256 << 20)
#define MOST 100000 // pairs

static const int64_t sizes[][3] = {{1, 512, 1024},  {1, 1024, 512},  {1, 512, 1536},   {2, 512, 1024},
                                   {4, 512, 1024},  {7, 512, 1024},  {10, 512, 1024},  {14, 512, 1024},
                                   {28, 512, 1024}, {64, 512, 1024}, {256, 512, 1024}, {512, 2048, 512}};
static struct {
  float *a, *b, *c;
  int64_t m, k, n, matrix;
} D;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}
static const float *a_of(const dm_ctx *c, int64_t z) { return D.a; }
static const float *b_of(const dm_ctx *c, int64_t z) { return D.b + D.matrix * D.k * D.n; }
static const void *out(const dm_ctx *c, int64_t z) { return D.c; }
static void store(const dm_ctx *c, int64_t z, int64_t i0, int64_t ni, int64_t j0, int64_t nj, const float *acc,
                  int64_t ld) {
  for (int64_t i = 0; i < ni; i++)
    memcpy(D.c + (i0 + i) * D.n + j0, acc + i * ld, (size_t)nj * sizeof(float));
}

static double call(const dm_ctx *c, int panels) {
  int64_t width = dm_panel_columns();
  dm_gemm g = {.groups = 1, .n = D.n, .m = D.m, .k = D.k, .a_base = a_of, .a_si = D.k, .a_sk = 1, .b_base = b_of};
  g.b_sk = panels ? width : D.n, g.b_sj = 1, g.b_panel = panels ? D.k * width : 0;
  g.store = store, g.out = out, g.out_si = D.n * 4, g.plain = 1;
  D.matrix = (D.matrix + 1) % (BYTES / 4 / (D.k * D.n));
  double start = now();
  for (int64_t t = 0, all = dm_gemm_tasks(c, &g); t < all; t++)
    dm_gemm_task(c, &g, t);
  return now() - start;
}

static int order(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}
static double median(double *x, int n) {
  qsort(x, (size_t)n, sizeof *x, order);
  return x[n / 2];
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 1;
  D.b = aligned_alloc(2 << 20, BYTES), D.a = calloc(512 * 2048, 4), D.c = calloc(512 * 2048, 4);
  madvise(D.b, BYTES, argc > 2 ? MADV_NOHUGEPAGE : MADV_HUGEPAGE);
  for (int64_t i = 0; i < BYTES / 4; i++)
    D.b[i] = (float)(i % 127) - 63;
  dm_ctx c = {.scratch = aligned_alloc(4096, DM_SCRATCH_BYTES), .core = &dm_core_table, .threads = 1};
  static double rows[MOST], panels[MOST], ratios[MOST];
  printf("%d columns a panel, %s pages\n%-20s %10s %10s %18s\n", dm_panel_columns(), argc > 2 ? "small" : "huge",
         "M x K x N", "rows us", "panels us", "panels / rows");
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    D.m = sizes[s][0], D.k = sizes[s][1], D.n = sizes[s][2], D.matrix = 0;
    int n = 0;
    for (double end = now() + seconds; now() < end && n < MOST; n++) {
      double first = call(&c, n % 2), second = call(&c, 1 - n % 2);
      panels[n] = n % 2 ? first : second, rows[n] = n % 2 ? second : first, ratios[n] = panels[n] / rows[n];
    }
    char name[64];
    snprintf(name, sizeof name, "%ld x %ld x %ld", (long)D.m, (long)D.k, (long)D.n);
    printf("%-20s %10.1f %10.1f %18.2f\n", name, median(rows, n) * 1e6, median(panels, n) * 1e6, median(ratios, n));
    fflush(stdout);
  }
  return 0;
}
