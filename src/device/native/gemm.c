// The matrix core: divides the groups of a dm_gemm into tasks, and runs one task from the calling thread's scratch.
// Tasks divide outputs, never sums: each element of C is one chain of fused multiply-adds, k ascending, whatever the tiling.
#include "gemm.h"
#include "pack.h"

#define KC 256
#define ROWS 224

static int64_t rows_of(const dm_gemm *g, int64_t z) { return g->m_off ? g->m_off[z + 1] - g->m_off[z] : g->m; }
static int64_t tiles_of(const dm_gemm *g, int64_t z) { return (rows_of(g, z) + ROWS - 1) / ROWS; }

int64_t dm_gemm_tasks(const dm_ctx *c, const dm_gemm *g) {
  (void)c;
  int64_t t = 0;
  if (g->n > 0)
    for (int64_t z = 0; z < g->groups; z++) t += tiles_of(g, z);
  return t;
}

void dm_gemm_task(const dm_ctx *c, const dm_gemm *g, int64_t task) {
  int64_t z = 0;
  while (task >= tiles_of(g, z)) task -= tiles_of(g, z++);
  int64_t i0 = task * ROWS, rows = rows_of(g, z) - i0;
  if (rows > ROWS) rows = ROWS;
  int64_t depth = g->k_off ? g->k_off[z + 1] - g->k_off[z] : g->k;
  const float *a = g->a_base ? g->a_base(c, z) : 0, *b = g->b_base ? g->b_base(c, z) : 0;
  float *acc = c->scratch, *bp = acc + ROWS * DM_NR, *ap = bp + KC * DM_NR;
  for (int64_t j0 = 0; j0 < g->n; j0 += DM_NR) {
    int64_t nj = g->n - j0 < DM_NR ? g->n - j0 : DM_NR;
    memset(acc, 0, sizeof(float) * (size_t)(rows * DM_NR));
    for (int64_t k0 = 0; k0 < depth; k0 += KC) {
      int64_t nk = depth - k0 < KC ? depth - k0 : KC;
      if (b) dm_pack_b(b + k0 * g->b_sk + j0 * g->b_sj, g->b_sk, g->b_sj, nk, nj, bp, DM_NR);
      else {
        if (nj < DM_NR) memset(bp, 0, sizeof(float) * (size_t)(nk * DM_NR));
        g->b_pack(c, z, k0, nk, j0, nj, bp, DM_NR);
      }
      const float *x = a ? a + i0 * g->a_si + k0 * g->a_sk : ap;
      int64_t si = a ? g->a_si : g->a_pack_cols ? 1 : KC + 16, sk = a ? g->a_sk : g->a_pack_cols ? ROWS : 1;
      if (!a) g->a_pack(c, z, i0, rows, k0, nk, ap, g->a_pack_cols ? ROWS : KC + 16);
      for (int64_t i = 0; i < rows; i += DM_MR)
        dm_kernels[(rows - i < DM_MR ? rows - i : DM_MR) - 1][1](nk, x + i * si, si, sk, bp, DM_NR, acc + i * DM_NR, DM_NR, 1);
    }
    g->store(c, z, i0, rows, j0, nj, acc, DM_NR);
  }
}

const dm_core dm_core_table = {dm_gemm_tasks, dm_gemm_task};
