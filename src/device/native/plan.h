// How a dm_gemm is divided into tasks. The rows of all groups are laid end to end and weighted by cost. They are cut
// into shares of equal cost, one per thread. Each share is cut into pieces: the first is half of it, the next a
// quarter, and so on. A task is a piece times a block of columns. All first pieces come before all second pieces. So a
// thread mostly continues where it stopped, with the group's B still in its cache, and the last pieces are small, so
// no thread waits long for another.
#ifndef DM_PLAN_H
#define DM_PLAN_H
#include "microkernel.h"
#include "runtime.h"

// Largest number of columns of a task. With rows of B 4 KiB apart, 512 columns would fill half of the sets of a
// second-level cache of 1 MiB.
#define DM_NC 256
#define DM_GROUP_COST 10 // cost of starting a group (packing B), in rows of C (in steps of depth if depth is ragged)
#define DM_MIN_FLOPS 5e5 // FLOPs of the smallest task that is worth another thread
#define DM_MIN_PIECE_FLOPS 4e6 // FLOPs of the smallest piece of a share
#define DM_MAX_PIECES 6        // largest number of pieces of a share
#define DM_MIN_ROWS 14         // fewer rows than this are not cut off a group
#define DM_STRIDED_COST 12     // cost in cycles of a vector of C if the rows of a task are not contiguous
#define DM_IDLE 0.4            // average idle time of a thread at the end, as a share of the time of the last piece

typedef struct {
  int64_t shares, pieces, cols, nc, total;
} dm_plan; // total: cost of all groups
typedef struct {
  int64_t z, row;
} dm_place;

static int64_t dm_rows_of(const dm_gemm *g, int64_t z) { return g->m_off ? g->m_off[z + 1] - g->m_off[z] : g->m; }
static int64_t dm_depth_of(const dm_gemm *g, int64_t z) { return g->k_off ? g->k_off[z + 1] - g->k_off[z] : g->k; }

// Rows of A that are a multiple of 4 KiB apart map to the same sets of the first-level cache; tiles of such an A are
// copied.
static int dm_copied(const dm_gemm *g) { return g->a_base && g->a_sk == 1 && g->a_si % 1024 == 0; }

// Total cost of the groups before z.
static int64_t dm_cost(const dm_gemm *g, int64_t z) {
  const int32_t *off = g->m_off ? g->m_off : g->k_off;
  return (off ? off[z] - off[0] : z * g->m) + z * DM_GROUP_COST;
}

static dm_plan dm_plan_of(const dm_gemm *g, int threads) {
  dm_plan best = {0, 1, 1, DM_NR, 0};
  if (g->groups <= 0 || g->n <= 0)
    return best;
  double rows = g->m_off ? g->m_off[g->groups] - g->m_off[0] : (double)g->m * (double)g->groups;
  double depth = g->k_off ? (double)(g->k_off[g->groups] - g->k_off[0]) / (double)g->groups : (double)g->k;
  if (rows <= 0)
    return best;
  double flops = 2 * (rows + DM_GROUP_COST * (double)g->groups) * (double)g->n * depth, want = 1, least = 0;
  if (threads > 1 && flops > DM_MIN_FLOPS)
    want = flops / DM_MIN_FLOPS < threads ? flops / DM_MIN_FLOPS : threads;
  double most = rows / DM_MIN_ROWS < 1 ? 1 : rows / DM_MIN_ROWS; // shares
  // Cost in cycles of loading a vector of A or B. A vector of C costs 1 for each step of depth, and more if it was not
  // prefetched.
  double pa = g->a_pack ? 32 : dm_copied(g) ? 16 : 8, pb = g->b_pack ? 24 : g->b_sj == 1 ? 8 : 12;
  best.total = dm_cost(g, g->groups);
  int64_t panels = (g->n + DM_NR - 1) / DM_NR;
  for (int64_t cols = (g->n + DM_NC - 1) / DM_NC; cols <= panels; cols++) {
    int64_t nc = (panels + cols - 1) / cols * DM_NR;
    if (nc * (cols - 1) >= g->n)
      continue;
    double s = want / (double)cols;
    s = s < 1 ? 1 : s > most ? most : s;
    int64_t shares = (int64_t)s + ((double)(int64_t)s < s), first = shares * cols, pieces = 1;
    // Pieces keep at least 4 tiles.
    while (want > 1 && pieces < DM_MAX_PIECES && flops / (double)(first << pieces) >= DM_MIN_PIECE_FLOPS &&
           most / (double)(shares << pieces) >= 4)
      pieces++;
    double time =
        rows * (double)g->n + pa * rows * (double)cols + pb * (double)g->n * (double)(g->groups + shares * pieces - 1);
    if (cols > 1 && depth > 0)
      time += DM_STRIDED_COST * rows * (double)g->n / depth;
    double part = 1. / (double)first, rounds = (double)((first + threads - 1) / threads);
    if (pieces > 1)
      rounds /= 2; // later pieces even out the load
    part *= rounds < (double)first / threads ? (double)first / threads : rounds;
    if (want > 1)
      part += DM_IDLE / (double)(first << (pieces - 1));
    time *= part;
    if (least == 0 || time < least)
      least = time, best.shares = shares, best.pieces = pieces, best.cols = cols, best.nc = nc;
    if ((double)cols >= 4 * want && shares == 1)
      break;
  }
  return best;
}

// The start of a piece of a share. The piece after the last one starts where the next share does.
static dm_place dm_place_of(const dm_gemm *g, const dm_plan *p, int64_t share, int64_t piece) {
  int64_t each = INT64_C(1) << (p->pieces - 1), all = p->shares * each; // in units of the last piece
  int64_t s = share * each + (piece < p->pieces ? each - (each >> piece) : each);
  if (s >= all)
    return (dm_place){g->groups, 0};
  int64_t u = p->total / all * s + p->total % all * s / all, lo = 0, hi = g->groups - 1;
  while (lo < hi) { // the last group that begins at u or before
    int64_t z = (lo + hi + 1) / 2;
    if (dm_cost(g, z) <= u)
      lo = z;
    else
      hi = z - 1;
  }
  int64_t m = dm_rows_of(g, lo), from = dm_cost(g, lo), cost = dm_cost(g, lo + 1) - from, row = (u - from) * m / cost;
  if (row < DM_MIN_ROWS)
    return (dm_place){lo, 0};
  if (m - row < DM_MIN_ROWS)
    return (dm_place){lo + 1, 0};
  return (dm_place){lo, row};
}
#endif
