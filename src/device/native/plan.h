// How a dm_gemm is divided into tasks: slices of the rows of all groups, laid end to end by their cost, times blocks of columns.
#ifndef DM_PLAN_H
#define DM_PLAN_H
#include "microkernel.h"
#include "runtime.h"

#define DM_NC 256            // most columns of a task: where rows of B are 4 KiB apart, 512 would fill half of the sets of a second-level cache of 1 MiB
#define DM_GROUP 10          // cost of beginning a group (packing B), in rows of C (or in steps of depth, where that is ragged)
#define DM_SMALL 5e5         // operations of the least task worth giving to an idle thread
#define DM_LARGE 8e6         // and of the least where every thread has a task already
#define DM_TASKS 8           // tasks a thread, where there is work enough
#define DM_TAPER 4           // tasks a thread from which on the last ones are made smaller
#define DM_LEAST 14          // a slice does not cut fewer rows than this off a group

typedef struct { int64_t slices, cols, nc, total, even, end; } dm_plan;  // even: slices if all were of one size; end: see dm_units
typedef struct { int64_t z, row; } dm_place;

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
  dm_plan best = {0, 1, DM_NR, 0, 0, 0};
  if (g->groups <= 0 || g->n <= 0) return best;
  double rows = g->m_off ? g->m_off[g->groups] - g->m_off[0] : (double)g->m * (double)g->groups;
  double depth = g->k_off ? (double)(g->k_off[g->groups] - g->k_off[0]) / (double)g->groups : (double)g->k;
  if (rows <= 0) return best;
  double flops = 2 * (rows + DM_GROUP * (double)g->groups) * (double)g->n * depth, want = 1, least = 0;
  if (threads > 1) {
    double small = flops / DM_SMALL, large = flops / DM_LARGE;
    if (small > threads) small = threads;
    if (large > DM_TASKS * threads) large = DM_TASKS * threads;
    want = small > large ? small : large;
  }
  double most = rows / DM_LEAST < 1 ? 1 : rows / DM_LEAST;           // slices
  // Cost of a vector of A or B to a task, in cycles; a vector of C costs one for each step of depth.
  double pa = g->a_pack ? 32 : dm_copied(g) ? 16 : 8, pb = g->b_pack ? 24 : g->b_sj == 1 ? 8 : 12;
  best.total = dm_cost(g, g->groups);
  int64_t panels = (g->n + DM_NR - 1) / DM_NR;
  for (int64_t cols = (g->n + DM_NC - 1) / DM_NC; cols <= panels; cols++) {
    int64_t nc = (panels + cols - 1) / cols * DM_NR;
    if (nc * (cols - 1) >= g->n) continue;
    double s = want / (double)cols;
    s = s < 1 ? 1 : s > most ? most : s;
    int64_t slices = (int64_t)s + ((double)(int64_t)s < s), tasks = slices * cols;
    double time = rows * (double)g->n + pa * rows * (double)cols + pb * (double)g->n * (double)(g->groups + slices - 1);
    time = time / (double)tasks * (double)((tasks + threads - 1) / threads);
    if (least == 0 || time < least) least = time, best.slices = slices, best.cols = cols, best.nc = nc;
    if (cols >= want && slices == 1) break;
  }
  best.even = best.slices;
  int64_t end = (threads + best.cols - 1) / best.cols;
  if (threads > 1 && best.slices * best.cols >= DM_TAPER * threads && best.slices >= 2 * end) best.end = end, best.slices += 4 * end;
  return best;
}

// Sixteenths of an even slice before slice s. Towards the end slices become smaller, so that all threads end at about the same time: what
// would be 2 slices for every thread is 11, 8, 6, 4, 2 and 1 sixteenths.
static int64_t dm_units(const dm_plan *p, int64_t s) {
  static const int size[] = {11, 8, 6, 4, 2, 1}, before[] = {0, 11, 19, 25, 29, 31};
  int64_t large = p->even - 2 * p->end, k = s - large;
  if (k <= 0 || !p->end) return 16 * s;
  return 16 * large + before[k / p->end] * p->end + size[k / p->end] * (k % p->end);
}

// Where slice s begins.
static dm_place dm_place_of(const dm_gemm *g, const dm_plan *p, int64_t s) {
  if (s >= p->slices) return (dm_place){g->groups, 0};
  int64_t u = p->total * dm_units(p, s) / (16 * p->even), lo = 0, hi = g->groups - 1;
  while (lo < hi) {  // the last group that begins at u or before
    int64_t z = (lo + hi + 1) / 2;
    if (dm_cost(g, z) <= u) lo = z;
    else hi = z - 1;
  }
  int64_t m = dm_rows_of(g, lo), from = dm_cost(g, lo), cost = dm_cost(g, lo + 1) - from, row = (u - from) * m / cost;
  if (row < DM_LEAST) return (dm_place){lo, 0};
  if (m - row < DM_LEAST) return (dm_place){lo + 1, 0};
  return (dm_place){lo, row};
}
#endif
