// Watches the start of MPI. Until it is over the ranks cannot tell each other anything, and MPI_Init waits for all of
// them without a limit. If one of this host was stopped, it will not come, so the others end. One of another host
// cannot be seen: after `patience` the others end, too.
#ifndef DM_START_H
#define DM_START_H
#include "exchange.h"
#include <dirent.h>

#define FIRST_LOOK_US 1000000 // most starts are over by then

typedef struct start_watch {
  char variable[64]; // of the environment: the launcher sets it to the number of a rank
  int rank, host_rank;
} start_watch;

static start_watch launched;
static _Atomic int started;

// The first bytes of a file of /proc. Returns how many; a zero follows them.
static size_t read_proc(const char *pid, const char *name, char *text, size_t room) {
  char path[300];
  snprintf(path, sizeof path, "/proc/%s/%s", pid, name);
  FILE *file = fopen(path, "r");
  size_t n = file ? fread(text, 1, room - 1, file) : 0;
  if (file)
    fclose(file);
  text[n] = 0;
  return n;
}

// The number of a rank from the environment of its process; -1: it has none.
static int rank_of(const char *pid) {
  static char text[1 << 17];
  size_t n = read_proc(pid, "environ", text, sizeof text), length = strlen(launched.variable);
  for (size_t at = 0; at < n; at += strlen(text + at) + 1)
    if (!strncmp(text + at, launched.variable, length) && text[at + length] == '=')
      return atoi(text + at + length + 1);
  return -1;
}

// A rank that was stopped, among the processes that this one's launcher has started; -1: none.
static int stopped_rank(void) {
  DIR *all = opendir("/proc");
  int found = -1, parent = 0;
  char text[512], state = 0;
  for (struct dirent *e; all && found < 0 && (e = readdir(all));) {
    if (e->d_name[0] < '1' || e->d_name[0] > '9')
      continue;
    read_proc(e->d_name, "stat", text, sizeof text);
    const char *name_end = strrchr(text, ')');
    if (name_end && sscanf(name_end + 1, " %c %d", &state, &parent) == 2 && parent == getppid() && state == 'T')
      found = rank_of(e->d_name);
  }
  if (all)
    closedir(all);
  return found;
}

static void *watch_start(void *unused) {
  char line[160];
  int64_t seen = 0, waited = 0; // ns for which a rank was stopped, and for which this one waits
  for (useconds_t wait = FIRST_LOOK_US; usleep(wait), !atomic_load(&started); wait = SIGN_EVERY / 1000) {
    int i = stopped_rank();
    seen = i < 0 ? 0 : seen + SIGN_EVERY;
    waited += (int64_t)wait * 1000;
    // Other ranks see the same; the launcher ends them when the first one ends.
    if (seen >= silence + launched.host_rank * SIGN_EVERY)
      snprintf(line, sizeof line, "rank %d: rank %d was stopped before all ranks had started\n", launched.rank, i);
    else if (waited >= patience + launched.rank * SIGN_EVERY)
      snprintf(line, sizeof line, "rank %d: after %.0f s not all ranks have started; none of this host is stopped\n",
               launched.rank, (double)waited / 1e9);
    else
      continue;
    if (write(2, line, strlen(line)) >= 0)
      usleep(LAST_WORDS_US);
    _exit(1);
  }
  return unused;
}

// variable: of the environment, has the number of a rank; here it is `rank`, and host_rank among those of this host.
static void begin_start(const char *variable, int rank_here, int host_rank) {
  pthread_t thread;
  sigset_t all, before;
  snprintf(launched.variable, sizeof launched.variable, "%s", variable);
  launched.rank = rank_here, launched.host_rank = host_rank;
  // Signals are for the threads of Node.
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  if (!pthread_create(&thread, NULL, watch_start, NULL))
    pthread_detach(thread);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
}
#endif
