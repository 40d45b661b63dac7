// The functions that the driver exports to JavaScript (through koffi). Addresses and handles are int64_t, so that
// tables can be written through a BigInt64Array.
#ifndef DM_DRIVER_H
#define DM_DRIVER_H
#include "runtime.h"

// One launch of a kernel. All fields are int64 words: JS fills the table through a BigInt64Array, DM_STEP_WORDS words a
// step.
typedef struct dm_step {
  int64_t tasks_fn; // address of NAME_tasks, or 0: one task
  int64_t run_fn;   // address of NAME
  int64_t buf;      // address of void *[]: the kernel's buffers
  int64_t n;        // address of int64_t[]: its run-time integers
  // Address of an int32 word, or 0. If the word is not 0 when the wave starts, the step has no tasks: this guards
  // stores to parameters.
  int64_t skip_if;
  int64_t flags; // DM_BARRIER
  int64_t
      groups; // not 0: this step and the one before may be run group by group, as DM_GROUP_TASK(z); both are products
  int64_t offsets; // address of int32_t[groups + 1]: the first row of each group
  // Not 0: a product that runs group by group. Before group z (DM_SLOTS_COME), or after it, slot(exchange, z) is
  // called: it waits for rows of another rank, or sends them.
  int64_t slot; // address of void (*)(int64_t exchange, int64_t z)
  int64_t slots, exchange;
} dm_step;
#define DM_STEP_WORDS 11
// A step with this flag starts when all earlier steps have ended; steps after it without the flag run concurrently.
#define DM_BARRIER 1
#define DM_SLOTS_COME 2

// Memory: page-aligned and zeroed; 0 on failure. dm_free needs the same number of bytes as dm_alloc.
int64_t dm_alloc(int64_t bytes);
void dm_free(int64_t addr, int64_t bytes);
void dm_copy_in(int64_t dst, const void *src, int64_t bytes);
void dm_copy_out(void *dst, int64_t src, int64_t bytes);

// Libraries of kernels: 0 on failure; dm_error() then says why.
int64_t dm_open(const char *path);
int64_t dm_sym(int64_t handle, const char *name);
void dm_close(int64_t handle);
const char *dm_error(void);

// A pool of `threads` threads, the caller of dm_run among them (threads <= 0: one for each available core); 0 on
// failure.
int64_t dm_pool_create(int threads);
void dm_pool_destroy(int64_t pool);
int dm_pool_threads(int64_t pool);

// Runs steps[from..to) and returns 0 when all their tasks are done; -1: bad arguments; -2: out of memory; -3: more than
// 2^31-1 tasks in one wave (in the last two cases the steps of earlier waves have run). One run at a time on a pool;
// other callers wait their turn. profile_ns != NULL: every step is a wave of its own; profile_ns[2*i] += its wall time,
// profile_ns[2*i+1] += its tasks (i: index in the table).
int64_t dm_run(int64_t pool, const void *steps, int64_t from, int64_t to, int64_t *profile_ns);

// JSON text: {"driver":1,"compiler":"gcc 12.2.0","arch":"x86_64","vector":64,"fma":true,"cpus":2}
const char *dm_info(void);
#endif
