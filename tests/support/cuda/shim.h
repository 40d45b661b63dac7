// Runs the text of CUDA kernels (src/emit/cuda) on a CPU, for tests. It is included before src/device/cuda/kernel.cuh.
// The threads of a block are fibres of one thread of the system: each runs until its next barrier. Blocks run one after
// the other. Shared arrays hold NaN before each block. Where DYNAMOE_SHIM_REVERSED is set, blocks and threads run from
// the last to the first: a result that depends on their order is seen.
#include <math.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#define DM_FUNCTION static inline
#define DM_KERNEL(name, threads, words) void name(const int64_t *dm_p)
#define DM_WORD(i) (dm_p[i])
#define DM_BLOCK ((int32_t)dm_shim.block)
#define DM_BLOCKS ((int32_t)dm_shim.blocks)
#define DM_THREAD ((int32_t)dm_shim.thread)
#define DM_SHARED static __attribute__((section("dm_shared"), aligned(16)))
#define DM_UNROLL
#define DM_NANF __builtin_nanf("")
#define DM_INFF __builtin_inff()
#define DM_NAN __builtin_nan("")
#define DM_INF __builtin_inf()
#define dm_clz(x) __builtin_clz(x)
#define __syncthreads() dm_shim_barrier(__func__, __LINE__)

static inline int32_t dm_bits(float x) {
  int32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}
static inline float dm_float(int32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}
static inline double dm_double(uint64_t bits) {
  double x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

// All shared arrays of the file; both are null if there are none.
extern char __start_dm_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_dm_shared[] __attribute__((weak, visibility("hidden")));

enum { DM_SHIM_STACK = 1 << 18 };

typedef struct {
  jmp_buf place; // where it waits
  int started;
} dm_shim_fibre;

// What is known of a thread of the block: the fibre that runs it, and the line of the barrier where it waits, or 0.
typedef struct {
  dm_shim_fibre *fibre;
  int line;
} dm_shim_state;

static struct {
  void (*kernel)(const int64_t *);
  const int64_t *words;
  int64_t blocks, threads, block, thread, started;
  int reversed;
  const char *function;
  dm_shim_fibre *fibre; // the one that is running
  dm_shim_state *states;
  jmp_buf scheduler;
  char message[512];
} dm_shim;

static int64_t dm_shim_number(int64_t i, int64_t of) { return dm_shim.reversed ? of - 1 - i : i; }

// A fibre runs threads of the block that have not started, one after the other, until one of them waits.
static void dm_shim_run(void) {
  dm_shim_fibre *const own = dm_shim.fibre;
  for (;;) {
    while (dm_shim.started < dm_shim.threads) {
      const int64_t thread = dm_shim_number(dm_shim.started++, dm_shim.threads);
      dm_shim.thread = thread;
      dm_shim.states[thread] = (dm_shim_state){own, 0};
      dm_shim.kernel(dm_shim.words);
      dm_shim.states[dm_shim.thread].line = 0;
    }
    if (_setjmp(own->place) == 0)
      _longjmp(dm_shim.scheduler, 1);
  }
}

__attribute__((noinline)) static void dm_shim_barrier(const char *function, int line) {
  dm_shim.function = function;
  dm_shim.states[dm_shim.thread].line = line;
  if (_setjmp(dm_shim.fibre->place) == 0)
    _longjmp(dm_shim.scheduler, 1);
  __asm__ volatile("" ::: "memory");
}

// Lets a fibre run until a thread waits, or until no thread is left for it.
__attribute__((noinline)) static void dm_shim_enter(dm_shim_fibre *fibre, char *stack) {
  dm_shim.fibre = fibre;
  if (_setjmp(dm_shim.scheduler) != 0)
    return;
  if (fibre->started)
    _longjmp(fibre->place, 1);
  fibre->started = 1;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = DM_SHIM_STACK;
  context.uc_link = NULL;
  makecontext(&context, dm_shim_run, 0);
  setcontext(&context);
}

// Runs the threads of one block. Null, or what is wrong.
static const char *dm_shim_block(dm_shim_fibre *fibres, char *stacks) {
  dm_shim.started = 0;
  for (int64_t f = 0; dm_shim.started < dm_shim.threads; f++)
    dm_shim_enter(&fibres[f], stacks + f * DM_SHIM_STACK);
  for (;;) {
    const int line = dm_shim.states[0].line;
    for (int64_t t = 1; t < dm_shim.threads; t++) {
      const int other = dm_shim.states[t].line;
      if (other == line)
        continue;
      const int64_t waits = line != 0 ? 0 : t, second = line != 0 ? t : 0;
      if (line == 0 || other == 0)
        snprintf(dm_shim.message, sizeof dm_shim.message,
                 "%s: barrier in line %d: thread %d of block %d waits, thread %d has ended", dm_shim.function,
                 line + other, (int)waits, (int)dm_shim.block, (int)second);
      else
        snprintf(dm_shim.message, sizeof dm_shim.message,
                 "%s: threads wait at different barriers: of block %d thread %d in line %d, thread %d in line %d",
                 dm_shim.function, (int)dm_shim.block, (int)waits, line, (int)second, other);
      return dm_shim.message;
    }
    if (line == 0)
      return NULL;
    for (int64_t i = 0; i < dm_shim.threads; i++) {
      dm_shim.thread = dm_shim_number(i, dm_shim.threads);
      dm_shim_enter(dm_shim.states[dm_shim.thread].fibre, NULL);
    }
  }
}

// Runs a kernel of this file to its end. Null, or what is wrong: the text is valid until the next launch.
const char *dm_shim_launch(void (*kernel)(const int64_t *), const int64_t *words, int64_t blocks, int64_t threads) {
  const size_t size = (size_t)threads * DM_SHIM_STACK;
  char *const stacks = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  dm_shim_fibre *const fibres = calloc((size_t)threads, sizeof *fibres);
  dm_shim.states = calloc((size_t)threads, sizeof *dm_shim.states);
  if (stacks == MAP_FAILED || fibres == NULL || dm_shim.states == NULL)
    return "out of memory for the stacks of threads";
  dm_shim.kernel = kernel;
  dm_shim.words = words;
  dm_shim.blocks = blocks;
  dm_shim.threads = threads;
  dm_shim.reversed = getenv("DYNAMOE_SHIM_REVERSED") != NULL;
  const char *wrong = NULL;
  for (int64_t b = 0; b < blocks && wrong == NULL; b++) {
    dm_shim.block = dm_shim_number(b, blocks);
    memset(__start_dm_shared, 0xff, (size_t)(__stop_dm_shared - __start_dm_shared));
    wrong = dm_shim_block(fibres, stacks);
  }
  munmap(stacks, size);
  free(fibres);
  free(dm_shim.states);
  return wrong;
}
