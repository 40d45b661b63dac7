// The fixed part of the native device: memory, shared objects, a pool of threads, and the walk over a Program's table of steps.
// Steps form waves; the tasks of a wave lie in one queue from which all threads take. One call runs many steps.
#include "driver.h"
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

// ---- memory ----
int64_t dm_alloc(int64_t bytes) {
  void *p = mmap(NULL, (size_t)bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) return 0;
#ifdef MADV_HUGEPAGE
  if (bytes >= (4 << 20)) madvise(p, (size_t)bytes, MADV_HUGEPAGE);
#endif
  return (int64_t)(intptr_t)p;
}
void dm_free(int64_t address, int64_t bytes) { munmap((void *)(intptr_t)address, (size_t)bytes); }
void dm_copy_in(int64_t address, const void *data, int64_t bytes) { memcpy((void *)(intptr_t)address, data, (size_t)bytes); }
void dm_copy_out(void *into, int64_t address, int64_t bytes) { memcpy(into, (const void *)(intptr_t)address, (size_t)bytes); }
void dm_fill32(int64_t address, uint32_t pattern, int64_t bytes) {
  uint32_t *p = (uint32_t *)(intptr_t)address;
  for (int64_t i = 0; i < bytes / 4; i++) p[i] = pattern;
}

// ---- shared objects ----
int64_t dm_open(const char *path) { return (int64_t)(intptr_t)dlopen(path, RTLD_NOW | RTLD_LOCAL); }
int64_t dm_sym(int64_t library, const char *name) { return (int64_t)(intptr_t)dlsym((void *)(intptr_t)library, name); }
const char *dm_error(void) { const char *e = dlerror(); return e ? e : ""; }

// ---- threads ----
typedef int64_t (*tasks_fn)(const dm_ctx *);
typedef void (*run_fn)(const dm_ctx *, int64_t);
#define WAVE_MAX 256

typedef struct dm_pool {
  int threads;
  pthread_t *workers;
  float **scratch;
  pthread_mutex_t busy;                 // one run at a time
  // the wave in progress
  const dm_step *steps;
  int count;
  int64_t first[WAVE_MAX + 1];          // task numbers: step s has first[s]..first[s + 1]
  _Alignas(64) _Atomic int64_t next;    // next task to take
  _Alignas(64) _Atomic uint32_t wave;   // counts waves; workers wait for it to change
  _Alignas(64) _Atomic int32_t working; // workers not yet done with the wave
  _Atomic int32_t sleeping;
  _Atomic int32_t stop;
} dm_pool;

static inline void relax(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

static void nap(_Atomic uint32_t *word, uint32_t value) {
#ifdef __linux__
  syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL, NULL, 0);
#else
  if (atomic_load(word) == value) { struct timespec t = {0, 50000}; nanosleep(&t, NULL); }
#endif
}

static void wake(_Atomic uint32_t *word) {
#ifdef __linux__
  syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, 1 << 30, NULL, NULL, 0);
#else
  (void)word;
#endif
}

static void work(dm_pool *p, int thread) {
  int s = 0;
  for (;;) {
    const int64_t task = atomic_fetch_add_explicit(&p->next, 1, memory_order_relaxed);
    if (task >= p->first[p->count]) return;
    while (task >= p->first[s + 1]) s++;
    const dm_step *step = &p->steps[s];
    const dm_ctx c = {(void *const *)(intptr_t)step->buffers, (const int64_t *)(intptr_t)step->ints, p->scratch[thread], &dm_core_table,
                      thread, p->threads};
    ((run_fn)(intptr_t)step->run)(&c, task - p->first[s]);
  }
}

#define SPINS 4000

typedef struct { dm_pool *pool; int thread; } worker_arg;

static void *worker(void *raw) {
  const worker_arg arg = *(worker_arg *)raw;
  free(raw);
  dm_pool *p = arg.pool;
  uint32_t seen = 0;
  for (;;) {
    for (int i = 0; i < SPINS && atomic_load_explicit(&p->wave, memory_order_acquire) == seen; i++) relax();
    while (atomic_load(&p->wave) == seen) {
      atomic_fetch_add(&p->sleeping, 1);
      nap(&p->wave, seen);
      atomic_fetch_sub(&p->sleeping, 1);
    }
    seen++;
    if (atomic_load(&p->stop)) return NULL;
    work(p, arg.thread);
    atomic_fetch_sub_explicit(&p->working, 1, memory_order_release);
  }
}

int64_t dm_pool_create(int threads) {
  dm_pool *p = aligned_alloc(64, (sizeof(dm_pool) + 63) / 64 * 64);
  memset(p, 0, sizeof *p);
  p->threads = threads;
  p->workers = calloc((size_t)threads, sizeof *p->workers);
  p->scratch = calloc((size_t)threads, sizeof *p->scratch);
  pthread_mutex_init(&p->busy, NULL);
  for (int t = 0; t < threads; t++) p->scratch[t] = (float *)(intptr_t)dm_alloc(DM_SCRATCH_BYTES);
  for (int t = 1; t < threads; t++) {
    worker_arg *a = malloc(sizeof *a);
    *a = (worker_arg){p, t};
    pthread_create(&p->workers[t], NULL, worker, a);
  }
  return (int64_t)(intptr_t)p;
}

static void start(dm_pool *p) {
  atomic_store_explicit(&p->next, 0, memory_order_relaxed);
  atomic_store_explicit(&p->working, p->threads - 1, memory_order_relaxed);
  atomic_fetch_add(&p->wave, 1);
  if (atomic_load(&p->sleeping)) wake(&p->wave);
}

void dm_pool_destroy(int64_t pool) {
  dm_pool *p = (dm_pool *)(intptr_t)pool;
  pthread_mutex_lock(&p->busy);
  p->count = 0;
  atomic_store(&p->stop, 1);
  start(p);
  for (int t = 1; t < p->threads; t++) {
    while (atomic_load(&p->sleeping)) { wake(&p->wave); sched_yield(); }
    pthread_join(p->workers[t], NULL);
  }
  for (int t = 0; t < p->threads; t++) dm_free((int64_t)(intptr_t)p->scratch[t], DM_SCRATCH_BYTES);
  pthread_mutex_unlock(&p->busy);
  free(p->workers);
  free(p->scratch);
  free(p);
}

static int64_t tasks_of(dm_pool *p, const dm_step *step) {
  if (step->skip_if && *(const int32_t *)(intptr_t)step->skip_if) return 0;
  const dm_ctx c = {(void *const *)(intptr_t)step->buffers, (const int64_t *)(intptr_t)step->ints, p->scratch[0], &dm_core_table, 0,
                    p->threads};
  return ((tasks_fn)(intptr_t)step->tasks)(&c);
}

static void run_wave(dm_pool *p, const dm_step *steps, int count) {
  p->steps = steps;
  p->count = count;
  p->first[0] = 0;
  for (int s = 0; s < count; s++) p->first[s + 1] = p->first[s] + tasks_of(p, &steps[s]);
  const int64_t all = p->first[count];
  if (all <= 1 || p->threads == 1) {
    atomic_store_explicit(&p->next, 0, memory_order_relaxed);
    work(p, 0);
    return;
  }
  start(p);
  work(p, 0);
  for (int spins = 0; atomic_load_explicit(&p->working, memory_order_acquire) != 0; spins++) {
    if (spins < SPINS) relax(); else sched_yield();
  }
}

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

int64_t dm_run(int64_t pool, int64_t table, int64_t from, int64_t to, int64_t profile) {
  dm_pool *p = (dm_pool *)(intptr_t)pool;
  const dm_step *steps = (const dm_step *)(intptr_t)table;
  int64_t *times = (int64_t *)(intptr_t)profile;
  pthread_mutex_lock(&p->busy);
  for (int64_t s = from; s < to;) {
    int count = 1;
    if (!times) while (s + count < to && count < WAVE_MAX && !(steps[s + count].flags & DM_BARRIER)) count++;
    const int64_t begin = times ? now() : 0;
    run_wave(p, steps + s, count);
    if (times) { times[2 * s] += now() - begin; times[2 * s + 1] += p->first[1]; }
    s += count;
  }
  pthread_mutex_unlock(&p->busy);
  return 0;
}
