// Measures the machine's limits on all threads at once: float32 fused multiply-adds (independent chains in registers),
// and memory bandwidth (a sum of two arrays into a third, each larger than the caches: the triad of STREAM, McCalpin
// 1995).
#include "gemm.h"
#include "microkernel.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

#define CHAINS (DM_VL == 4 ? 12 : 14)
#define STEPS 20000 // one window takes about 0.2 ms

typedef struct {
  atomic_int *ready;
  int threads, windows;
  double best;
  float sink;
} dm_peak;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static __attribute__((noinline)) float burn(float x) {
  dm_vec s[CHAINS], a = dm_splat(x), b = dm_splat(1 - x);
#pragma GCC unroll 16
  for (int i = 0; i < CHAINS; i++)
    s[i] = dm_splat((float)i);
  for (int k = 0; k < STEPS; k++) {
#pragma GCC unroll 16
    for (int i = 0; i < CHAINS; i++)
      s[i] = DM_FMA(s[i], a, b);
  }
  dm_vec t = s[0];
  for (int i = 1; i < CHAINS; i++)
    t += s[i];
  return t[0];
}

// Window w runs on all threads between two barriers, so the rate is that of all threads together.
static void *measure(void *arg) {
  dm_peak *p = arg;
  for (int w = 0; w < p->windows; w++) {
    atomic_fetch_add(p->ready, 1);
    while (atomic_load(p->ready) < (2 * w + 1) * p->threads) {
    }
    double t = now();
    p->sink += burn(0.5f);
    atomic_fetch_add(p->ready, 1);
    while (atomic_load(p->ready) < (2 * w + 2) * p->threads) {
    }
    t = now() - t;
    double rate = 2e-9 * DM_VL * CHAINS * (double)STEPS * p->threads / t;
    if (rate > p->best)
      p->best = rate;
  }
  return 0;
}

double dm_fma_peak(int threads, double seconds) {
  if (threads < 1)
    threads = 1;
  if (threads > 256)
    threads = 256;
  double t = now();
  volatile float sink = burn(0.5f);
  t = now() - t;
  atomic_int ready = 0;
  pthread_t id[256];
  dm_peak p[256];
  int windows = (int)(seconds / (t > 1e-6 ? t : 1e-6)) + 1, started = 1;
  if (windows > 1 << 20)
    windows = 1 << 20;
  for (int i = 0; i < threads; i++)
    p[i] = (dm_peak){&ready, threads, windows, 0, 0};
  for (; started < threads && pthread_create(&id[started], 0, measure, &p[started]) == 0; started++) {
  }
  if (started < threads) { // too few threads: let the others leave, and measure those that can be had
    atomic_store(&ready, 1 << 30);
    for (int i = 1; i < started; i++)
      pthread_join(id[i], 0);
    return started > 1 ? dm_fma_peak(started - 1, seconds) : 0;
  }
  measure(&p[0]);
  for (int i = 1; i < threads; i++)
    pthread_join(id[i], 0);
  sink = sink + p[0].sink;
  return p[0].best;
}

#define TRIAD (4 << 20) // floats of each array of a thread

typedef struct {
  atomic_int *ready;
  int threads, rounds;
  float *a;
  double best;
} dm_stream;

static void *stream(void *arg) {
  dm_stream *p = arg;
  float *a = p->a, *b = a + TRIAD, *c = b + TRIAD;
  for (int64_t i = 0; i < 3 * (int64_t)TRIAD; i++)
    a[i] = 1;
  for (int r = 0; r < p->rounds; r++) {
    atomic_fetch_add(p->ready, 1);
    while (atomic_load(p->ready) < (2 * r + 1) * p->threads) {
    }
    double t = now();
    for (int64_t i = 0; i < TRIAD; i += DM_VL)
      *(dm_uvec *)(c + i) = *(dm_uvec *)(a + i) + *(dm_uvec *)(b + i);
    atomic_fetch_add(p->ready, 1);
    while (atomic_load(p->ready) < (2 * r + 2) * p->threads) {
    }
    double rate = 12e-9 * (double)TRIAD * p->threads / (now() - t);
    if (rate > p->best)
      p->best = rate;
  }
  return 0;
}

double dm_memory_peak(int threads) {
  if (threads < 1)
    threads = 1;
  if (threads > 256)
    threads = 256;
  atomic_int ready = 0;
  pthread_t id[256];
  dm_stream p[256];
  float *all = malloc(sizeof(float) * 3 * TRIAD * (size_t)threads);
  if (!all)
    return 0;
  int started = 1;
  for (int i = 0; i < threads; i++)
    p[i] = (dm_stream){&ready, threads, 8, all + (int64_t)i * 3 * TRIAD, 0};
  for (; started < threads && pthread_create(&id[started], 0, stream, &p[started]) == 0; started++) {
  }
  if (started < threads)
    atomic_store(&ready, 1 << 30); // too few threads: let the others leave
  else
    stream(&p[0]);
  for (int i = 1; i < started; i++)
    pthread_join(id[i], 0);
  free(all);
  return started < threads ? 0 : p[0].best;
}
