// Collective steps: kernels of the driver's table, one task each. Each `go_...` carries out an exchange (queue.h).
#ifndef DM_STEPS_H
#define DM_STEPS_H
#include "queue.h"
#include "runtime.h"

// The step and the plan that a rank runs.
typedef struct place {
  int64_t step;
  char plan[72];
} place;

static place current = {.step = -1};
static int compared = 1; // whether the ranks have compared `current`

// All ranks run the same step of the same plan.
static int go_compare(exchange *x) {
  static place *all;
  char line[1000];
  size_t n = 0;
  if (!x->phase++) {
    all = grown(all, (size_t)size * sizeof *all);
    begin(STEPS, x->what);
    post_gather(STEPS, &current, all, sizeof current);
  }
  if (pending)
    return 0;
  for (int i = 1; i < size; i++) {
    if (!memcmp(&all[i], &all[0], sizeof *all))
      continue;
    if (!n)
      n = (size_t)snprintf(line, sizeof line, "the ranks run different programs: rank 0 step %lld of plan %s",
                           (long long)all[0].step, all[0].plan);
    if (n < sizeof line)
      n += (size_t)snprintf(line + n, sizeof line - n, ", rank %d step %lld of plan %s", i, (long long)all[i].step,
                            all[i].plan);
  }
  if (n)
    fail_shared(line, 0);
  return 1;
}

// buf: from, to; n: bytes of each rank.
static int go_gather(exchange *x) {
  if (!x->phase++) {
    begin(STEPS, x->what);
    post_gather(STEPS, x->buf[0], x->buf[1], x->n[0]);
  }
  return 1;
}

#define BLOCK 2048 // elements of a block of sums, small enough for the first-level cache

// to[k] = the sum over ranks of from[i][k], as the tree ((r0 + r1) + (r2 + r3)) + ... sums: size / 2 blocks.
#define JOIN(NAME, TYPE)                                                                                               \
  static void NAME(TYPE *to, TYPE *const *from, TYPE *sums, int64_t n) {                                               \
    for (int64_t at = 0; at < n; at += BLOCK)                                                                          \
      for (int w = 1; w < size; w *= 2)                                                                                \
        for (int i = 0; i + w < size; i += 2 * w) {                                                                    \
          const TYPE *a = w == 1 ? from[i] + at : sums + i / 2 * BLOCK;                                                \
          const TYPE *b = w == 1 ? from[i + 1] + at : sums + (i + w) / 2 * BLOCK;                                      \
          TYPE *sum = 2 * w >= size ? to + at : sums + i / 2 * BLOCK;                                                  \
          int64_t m = n - at < BLOCK ? n - at : BLOCK;                                                                 \
          _Pragma("GCC ivdep") for (int64_t k = 0; k < m; k++) sum[k] = a[k] + b[k];                                   \
        }                                                                                                              \
  }
JOIN(join_float32, float)
JOIN(join_float64, double)

// buf: from, to; n: elements, 0 (float32) or 1 (float64). Rank r joins elements n * r / size and on; then all ranks
// gather these shares.
static int go_join(exchange *x) {
  static char *sums;
  static int64_t has;
  static void **sources; // by rank, its elements of this rank's share
  if (size & (size - 1))
    fail_shared("the number of ranks is not a power of two", 0);
  int64_t n = x->n[0], each = x->n[1] ? 8 : 4, first = n * rank / size, share = n * (rank + 1) / size - first;
  char *from = x->buf[0], *to = x->buf[1], *own_share = to + first * each;
  if (x->phase == 0) {
    int64_t room = (share * (size - 1) + size / 2 * BLOCK) * each;
    if (has < room)
      sums = grown(sums, (size_t)(has = room));
    if (!sources)
      sources = grown(NULL, (size_t)size * sizeof *sources);
    char *next = sums + size / 2 * BLOCK * each;
    begin(STEPS, x->what);
    for (int i = 0; i < size; i++) {
      sources[i] = i == rank ? from + first * each : next;
      if (i == rank)
        continue;
      post(STEPS, 0, i, next, share * each);
      next += share * each;
    }
    for (int d = 1; d < size; d++) {
      int64_t i = (rank + d) % size, at = n * i / size;
      post(STEPS, 1, (int)i, from + at * each, (n * (i + 1) / size - at) * each);
    }
    x->phase = 1;
  }
  if (x->phase == 1 && !pending) {
    if (each == 8)
      join_float64((double *)(void *)own_share, (double **)(void *)sources, (double *)(void *)sums, share);
    else
      join_float32((float *)(void *)own_share, (float **)(void *)sources, (float *)(void *)sums, share);
    begin(STEPS, x->what);
    for (int64_t i = 0; i < size; i++)
      if (i != rank)
        post(STEPS, 0, (int)i, to + n * i / size * each, (n * (i + 1) / size - n * i / size) * each);
    for (int d = 1; d < size; d++)
      post(STEPS, 1, (rank + d) % size, own_share, share * each);
    x->phase = 2;
  }
  return x->phase == 2;
}

typedef struct rows {
  const int32_t *counts, *slots, *offsets;
  int64_t experts, mine; // experts of all ranks, slots of each
  int64_t *starts;       // starts[e]: the first of this rank's rows for expert e
} rows;

static _Noreturn void misfit(const char *what, int64_t of, int64_t has, int64_t room) {
  char text[200];
  snprintf(text, sizeof text, "%lld rows %s %lld, there is room for %lld", (long long)has, what, (long long)of,
           (long long)room);
  fail_shared(text, 0);
}

// Checks the counts against the memory that they will use, and sets `starts`.
static void check_rows(const rows *r, int64_t back, int64_t room) {
  for (int64_t e = 0; e < r->experts; e++)
    r->starts[e] = -1;
  for (int64_t p = 0; p < r->experts; p++) {
    int64_t e = r->slots[p];
    if (e < 0 || e >= r->experts || r->starts[e] >= 0)
      fail_shared("the slots are not a permutation of the experts", 0);
    r->starts[e] = 0;
  }
  for (int64_t i = 0; i < size * r->experts; i++)
    if (r->counts[i] < 0)
      misfit("are sent to expert", i % r->experts, r->counts[i], 0);
  for (int64_t z = 0; z < r->mine; z++) {
    int64_t e = r->slots[rank * r->mine + z], has = 0, fits = r->offsets[z + 1] - r->offsets[z];
    for (int64_t s = 0; s < size; s++)
      has += r->counts[s * r->experts + e];
    if (r->offsets[z] < 0 || has > fits)
      misfit("are sent to expert", e, has, fits);
  }
  if (!back && r->offsets[r->mine] > room)
    misfit("are in the slots of rank", rank, r->offsets[r->mine], room);
  int64_t at = 0;
  for (int64_t e = 0; e < r->experts; e++)
    r->starts[e] = at, at += r->counts[rank * r->experts + e];
  if (back && at > room)
    misfit("come back to rank", rank, at, room);
}

// Where the rows from rank s begin in slot z.
static int64_t slot_row(const rows *r, int64_t z, int s) {
  int64_t at = r->offsets[z], e = r->slots[rank * r->mine + z];
  for (int i = 0; i < s; i++)
    at += r->counts[i * r->experts + e];
  return at;
}

// Posts the messages with rank p of slot `posting`. Of rows that go to experts, the receiver's slots count, of rows
// that come back, the sender's.
static void post_rows(const rows *r, int goes, int p, int64_t row, int64_t back, char *sorted, char *slotted) {
  if (goes != (back != 0)) { // rows of this rank, in the slots of p
    int64_t e = r->slots[p * r->mine + posting];
    post(STEPS, goes, p, sorted + r->starts[e] * row, r->counts[rank * r->experts + e] * row);
  } else { // rows of p, in the slots of this rank
    int64_t e = r->slots[rank * r->mine + posting];
    post(STEPS, goes, p, slotted + slot_row(r, posting, p) * row, r->counts[p * r->experts + e] * row);
  }
}

// Copies this rank's own rows of slot z to the other side.
static void copy_own(const rows *r, int64_t z, int64_t row, int64_t back, char *sorted, char *slotted) {
  int64_t e = r->slots[rank * r->mine + z], n = r->counts[rank * r->experts + e];
  char *here = sorted + r->starts[e] * row, *there = slotted + slot_row(r, z, rank) * row;
  if (n > 0)
    memcpy(back ? here : there, back ? there : here, (size_t)(n * row));
}

// buf: from, counts int32[size, E], slots int32[E], offsets int32[E / size + 1], to; n: bytes of a row, E, direction,
// most rows of `to`. counts[s][e]: rows that rank s sends to expert e. Direction 0: `from` has this rank's rows in the
// order of experts, `to` gets the rows of this rank's slots: those of slot z (expert slots[rank * E / size + z]) begin
// at offsets[z], those of rank 0 first; what is left before offsets[z + 1] becomes 0. Direction 1 is the inverse.
//
// What goes from one rank to another is in the order of the slots of the experts' rank on both sides. If a product
// reads or writes the rows slot by slot, the messages of at most WINDOW slots are on their way at a time: the first
// slot then comes first.
static int go_exchange_rows(exchange *x) {
  static rows r;
  int64_t row = x->n[0], back = x->n[2];
  char *sorted = back ? x->buf[4] : x->buf[0], *slotted = back ? x->buf[0] : x->buf[4];
  if (!x->phase) {
    int64_t *starts = r.starts;
    x->phase = 1;
    begin(STEPS, x->what);
    r = (rows){.counts = x->buf[1], .slots = x->buf[2], .offsets = x->buf[3], .experts = x->n[1]};
    r.mine = r.experts / size;
    if (r.mine * size != r.experts)
      fail_shared("the number of experts is not a multiple of the number of ranks", 0);
    r.starts = grown(starts, (size_t)(r.experts + 1) * sizeof *starts);
    check_rows(&r, back, x->n[3]);
    for (int goes = 0; goes < 2; goes++) {
      left[goes] = grown(left[goes], (size_t)(r.mine + 1) * sizeof **left);
      memset(left[goes], 0, (size_t)r.mine * sizeof **left);
    }
    for (posting = 0; posting < r.mine; posting++)
      for (int d = 1; d < size; d++)
        post_rows(&r, 0, (rank + size - d) % size, row, back, sorted, slotted);
    for (int64_t z = 0; z < r.mine && !back; z++) {
      int64_t end = slot_row(&r, z, size);
      if (r.offsets[z + 1] > end)
        memset(slotted + end * row, 0, (size_t)((r.offsets[z + 1] - end) * row));
      copy_own(&r, z, row, back, sorted, slotted);
    }
  }
  for (; x->gone < r.mine && left[1][x->gone] == 0 && x->gone < x->goes;)
    x->gone++;
  for (; x->goes < r.mine && x->goes < x->ready && (!x->by_slot || x->goes < x->gone + WINDOW); x->goes++) {
    posting = x->goes;
    for (int d = 1; d < size; d++)
      post_rows(&r, 1, (rank + d) % size, row, back, sorted, slotted);
    if (back)
      copy_own(&r, posting, row, back, sorted, slotted);
  }
  while (x->came < r.mine && left[0][x->came] == 0)
    x->came++;
  return x->goes == r.mine;
}

// buf: from, to; n: bytes, phase, number of the relay. Phase 0: the first rank copies, every other one takes what the
// rank before it gives in phase 1 of the same relay. Phase 1: gives `from` to the next rank; all get that of the last.
static int go_relay(exchange *x) {
  static int64_t taken[4096]; // the exchange in which phase 0 of each relay was
  int64_t bytes = x->n[0], *first = &taken[x->n[2]];
  if (x->phase++)
    return 1;
  begin(STEPS, x->what);
  if (!x->n[1]) {
    *first = number[STEPS];
    if (rank > 0)
      post(STEPS, 0, rank - 1, x->buf[1], bytes);
    else
      memcpy(x->buf[1], x->buf[0], (size_t)bytes);
    return 1;
  }
  int last = size - 1;
  if (rank < last) {
    post_tagged(STEPS, tag_of(*first), 1, rank + 1, x->buf[0], bytes);
    post(STEPS, 0, last, x->buf[1], bytes);
  } else {
    for (int i = 0; i < last; i++)
      post(STEPS, 1, i, x->buf[0], bytes);
    memcpy(x->buf[1], x->buf[0], (size_t)bytes);
  }
  return 1;
}

// ---- The kernels. The arguments after the integers of a collective: the text that names the step; then, if another
// step waits for it, the address of the ticket that this step writes, and SLOTS_*.

static int64_t enqueue(const dm_ctx *c, int (*go)(exchange *), int label) {
  const char *what = (const char *)(intptr_t)c->n[label];
  if (!compared) {
    compared = 1;
    add_exchange((exchange){.go = go_compare, .what = what});
  }
  return add_exchange((exchange){.go = go, .what = what, .buf = c->buf, .n = c->n, .ready = INT64_MAX});
}

static void run_whole(const dm_ctx *c, int (*go)(exchange *), int label) {
  pthread_mutex_lock(&lock);
  complete(enqueue(c, go, label));
  pthread_mutex_unlock(&lock);
}

static void run_begin(const dm_ctx *c, int (*go)(exchange *), int label) {
  pthread_mutex_lock(&lock);
  int64_t ticket = enqueue(c, go, label), slots = c->n[label + 2];
  exchange *x = exchange_of(ticket);
  x->by_slot = slots != SLOTS_NONE, x->ready = slots == SLOTS_GO ? 0 : INT64_MAX;
  *(int64_t *)(intptr_t)c->n[label + 1] = ticket;
  advance();
  own.what[0] = 0;
  if (done < begun)
    pthread_cond_signal(&work);
  pthread_mutex_unlock(&lock);
}

#define COLLECTIVE(NAME, GO, LABEL)                                                                                    \
  DM_EXPORT void NAME(const dm_ctx *c, int64_t task) { (void)task, run_whole(c, GO, LABEL); }                          \
  DM_EXPORT void NAME##_begin(const dm_ctx *c, int64_t task) { (void)task, run_begin(c, GO, LABEL); }
COLLECTIVE(dm_gather_ranks, go_gather, 1)
COLLECTIVE(dm_join_ranks, go_join, 2)
COLLECTIVE(dm_exchange_rows, go_exchange_rows, 4)
COLLECTIVE(dm_relay, go_relay, 3)

// n: the address of a ticket. Waits for the exchange. (A step that was skipped has left an old ticket.)
DM_EXPORT void dm_wait_exchange(const dm_ctx *c, int64_t task) {
  (void)task;
  pthread_mutex_lock(&lock);
  complete(*(const int64_t *)(intptr_t)c->n[0]);
  pthread_mutex_unlock(&lock);
}

// Waits for the rows of a slot.
DM_EXPORT void dm_wait_slot(const int64_t *ticket, int64_t slot) {
  pthread_mutex_lock(&lock);
  complete_slot(*ticket, slot);
  pthread_mutex_unlock(&lock);
}

// The rows of a slot, and of those before it, may be sent.
DM_EXPORT void dm_send_slot(const int64_t *ticket, int64_t slot) {
  pthread_mutex_lock(&lock);
  if (done < *ticket)
    exchange_of(*ticket)->ready = slot + 1;
  advance();
  own.what[0] = 0;
  pthread_mutex_unlock(&lock);
}
#endif
