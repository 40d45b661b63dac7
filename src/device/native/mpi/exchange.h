// Messages between ranks over MPI, and waiting for them. The same source for Open MPI, MPICH and what follows them.
//
// All messages are MPI_Isend and MPI_Irecv between two ranks, tagged with the number of the exchange; both sides know
// the size before. MPI's own collectives are not used: where ranks disagree, some libraries mix up their messages
// silently, while these messages do not match, and the ranks wait.
//
// Four times a second every rank sends a sign of life to every other: where it waits, and whether it compiles. So a
// rank that waits can tell apart a rank that was stopped or cut off (no sign for `silence`), ranks that wait for each
// other (nothing moves for DEADLOCK), and a live rank that has not come (`patience`, which does not run while that rank
// compiles). A wait that cannot end ends all ranks with one line. The launcher notices a rank that has ended; if it
// runs on the same host, this file does too (watch.h), and says at which step.
//
// MPI is called by one thread at a time, the one that holds `lock` (MPI_THREAD_SERIALIZED). A rank that waits holds it,
// looks for messages and sends its signs itself. Else the thread `mover` (queue.h) looks for the messages of exchanges
// that have begun, and the thread `signer` sends the signs.
#ifndef DM_EXCHANGE_H
#define DM_EXCHANGE_H
#define _GNU_SOURCE
#define OMPI_SKIP_MPICXX 1
#define MPICH_SKIP_MPICXX 1
#include "watch.h"
#include <mpi.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

enum { STEPS, CALLS, SIGNS, KINDS }; // communicators: of collective steps, of calls from JavaScript, of signs of life

#define MS INT64_C(1000000)
#define SIGN_EVERY (250 * MS)
#define CHUNK (4 << 20)      // bytes of the largest message: long transfers are seen to move
#define DEADLOCK (8000 * MS) // all ranks wait, and no message has moved for this long
#define SLOWEST 100          // and ns for each byte that this rank has asked for: 10 MB/s
#define ALONE (2000 * MS)    // the same, if no other rank waits where this one does
#define TURN (2000 * MS)     // for so long a rank leaves it to another one to say why the run ends
#define NOTICE (30000 * MS)  // after this, a line on stderr says for whom the ranks wait
#define SPIN (50000)         // a wait looks without a pause, then yields the core between looks, then sleeps
#define YIELD (5 * MS)
#define SLEEP_US 50
#define LONG_WAIT (1000 * MS) // what is waited for takes long; other processes may need the core for it
#define LONG_SLEEP_US 1000
#define LOOK_MS 20
#define END_US 5000000
#define LAST_WORDS_US 100000 // a launcher that ends all ranks at once may lose what a rank has printed

// What a rank tells the others of itself.
typedef struct sign {
  int64_t waits, number; // 1 + the communicator on which it waits (0: it does not wait), and the exchange's number
  int64_t moved;         // messages that have been sent and received so far
  int64_t step, compiles, leaves; // leaves: no sign follows
  char what[112];
} sign;

typedef struct peer {
  sign last, out;       // the last sign that came, and the one that is being sent
  MPI_Request sending;  // of `out`
  int64_t silent;       // ns without a sign
  int64_t still, late;  // ns for which it has waited at one place; for which it has kept this rank waiting
  int64_t place, moved; // of the sign before
} peer;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_t signer, mover;
static _Atomic int stop;
static _Atomic int64_t compiles;
static MPI_Comm comm[KINDS];
static int rank, size, eager;     // eager: each thread of each rank of this host has a core
static int64_t silence, patience; // ns
static int64_t number[KINDS];     // exchanges so far
static sign own = {.step = -1};
static peer *peers;
static int64_t signed_at;
static int64_t posted_bytes; // of the exchange
static int64_t bytes_sent, ns_waited, exchanges;

static int64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

// Ends all ranks. If MPI does not end this one, the alarm does.
static _Noreturn void end_all(void) {
  signal(SIGALRM, SIG_DFL);
  alarm(5);
  leave_watch(size, FAILS);
  usleep(LAST_WORDS_US);
  MPI_Abort(MPI_COMM_WORLD, 1);
  _exit(1);
}

// Prints `rank 1, step 7 (exchangeRows in moe): reason`.
static void print_line(const char *reason) {
  char line[2048], step[32] = "";
  if (own.step >= 0)
    snprintf(step, sizeof step, ", step %lld", (long long)own.step);
  int n = snprintf(line, sizeof line - 1, "rank %d%s%s%s%s: %s", rank, step, own.what[0] ? " (" : "", own.what,
                   own.what[0] ? ")" : "", reason);
  n = n < (int)sizeof line - 2 ? n : (int)sizeof line - 2;
  line[n++] = '\n';
  if (write(2, line, (size_t)n) < 0)
    return; // stderr is closed: the exit status has to do
}

// The first thread that fails says why this rank ends; the others wait for the end.
static void begin_failure(void) {
  static _Atomic int fails;
  while (atomic_exchange(&fails, 1))
    pause();
}

// Prints the reason and ends all ranks. If another rank of this host has done so, that line is enough, and this one
// waits for its end: launchers take their time.
static _Noreturn void fail(const char *reason) {
  begin_failure();
  if (atomic_load(&told_why)) {
    usleep(END_US);
    _exit(1);
  }
  print_line(reason);
  end_all();
}

// Other ranks may have found the same: then `first` prints it and ends all ranks.
static _Noreturn void fail_shared(const char *reason, int first) {
  for (int64_t end = now() + TURN; rank != first && now() < end && !atomic_load(&told_why);)
    if (pthread_equal(pthread_self(), signer))
      watch(size, LOOK_MS);
    else // the signer watches
      usleep(1000 * LOOK_MS);
  fail(reason);
}

static void check(int code) {
  if (code == MPI_SUCCESS)
    return;
  char text[MPI_MAX_ERROR_STRING] = "";
  int n = 0;
  MPI_Error_string(code, text, &n);
  text[strcspn(text, "\n")] = 0;
  fail(text);
}

static void *grown(void *old, size_t bytes) {
  void *more = realloc(old, bytes);
  if (!more)
    fail("out of memory");
  return more;
}

// ---- Signs of life

static void exchange_signs(int64_t time) {
  // If this process itself was stopped, the others were not silent for all that time.
  int64_t passed = time - signed_at < 2 * SIGN_EVERY ? time - signed_at : 2 * SIGN_EVERY;
  signed_at = time;
  own.compiles = atomic_load(&compiles);
  for (int i = 0; i < size; i++) {
    peer *p = &peers[i];
    int came = 0, gone = 1;
    if (i == rank)
      continue;
    int64_t before = p->silent += passed;
    for (;; p->silent = 0) {
      check(MPI_Iprobe(i, 0, comm[SIGNS], &came, MPI_STATUS_IGNORE));
      if (!came)
        break;
      check(MPI_Recv(&p->last, sizeof p->last, MPI_BYTE, i, 0, comm[SIGNS], MPI_STATUS_IGNORE));
    }
    int64_t place = p->last.waits ? KINDS * p->last.number + p->last.waits : 0;
    int moves = p->moved != p->last.moved; // a rank that computes may be about to send what this one waits for
    if (p->silent < before)                // what is known of a silent rank is old
      p->still = place && place == p->place && !moves ? p->still + before : 0;
    p->place = place, p->moved = p->last.moved;
    p->late = place || moves || p->last.compiles ? 0 : p->late + passed;
    check(MPI_Test(&p->sending, &gone, MPI_STATUS_IGNORE));
    if (!gone)
      continue;
    p->out = own;
    check(MPI_Isend(&p->out, sizeof p->out, MPI_BYTE, i, 0, comm[SIGNS], &p->sending));
  }
}

// A process of this host has ended. Does not take `lock`: the launcher is about to end this one too.
static _Noreturn void report_end(int other) {
  char line[100];
  int first = 0;
  while (first == other || pids[first] == 0)
    first++;
  snprintf(line, sizeof line, "rank %d (process %d) has ended", other, (int)pids[other]);
  fail_shared(line, first);
}

// abort() was called: by Node if its heap is full, by a library of MPI if another process has ended while it sent.
static void on_abort(int number_of_signal) {
  int other = watch(size, SIGN_EVERY / MS);
  if (other >= 0)
    report_end(other);
  begin_failure();
  leave_watch(size, FAILS);
  print_line("this process was aborted; the lines before say why");
  usleep(LAST_WORDS_US);
  signal(number_of_signal, SIG_DFL);
  raise(number_of_signal);
}

static void *sign_always(void *unused) {
  while (!atomic_load(&stop)) {
    int other = watch(size, SIGN_EVERY / MS / 4);
    if (other >= 0 && !atomic_load(&stop))
      report_end(other);
    if (pthread_mutex_trylock(&lock))
      continue; // a rank that waits sends its signs itself
    int64_t time = now();
    if (time - signed_at >= SIGN_EVERY && !atomic_load(&stop))
      exchange_signs(time);
    pthread_mutex_unlock(&lock);
  }
  return unused;
}

static int is_here(const peer *p) { return p->last.waits == own.waits && p->last.number == own.number; }

// Adds what rank i does to a text.
static void describe(char *text, size_t room, int i) {
  const sign *s = &peers[i].last;
  size_t n = strlen(text);
  const char *comma = n ? "," : "";
  if (!s->waits)
    snprintf(text + n, room - n, "%s rank %d %s", comma, i, s->compiles ? "compiles" : "is alive, but has not come");
  else if (s->step < 0)
    snprintf(text + n, room - n, "%s rank %d waits (%s)", comma, i, s->what);
  else
    snprintf(text + n, room - n, "%s rank %d waits at step %lld (%s)", comma, i, (long long)s->step, s->what);
}

// Decides whether a wait can still end. still: ns for which nothing has moved here. told: whether a notice was given.
// The ranks that wait see the same; the first of them says it, the others only if that one does not.
static void judge(int64_t waited, int64_t still, int *told) {
  char text[900] = "", line[1000] = "";
  int all_wait = 1, alone = 1, silent = -1, first = rank;
  int64_t late = 0;
  for (int i = 0; i < size; i++) {
    const peer *p = &peers[i];
    if (i == rank)
      continue;
    if (p->silent >= silence)
      silent = i;
    else if (p->last.waits && i < first)
      first = i;
    still = p->still < still ? p->still : still;
    late = p->late > late ? p->late : late;
    all_wait &= p->last.waits != 0;
    if (is_here(p))
      alone = 0;
    else
      describe(text, sizeof text, i);
  }
  int64_t extra = first == rank ? 0 : TURN;
  if (silent >= 0 && peers[silent].silent >= silence + extra)
    snprintf(line, sizeof line, "rank %d has given no sign of life for %.1f s: it was stopped or cut off", silent,
             (double)peers[silent].silent / 1e9);
  else if (late >= patience + extra)
    snprintf(line, sizeof line, "has waited for %.1f s:%s", (double)waited / 1e9, text);
  else if (all_wait && still >= (alone ? ALONE : DEADLOCK) + posted_bytes * SLOWEST + extra)
    snprintf(line, sizeof line, "%s%s",
             text[0] ? "the ranks wait for each other:" : "all ranks wait here, and no message comes", text);
  if (line[0])
    fail(line);
  if (waited < NOTICE || *told)
    return;
  *told = 1;
  if (first != rank)
    return;
  snprintf(line, sizeof line, "has waited for %d s so far:%s", (int)(NOTICE / 1000 / MS), text);
  print_line(line);
}

// ---- Messages of an exchange

static MPI_Request *requests;
static MPI_Status *statuses;
static int *indices, *expected; // expected: bytes of a message that comes, -1: it goes
static int *slots;              // the slot to whose rows a message belongs, -1: to none
static int posted, pending, room_posted;
static int *left[2];         // by slot, messages that have not come, or gone
static int64_t posting = -1; // the slot of the messages that are being posted

static void begin(int kind, const char *what) {
  own.number = ++number[kind];
  posted = pending = 0, posted_bytes = 0, posting = -1;
  if (what != own.what)
    snprintf(own.what, sizeof own.what, "%s", what);
}

static void post_tagged(int kind, int tag, int goes, int other, void *data, int64_t bytes) {
  posted_bytes += bytes;
  for (int64_t at = 0; at < bytes; at += CHUNK) {
    if (posted == room_posted) {
      size_t n = 2 * (size_t)room_posted + 64;
      requests = grown(requests, n * sizeof *requests);
      statuses = grown(statuses, n * sizeof *statuses);
      indices = grown(indices, n * sizeof *indices);
      expected = grown(expected, n * sizeof *expected);
      slots = grown(slots, n * sizeof *slots);
      room_posted = (int)n;
    }
    int n = bytes - at < CHUNK ? (int)(bytes - at) : CHUNK;
    MPI_Request *r = &requests[posted];
    slots[posted] = (int)posting;
    expected[posted++] = goes ? -1 : n;
    pending++;
    if (posting >= 0)
      left[goes][posting]++;
    if (goes)
      check(MPI_Isend((char *)data + at, n, MPI_BYTE, other, tag, comm[kind], r)), bytes_sent += n;
    else
      check(MPI_Irecv((char *)data + at, n, MPI_BYTE, other, tag, comm[kind], r));
  }
}

static int tag_of(int64_t exchange) { return (int)(exchange & 0x7fff); }

static void post(int kind, int goes, int other, void *data, int64_t bytes) {
  post_tagged(kind, tag_of(number[kind]), goes, other, data, bytes);
}

static void check_message(const MPI_Status *s, int code, int bytes) {
  int n = 0, class = MPI_SUCCESS;
  char text[160];
  MPI_Error_class(code, &class);
  if (class != MPI_ERR_TRUNCATE)
    check(code);
  if (bytes < 0)
    return;
  if (class == MPI_SUCCESS)
    MPI_Get_count(s, MPI_BYTE, &n);
  if (n == bytes)
    return;
  if (class == MPI_SUCCESS)
    snprintf(text, sizeof text, "rank %d sent %d bytes instead of %d: the ranks disagree about counts", s->MPI_SOURCE,
             n, bytes);
  else
    snprintf(text, sizeof text, "more than %d bytes came: the ranks disagree about counts", bytes);
  fail_shared(text, 0);
}

// Looks once for the messages that are pending. Returns how many have moved.
static int look(void) {
  int n = 0;
  if (!pending)
    return 0;
  int code = MPI_Testsome(posted, requests, &n, indices, statuses);
  if (code != MPI_SUCCESS && code != MPI_ERR_IN_STATUS)
    check(code);
  for (int i = 0; i < n; i++) { // some libraries set MPI_ERROR only if there was an error
    int m = indices[i];
    check_message(&statuses[i], code == MPI_SUCCESS ? code : statuses[i].MPI_ERROR, expected[m]);
    if (slots[m] >= 0)
      left[expected[m] < 0][slots[m]]--;
  }
  pending -= n, own.moved += n;
  return n;
}

// A wait: when it began, when a message has moved last, whether one has moved since the clock was read, looks, whether
// a notice was given.
typedef struct waiting {
  int64_t start, moved_at, looks;
  int moved, told;
} waiting;

static waiting begin_wait(int kind) {
  int64_t time = now();
  for (int i = 0; i < size; i++)
    peers[i].late = 0;
  own.waits = 1 + kind;
  return (waiting){.start = time, .moved_at = time};
}

// Between two looks, of which the first has seen n messages move: signs of life, a judgement, a pause.
static void pause_wait(waiting *w, int n) {
  w->moved |= n;
  if (eager && ++w->looks % 64)
    return;
  int64_t time = now(), waited = time - w->start;
  if (w->moved)
    w->moved_at = time, w->moved = 0;
  if (time - signed_at >= SIGN_EVERY) {
    exchange_signs(time);
    judge(waited, time - w->moved_at, &w->told);
  }
  if (waited > YIELD)
    usleep(waited > LONG_WAIT ? LONG_SLEEP_US : SLEEP_US);
  else if (!eager || waited > SPIN)
    sched_yield();
}

static void end_wait(const waiting *w) {
  own.waits = 0;
  ns_waited += now() - w->start;
}

// Waits for all messages that are pending.
static void finish(int kind) {
  waiting w = begin_wait(kind);
  while (pending) {
    int n = look();
    if (pending)
      pause_wait(&w, n);
  }
  end_wait(&w);
  exchanges++;
}

// Posts the messages by which each rank's `bytes` from `from` come to `to`, in the order of ranks.
static void post_gather(int kind, const void *from, void *to, int64_t bytes) {
  char *all = to;
  for (int d = 1; d < size; d++) {
    int i = (rank + size - d) % size;
    post(kind, 0, i, all + i * bytes, bytes);
  }
  for (int d = 1; d < size; d++)
    post(kind, 1, (rank + d) % size, (void *)(intptr_t)from, bytes);
  memmove(all + rank * bytes, from, (size_t)bytes);
}
#endif
