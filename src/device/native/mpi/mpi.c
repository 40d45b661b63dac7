// Many ranks over MPI, as mpi.ts calls them. It compiles this file with the mpicc of the launcher in use.
#define DM_EXPORT __attribute__((visibility("default")))
#include "start.h"
#include "steps.h"

// What a rank calls: all ranks must call the same.
typedef struct call {
  int64_t bytes;
  char what[112];
} call;

static int host_rank, host_size, hosts, cores;
static int64_t *sizes; // bytes that each rank gives in the call that has begun
static char error[1000];

DM_EXPORT const char *dm_ranks_error(void) { return error; }

// Begins a call. all: bytes that each rank gives. Returns 0, or 1 if the ranks call different things; dm_ranks_error()
// then says so, on all ranks.
DM_EXPORT int dm_ranks_begin(const char *what, int64_t bytes, int64_t *all) {
  call mine = {.bytes = bytes}, *theirs = grown(NULL, (size_t)size * sizeof *theirs);
  size_t n = 0;
  snprintf(mine.what, sizeof mine.what, "%s", what);
  pthread_mutex_lock(&lock);
  complete(begun);
  begin(CALLS, what);
  post_gather(CALLS, &mine, theirs, sizeof mine);
  finish(CALLS);
  for (int i = 0; i < size; i++) {
    sizes[i] = all[i] = theirs[i].bytes;
    if (!strcmp(theirs[i].what, theirs[0].what))
      continue;
    if (!n)
      n = (size_t)snprintf(error, sizeof error, "the ranks do different things: rank 0 %s", theirs[0].what);
    if (n < sizeof error)
      n += (size_t)snprintf(error + n, sizeof error - n, ", rank %d %s", i, theirs[i].what);
  }
  own.what[0] = 0;
  pthread_mutex_unlock(&lock);
  free(theirs);
  return n != 0;
}

// Completes the call: the bytes of rank i come to into + offsets[i].
DM_EXPORT void dm_ranks_take(const char *what, const void *from, void *into, const int64_t *offsets) {
  char *all = into;
  pthread_mutex_lock(&lock);
  begin(CALLS, what);
  for (int i = 0; i < size; i++)
    if (i != rank)
      post(CALLS, 0, i, all + offsets[i], sizes[i]);
  for (int d = 1; d < size; d++)
    post(CALLS, 1, (rank + d) % size, (void *)(intptr_t)from, sizes[rank]);
  if (sizes[rank] > 0)
    memcpy(all + offsets[rank], from, (size_t)sizes[rank]);
  finish(CALLS);
  own.what[0] = 0;
  pthread_mutex_unlock(&lock);
}

// How many cores the ranks of this host may use together.
static int count_cores(MPI_Comm host) {
  cpu_set_t mine, all;
  CPU_ZERO(&mine);
  sched_getaffinity(0, sizeof mine, &mine);
  check(MPI_Allreduce(&mine, &all, sizeof mine, MPI_BYTE, MPI_BOR, host));
  return CPU_COUNT(&all);
}

// Watches the other processes of this host.
static void watch_host(MPI_Comm host) {
  process mine = open_watch(), *all = grown(NULL, (size_t)host_size * sizeof *all);
  int *ranks = grown(NULL, (size_t)host_size * sizeof *ranks);
  sockets = grown(NULL, (size_t)size * sizeof *sockets);
  pids = grown(NULL, (size_t)size * sizeof *pids);
  for (int i = 0; i < size; i++)
    sockets[i] = (struct pollfd){.fd = -1, .events = POLLIN}, pids[i] = 0;
  check(MPI_Allgather(&rank, 1, MPI_INT, ranks, 1, MPI_INT, host));
  check(MPI_Allgather(&mine, sizeof mine, MPI_BYTE, all, sizeof mine, MPI_BYTE, host));
  for (int i = 0; i < host_size; i++) {
    pids[ranks[i]] = all[i].pid;
    if (ranks[i] < rank)
      connect_watch(rank, ranks[i], &all[i]);
  }
  check(MPI_Barrier(host));
  accept_watch(size);
  free(ranks);
  free(all);
}

// Starts MPI. variable: of the environment, has the number of a rank, which is known before MPI has started; here it is
// `rank_here`, and among the ranks of this host `on_host`. Returns the number of ranks; 0: failed, dm_ranks_error()
// says why.
DM_EXPORT int dm_ranks_open(double silence_seconds, double patience_seconds, const char *variable, int rank_here,
                            int on_host) {
  silence = (int64_t)(silence_seconds * 1e9), patience = (int64_t)(patience_seconds * 1e9);
  begin_start(variable, rank_here, on_host);
  int level = MPI_THREAD_SINGLE, code = MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level);
  if (code != MPI_SUCCESS || level < MPI_THREAD_SERIALIZED) {
    snprintf(error, sizeof error, code ? "MPI_Init_thread failed" : "this MPI was built without support for threads");
    return 0;
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  return size;
}

// Makes what the ranks need to exchange messages. All ranks call it.
DM_EXPORT void dm_ranks_start(void) {
  MPI_Comm host;
  sigset_t all, before;
  peers = grown(NULL, (size_t)size * sizeof *peers);
  memset(peers, 0, (size_t)size * sizeof *peers);
  sizes = grown(NULL, (size_t)size * sizeof *sizes);
  for (int i = 0; i < size; i++)
    peers[i].sending = MPI_REQUEST_NULL;
  for (int k = 0; k < KINDS; k++)
    check(MPI_Comm_dup(MPI_COMM_WORLD, &comm[k]));
  check(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &host));
  MPI_Comm_rank(host, &host_rank);
  MPI_Comm_size(host, &host_size);
  cores = count_cores(host);
  eager = cores >= host_size;
  int first = host_rank == 0;
  check(MPI_Allreduce(&first, &hosts, 1, MPI_INT, MPI_SUM, MPI_COMM_WORLD));
  watch_host(host);
  MPI_Comm_free(&host);
  signed_at = now();
  signal(SIGABRT, on_abort);
  // Signals are for the threads of Node.
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (pthread_create(&signer, NULL, sign_always, NULL) || pthread_create(&mover, NULL, move_always, NULL))
    fail("a thread could not be started");
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  atomic_store(&started, 1);
}

// 0 rank, 1 size, 2 rank and 3 size among the ranks of this host, 4 hosts, 5 bytes sent, 6 ns waited, 7 exchanges.
DM_EXPORT int64_t dm_ranks_number(int which) {
  const int64_t numbers[] = {rank, size, host_rank, host_size, hosts, bytes_sent, ns_waited, exchanges};
  return numbers[which];
}

// Like `Open MPI v4.1.4, package: ...` or `MPICH Version: 4.0.2`.
DM_EXPORT const char *dm_ranks_library(void) {
  static char text[MPI_MAX_LIBRARY_VERSION_STRING];
  int n = 0;
  MPI_Get_library_version(text, &n);
  return text;
}

// threads: of each rank.
DM_EXPORT void dm_ranks_threads(int threads) { eager = cores >= host_size * threads; }

DM_EXPORT void dm_ranks_at(int64_t step, const char *plan) {
  pthread_mutex_lock(&lock);
  memset(&current, 0, sizeof current);
  snprintf(current.plan, sizeof current.plan, "%s", plan);
  own.step = current.step = step;
  compared = 0;
  pthread_mutex_unlock(&lock);
}

// more: 1 when this rank begins to compile, -1 when it ends.
DM_EXPORT void dm_ranks_compiles(int more) { atomic_fetch_add(&compiles, more); }

// Prints a line and ends all ranks. shared: all ranks do so for the same reason; rank 0 prints it.
DM_EXPORT void dm_ranks_abort(const char *reason, int shared) {
  // Another thread may be in an exchange that does not end; after 0.1 s this one goes on without the lock.
  for (int i = 0; i < 100 && pthread_mutex_trylock(&lock); i++)
    usleep(1000);
  if (shared)
    fail_shared(reason, 0);
  fail(reason);
}

// Ends MPI, after all ranks have begun the call `close`.
DM_EXPORT void dm_ranks_close(void) {
  pthread_mutex_lock(&lock);
  atomic_store(&stop, 1);
  pthread_cond_signal(&work);
  signal(SIGABRT, SIG_DFL);
  leave_watch(size, CLOSES);
  // The last sign of each rank says that none follows. So no message is left when MPI ends.
  own.leaves = 1;
  for (int i = 0; i < size; i++)
    if (i != rank) {
      check(MPI_Wait(&peers[i].sending, MPI_STATUS_IGNORE));
      check(MPI_Isend(&own, sizeof own, MPI_BYTE, i, 0, comm[SIGNS], &peers[i].sending));
    }
  for (int i = 0; i < size; i++)
    while (i != rank && !peers[i].last.leaves)
      check(MPI_Recv(&peers[i].last, sizeof own, MPI_BYTE, i, 0, comm[SIGNS], MPI_STATUS_IGNORE));
  for (int i = 0; i < size; i++)
    check(MPI_Wait(&peers[i].sending, MPI_STATUS_IGNORE));
  pthread_mutex_unlock(&lock);
  pthread_join(signer, NULL);
  pthread_join(mover, NULL);
  MPI_Finalize();
}
