// The driver of the native device: memory, kernel libraries, and a pool of threads that runs a Program's table of
// steps wave by wave.
//
// The tasks of a wave are numbered across its steps; `first` holds the number of each step's first task. The share of
// thread t of T is every T-th task from t on; `left` holds which of them no thread has taken. A thread takes the tasks
// of its own share in their order, then those of other threads, of each share the last one first. So steps with as
// many tasks give the same tasks to the same threads, which have their data in the cache, and threads rarely wait for
// each other's `left`. `open` counts the tasks of all shares that are not done. Only a thread that has taken a task
// reads the other fields of the wave, and the wave cannot end before that thread subtracts its tasks from `open`. So a
// worker that starts late, or never, delays nobody; and reading an old value of `left` is harmless, because the
// compare-and-swap decides. A chain is a wave whose tasks are groups: a task is one group's part of all its steps, one
// after the other (driver.h: dm_step.groups).
//   caller -> worker: fields of the wave, then left (release); the taker's compare-and-swap acquires.
//   worker -> caller: results, then open -= done (release); the caller acquires open == 0.
// Sleeping uses Dekker's pattern (seq_cst): a sleeper announces itself, then checks again; a waker changes the word,
// then checks for sleepers.
#define _GNU_SOURCE
#include "driver.h"
#include "wait.h"
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

extern const dm_core dm_core_table; // gemm.c

#define CHAIN_TASKS 8 // in a chain, every group has at most 1 / (CHAIN_TASKS * threads) of all rows
#define HUGE_PAGE ((size_t)2 << 20)
#ifdef MAP_POPULATE
#define POPULATE MAP_POPULATE
#else
#define POPULATE 0
#endif

static size_t mapped(int64_t bytes) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE), size = bytes < 1 ? 1 : (size_t)bytes;
  return (size + page - 1) / page * page;
}

// A large region is aligned to a huge page (maps more, then unmaps both ends); otherwise Linux could not use huge
// pages for it. Small regions that are used completely (parameters) get their pages at once: one page fault after the
// other would cost the first step more time than its work.
static int64_t map(int64_t bytes, int huge) {
  if (bytes < 0 || bytes > INT64_MAX / 2)
    return 0;
  size_t size = mapped(bytes), extra = huge && size >= 2 * HUGE_PAGE ? HUGE_PAGE : 0;
  char *p = mmap(NULL, size + extra, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | (huge && !extra ? POPULATE : 0), -1, 0);
  if (p == MAP_FAILED)
    return 0;
  if (extra) {
    size_t head = (HUGE_PAGE - ((uintptr_t)p & (HUGE_PAGE - 1))) & (HUGE_PAGE - 1);
    if (head)
      munmap(p, head);
    if (extra > head)
      munmap(p + head + size, extra - head);
    p += head;
#ifdef MADV_HUGEPAGE
    madvise(p, size, MADV_HUGEPAGE);
#endif
  }
  return (int64_t)(intptr_t)p;
}

int64_t dm_alloc(int64_t bytes) { return map(bytes, 1); }

void dm_free(int64_t addr, int64_t bytes) {
  if (addr)
    munmap((void *)(intptr_t)addr, mapped(bytes));
}

void dm_copy_in(int64_t dst, const void *src, int64_t bytes) {
  if (bytes > 0)
    memcpy((void *)(intptr_t)dst, src, (size_t)bytes);
}

void dm_copy_out(void *dst, int64_t src, int64_t bytes) {
  if (bytes > 0)
    memcpy(dst, (const void *)(intptr_t)src, (size_t)bytes);
}

static pthread_mutex_t error_lock = PTHREAD_MUTEX_INITIALIZER;
static char error_text[1024];

static void keep_error(const char *text) {
  pthread_mutex_lock(&error_lock);
  snprintf(error_text, sizeof error_text, "%s", text ? text : "unknown error");
  pthread_mutex_unlock(&error_lock);
}

int64_t dm_open(const char *path) {
  void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (!handle)
    keep_error(dlerror());
  return (int64_t)(intptr_t)handle;
}

int64_t dm_sym(int64_t handle, const char *name) {
  void *address = dlsym((void *)(intptr_t)handle, name);
  if (!address)
    keep_error(dlerror());
  return (int64_t)(intptr_t)address;
}

void dm_close(int64_t handle) {
  if (handle)
    dlclose((void *)(intptr_t)handle);
}

const char *dm_error(void) { return error_text; }

#if defined(__AVX512F__)
#define VECTOR 64
#elif defined(__AVX__)
#define VECTOR 32
#else
#define VECTOR 16
#endif
#if defined(__FMA__) || defined(__aarch64__) || defined(__riscv)
#define FMA "true"
#else
#define FMA "false"
#endif
#if defined(__x86_64__)
#define ARCH "x86_64"
#elif defined(__aarch64__)
#define ARCH "aarch64"
#elif defined(__riscv)
#define ARCH "riscv"
#else
#define ARCH "other"
#endif
#if defined(__clang__)
#define COMPILER "clang " __clang_version__
#else
#define COMPILER "gcc " __VERSION__
#endif

const char *dm_info(void) {
  static char text[256];
  pthread_mutex_lock(&error_lock);
  snprintf(text, sizeof text, "{\"driver\":1,\"compiler\":\"%s\",\"arch\":\"%s\",\"vector\":%d,\"fma\":%s,\"cpus\":%d}",
           COMPILER, ARCH, VECTOR, FMA, dm_cpus());
  pthread_mutex_unlock(&error_lock);
  return text;
}

#define LINE 64
typedef struct pool pool;
typedef struct member {
  // Tasks of this thread's share that no thread has taken: those at positions `from` to `to` - 1 (from | to << 32).
  _Alignas(LINE) _Atomic uint64_t left;
  _Alignas(LINE) pool *pool;
  pthread_t handle;
  float *scratch;
  int32_t index;
} member;

struct pool {
  // written by the caller between waves
  const dm_step *steps;
  int64_t count;    // steps of the wave
  int32_t *first;   // first[s]: the number of tasks before step s; first[count]: all. Of a chain: its groups, in order
  int64_t capacity; // of `first`
  int32_t threads, eager, groups; // groups: not 0 in a chain
  int64_t only;                   // dm_ctx.only
  member *members;
  pthread_mutex_t running;
  _Alignas(LINE) _Atomic uint32_t open;
  _Atomic uint32_t caller_sleeps;
  _Alignas(LINE) _Atomic uint32_t wave; // number of waves announced: the word that idle workers sleep on
  _Atomic int32_t sleepers;
  _Atomic int32_t stop;
};

static dm_ctx context(const pool *p, const dm_step *s, int thread) {
  return (dm_ctx){.buf = (void *const *)(intptr_t)s->buf,
                  .n = (const int64_t *)(intptr_t)s->n,
                  .scratch = p->members[thread].scratch,
                  .core = &dm_core_table,
                  .thread = thread,
                  .threads = p->threads,
                  .only = p->only};
}

static int skipped(const dm_step *s) { return s->skip_if && *(const volatile int32_t *)(intptr_t)s->skip_if; }

static int64_t count_tasks(const pool *p, const dm_step *s) {
  if (skipped(s))
    return 0;
  if (!s->tasks_fn)
    return 1;
  dm_ctx c = context(p, s, 0);
  int64_t n = ((int64_t (*)(const dm_ctx *))(intptr_t)s->tasks_fn)(&c);
  return n < 0 ? 0 : n;
}

typedef void (*run_fn)(const dm_ctx *, int64_t);

static void run_product(const pool *p, const dm_step *s, int thread, int64_t task) {
  if (skipped(s))
    return;
  dm_ctx c = context(p, s, thread);
  ((run_fn)(intptr_t)s->run_fn)(&c, task);
}

// Runs one group's part of all steps of a chain, the group at position q of `first`. Before each product, the
// following one is announced, so that it can prefetch: the next step of this group, or the first step of the group
// that this thread will probably take next.
static void run_group(const pool *p, int thread, int32_t q) {
  const dm_step *end = p->steps + p->count;
  for (const dm_step *s = p->steps; s < end; s++) {
    if (s + 1 < end)
      run_product(p, s + 1, thread, DM_PREFETCH_TASK(p->first[q]));
    else if (q + p->threads < p->groups)
      run_product(p, p->steps, thread, DM_PREFETCH_TASK(p->first[q + p->threads]));
    run_product(p, s, thread, DM_GROUP_TASK(p->first[q]));
  }
}

// Whether no task of a share is left.
static int none(uint64_t left) { return (uint32_t)left >= (uint32_t)(left >> 32); }

// Takes a task of a thread's share: the first if it is the own share, else the last. Returns its number; -1: none is
// left.
static int32_t take(pool *p, int32_t from, int own) {
  _Atomic uint64_t *share = &p->members[from].left;
  uint64_t left = atomic_load_explicit(share, memory_order_relaxed);
  while (!none(left)) {
    uint64_t rest = own ? left + 1 : left - ((uint64_t)1 << 32);
    if (atomic_compare_exchange_weak_explicit(share, &left, rest, memory_order_acquire, memory_order_relaxed))
      return from + p->threads * (int32_t)(own ? (uint32_t)left : (uint32_t)(rest >> 32));
  }
  return -1;
}

// Takes and runs tasks of the current wave until none is left. Returns the number of tasks it ran.
static int32_t work(pool *p, int thread) {
  int32_t done = 0;
  int64_t s = -1;
  dm_ctx c;
  run_fn run = NULL;
  for (int32_t i = 0; i < p->threads; i++)
    for (int32_t task; (task = take(p, (thread + i) % p->threads, i == 0)) >= 0; done++) {
      if (p->groups) {
        run_group(p, thread, task);
        continue;
      }
      const int32_t *first = p->first;
      if (s < 0 || task < first[s] || task >= first[s + 1]) {
        for (s = s < 0 || task < first[s] ? 0 : s + 1; task >= first[s + 1];)
          s++;
        c = context(p, &p->steps[s], thread);
        run = (run_fn)(intptr_t)p->steps[s].run_fn;
      }
      run(&c, task - first[s]);
    }
  return done;
}

static void *worker(void *argument) {
  member *m = argument;
  pool *p = m->pool;
  dm_float_mode(DM_FLOAT_DEFAULT);
  for (;;) {
    int32_t done = work(p, m->index);
    if (done && atomic_fetch_sub(&p->open, (uint32_t)done) == (uint32_t)done && atomic_load(&p->caller_sleeps))
      dm_unpark(&p->open, 1);
    dm_wait w = {0};
    int32_t idle;
    while ((idle = none(atomic_load_explicit(&m->left, memory_order_relaxed)) &&
                   !atomic_load_explicit(&p->stop, memory_order_relaxed)))
      if (!dm_poll(&w, p->eager))
        break;
    if (idle) {
      uint32_t wave = atomic_load(&p->wave);
      atomic_fetch_add(&p->sleepers, 1);
      if (none(atomic_load(&m->left)) && !atomic_load(&p->stop))
        dm_park(&p->wave, wave);
      atomic_fetch_sub(&p->sleepers, 1);
    }
    if (atomic_load(&p->stop))
      return NULL;
  }
}

static void announce(pool *p, int32_t tasks) {
  atomic_store_explicit(&p->open, (uint32_t)tasks, memory_order_relaxed);
  for (int32_t t = p->threads - 1; t >= 0; t--) {
    uint64_t to = (uint64_t)((int64_t)tasks + p->threads - 1 - t) / (uint64_t)p->threads;
    atomic_store_explicit(&p->members[t].left, to << 32, memory_order_release);
  }
  atomic_thread_fence(memory_order_seq_cst);
  atomic_fetch_add(&p->wave, 1);
  int32_t sleepers = atomic_load(&p->sleepers);
  if (sleepers > 0)
    dm_unpark(&p->wave, tasks - 1);
}

static void wait_for_tasks(pool *p) {
  dm_wait w = {0};
  uint32_t open;
  while ((open = atomic_load_explicit(&p->open, memory_order_acquire))) {
    if (dm_poll(&w, p->eager))
      continue;
    atomic_store(&p->caller_sleeps, 1);
    if ((open = atomic_load(&p->open)))
      dm_park(&p->open, open);
    atomic_store(&p->caller_sleeps, 0);
  }
}

static int room(pool *p, int64_t count) {
  if (count <= p->capacity)
    return 1;
  int32_t *first = realloc(p->first, (size_t)(count + 64) * sizeof *first);
  if (first)
    p->first = first, p->capacity = count + 64;
  return first != NULL;
}

static void share_tasks(pool *p, int32_t tasks) {
  announce(p, tasks);
  int32_t done = work(p, 0);
  atomic_fetch_sub_explicit(&p->open, (uint32_t)done, memory_order_acq_rel);
  wait_for_tasks(p);
}

// The number of steps, at most `most`, that form a chain. 1 if a chain would not help, because one group has a large
// share of all rows.
static int64_t chain_of(const pool *p, const dm_step *s, int64_t most) {
  if (most < 2 || !s[1].groups)
    return 1;
  const int32_t *offsets = (const int32_t *)(intptr_t)s[1].offsets;
  int64_t groups = s[1].groups, all = offsets[groups] - offsets[0], n = 2;
  for (int64_t z = 0; z < groups; z++)
    if ((int64_t)(offsets[z + 1] - offsets[z]) * CHAIN_TASKS * p->threads > all)
      return 1;
  while (n < most && s[n].groups)
    n++;
  return n;
}

// Runs large groups first, so that all threads finish at about the same time.
static int64_t run_chain(pool *p, const dm_step *steps, int64_t count) {
  const int32_t *offsets = (const int32_t *)(intptr_t)steps[1].offsets;
  int64_t groups = steps[1].groups, all = offsets[groups] - offsets[0], n = 0;
  if (!room(p, groups))
    return -2;
  for (int64_t size = 8; size >= 0; size--)
    for (int64_t z = 0; z < groups; z++) {
      int64_t quarters = all > 0 ? 4 * groups * (offsets[z + 1] - offsets[z]) / all : 0; // of the mean
      if ((quarters > 8 ? 8 : quarters) == size)
        p->first[n++] = (int32_t)z;
    }
  p->steps = steps, p->count = count, p->groups = (int32_t)groups;
  if (p->threads > 1)
    share_tasks(p, p->groups);
  else
    for (int32_t q = 0; q < p->groups; q++)
      run_group(p, 0, q);
  p->groups = 0;
  return 0;
}

static int64_t run_wave(pool *p, const dm_step *steps, int64_t count, int64_t *tasks) {
  if (!room(p, count + 1))
    return -2;
  int64_t total = 0;
  p->steps = steps, p->count = count;
  for (int64_t s = 0; s < count; s++) {
    p->first[s] = (int32_t)total;
    total += count_tasks(p, &steps[s]);
    if (total > INT32_MAX)
      return -3;
  }
  p->first[count] = (int32_t)total;
  *tasks = total;
  if (total == 0)
    return 0;
  if (total == 1 || p->threads == 1) {
    for (int64_t s = 0; s < count; s++) {
      dm_ctx c = context(p, &steps[s], 0);
      for (int64_t t = 0; t < p->first[s + 1] - p->first[s]; t++)
        ((run_fn)(intptr_t)steps[s].run_fn)(&c, t);
    }
    return 0;
  }
  share_tasks(p, (int32_t)total);
  return 0;
}

// Runs a product group by group, all threads on one group, while its rows come or go (dm_step.slot).
static int64_t run_by_slot(pool *p, const dm_step *s, int64_t *tasks) {
  void (*slot)(int64_t, int64_t) = (void (*)(int64_t, int64_t))(intptr_t)s->slot;
  int64_t error = 0, n = 0;
  *tasks = 0;
  for (int64_t z = 0; z < s->slots && !error; z++) {
    if (s->flags & DM_SLOTS_COME)
      slot(s->exchange, z);
    p->only = z + 1;
    error = run_wave(p, s, 1, &n), *tasks += n;
    if (!(s->flags & DM_SLOTS_COME))
      slot(s->exchange, z);
  }
  p->only = 0;
  return error;
}

int64_t dm_run(int64_t pool_, const void *table, int64_t from, int64_t to, int64_t *profile_ns) {
  pool *p = (pool *)(intptr_t)pool_;
  const dm_step *steps = table;
  if (!p || from < 0 || to < from || (!steps && to > from))
    return -1;
  pthread_mutex_lock(&p->running);
  uint32_t mode = dm_float_mode(DM_FLOAT_DEFAULT);
  int64_t error = 0, tasks = 0;
  for (int64_t i = from, end; i < to && !error; i = end) {
    int64_t chain = profile_ns ? 1 : chain_of(p, steps + i, to - i);
    if (chain > 1) {
      error = run_chain(p, steps + i, chain), end = i + chain;
      continue;
    }
    for (end = i + 1; end < to && !profile_ns && !steps[i].slot; end++)
      if (steps[end].flags & DM_BARRIER || steps[end].slot)
        break;
    // If a chain starts with the last step of this wave, that step is left to the chain.
    if (end < to && steps[end].groups && end - i > 1 && chain_of(p, steps + end - 1, to - end + 1) > 1)
      end--;
    int64_t start = profile_ns ? dm_now() : 0;
    error = steps[i].slot ? run_by_slot(p, steps + i, &tasks) : run_wave(p, steps + i, end - i, &tasks);
    if (profile_ns && !error)
      profile_ns[2 * i] += dm_now() - start, profile_ns[2 * i + 1] += tasks;
  }
  dm_float_mode(mode);
  pthread_mutex_unlock(&p->running);
  return error;
}

static void stop_workers(pool *p, int32_t started) {
  atomic_store(&p->stop, 1);
  atomic_fetch_add(&p->wave, 1);
  dm_unpark(&p->wave, INT32_MAX);
  for (int32_t t = 1; t < started; t++)
    pthread_join(p->members[t].handle, NULL);
  for (int32_t t = 0; t < p->threads; t++)
    dm_free((int64_t)(intptr_t)p->members[t].scratch, DM_SCRATCH_BYTES);
  pthread_mutex_destroy(&p->running);
  free(p->members);
  free(p->first);
  free(p);
}

int64_t dm_pool_create(int threads) {
  int cpus = dm_cpus();
  if (threads <= 0)
    threads = cpus;
  pool *p = aligned_alloc(LINE, sizeof *p);
  if (!p)
    return 0;
  memset(p, 0, sizeof *p);
  p->threads = threads, p->eager = threads <= cpus;
  p->members = aligned_alloc(LINE, (size_t)threads * sizeof *p->members);
  pthread_mutex_init(&p->running, NULL);
  int ok = p->members != NULL, started = 1;
  if (!ok)
    p->threads = 0;
  for (int32_t t = 0; t < p->threads; t++) {
    // Kernels use only the beginning of scratch, so it gets small pages: unused ones never become resident.
    member *m = memset(&p->members[t], 0, sizeof *m);
    m->pool = p, m->index = t, m->scratch = (float *)(intptr_t)map(DM_SCRATCH_BYTES, 0);
    ok = ok && m->scratch;
  }
  while (ok && started < threads) {
    ok = pthread_create(&p->members[started].handle, NULL, worker, &p->members[started]) == 0;
    started += ok;
  }
  if (ok)
    return (int64_t)(intptr_t)p;
  stop_workers(p, started);
  keep_error("could not create a pool of threads");
  return 0;
}

void dm_pool_destroy(int64_t pool_) {
  pool *p = (pool *)(intptr_t)pool_;
  if (p)
    stop_workers(p, p->threads);
}

int dm_pool_threads(int64_t pool_) { return pool_ ? ((pool *)(intptr_t)pool_)->threads : 0; }
