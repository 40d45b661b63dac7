// Copies of operands in the order in which the micro-kernel reads them.
#ifndef DM_PACK_H
#define DM_PACK_H
#include "microkernel.h"
#include <string.h>

// B panel: dst[k*w + j] for j < nj <= w; the columns from nj to w become 0.
static void dm_pack_b(const float *b, int64_t sk, int64_t sj, int64_t nk, int64_t nj, float *dst, int64_t w) {
  for (int64_t k = 0; k < nk; k++)
    for (int64_t j = 0; j < w; j++) dst[k * w + j] = j < nj ? b[k * sk + j * sj] : 0;
}
#endif
