// Notices at once that another process of this host has ended: the system closes its end of a socket. (Launchers
// notice it too, but say neither rank nor step, and those of other hosts learn it from them.)
#ifndef DM_WATCH_H
#define DM_WATCH_H
#include <poll.h>
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

// How another process of this host finds this one. length 0: it cannot.
typedef struct process {
  int32_t pid, length;
  struct sockaddr_un address;
} process;

static struct pollfd *sockets; // by rank; -1: not watched
static int32_t *pids;          // by rank; 0: not on this host
static int listener = -1;
enum { CLOSES, FAILS };      // why a process is about to end
static _Atomic int told_why; // whether another one has failed and printed why

// Listens at an address that the system chooses.
static process open_watch(void) {
  process p = {.pid = getpid(), .address = {.sun_family = AF_UNIX}};
#ifdef __linux__
  socklen_t n = sizeof p.address;
  listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (listener >= 0 && !bind(listener, (struct sockaddr *)&p.address, sizeof p.address.sun_family) &&
      !listen(listener, SOMAXCONN) && !getsockname(listener, (struct sockaddr *)&p.address, &n))
    p.length = (int32_t)n;
#endif
  return p;
}

// Connects this rank to one before it on this host.
static void connect_watch(int rank, int other, const process *p) {
#ifdef __linux__
  int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  int32_t mine = rank;
  if (fd < 0)
    return;
  if (p->length && !connect(fd, (const struct sockaddr *)&p->address, (socklen_t)p->length) &&
      send(fd, &mine, sizeof mine, MSG_NOSIGNAL) == sizeof mine)
    sockets[other].fd = fd;
  else
    close(fd);
#endif
}

// Takes the connections of the ranks after this one, which all have connected.
static void accept_watch(int size) {
#ifdef __linux__
  for (int fd; (fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;) {
    int32_t other = -1;
    if (recv(fd, &other, sizeof other, 0) == sizeof other && other >= 0 && other < size)
      sockets[other].fd = fd;
    else
      close(fd);
  }
#endif
  if (listener >= 0)
    close(listener);
}

// Says to the others that this process is about to end. FAILS: after it has printed why.
static void leave_watch(int size, char why) {
  for (int i = 0; sockets && i < size; i++)
    if (sockets[i].fd >= 0)
      (void)!send(sockets[i].fd, &why, 1, MSG_NOSIGNAL | MSG_DONTWAIT);
}

// Waits for some time, or until a process has ended that has not said so. Returns its rank, or -1.
static int watch(int size, int ms) {
  int ended = -1;
  if (poll(sockets, (nfds_t)size, ms) <= 0)
    return -1;
  for (int i = 0; i < size; i++) {
    char why = CLOSES;
    if (sockets[i].fd < 0 || !sockets[i].revents)
      continue;
    if (recv(sockets[i].fd, &why, 1, MSG_DONTWAIT) <= 0)
      ended = i;
    else if (why == FAILS)
      atomic_store(&told_why, 1);
    // It stays open: the other side would take its end for the end of this process.
    sockets[i].fd = -1;
  }
  return ended;
}
#endif
