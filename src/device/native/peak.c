// How many fused multiply-adds this machine can do: the roof that kernels are measured against.
#include <pthread.h>
#include <stdint.h>
#include <time.h>
#if defined(__AVX512F__)
#define LANES 16
#elif defined(__AVX__)
#define LANES 8
#else
#define LANES 4
#endif
#define CHAINS 12
typedef float vec __attribute__((vector_size(LANES * 4)));

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

typedef struct { double seconds, gflops; float sink; } job;

static void *measure(void *raw) {
  job *j = raw;
  vec acc[CHAINS], a, b;
  for (int l = 0; l < LANES; l++) { a[l] = 0.999999f; b[l] = 1e-6f; }
  for (int i = 0; i < CHAINS; i++) acc[i] = a;
  const double end = seconds_now() + j->seconds;
  do {
    const int rounds = 100000;
    const double begin = seconds_now();
    for (int r = 0; r < rounds; r++)
#pragma GCC unroll 16
      for (int i = 0; i < CHAINS; i++)
        for (int l = 0; l < LANES; l++) acc[i][l] = __builtin_fmaf(acc[i][l], a[l], b[l]);
    const double gflops = 2.0 * LANES * CHAINS * rounds / (seconds_now() - begin) * 1e-9;
    if (gflops > j->gflops) j->gflops = gflops;
  } while (seconds_now() < end);
  for (int i = 0; i < CHAINS; i++) j->sink += acc[i][0];
  return 0;
}

// GFLOP/s of all threads together, each at its best window.
double dm_fma_peak(int threads, double seconds) {
  pthread_t t[256];
  job jobs[256] = {0};
  double sum = 0;
  for (int i = 0; i < threads && i < 256; i++) { jobs[i].seconds = seconds; pthread_create(&t[i], 0, measure, &jobs[i]); }
  for (int i = 0; i < threads && i < 256; i++) { pthread_join(t[i], 0); sum += jobs[i].gflops; }
  return sum;
}
