// Waiting: a clock, a pause instruction, and sleeping on a 32-bit word (futex on Linux, elsewhere a mutex and a
// condition variable). For driver.c only.
#ifndef DM_WAIT_H
#define DM_WAIT_H
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdint.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <linux/futex.h>
#include <sys/syscall.h>
#endif

static inline int64_t dm_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static inline void dm_pause(void) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_ia32_pause();
#elif defined(__aarch64__) || defined(__arm__)
  __asm__ volatile("yield");
#endif
}

// The number of cores that this process may use.
static inline int dm_cpus(void) {
#ifdef __linux__
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof set, &set) == 0)
    return CPU_COUNT(&set);
#endif
  long n = sysconf(_SC_NPROCESSORS_ONLN);
  return n > 0 ? (int)n : 1;
}

#ifdef __linux__
// Sleeps while *word == seen; may return early.
static inline void dm_park(_Atomic uint32_t *word, uint32_t seen) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

// Wakes up to `count` of the threads that sleep on the word.
static inline void dm_unpark(_Atomic uint32_t *word, int count) {
  syscall(SYS_futex, (uint32_t *)word, FUTEX_WAKE_PRIVATE, count, NULL, NULL, 0);
}
#else
static pthread_mutex_t dm_park_lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t dm_park_cond = PTHREAD_COND_INITIALIZER;

static inline void dm_park(_Atomic uint32_t *word, uint32_t seen) {
  pthread_mutex_lock(&dm_park_lock);
  if (atomic_load(word) == seen)
    pthread_cond_wait(&dm_park_cond, &dm_park_lock);
  pthread_mutex_unlock(&dm_park_lock);
}

static inline void dm_unpark(_Atomic uint32_t *word, int count) {
  (void)word, (void)count;
  pthread_mutex_lock(&dm_park_lock);
  pthread_cond_broadcast(&dm_park_cond);
  pthread_mutex_unlock(&dm_park_lock);
}
#endif

// The polling phase of a wait: pauses for DM_SPIN_NS, then yields the core between polls until DM_YIELD_NS; then
// dm_poll returns 0 and the caller should sleep. The clock is read once in 32 polls. eager = 0 (more threads than
// cores): yields from the start.
#define DM_SPIN_NS 30000
#define DM_YIELD_NS 200000 // longer than the host needs between two steps: waking a sleeping thread takes 40 us
typedef struct dm_wait {
  int64_t start;
  int32_t looks, yields;
} dm_wait;

static inline int dm_poll(dm_wait *w, int eager) {
  if (!w->yields && eager) {
    dm_pause();
    if (++w->looks % 32)
      return 1;
  } else {
    sched_yield();
  }
  int64_t now = dm_now();
  if (!w->start)
    w->start = now;
  w->yields = now - w->start > DM_SPIN_NS;
  return now - w->start < DM_YIELD_NS;
}

// Sets the default floating-point mode for kernels (subnormals kept, round to nearest), because a library may have
// changed it for this thread. Returns the old mode.
static inline uint32_t dm_float_mode(uint32_t mode) {
#if defined(__SSE__)
  uint32_t old = __builtin_ia32_stmxcsr();
  if (old != mode)
    __builtin_ia32_ldmxcsr(mode);
  return old;
#else
  return mode;
#endif
}
#define DM_FLOAT_DEFAULT 0x1f80u
#endif
