// How a dm_gemm is divided into tasks: the rows of all groups, laid end to end by their cost, in shares of equal cost,
// one for each thread; each share in pieces, of which the first is half of it, the next a quarter, and so on; times
// blocks of columns. Tasks are all first pieces, then all second ones: a thread mostly goes on where it stopped, with
// the group's B still in its cache, and the last pieces are small, so that no thread waits long for another.
#ifndef DM_PLAN_H
#define DM_PLAN_H
#include "microkernel.h"
#include "runtime.h"

#define DM_NC                                                                                                          \
  256 // most columns of a task: where rows of B are 4 KiB apart, 512 would fill half of the sets of a second-level
      // cache of 1 MiB
#define DM_GROUP 10  // cost of beginning a group (packing B), in rows of C (or in steps of depth, where that is ragged)
#define DM_SMALL 5e5 // operations of the least task worth giving to an idle thread
#define DM_LAST 4e6  // and of the least piece of a share
#define DM_PIECES 6  // most pieces of a share
#define DM_LEAST 14  // a task does not cut fewer rows than this off a group
#define DM_APART 12  // cost of a vector of C where rows of a task do not lie end to end, in cycles
#define DM_IDLE 0.4  // of the time of the last piece a thread is without work at the end

typedef struct {
  int64_t shares, pieces, cols, nc, total;
} dm_plan; // total: cost of all groups
typedef struct {
  int64_t z, row;
} dm_place;

static int64_t dm_rows_of(const dm_gemm *g, int64_t z) { return g->m_off ? g->m_off[z + 1] - g->m_off[z] : g->m; }
static int64_t dm_depth_of(const dm_gemm *g, int64_t z) { return g->k_off ? g->k_off[z + 1] - g->k_off[z] : g->k; }

// Rows of A a multiple of 4 KiB apart fight for the same places in the first-level cache: tiles of it are copied.
static int dm_copied(const dm_gemm *g) { return g->a_base && g->a_sk == 1 && g->a_si % 1024 == 0; }

// Cost of the groups before z.
static int64_t dm_cost(const dm_gemm *g, int64_t z) {
  const int32_t *off = g->m_off ? g->m_off : g->k_off;
  return (off ? off[z] - off[0] : z * g->m) + z * DM_GROUP;
}

static dm_plan dm_plan_of(const dm_gemm *g, int threads) {
  dm_plan best = {0, 1, 1, DM_NR, 0};
  if (g->groups <= 0 || g->n <= 0)
    return best;
  double rows = g->m_off ? g->m_off[g->groups] - g->m_off[0] : (double)g->m * (double)g->groups;
  double depth = g->k_off ? (double)(g->k_off[g->groups] - g->k_off[0]) / (double)g->groups : (double)g->k;
  if (rows <= 0)
    return best;
  double flops = 2 * (rows + DM_GROUP * (double)g->groups) * (double)g->n * depth, want = 1, least = 0;
  if (threads > 1 && flops > DM_SMALL)
    want = flops / DM_SMALL < threads ? flops / DM_SMALL : threads;
  double most = rows / DM_LEAST < 1 ? 1 : rows / DM_LEAST; // shares
  // Cost of a vector of A or B to a task, in cycles; a vector of C costs one for each step of depth, and some more if
  // it was not asked for.
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
    // No piece of few tiles.
    while (want > 1 && pieces < DM_PIECES && flops / (double)(first << pieces) >= DM_LAST &&
           most / (double)(shares << pieces) >= 4)
      pieces++;
    double time =
        rows * (double)g->n + pa * rows * (double)cols + pb * (double)g->n * (double)(g->groups + shares * pieces - 1);
    if (cols > 1 && depth > 0)
      time += DM_APART * rows * (double)g->n / depth;
    double part = 1. / (double)first, rounds = (double)((first + threads - 1) / threads);
    if (pieces > 1)
      rounds /= 2; // what is left evens out
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

// Where a piece of a share begins; the piece after the last begins where the next share does.
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
  if (row < DM_LEAST)
    return (dm_place){lo, 0};
  if (m - row < DM_LEAST)
    return (dm_place){lo + 1, 0};
  return (dm_place){lo, row};
}
#endif
