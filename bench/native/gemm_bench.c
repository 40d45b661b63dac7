// Measures the speed of the matrix core as a share of the machine's FMA peak. Both are measured alternating in one
// process; the best of several rounds counts. To build and run it (gemm.c and peak.c are in src/device/native):
//   cc -O3 -march=native -ffp-contract=off -fno-math-errno -fno-trapping-math -std=gnu11 -pthread gemm.c peak.c
//     bench/native/gemm_bench.c -o /tmp/gemm_bench && /tmp/gemm_bench [seconds per shape] [part of a name]
#include "../../src/device/native/gemm.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

// form: n plain, t B transposed, g A transposed and depth ragged (weight gradient), c A computed by rows (gathered and
// scaled)
typedef struct {
  const char *name;
  int groups;
  char form;
  int64_t m, n, k;
} shape;
static const shape shapes[] = {{"1024^3", 1, 'n', 1024, 1024, 1024},
                               {"512x512x2048", 1, 'n', 512, 512, 2048},
                               {"1024^3 Bt", 1, 't', 1024, 1024, 1024},
                               {"1024x4096x512", 1, 'n', 1024, 4096, 512},
                               {"1024x2048x512", 1, 'n', 1024, 2048, 512},
                               {"lm 768x384x128", 1, 'n', 768, 384, 128},
                               {"lm 768x128x128", 1, 'n', 768, 128, 128},
                               {"lm 768x256x128", 1, 'n', 768, 256, 128},
                               {"lm 768x128x384 Bt", 1, 't', 768, 128, 384},
                               {"lm 768x128x256 Bt", 1, 't', 768, 128, 256},
                               {"lm 768x65x128", 1, 'n', 768, 65, 128},
                               {"8 groups ~192x256x128", 8, 'n', 192, 256, 128},
                               {"8 groups ~192x128x256", 8, 'n', 192, 128, 256},
                               {"8 groups ~192x256x128 Bt", 8, 't', 192, 256, 128},
                               {"8 groups ~192x128x256 Bt", 8, 't', 192, 128, 256},
                               {"8 groups ~192x256x128 Ac", 8, 'c', 192, 256, 128},
                               {"8 wgrad 128x256x~192", 8, 'g', 128, 256, 192},
                               {"8 wgrad 256x128x~192", 8, 'g', 256, 128, 192},
                               {"wgrad 128x384x768", 1, 'g', 128, 384, 768},
                               {"moe8 ~512x1024x256", 8, 'n', 512, 1024, 256},
                               {"moe8 ~512x256x1024", 8, 'n', 512, 256, 1024},
                               {"moe8 ~512x256x1024 Bt", 8, 't', 512, 256, 1024},
                               {"moe8 ~512x1024x256 Bt", 8, 't', 512, 1024, 256},
                               {"moe8 wgrad 256x1024x~512", 8, 'g', 256, 1024, 512},
                               {"moe8 wgrad 1024x256x~512", 8, 'g', 1024, 256, 512},
                               {"moe64 ~64x1024x256", 64, 'n', 64, 1024, 256},
                               {"moe64 ~64x256x1024", 64, 'n', 64, 256, 1024},
                               {"moe64 ~64x256x1024 Bt", 64, 't', 64, 256, 1024},
                               {"moe64 ~64x1024x256 Bt", 64, 't', 64, 1024, 256},
                               {"moe64 wgrad 256x1024x~64", 64, 'g', 256, 1024, 64},
                               {"512 groups ~8x256x128", 512, 'n', 8, 256, 128},
                               {"router 2048x8x256", 1, 'n', 2048, 8, 256},
                               {"router 2048x64x256", 1, 'n', 2048, 64, 256},
                               {"attn 32x 96x96x32 Bt", 32, 't', 96, 96, 32},
                               {"attn 32x 96x32x96", 32, 'n', 96, 32, 96},
                               {"decode 1x1024x256", 1, 'n', 1, 1024, 256},
                               {"decode 1x1024x256 Bt", 1, 't', 1, 1024, 256},
                               {"decode 4x1024x256", 1, 'n', 4, 1024, 256},
                               {"decode 8x1024x256", 1, 'n', 8, 1024, 256},
                               {"decode 16x1024x256", 1, 'n', 16, 1024, 256},
                               {"decode 16x1024x256 Bt", 1, 't', 16, 1024, 256},
                               {"small K 1024x1024x16", 1, 'n', 1024, 1024, 16}};

typedef struct {
  float *a, *b, *c;
  int32_t off[520];
  const shape *s;
} data;
static data D;
static dm_gemm G;

static const float *a_base(const dm_ctx *c, int64_t z) {
  (void)c;
  return D.s->form == 'g' ? D.a + D.off[z] * D.s->m : D.a + D.off[z] * D.s->k;
}
static const float *b_base(const dm_ctx *c, int64_t z) {
  (void)c;
  return D.s->form == 'g' ? D.b + D.off[z] * D.s->n : D.b + z * D.s->n * D.s->k;
}
static void a_pack(const dm_ctx *c, int64_t z, int64_t i0, int64_t ni, int64_t k0, int64_t nk, float *dst, int64_t ld) {
  const float *a = a_base(c, z);
  for (int64_t i = 0; i < ni; i++)
    for (int64_t k = 0; k < nk; k++)
      dst[i * ld + k] = 2 * a[(i0 + i) * D.s->k + k0 + k];
}
static void store(const dm_ctx *c, int64_t z, int64_t i0, int64_t ni, int64_t j0, int64_t nj, const float *acc,
                  int64_t ld) {
  (void)c;
  float *o = D.c + (D.s->form == 'g' ? z * D.s->m : D.off[z]) * D.s->n;
  for (int64_t i = 0; i < ni; i++)
    for (int64_t j = 0; j < nj; j++)
      o[(i0 + i) * D.s->n + j0 + j] = acc[i * ld + j];
}

// Threads wait for each other by spinning: the benchmark has its cores to itself.
static int threads;
static atomic_int round_no, done;
static atomic_long next;
static float *scratch[64];
static void work(int t) {
  dm_ctx c = {0, 0, scratch[t], &dm_core_table, t, threads};
  int64_t n = dm_core_table.gemm_tasks(&c, &G);
  for (int64_t i; (i = atomic_fetch_add(&next, 1)) < n;)
    dm_core_table.gemm_task(&c, &G, i);
}
static void *helper(void *arg) {
  int t = (int)(intptr_t)arg;
  for (int seen = 0;;) {
    int r;
    while ((r = atomic_load(&round_no)) == seen) {
    }
    if (r < 0)
      return 0;
    seen = r, work(t), atomic_fetch_add(&done, 1);
  }
}
static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
static double once(void) {
  double t = now();
  atomic_store(&next, 0), atomic_store(&done, 0), atomic_fetch_add(&round_no, 1);
  work(0);
  while (atomic_load(&done) < threads - 1) {
  }
  return now() - t;
}

static double share(const shape *s, double seconds) { // the best rate of C's elements over the best peak around it
  int64_t rows = 0, depth_rows = s->form == 'g' ? s->k : s->m;
  D.s = s;
  for (int z = 0; z < s->groups; z++) { // uneven groups, except where there is one
    D.off[z] = (int32_t)rows;
    rows += s->groups == 1 || strncmp(s->name, "attn", 4) == 0 ? depth_rows
                                                               : depth_rows / 2 + (z * 7919 % 13) * depth_rows / 12;
  }
  D.off[s->groups] = (int32_t)rows;
  G = (dm_gemm){
      .groups = s->groups, .n = s->n, .m = s->m, .k = s->k, .a_base = a_base, .b_base = b_base, .store = store};
  G.a_si = s->k, G.a_sk = 1, G.b_sk = s->n, G.b_sj = 1;
  if (s->form == 't')
    G.b_sk = 1, G.b_sj = s->k;
  if (s->form == 'g')
    G.a_si = 1, G.a_sk = s->m, G.k_off = D.off;
  else
    G.m_off = s->groups > 1 ? D.off : 0;
  if (s->form == 'c')
    G.a_base = 0, G.a_pack = a_pack;
  double flop = s->form == 'g' ? 2.0 * (double)(s->m * s->n * rows) : 2.0 * (double)(rows * s->n * s->k), peak = 0,
         best = 0;
  for (double end = now() + seconds; now() < end;) {
    double p = dm_fma_peak(threads, seconds / 20);
    if (p > peak)
      peak = p;
    for (double stop = now() + seconds / 10; now() < stop;) {
      double r = flop / once() * 1e-9;
      if (r > best)
        best = r;
    }
  }
  printf("  %5.1f%% (%6.1f)", 100 * best / peak, best);
  return best / peak;
}

int main(int argc, char **argv) {
  double seconds = argc > 1 ? atof(argv[1]) : 1;
  size_t n = 12u << 20;
  D.a = aligned_alloc(64, n * 4), D.b = aligned_alloc(64, 20 * n), D.c = aligned_alloc(64, 20 * n * 4);
  for (size_t i = 0; i < n; i++)
    D.a[i] = (float)(i % 251) - 125;
  for (size_t i = 0; i < 5 * n; i++)
    D.b[i] = (float)(i % 127) - 63;
  memset(D.c, 0, 20 * n * 4);
  for (int t = 0; t < 2; t++)
    scratch[t] = aligned_alloc(4096, DM_SCRATCH_BYTES), memset(scratch[t], 0, DM_SCRATCH_BYTES);
  pthread_t id;
  printf("%-28s %s\n", "M x N x K (a group)", "1 thread: % of peak (GFLOP/s), 2 threads");
  for (size_t i = 0; i < sizeof shapes / sizeof *shapes; i++) {
    if (argc > 2 && !strstr(shapes[i].name, argv[2]))
      continue;
    printf("%-28s", shapes[i].name);
    threads = 1, share(&shapes[i], seconds);
    threads = 2, atomic_store(&round_no, 0);
    pthread_create(&id, 0, helper, (void *)1);
    share(&shapes[i], seconds);
    atomic_store(&round_no, -1), pthread_join(id, 0);
    printf("\n"), fflush(stdout);
  }
  return 0;
}
