// The table of steps as the host writes it: six 64-bit words a step.
#ifndef DM_DRIVER_H
#define DM_DRIVER_H
#include "runtime.h"
extern const dm_core dm_core_table; // gemm.c
#define DM_BARRIER 1
typedef struct dm_step {
  int64_t tasks, run;    // the kernel's two functions
  int64_t buffers, ints; // its arguments: addresses of void *[] and of int64_t[]
  int64_t skip_if;       // 0, or the address of an int32: while it is not 0 the step does nothing
  int64_t flags;         // DM_BARRIER: waits for all steps before it; else it joins their wave
} dm_step;
#endif
