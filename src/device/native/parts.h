// The depth of a product in parts. Part p begins at sample floor(samples * p / parts), or where offsets say. Each part
// has a sum of its own, from +0, and the sums are joined as a tree: ((s0 + s1) + (s2 + s3)) + ((s4 + s5) + (s6 + s7)).
// So a finished sum may wait for its right neighbour.
#ifndef DM_PARTS_H
#define DM_PARTS_H
#include "microkernel.h"
#include "runtime.h"

#define DM_PARTS (1 << DM_JOINS) // at most

typedef struct {
  int64_t count, start[DM_PARTS + 1]; // part p: the steps of depth start[p] to start[p + 1] - 1
} dm_parts;

static dm_parts dm_parts_of(const dm_gemm *g, int64_t depth) {
  dm_parts parts = {.count = 1, .start = {0, depth}};
  if (g->parts > 1) {
    parts.count = g->parts;
    for (int64_t p = 1; p <= g->parts; p++)
      parts.start[p] =
          g->part_off ? g->part_off[p * g->part_step] * g->sample : depth / g->sample * p / g->parts * g->sample;
  }
  return parts;
}
// How many waiting sums are joined with the sum of part p when it is finished. They end with the parts p - 1, p - 2,
// p - 4 and so on. It is also the level at which the result waits: no two waiting sums have the same level.
static int64_t dm_part_joins(int64_t p) { return __builtin_ctzll(~(uint64_t)p); }
#define DM_UNFINISHED DM_JOINS // the level of the sum of a part that began in an earlier block

// A block of depth: the steps k0 to k0 + nk, of parts p0 to p1 - 1. begun: an earlier block began part p0. ended: part
// p1 - 1 ends in this block.
typedef struct {
  int64_t k0, nk, p0, p1, begun, ended;
} dm_block;

static int dm_block_last(const dm_parts *parts, const dm_block *b) { return b->ended && b->p1 == parts->count; }

// The next block from step k0 of part p on: whole parts of together at most `most` steps, or a piece of one part.
static dm_block dm_block_from(const dm_parts *parts, int64_t k0, int64_t p, int64_t most) {
  int64_t start = parts->start[p], end = parts->start[p + 1], p1 = p + 1;
  if (end - start > most) {
    int64_t blocks = (end - start + most - 1) / most, each = ((end - start + blocks - 1) / blocks + 15) / 16 * 16,
            nk = end - k0 < each ? end - k0 : each;
    return (dm_block){k0, nk, p, p1, k0 > start, k0 + nk == end};
  }
  while (p1 < parts->count && parts->start[p1 + 1] - k0 <= most)
    p1++;
  return (dm_block){k0, parts->start[p1] - k0, p, p1, 0, 1};
}

// Where the sum that ends with part p lies if part `joined` takes it: in a tile of its own, if both end in this block;
// otherwise among the sums that blocks leave behind, whose levels are `level` floats apart.
static dm_sums dm_sum_after(const dm_block *b, int64_t p, int64_t joined, int64_t level) {
  if (p >= b->p0 && joined < b->p1 - !b->ended)
    return (dm_sums){DM_TILES, dm_part_joins(p) * DM_MR * DM_NR};
  return (dm_sums){DM_BLOCKS, dm_part_joins(p) * level};
}

// The runs of a block: one for each part. Returns their number.
static int64_t dm_runs_of(const dm_parts *parts, const dm_block *b, int64_t level, dm_run *runs) {
  for (int64_t p = b->p0; p < b->p1; p++) {
    dm_run *run = runs + (p - b->p0);
    int64_t from = p > b->p0 ? parts->start[p] : b->k0, end = p + 1 < b->p1 ? parts->start[p + 1] : b->k0 + b->nk;
    int done = p + 1 < b->p1 || b->ended;
    // With a single part, unfinished sums lie where the result will.
    dm_sums open = parts->count > 1 ? (dm_sums){DM_BLOCKS, DM_UNFINISHED * level} : (dm_sums){DM_RESULT, 0};
    run->k = end - from;
    run->from = p == b->p0 && b->begun ? open : (dm_sums){DM_NONE, 0};
    run->joins = done && parts->count > 1 ? dm_part_joins(p) : 0;
    for (int64_t q = 0; q < run->joins; q++)
      run->join[q] = dm_sum_after(b, p - (INT64_C(1) << q), p, level);
    run->to = !done                   ? open
              : p + 1 == parts->count ? (dm_sums){DM_RESULT, 0}
                                      : dm_sum_after(b, p, p + (INT64_C(1) << run->joins), level);
  }
  return b->p1 - b->p0;
}
#endif
