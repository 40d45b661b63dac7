// The exchanges of collective steps. They are carried out one after the other, in the order in which steps have begun
// them: it is the same on every rank. Whoever holds `lock` carries them on: a thread that waits for one, else the
// thread `mover`, which looks for messages now and then while kernels run.
#ifndef DM_QUEUE_H
#define DM_QUEUE_H
#include "exchange.h"
#include "wait.h"

enum { SLOTS_NONE, SLOTS_COME, SLOTS_GO }; // whether a product reads the rows slot by slot, or writes them

#define QUEUE 64     // exchanges that have begun and are not done
#define WINDOW 2     // slots whose messages are on their way at a time
#define MOVE_US 1000 // between two looks of the mover: a link of 1 Gbit/s carries 125 KB, less than sockets keep

typedef struct exchange {
  // Posts messages that can be posted now. It is called when the turn of the exchange comes, and after each look.
  // Returns 1 when all are posted.
  int (*go)(struct exchange *);
  const char *what; // names the step
  void *const *buf; // as of the step's kernel
  const int64_t *n;
  int started, phase, by_slot;
  int64_t ready, goes, gone, came; // slots whose rows may be sent, are being sent, have been sent, have come: the first
} exchange;

static exchange queue[QUEUE];
static int64_t begun, done; // how many exchanges; an exchange's ticket is its number, from 1 on
static pthread_cond_t work = PTHREAD_COND_INITIALIZER; // for the mover

static exchange *exchange_of(int64_t ticket) { return &queue[ticket % QUEUE]; }

// Looks once for messages, and begins the next exchange when one is done. Returns how many messages have moved. The
// caller clears own.what.
static int advance(void) {
  int moved = 0;
  for (int64_t before = -1; done > before && done < begun;) {
    exchange *x = exchange_of(done + 1);
    before = done;
    snprintf(own.what, sizeof own.what, "%s", x->what);
    if (x->started)
      moved += look();
    x->started = 1;
    if (x->go(x) && !pending)
      done++, exchanges++;
  }
  return moved;
}

// Waits until an exchange is done, or until a slot of it has come.
static void wait_for(int64_t ticket, int64_t slot) {
  const exchange *x = exchange_of(ticket);
  if (done >= ticket || x->came > slot)
    return;
  waiting w = begin_wait(STEPS);
  for (;;) {
    int n = advance();
    if (done >= ticket || x->came > slot)
      break;
    pause_wait(&w, n);
  }
  end_wait(&w);
  own.what[0] = 0;
}

static void complete(int64_t ticket) { wait_for(ticket, INT64_MAX); }

static void complete_slot(int64_t ticket, int64_t slot) { wait_for(ticket, slot); }

// Returns the ticket.
static int64_t add_exchange(exchange x) {
  if (begun - done == QUEUE)
    complete(done + 1);
  *exchange_of(++begun) = x;
  return begun;
}

static void *move_always(void *unused) {
  dm_float_mode(DM_FLOAT_DEFAULT);
  pthread_mutex_lock(&lock);
  while (!atomic_load(&stop)) {
    advance();
    own.what[0] = 0;
    if (done == begun) {
      pthread_cond_wait(&work, &lock);
      continue;
    }
    pthread_mutex_unlock(&lock);
    usleep(MOVE_US);
    pthread_mutex_lock(&lock);
  }
  pthread_mutex_unlock(&lock);
  return unused;
}
#endif
