// Tests of the driver's pool of threads: waves, barriers, skipped steps, profiles, several callers. Prints "ok NAME -
// details" or "not ok NAME - details" for each test. Argument: the number of random waves for each pool [100000].
// `driver_test latency` prints the time that a wave takes instead.
#define _GNU_SOURCE
#include "../../../src/device/native/driver.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

const dm_core dm_core_table = {0};

static int failures;
static void report(int ok, const char *name, const char *details) {
  printf("%s %s - %s\n", ok ? "ok" : "not ok", name, details);
  fflush(stdout);
  failures += !ok;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1e9 + t.tv_nsec;
}

// Kernel `copy`: reads int64 values from buf[0], writes buf[1]. Task t writes out[t], a mix of t and all n[1] inputs.
// n[0]: the number of tasks. buf[2]: int32 count of wrong contexts. Reads and writes are not atomic: a task reads what
// other threads wrote in the wave before, which is right only if the barrier works.
static int64_t copy_tasks(const dm_ctx *c) { return c->n[0]; }
static void copy(const dm_ctx *c, int64_t t) {
  const int64_t *in = c->buf[0];
  int64_t *out = c->buf[1], sum = t;
  for (int64_t i = 0; i < c->n[1]; i++)
    sum = (int64_t)((uint64_t)sum * 31 + (uint64_t)in[i]);
  out[t] = sum;
  c->scratch[0] = (float)c->thread; // no other thread may write here: checked below
  if (c->thread < 0 || c->thread >= c->threads || ((uintptr_t)c->scratch & 63) || c->core != &dm_core_table)
    __atomic_fetch_add((int32_t *)c->buf[2], 1, __ATOMIC_RELAXED);
  if (c->scratch[0] != (float)c->thread)
    __atomic_fetch_add((int32_t *)c->buf[2], 1, __ATOMIC_RELAXED);
}

#define STEPS 24
#define WIDTH 48
static uint32_t random_state;
static uint32_t below(uint32_t n) {
  random_state = random_state * 1664525u + 1013904223u;
  return (uint32_t)(((uint64_t)random_state * n) >> 32);
}

// Random programs. Each wave has 1 to 4 steps, which read the array that the last step of the wave before wrote; each
// step writes an array of its own. The expected arrays are computed one step after the other.
static void stress(int threads, int waves) {
  char name[64], details[128];
  const int64_t pool = dm_pool_create(threads);
  static int64_t arrays[STEPS + 1][WIDTH], expect[STEPS + 1][WIDTH];
  static void *buf[STEPS][3];
  static int64_t n[STEPS][2];
  static int32_t skip[STEPS];
  static dm_step steps[STEPS];
  int32_t bad = 0, wrong = 0, done = 0;
  const double start = now();
  random_state = 7;
  while (done < waves && !wrong) {
    int from = 0, width = WIDTH, last = 0;
    for (int i = 0; i < WIDTH; i++)
      arrays[0][i] = expect[0][i] = done + i;
    for (int s = 0; s < STEPS;) {
      int size = 1 + (int)below(4), tasks = 0;
      if (size > STEPS - s)
        size = STEPS - s;
      for (int j = 0; j < size; j++, s++) {
        tasks = below(4) ? (int)below(WIDTH + 1) : (int)below(2);
        skip[s] = !below(5);
        n[s][0] = tasks, n[s][1] = width;
        buf[s][0] = arrays[from], buf[s][1] = arrays[s + 1], buf[s][2] = &bad;
        memset(arrays[s + 1], 0, sizeof arrays[0]);
        memset(expect[s + 1], 0, sizeof arrays[0]);
        for (int t = 0; t < (skip[s] ? 0 : tasks); t++) {
          int64_t sum = t;
          for (int i = 0; i < width; i++)
            sum = (int64_t)((uint64_t)sum * 31 + (uint64_t)expect[from][i]);
          expect[s + 1][t] = sum;
        }
        steps[s] = (dm_step){(intptr_t)copy_tasks,
                             (intptr_t)copy,
                             (intptr_t)buf[s],
                             (intptr_t)n[s],
                             (intptr_t)&skip[s],
                             j ? 0 : DM_BARRIER,
                             0,
                             0,
                             0,
                             0,
                             0};
        last = s + 1;
      }
      done++, from = last, width = WIDTH;
    }
    wrong += dm_run(pool, steps, 0, STEPS, NULL) != 0 || memcmp(arrays, expect, sizeof arrays) != 0;
  }
  snprintf(name, sizeof name, "stress with %d threads", threads);
  snprintf(details, sizeof details, "%d waves in %.2f s, %d wrong, %d bad contexts", done, (now() - start) * 1e-9,
           wrong, bad);
  report(!wrong && !bad && dm_pool_threads(pool) == threads, name, details);
  dm_pool_destroy(pool);
}

// Many short waves. Every wave computes each counter of one half of the cells as 1 + a counter of the other half, so
// all counters equal the number of waves.
static void ones(const dm_ctx *c, int64_t t) {
  ((int64_t *)c->buf[0])[t * 8] = ((int64_t *)c->buf[0])[((t + 1) % c->n[0] + c->n[0]) * 8] + 1;
}
static void twos(const dm_ctx *c, int64_t t) {
  ((int64_t *)c->buf[0])[(t + c->n[0]) * 8] = ((int64_t *)c->buf[0])[(t + 1) % c->n[0] * 8] + 1;
}
static double chain(int64_t pool, int64_t tasks, int waves, int64_t *wrong) {
  _Alignas(64) static int64_t cells[2 * 64 * 8];
  memset(cells, 0, sizeof cells);
  void *buf[1] = {cells};
  int64_t n[1] = {tasks};
  dm_step steps[100];
  for (int i = 0; i < 100; i++)
    steps[i] = (dm_step){(intptr_t)copy_tasks,
                         i & 1 ? (intptr_t)twos : (intptr_t)ones,
                         (intptr_t)buf,
                         (intptr_t)n,
                         0,
                         DM_BARRIER,
                         0,
                         0,
                         0,
                         0,
                         0};
  const double start = now();
  for (int i = 0; i < waves / 100; i++)
    dm_run(pool, steps, 0, 100, NULL);
  const double ns = (now() - start) / (waves / 100 * 100);
  for (int64_t t = 0; t < tasks; t++)
    *wrong += cells[(t + tasks) * 8] != waves / 100 * 100;
  return ns;
}
static void chains(int threads, int waves) {
  char name[64], details[128];
  const int64_t pool = dm_pool_create(threads);
  int64_t wrong = 0;
  const double ns = chain(pool, threads + 1, waves, &wrong);
  snprintf(name, sizeof name, "%d short waves with %d threads", waves, threads);
  snprintf(details, sizeof details, "%.0f ns a wave, %d wrong", ns, (int)wrong);
  report(!wrong, name, details);
  dm_pool_destroy(pool);
}

// Waves with one task for each thread. No task ends before all have begun, so every thread must take part in every
// wave. n[0]: the number of threads.
static _Atomic int64_t begun;
static void meet(const dm_ctx *c, int64_t t) {
  (void)t;
  const int64_t goal = (atomic_fetch_add(&begun, 1) / c->n[0] + 1) * c->n[0];
  for (int i = 0; atomic_load(&begun) < goal; i++)
    if (i > 10000)
      sched_yield();
}
static double meetings(int64_t pool, int waves) {
  int64_t n[1] = {dm_pool_threads(pool)};
  dm_step steps[100];
  for (int i = 0; i < 100; i++)
    steps[i] = (dm_step){(intptr_t)copy_tasks, (intptr_t)meet, 0, (intptr_t)n, 0, DM_BARRIER, 0, 0, 0, 0, 0};
  atomic_store(&begun, 0);
  double best = 1e30;
  for (int i = 0; i < waves / 100; i++) {
    const double start = now();
    dm_run(pool, steps, 0, 100, NULL);
    const double ns = (now() - start) / 100;
    if (ns < best)
      best = ns;
  }
  return best;
}
static void meeting(int threads) {
  char name[64], details[64];
  const int64_t pool = dm_pool_create(threads);
  const double ns = meetings(pool, 1000);
  snprintf(name, sizeof name, "every one of %d threads takes part", threads);
  snprintf(details, sizeof details, "%.0f ns a wave in the best 100", ns);
  report(atomic_load(&begun) == 1000 * threads, name, details);
  dm_pool_destroy(pool);
}

static void profile(int threads) {
  char name[64], details[128];
  const int64_t pool = dm_pool_create(threads);
  int64_t in[4] = {1, 2, 3, 4}, out[3][8], n[3][2] = {{5, 4}, {8, 4}, {1, 4}}, ns[8] = {0};
  int32_t bad = 0, skip = 1;
  void *buf[3][3];
  dm_step steps[4] = {{0}};
  for (int i = 0; i < 3; i++) {
    buf[i][0] = in, buf[i][1] = out[i], buf[i][2] = &bad;
    steps[i + 1] = (dm_step){i == 2 ? 0 : (intptr_t)copy_tasks,
                             (intptr_t)copy,
                             (intptr_t)buf[i],
                             (intptr_t)n[i],
                             i == 1 ? (intptr_t)&skip : 0,
                             0,
                             0,
                             0,
                             0,
                             0,
                             0};
  }
  int ok = dm_run(pool, steps, 1, 4, ns) == 0;
  skip = 0;
  ok &= dm_run(pool, steps, 1, 4, ns) == 0 && dm_run(pool, steps, 2, 2, ns) == 0;
  ok &= ns[0] == 0 && ns[1] == 0 && ns[3] == 10 && ns[5] == 8 && ns[7] == 2 && ns[2] > 0 && ns[4] > 0 && ns[6] > 0 &&
        !bad;
  ok &= dm_run(pool, steps, 3, 1, NULL) == -1 && dm_run(0, steps, 1, 2, NULL) == -1;
  n[0][0] = n[1][0] = 1 << 30;
  ok &= dm_run(pool, steps, 1, 3, NULL) == -3; // refused: 2^30 tasks would write far outside the arrays
  snprintf(name, sizeof name, "profile and errors with %d threads", threads);
  snprintf(details, sizeof details, "tasks %d %d %d", (int)ns[3], (int)ns[5], (int)ns[7]);
  report(ok, name, details);
  dm_pool_destroy(pool);
}

// Kernel `product`: computes element z of buf[1] from element z of buf[0], either as task z or as group z. n[0]: the
// number of groups. buf[2]: int32 count of elements that were computed as whole groups.
static void product(const dm_ctx *c, int64_t t) {
  if (t <= DM_PREFETCH_TASK(0))
    return;
  const int64_t z = t < 0 ? DM_GROUP_TASK(0) - t : t;
  if (t < 0)
    __atomic_fetch_add((int32_t *)c->buf[2], 1, __ATOMIC_RELAXED);
  ((int64_t *)c->buf[1])[z] = ((int64_t *)c->buf[0])[z] * 31 + z + 1;
}

// Of 5 steps, steps 1 to 3 may run group by group, and step 1 may run in the same wave as step 0. The driver must do
// this if no group has a large share of the rows, but not in a profile.
static void groups(int threads) {
  enum { GROUPS = 40 };
  char name[64], details[128];
  const int64_t pool = dm_pool_create(threads);
  static int64_t cells[6][GROUPS];
  int32_t offsets[GROUPS + 1], skip = 0, whole = 0;
  int64_t n[1] = {GROUPS}, ns[10];
  void *buf[5][3];
  dm_step steps[5];
  int wrong = 0, counts = 0;
  for (int s = 0; s < 5; s++) {
    buf[s][0] = cells[s == 1 ? 0 : s], buf[s][1] = cells[s + 1], buf[s][2] = &whole;
    steps[s] = (dm_step){(intptr_t)copy_tasks,
                         (intptr_t)product,
                         (intptr_t)buf[s],
                         (intptr_t)n,
                         s == 2 ? (intptr_t)&skip : 0,
                         s == 1 ? 0 : DM_BARRIER,
                         0,
                         0,
                         0,
                         0,
                         0};
    if (s == 2 || s == 3)
      steps[s].groups = GROUPS, steps[s].offsets = (intptr_t)offsets;
  }
  for (int run = 0; run < 400; run++) {
    const int even = run & 1, profiled = run % 4 == 3;
    skip = run % 8 >= 6, whole = 0;
    offsets[0] = run % 3;
    for (int z = 0; z < GROUPS; z++)
      offsets[z + 1] = offsets[z] + (even ? 10 : z == run % GROUPS ? 500 : 3), cells[0][z] = run * 100 + z;
    int64_t before[GROUPS];
    memcpy(before, cells[3], sizeof before);
    dm_run(pool, steps, 0, 5, profiled ? ns : NULL);
    counts += whole != (even && !profiled ? GROUPS * (skip ? 2 : 3) : 0);
    for (int z = 0; z < GROUPS; z++) {
      const int64_t a = cells[0][z] * 31 + z + 1, b = skip ? before[z] : a * 31 + z + 1, d = b * 31 + z + 1;
      wrong +=
          cells[1][z] != a || cells[2][z] != a || cells[3][z] != b || cells[4][z] != d || cells[5][z] != d * 31 + z + 1;
    }
  }
  snprintf(name, sizeof name, "group by group with %d threads", threads);
  snprintf(details, sizeof details, "%d wrong, %d runs with a wrong number of groups", wrong, counts);
  report(!wrong && !counts, name, details);
  dm_pool_destroy(pool);
}

// A step that runs group by group: the function of its slots is called once for each group, in order, before the tasks
// of that group alone run (come), or after them.
typedef struct slot_log {
  int64_t calls, bad, done[8];
} slot_log;
static int64_t no_tasks(const dm_ctx *c) { return (void)c, 0; }
static int64_t group_tasks(const dm_ctx *c) { return c->only ? 3 : 100; }
static void group_task(const dm_ctx *c, int64_t t) {
  slot_log *log = c->buf[0];
  log->bad += t >= 3 || c->only < 1 || (c->n[0] && log->calls != c->only);
  atomic_fetch_add((_Atomic int64_t *)&log->done[c->only - 1], 1);
}
static int come;
static void slot(int64_t exchange, int64_t z) {
  slot_log *log = (slot_log *)(intptr_t)exchange;
  for (int64_t i = 0; i < 8; i++)
    log->bad += log->done[i] != (i < z + !come ? 3 : 0);
  log->bad += log->calls++ != z;
}
static void slots(int threads) {
  char name[64], details[128];
  const int64_t pool = dm_pool_create(threads);
  int64_t bad = 0, ns[6] = {0};
  for (int i = 0; i < 200; i++) {
    slot_log log = {0};
    void *buf[1] = {&log};
    int64_t n[1] = {come = i & 1};
    dm_step steps[3] = {0};
    for (int s = 0; s < 3; s++)
      steps[s] = (dm_step){.run_fn = (intptr_t)ones, .flags = DM_BARRIER};
    steps[0].tasks_fn = steps[2].tasks_fn = (intptr_t)no_tasks;
    steps[1] = (dm_step){.tasks_fn = (intptr_t)group_tasks,
                         .run_fn = (intptr_t)group_task,
                         .buf = (intptr_t)buf,
                         .n = (intptr_t)n,
                         .flags = (i & 2 ? DM_BARRIER : 0) | (come ? DM_SLOTS_COME : 0),
                         .slot = (intptr_t)slot,
                         .slots = 8,
                         .exchange = (intptr_t)&log};
    bad += dm_run(pool, steps, 0, 3, i % 3 ? NULL : ns) != 0 || log.calls != 8 || log.bad;
  }
  snprintf(name, sizeof name, "slot by slot with %d threads", threads);
  snprintf(details, sizeof details, "%d wrong, %d tasks in profiles", (int)bad, (int)ns[3]);
  report(!bad && ns[3] == 67 * 24, name, details);
  dm_pool_destroy(pool);
}

// Three OS threads run programs on one pool at the same time. The pool does one run after the other, so the counter is
// exact without a lock.
static int64_t shared_pool, counter;
static void add(const dm_ctx *c, int64_t t) { (void)c, (void)t, counter++; }
static void *caller(void *waves) {
  dm_step steps[3] = {{0, (intptr_t)add, 0, 0, 0, DM_BARRIER, 0, 0, 0, 0, 0},
                      {0, (intptr_t)add, 0, 0, 0, DM_BARRIER, 0, 0, 0, 0, 0},
                      {0, (intptr_t)add, 0, 0, 0, DM_BARRIER, 0, 0, 0, 0, 0}};
  int64_t ignored = 0;
  for (int i = 0; i < (int)(intptr_t)waves; i++)
    dm_run(shared_pool, steps, 0, 3, i % 16 ? NULL : (int64_t[6]){0});
  return (void *)(intptr_t)ignored;
}
static void callers(int runs) {
  pthread_t t[3];
  char details[64];
  shared_pool = dm_pool_create(2);
  for (int i = 0; i < 3; i++)
    pthread_create(&t[i], NULL, caller, (void *)(intptr_t)runs);
  for (int i = 0; i < 3; i++)
    pthread_join(t[i], NULL);
  dm_pool_destroy(shared_pool);
  snprintf(details, sizeof details, "%lld tasks", (long long)counter);
  report(counter == 9ll * runs, "three callers of one pool", details);
}

static void memory(void) {
  int ok = 1;
  const int64_t sizes[] = {0, 1, 4096, 100000, 3 << 20, (9 << 20) + 12};
  for (int i = 0; i < 6; i++) {
    const int64_t a = dm_alloc(sizes[i]);
    const char *p = (const char *)(intptr_t)a;
    ok &= a != 0 && a % 4096 == 0;
    for (int64_t j = 0; j < sizes[i]; j++)
      ok &= p[j] == 0;
    if (sizes[i] >= 4096) {
      uint32_t words[3] = {1, 2, 3}, back[3];
      for (int64_t j = 0; j < sizes[i] / 4; j++)
        ((uint32_t *)(intptr_t)a)[j] = 0x7fc00001;
      dm_copy_in(a + 8, words, 12);
      dm_copy_out(back, a + 4, 12);
      ok &= back[0] == 0x7fc00001 && back[1] == 1 && back[2] == 2 &&
            ((uint32_t *)(intptr_t)a)[sizes[i] / 4 - 1] == 0x7fc00001;
    }
    dm_free(a, sizes[i]);
  }
  ok &= dm_alloc(-1) == 0 && dm_alloc((int64_t)1 << 60) == 0;
  report(ok, "memory", "aligned, zeroed, copied");
  const int64_t none = dm_open("/nonexistent/kernels.so");
  report(none == 0 && strstr(dm_error(), "nonexistent") != NULL, "a library that is missing", dm_error());
  report(strstr(dm_info(), "\"vector\":") != NULL, "info", dm_info());
}

int main(int argc, char **argv) {
  if (argc > 1 && !strcmp(argv[1], "latency")) {
    for (int threads = 1; threads <= 3; threads++)
      for (int round = 0; round < 5; round++) {
        const int64_t pool = dm_pool_create(threads);
        int64_t wrong = 0;
        const double alone = chain(pool, threads + 1, 100000, &wrong), all = meetings(pool, 20000);
        printf("%d threads: %.0f ns a wave, %.0f ns when every thread must take part\n", threads, alone, all);
        dm_pool_destroy(pool);
      }
    return 0;
  }
  const int waves = argc > 1 ? atoi(argv[1]) : 100000;
  memory();
  for (int threads = 1; threads <= 3; threads++)
    stress(threads, waves), chains(threads, waves), meeting(threads), profile(threads), groups(threads), slots(threads);
  callers(2000);
  return failures != 0;
}
