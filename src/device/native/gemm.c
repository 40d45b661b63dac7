// The matrix core: runs one task of a dm_gemm, with the calling thread's scratch. plan.h decides which task does what.
// Depth is processed in blocks of KC. B is read in place if its rows are contiguous, or if it lies in panels; otherwise
// it is packed panel by panel, each just before its first use. A is read in place unless it is computed. Sums stay in
// registers within a block; between blocks they are in scratch, or at their destination if the epilogue only stores
// them. While one panel is multiplied, the next operands and the next tile's results are prefetched: this hides memory
// latency, not packing. Every element of C is one chain of fused multiply-adds, k ascending, for any tiling; or one
// chain for each part, and the sum of these (parts.h).
#include "gemm.h"
#include "pack.h"
#include "parts.h"
#include "plan.h"

#define KC 384                        // depth of a block
#define LD_ROWS (KC + 16)             // rows of A in scratch: an odd number of cache lines apart
#define MC (8 * DM_MR)                // rows of a computed block of A
#define LD_COLS ((MC + 15) / 16 * 16) // columns of A in scratch
#define STORE_COLS (8 * DM_NR) // columns of a finished tile that are stored at once, while in the first-level cache
#define B_FLOATS (KC * DM_NC)
#define A_FLOATS (MC * LD_ROWS > KC * LD_COLS ? MC * LD_ROWS : KC * LD_COLS)
#define T_FLOATS (16 * LD_ROWS)             // one tile of A
#define S_FLOATS 64                         // two dm_prefetch at the end of scratch: see `announced`
#define P_FLOATS (DM_JOINS * DM_MR * DM_NR) // sums of parts that are joined within a block
#define C_FLOATS ((int64_t)(DM_SCRATCH_BYTES / 4) - B_FLOATS - A_FLOATS - T_FLOATS - P_FLOATS - S_FLOATS)

typedef struct {
  const float *p;
  int64_t si, sk;
} dm_rows;
typedef struct { // memory to prefetch: rows of so many cache lines, in runs of `run` lines, `apart` bytes from one
                 // to the next; one call of the micro-kernel prefetches one line of each of k rows
  const char *p;
  int64_t stride, rows, lines, run, apart, row, line;
} dm_prefetch;
typedef struct {
  const dm_ctx *c;
  const dm_gemm *g;
  int64_t z, j0, nj;
  dm_parts parts;
  const float *a, *b;            // of group z, or NULL if computed
  float *bp, *ap, *tp, *pp, *cp; // scratch
  int64_t level;                 // distance between the levels of sums that blocks leave in `cp`
  int direct;                    // whole panels of B are read in place
  int few;                       // the rows are one tile, and B lies in panels: each is read once, over the whole depth
  const char *out, *also;        // where the epilogue writes and reads, or NULL
  int plain;                     // sums are stored directly to `out`
  dm_prefetch next;              // the next block of B
  int prefetched;                // this block was prefetched completely while the previous one was multiplied
} dm_job;

static int64_t min64(int64_t a, int64_t b) { return a < b ? a : b; }

// The element (k, j) of the B that begins at b.
static const float *at_b(const dm_gemm *g, const float *b, int64_t k, int64_t j) {
  return g->b_panel ? b + j / g->b_sk * g->b_panel + k * g->b_sk + j % g->b_sk : b + k * g->b_sk + j * g->b_sj;
}

// A block of group z's B, as memory to prefetch.
static dm_prefetch block_of_b(const dm_ctx *c, const dm_gemm *g, int64_t z, int64_t k0, int64_t nk, int64_t j0,
                              int64_t nj) {
  if (!g->b_base || nk <= 0)
    return (dm_prefetch){0};
  const float *p = at_b(g, g->b_base(c, z), k0, j0);
  if (g->b_panel)
    return (dm_prefetch){(const char *)p, g->b_sk * 4, nk, (nj + 15) / 16, (g->b_sk + 15) / 16, g->b_panel * 4, 0, 0};
  int64_t before = (int64_t)((uintptr_t)p / 4 % 16); // floats before it in its first cache line
  if (g->b_sj == 1)
    return (dm_prefetch){(const char *)p, g->b_sk * 4, nk, (before + nj + 15) / 16, INT64_MAX, 0, 0, 0};
  return (dm_prefetch){(const char *)p, g->b_sj * 4, nj, (before + nk + 15) / 16, INT64_MAX, 0, 0, 0};
}

// [0], [1]: the first block of B of this product and of the one after it, and how far it is prefetched.
static dm_prefetch *announced(const dm_ctx *c) { return (dm_prefetch *)(c->scratch + DM_SCRATCH_BYTES / 4 - S_FLOATS); }

static void prefetch_b(dm_prefetch *n, dm_step *s, int slot) {
  if (n->row >= n->rows || s->pace[slot])
    return;
  s->prefetch[slot] = n->p + n->row * n->stride + n->line / n->run * n->apart + n->line % n->run * 64;
  s->pace[slot] = n->stride;
  if (++n->line >= n->lines)
    n->line = 0, n->row += s->k;
}

// Prefetches the next panel of this block of B.
static void prefetch_panel(const dm_job *t, int64_t k0, int64_t nk, int64_t j, dm_step *s) {
  const float *p = at_b(t->g, t->b, k0, t->j0 + j);
  s->prefetch[0] = (const char *)p, s->prefetch[1] = (const char *)(p + DM_NR - 1),
  s->pace[0] = s->pace[1] = t->g->b_sk * 4;
  if (!t->direct)
    s->prefetch[1] = (const char *)(p + nk * DM_NR / 2), s->pace[0] = s->pace[1] = DM_NR * 2;
}

// Prefetches what follows in this panel and, at its end, in the next: memory is read in one stream. How far ahead is
// best was measured (docs/measurements.md): the more rows, the further.
static void prefetch_on(const float *b, int64_t mr, dm_step *s) {
  s->prefetch[0] = (const char *)b + (mr <= 4 ? 2048 : 8192), s->prefetch[1] = s->prefetch[0] + DM_NR * 2;
  s->pace[0] = s->pace[1] = DM_NR * 4;
}

// Prefetches the next tile of A: a part of it with every panel.
static void prefetch_a(const float *next, dm_rows a, int64_t mr, int64_t panel, int64_t panels, dm_step *s) {
  if (!next)
    return;
  if (a.sk != 1) {
    if (panel < 2)
      s->prefetch[1] = (const char *)(next + panel * (mr - 1)), s->pace[1] = a.sk * 4;
  } else if (a.si == s->k) {
    int64_t each = (mr + panels - 1) / panels;
    s->prefetch[1] = (const char *)(next + panel * each * a.si), s->pace[1] = each * 4;
  } else {
    if (panel < mr)
      s->prefetch[1] = (const char *)(next + panel * a.si), s->pace[1] = 4;
    if (panel + panels < mr && s->pace[0] == 0)
      s->prefetch[0] = (const char *)(next + (panel + panels) * a.si), s->pace[0] = 4;
  }
}

static void touch(const char *p, int64_t stride, int64_t rows, int64_t columns) {
  for (int64_t i = 0; i < rows; i++, p += stride)
    for (int64_t j = 0; j < columns; j += 16)
      __builtin_prefetch(p + 4 * j, 0, 2);
}

// Prefetches the memory that the epilogue will use. If rows of the result are contiguous: the rows of the next tile
// (`next` rows), a part with every panel, in prefetch slots that are still free; if two buffers share one slot, they
// take turns. Otherwise: the columns stored after these, or those of the next tile. start: also those of this tile.
static void prefetch_out(const dm_job *t, int64_t row, int64_t mr, int64_t next, int64_t j, int start, dm_step *s) {
  int64_t stride = t->g->out_si, w = min64(t->nj - j, DM_NR), after = j + STORE_COLS;
  if (next && stride == t->nj * 4) {
    int64_t panels = (t->nj + DM_NR - 1) / DM_NR, panel = j / DM_NR,
            turns = t->also && (s->pace[0] || s->pace[1]) && panels > 1;
    int64_t each = (next * stride << turns) / panels, at = (row + mr) * stride + (panel >> turns) * each,
            pace = (each + s->k - 1) / s->k;
    if (t->also && !s->pace[0] && !s->pace[1])
      s->prefetch[0] = t->also + at, s->pace[0] = pace;
    int free = s->pace[1] ? 0 : 1;
    if (!s->pace[free])
      s->prefetch[free] = (turns && panel % 2 ? t->also : t->out) + at, s->pace[free] = pace;
    return;
  }
  const char *out = t->out + row * stride + t->j0 * 4;
  if (start && j < STORE_COLS)
    touch(out + j * 4, stride, mr, w);
  if (after < t->nj)
    touch(out + after * 4, stride, mr, min64(w, t->nj - after));
  else
    touch(out + mr * stride + (t->nj > STORE_COLS ? after - t->nj : j) * 4, stride, next, w);
}

// Packs columns j..j+nj (one panel) of a block of B.
static void pack_b(const dm_job *t, int64_t k0, int64_t nk, int64_t j, int64_t nj) {
  float *dst = t->bp + j * nk;
  if (t->b) {
    dm_pack_panel(t->b + k0 * t->g->b_sk + (t->j0 + j) * t->g->b_sj, t->g->b_sk, t->g->b_sj, nk, nj, dst);
    return;
  }
  int64_t w = dm_width(nj);
  t->g->b_pack(t->c, t->z, k0, nk, t->j0 + j, nj, dst, w);
  for (int64_t k = 0; k < nk && nj < w; k++)
    for (int64_t q = nj; q < w; q++)
      dst[k * w + q] = 0;
}

// A tile of A, copied if its rows would map to the same cache sets.
static dm_rows tile_of(const dm_job *t, dm_rows a, int64_t mr, int64_t nk) {
  if (t->few || !dm_copied(t->g) || t->nj <= 4 * DM_NR)
    return a;
  dm_pack_rows(a.p, a.si, nk, mr, t->tp, LD_ROWS);
  return (dm_rows){t->tp, LD_ROWS, 1};
}

// Computes rows i0..i1 of C over one block of depth. `out` holds their sums; NULL: `t->cp` holds the sums of one tile,
// and this block must be the only one.
static void rows_block(dm_job *t, int64_t i0, int64_t i1, const dm_block *block, float *out, int first) {
  const dm_gemm *g = t->g;
  int64_t ld = (t->nj + DM_NR - 1) / DM_NR * DM_NR, k0 = block->k0, nk = block->nk;
  int last = dm_block_last(&t->parts, block);
  if (!out && ld > STORE_COLS)
    ld = STORE_COLS;
  dm_rows a = {t->a ? t->a + i0 * g->a_si + k0 * g->a_sk : t->ap, g->a_si, g->a_sk};
  if (!t->a) {
    a.si = g->a_pack_cols ? 1 : LD_ROWS, a.sk = g->a_pack_cols ? LD_COLS : 1;
    if (nk)
      g->a_pack(t->c, t->z, i0, i1 - i0, k0, nk, t->ap, g->a_pack_cols ? LD_COLS : LD_ROWS);
  }
  dm_run run[DM_PARTS];
  int64_t runs = dm_runs_of(&t->parts, block, t->level, run), tiles = (i1 - i0 + DM_MR - 1) / DM_MR;
#ifdef DM_HALF
  int pairs = runs > 1 && runs % 2 == 0 && block->p0 % 2 == 0 && block->ended && nk <= runs * DM_SHORT;
#endif
  for (int64_t q = 0; q < tiles; q++) { // tiles of nearly equal heights
    int64_t r = (i1 - i0) * q / tiles, mr = (i1 - i0) * (q + 1) / tiles - r;
    float *acc = out ? out + r * ld : t->cp, *c = t->plain ? (float *)(t->out + (i0 + r) * g->out_si) + t->j0 : 0;
    dm_rows x = tile_of(t, (dm_rows){a.p + r * a.si, a.si, a.sk}, mr, nk);
    const float *next = t->a && q + 1 < tiles ? a.p + (r + mr) * a.si : 0;
    for (int64_t j = 0, js = 0; j < t->nj; j += DM_NR) {
      int64_t left = t->nj - j, w = min64(DM_NR, dm_width(left));
      int in_place = t->direct && (left >= w || g->b_panel);
      const float *b = in_place ? at_b(g, t->b, k0, t->j0 + j) : t->bp + j * nk;
      if (first && q == 0 && !in_place && nk)
        pack_b(t, k0, nk, j, min64(DM_NR, left));
      const char *nothing = (const char *)t->cp;
      dm_step s = {nk,
                   x.p,
                   b,
                   x.si,
                   x.sk,
                   in_place ? g->b_sk : w,
                   runs,
                   run,
                   {t->pp, acc + j, c ? c + j : acc + (out ? j : j - js)},
                   {DM_NR, ld, c ? g->out_si / 4 : ld},
                   {nothing, nothing},
                   {0, 0}};
      if (t->few)
        prefetch_on(b, mr, &s);
      else if (first && q == 0 && left > w && !t->prefetched && (t->direct || (t->b && g->b_sj == nk)))
        prefetch_panel(t, k0, nk, j + DM_NR, &s);
      else
        prefetch_b(&t->next, &s, 0), prefetch_a(next, a, mr, j / DM_NR, (t->nj + DM_NR - 1) / DM_NR, &s);
      if (tiles == 1 && !t->few)
        prefetch_b(&t->next, &s, 1);
      if (t->out && nk && last)
        prefetch_out(t, i0 + r, mr, q + 1 < tiles ? (i1 - i0) * (q + 2) / tiles - r - mr : 0, j, q == 0, &s);
#ifdef DM_HALF
      if (pairs)
        dm_two_halves(&s, mr, w / DM_VL);
      else
#endif
        dm_kernels[mr - 1][w / DM_VL - 1](&s);
      if (!c && last && (j + DM_NR >= t->nj || j + DM_NR - js >= STORE_COLS)) {
        g->store(t->c, t->z, i0 + r, mr, t->j0 + js, min64(t->nj, j + DM_NR) - js, out ? acc + js : acc, ld);
        js = j + DM_NR;
      }
    }
  }
}

// Computes rows i0..i1 and columns j0..j0+nj of group z. Afterwards comes group next_z from column next_j on, if both
// exist; next_z = -1: what was announced.
static void segment(const dm_ctx *c, const dm_gemm *g, int64_t z, int64_t i0, int64_t i1, int64_t j0, int64_t nj,
                    int64_t next_z, int64_t next_j, dm_prefetch *prefetch) {
  dm_job t = {
      .c = c, .g = g, .z = z, .j0 = j0, .nj = nj, .parts = dm_parts_of(g, dm_depth_of(g, z)), .next = *prefetch};
  t.a = g->a_base ? g->a_base(c, z) : 0, t.b = g->b_base ? g->b_base(c, z) : 0;
  t.bp = c->scratch, t.ap = t.bp + B_FLOATS, t.tp = t.ap + A_FLOATS, t.pp = t.tp + T_FLOATS, t.cp = t.pp + P_FLOATS;
  t.direct = t.b && g->b_sj == 1, t.out = g->out ? g->out(c, z) : 0, t.also = g->also ? g->also(c, z) : 0;
  t.plain = g->plain && nj % DM_VL == 0;
  t.few = t.a && g->b_panel && g->b_sk == DM_NR && i1 - i0 <= (dm_copied(g) ? 4 : DM_MR);
  int64_t most = t.few ? INT64_MAX : KC, ld = (nj + DM_NR - 1) / DM_NR * DM_NR,
          levels = t.parts.count > 1 ? DM_JOINS + 1 : 1;
  dm_block block = dm_block_from(&t.parts, 0, 0, most);
  int one = dm_block_last(&t.parts, &block);
  int64_t chunk = one ? i1 - i0 : C_FLOATS / (DM_NC + DM_NR) / levels, step = t.a ? chunk : MC;
  t.level = chunk * ld;
  for (int64_t ic = i0; ic < i1; ic += chunk) {
    int64_t end = min64(i1, ic + chunk);
    for (block = dm_block_from(&t.parts, 0, 0, most);;) {
      int last = dm_block_last(&t.parts, &block);
      dm_block after = last ? block : dm_block_from(&t.parts, block.k0 + block.nk, block.p1 - !block.ended, most);
      t.prefetched = t.next.rows > 0 && t.next.row >= t.next.rows, t.next = (dm_prefetch){0};
      if (!last)
        t.next = block_of_b(c, g, z, after.k0, after.nk, j0, nj);
      else if (next_z < 0)
        t.next = announced(c)[0];
      else if (next_z < g->groups && next_j < g->n && end == i1)
        t.next = block_of_b(c, g, next_z, 0, min64(KC, dm_depth_of(g, next_z)), next_j, min64(nj, g->n - next_j));
      for (int64_t i = ic; i < end; i += step)
        rows_block(&t, i, min64(end, i + step), &block, one ? 0 : t.cp + (i - ic) * ld, i == ic);
      if (last)
        break;
      block = after;
    }
  }
  *prefetch = t.next;
}

// The groups that run (dm_ctx.only). Only their number, rows and depth may be read.
static dm_gemm running(const dm_ctx *c, const dm_gemm *g) {
  dm_gemm r = *g;
  int64_t z = c->only - 1;
  if (z >= 0)
    r.groups = 1, r.m_off = g->m_off ? g->m_off + z : 0, r.k_off = g->k_off ? g->k_off + z : 0;
  return r;
}

int64_t dm_gemm_tasks(const dm_ctx *c, const dm_gemm *g) {
  dm_gemm r = running(c, g);
  dm_plan p = dm_plan_of(&r, c->threads);
  return p.shares * p.pieces * p.cols;
}

// The first block of group z's B.
static dm_prefetch first_of_b(const dm_ctx *c, const dm_gemm *g, int64_t z) {
  return block_of_b(c, g, z, 0, min64(KC, dm_depth_of(g, z)), 0, min64(DM_NC, g->n));
}

static void group_task(const dm_ctx *c, const dm_gemm *g, int64_t z) {
  dm_prefetch *next = announced(c), prefetch = next[0].p == first_of_b(c, g, z).p ? next[0] : (dm_prefetch){0};
  int64_t m = dm_rows_of(g, z);
  for (int64_t j0 = 0; m > 0 && j0 < g->n; j0 += DM_NC) {
    int last = j0 + DM_NC >= g->n;
    if (last)
      next[0] = next[1];
    segment(c, g, z, 0, m, j0, min64(DM_NC, g->n - j0), last ? -1 : z, j0 + DM_NC, &prefetch);
  }
  next[0] = m > 0 ? prefetch : next[1], next[1] = (dm_prefetch){0};
}

void dm_gemm_task(const dm_ctx *c, const dm_gemm *g, int64_t task) {
  if (task <= DM_PREFETCH_TASK(0)) {
    announced(c)[1] = first_of_b(c, g, DM_PREFETCH_TASK(0) - task);
    return;
  }
  if (task < 0) {
    group_task(c, g, DM_GROUP_TASK(0) - task);
    return;
  }
  dm_gemm r = running(c, g);
  dm_plan p = dm_plan_of(&r, c->threads);
  int64_t first = c->only ? c->only - 1 : 0, share = task / p.cols % p.shares, piece = task / p.cols / p.shares,
          j0 = task % p.cols * p.nc, nj = min64(p.nc, g->n - j0);
  if (nj <= 0)
    return;
  dm_place from = dm_place_of(&r, &p, share, piece), to = dm_place_of(&r, &p, share, piece + 1);
  dm_prefetch prefetch = {0};
  for (int64_t z = from.z; z <= to.z && z < r.groups; z++) {
    int64_t i0 = z == from.z ? from.row : 0, i1 = z == to.z ? to.row : dm_rows_of(&r, z);
    if (i0 < i1)
      segment(c, g, first + z, i0, i1, j0, nj, z + (to.row == 0) >= to.z ? g->groups : first + z + 1, j0, &prefetch);
  }
}

static void product(int64_t rows, int64_t width, int64_t depth, float *c, int64_t ldc, const float *a, int64_t si,
                    int64_t sk, const float *b, int64_t bs) {
  if (rows <= 0 || depth <= 0)
    return;
  int64_t tiles = (rows + DM_MR - 1) / DM_MR, each = (rows + tiles - 1) / tiles;
  dm_run run = {.k = depth, .from = {DM_RESULT, 0}, .to = {DM_RESULT, 0}};
  for (int64_t j = 0; j < width; j += DM_NR) {
    int nv = width - j < DM_NR ? (int)((width - j) / DM_VL) : DM_NV;
    for (int64_t i = 0; i < rows; i += each) {
      float *to = c + i * ldc + j;
      dm_step s = {
          depth, a + i * si, b + j, si, sk, bs, 1, &run, {0, 0, to}, {0, 0, ldc}, {(const char *)to, (const char *)to},
          {0, 0}};
      dm_kernels[min64(each, rows - i) - 1][nv - 1](&s);
    }
  }
}

static void transpose(int64_t rows, int64_t columns, const float *from, int64_t stride, float *to) {
  if (rows == 16)
    dm_panel(from, 1, stride, columns, 16, to, 16);
  else
    dm_panel(from, 1, stride, columns, rows, to, 16);
}

const dm_core dm_core_table = {dm_gemm_tasks, dm_gemm_task, product, transpose};

int dm_panel_columns(void) { return DM_NR; }
