// Helpers for generated kernels.
#ifndef DM_KERNEL_H
#define DM_KERNEL_H
#include "math.h"
#include "runtime.h"
// Thread t of T runs tasks t, t + T, ... (driver.c). With this number in place of a task's, they lie beside each other,
// in ascending order.
static inline int64_t dm_own(const dm_ctx *c, int64_t task, int64_t tasks) {
  int64_t thread = task % c->threads, rest = tasks % c->threads;
  return tasks / c->threads * thread + (thread < rest ? thread : rest) + task / c->threads;
}
// The iterations of the following loop are independent, even if it writes an array that it reads.
#if defined(__clang__)
#define DM_VECTOR _Pragma("clang loop vectorize(assume_safety)")
#else
// Without "unroll 1", gcc may unroll the loop before it vectorises, and then not vectorise it.
#define DM_VECTOR _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#endif
// Put first in the body of a loop around vector loops, so that compilers do not transform the outer loop. GCC 12 may
// otherwise vectorise the outer loop and compute wrong results if a row's first iterations are a special case (rows
// 0..7 right, row 8 wrong; tests/conformance: pad of [31, 2]).
#define DM_OUTER __asm__ volatile("");
#endif
