// The matrix core: the only kernel of the native device that is not generated. runtime.h describes C(z,i,j) = sum_k
// A*B.
#ifndef DM_GEMM_H
#define DM_GEMM_H
#include "runtime.h"

extern const dm_core dm_core_table;
int64_t dm_gemm_tasks(const dm_ctx *c, const dm_gemm *g);
void dm_gemm_task(const dm_ctx *c, const dm_gemm *g, int64_t task);

// Columns of a panel of B that the micro-kernel reads from its first row to its last.
int dm_panel_columns(void);
// GFLOP/s of float32 fused multiply-adds that this machine reaches now on so many threads at once (the best of several
// windows within `seconds`).
double dm_fma_peak(int threads, double seconds);
// GB/s that so many threads at once read from and write to memory (best of some rounds over 48 MB per thread); 0 if
// there is too little memory.
double dm_memory_peak(int threads);
#endif
