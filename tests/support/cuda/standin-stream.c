// The stand-in for libcuda (standin.c): streams, events, modules, launches and graphs.
#define _GNU_SOURCE
#include "standin.h"
#include <dlfcn.h>
#include <elf.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static double now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

// Running what is in a stream.

static sigjmp_buf fault;

static void on_fault(int number) {
  (void)number;
  siglongjmp(fault, 1);
}

// Runs a kernel. 0, or an error.
static int run_launch(const launch *l) {
  const int code = standin_fails("kernel");
  if (code != 0)
    return code == INVALID_VALUE ? ILLEGAL_ADDRESS : code;
  struct sigaction before, own = {.sa_handler = on_fault, .sa_flags = SA_NODEFER};
  volatile int result = SUCCESS;
  sigaction(SIGSEGV, &own, &before);
  if (sigsetjmp(fault, 1) != 0)
    result = ILLEGAL_ADDRESS;
  else {
    const char *const wrong = l->kernel.of->launch(l->kernel.run, l->words, l->blocks, l->threads);
    if (wrong != NULL) {
      fprintf(stderr, "standin: %s\n", wrong);
      result = ILLEGAL_ADDRESS;
    }
  }
  sigaction(SIGSEGV, &before, NULL);
  return result;
}

static int is_ready(const node *n) {
  for (size_t i = 0; i < n->count; i++)
    if (!n->after[i]->done)
      return 0;
  return !n->done;
}

// Runs the nodes of a graph, each after those on which it depends: the first that can run, or in other runs the last.
static int run_graph(graph *g) {
  const int backwards = g->runs++ % 2;
  int code = SUCCESS;
  for (node *n = g->first; n != NULL; n = n->next)
    n->done = 0;
  for (;;) {
    node *found = NULL;
    for (node *n = g->first; n != NULL && (backwards || found == NULL); n = n->next)
      if (is_ready(n))
        found = n;
    if (found == NULL || code != SUCCESS)
      return code;
    if (!found->is_empty)
      code = run_launch(&found->run);
    found->done = 1;
  }
}

static void free_nodes(graph *g) {
  for (node *n = g->first, *next; n != NULL; n = next) {
    next = n->next;
    free(n->after);
    free(n);
  }
  free(g);
}

static void release_graph(graph *g) {
  if (--g->references == 0)
    free_nodes(g);
}

static int run_copy(const gpu *g, const work *w) {
  if (!standin_lies_in(w->from_host ? standin_pinned : g->blocks, w->from, w->bytes) && w->own == NULL)
    return ILLEGAL_ADDRESS;
  if (!standin_lies_in(w->to_host ? standin_pinned : g->blocks, w->to, w->bytes))
    return ILLEGAL_ADDRESS;
  memcpy(w->to, w->from, (size_t)w->bytes);
  return SUCCESS;
}

static int run_work(const gpu *g, work *w) {
  switch (w->kind) {
  case COPY:
    return run_copy(g, w);
  case SET:
    if (!standin_lies_in(g->blocks, w->to, w->bytes))
      return ILLEGAL_ADDRESS;
    memset(w->to, w->value, (size_t)w->bytes);
    return SUCCESS;
  case LAUNCH:
    return run_launch(&w->run);
  case GRAPH:
    return run_graph(w->graph);
  case EVENT:
    w->event->ms = now_ms();
    return SUCCESS;
  }
  return INVALID_VALUE;
}

// Runs what is in a stream, up to an event that has come, or everything. After an error nothing runs.
static int run_until(stream *s, const event *until) {
  while (s->first != NULL && (until == NULL || until->pending > 0)) {
    work *const w = s->first;
    s->first = w->next;
    if (s->first == NULL)
      s->last = NULL;
    if (s->gpu->error == SUCCESS)
      s->gpu->error = run_work(s->gpu, w);
    if (w->kind == GRAPH)
      release_graph(w->graph);
    if (w->kind == EVENT && --w->event->pending == 0 && w->event->destroyed)
      free(w->event);
    free(w->own);
    free(w);
  }
  return s->gpu->error;
}

static work *put(stream *s, work given) {
  work *const w = malloc(sizeof *w);
  *w = given;
  w->next = NULL;
  if (s->last != NULL)
    s->last->next = w;
  else
    s->first = w;
  s->last = w;
  return w;
}

int cuStreamCreate(stream **made, unsigned int flags) {
  CONTEXT(cuStreamCreate);
  if (flags > 1)
    return INVALID_VALUE;
  *made = calloc(1, sizeof **made);
  (*made)->gpu = standin_current;
  return SUCCESS;
}

int cuStreamDestroy_v2(stream *s) {
  CONTEXT(cuStreamDestroy);
  run_until(s, NULL);
  free(s);
  return SUCCESS;
}

int cuStreamSynchronize(stream *s) {
  CONTEXT(cuStreamSynchronize);
  return run_until(s, NULL);
}

// Memory of the host that is not pinned is copied at once.
int cuMemcpyHtoDAsync_v2(char *to, const char *from, size_t bytes, stream *s) {
  CONTEXT(cuMemcpyHtoDAsync);
  work w = {.kind = COPY, .to = to, .from = from, .bytes = (int64_t)bytes, .from_host = 1};
  if (!standin_lies_in(standin_pinned, from, (int64_t)bytes)) {
    w.own = malloc(bytes);
    memcpy(w.own, from, bytes);
    w.from = w.own;
  }
  put(s, w);
  return SUCCESS;
}

// Memory of the host that is not pinned has its values when the call returns.
int cuMemcpyDtoHAsync_v2(char *to, const char *from, size_t bytes, stream *s) {
  CONTEXT(cuMemcpyDtoHAsync);
  if (standin_lies_in(standin_pinned, to, (int64_t)bytes)) {
    put(s, (work){.kind = COPY, .to = to, .from = from, .bytes = (int64_t)bytes, .to_host = 1});
    return SUCCESS;
  }
  const int code = run_until(s, NULL);
  if (code == SUCCESS)
    memcpy(to, from, bytes);
  return code;
}

int cuMemsetD8Async(char *to, unsigned char value, size_t bytes, stream *s) {
  CONTEXT(cuMemsetD8Async);
  put(s, (work){.kind = SET, .to = to, .value = value, .bytes = (int64_t)bytes});
  return SUCCESS;
}

// Events.

int cuEventCreate(event **made, unsigned int flags) {
  CONTEXT(cuEventCreate);
  if (flags > 7)
    return INVALID_VALUE;
  *made = calloc(1, sizeof **made);
  (*made)->timed = (flags & 2) == 0;
  return SUCCESS;
}

int cuEventDestroy_v2(event *e) {
  CONTEXT(cuEventDestroy);
  e->destroyed = 1;
  if (e->pending == 0)
    free(e);
  return SUCCESS;
}

int cuEventRecord(event *e, stream *s) {
  CONTEXT(cuEventRecord);
  e->pending++;
  e->asked = 0;
  e->of = s;
  put(s, (work){.kind = EVENT, .event = e});
  return SUCCESS;
}

// Nothing has run when it is first asked.
int cuEventQuery(event *e) {
  CONTEXT(cuEventQuery);
  static int calls;
  if (e->pending == 0)
    return SUCCESS;
  if (e->asked++ < 1 + calls++ % 3)
    return NOT_READY;
  return run_until(e->of, e);
}

int cuEventElapsedTime(float *ms, event *from, event *to) {
  CONTEXT(cuEventElapsedTime);
  if (!from->timed || !to->timed || from->of == NULL || to->of == NULL)
    return INVALID_HANDLE;
  if (from->pending > 0 || to->pending > 0)
    return NOT_READY;
  *ms = (float)(to->ms - from->ms);
  return SUCCESS;
}

// Modules: shared objects in memory.

int cuModuleLoadData(module **made, const void *image) {
  CONTEXT(cuModuleLoadData);
  const Elf64_Ehdr *const header = image;
  if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
    return INVALID_IMAGE;
  // The table of sections is the last part of a file.
  const size_t bytes = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
  const int file = memfd_create("standin", MFD_CLOEXEC);
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", file);
  // The file stays open while the object is loaded: the loader knows objects by their path.
  void *const library = write(file, image, bytes) == (ssize_t)bytes ? dlopen(path, RTLD_NOW | RTLD_LOCAL) : NULL;
  if (library == NULL || dlsym(library, STANDIN_TEXT(STANDIN_STAMP)) == NULL) {
    if (library != NULL)
      dlclose(library);
    close(file);
    return NO_BINARY_FOR_GPU;
  }
  *made = calloc(1, sizeof **made);
  (*made)->library = library;
  (*made)->file = file;
  *(void **)&(*made)->launch = dlsym(library, "dm_shim_launch");
  return SUCCESS;
}

int cuModuleUnload(module *m) {
  CONTEXT(cuModuleUnload);
  dlclose(m->library);
  close(m->file);
  free(m);
  return SUCCESS;
}

int cuModuleGetFunction(function **made, module *m, const char *name) {
  CONTEXT(cuModuleGetFunction);
  void *const address = dlsym(m->library, name);
  if (address == NULL)
    return NOT_FOUND;
  *made = calloc(1, sizeof **made);
  (*made)->of = m;
  *(void **)&(*made)->run = address;
  return SUCCESS;
}

// Launches. A kernel has one parameter of at most WORDS words; how many is not known here, so all are copied.

static launch launch_of(const function *f, unsigned int blocks, unsigned int threads, void **parameters) {
  launch made = {.kernel = *f, .blocks = blocks, .threads = threads};
  memcpy(made.words, parameters[0], sizeof made.words);
  return made;
}

int cuLaunchKernel(function *f, unsigned int blocks_x, unsigned int blocks_y, unsigned int blocks_z,
                   unsigned int threads_x, unsigned int threads_y, unsigned int threads_z, unsigned int shared,
                   stream *s, void **parameters, void **extra) {
  CONTEXT(cuLaunchKernel);
  if (blocks_x == 0 || threads_x == 0 || blocks_y * blocks_z * threads_y * threads_z != 1 || shared != 0 ||
      extra != NULL)
    return INVALID_VALUE;
  put(s, (work){.kind = LAUNCH, .run = launch_of(f, blocks_x, threads_x, parameters)});
  return SUCCESS;
}

int cuGraphCreate(graph **made, unsigned int flags) {
  CONTEXT(cuGraphCreate);
  if (flags != 0)
    return INVALID_VALUE;
  *made = calloc(1, sizeof **made);
  return SUCCESS;
}

static int add(node **made, graph *g, node *const *after, size_t count, node given) {
  for (size_t i = 0; i < count; i++) {
    const node *n = g->first;
    while (n != NULL && n != after[i])
      n = n->next;
    if (n == NULL)
      return INVALID_VALUE;
  }
  node *const n = malloc(sizeof *n);
  *n = given;
  n->count = count;
  n->after = malloc((count + 1) * sizeof *n->after);
  if (count > 0)
    memcpy(n->after, after, count * sizeof *n->after);
  if (g->last != NULL)
    g->last->next = n;
  else
    g->first = n;
  g->last = n;
  *made = n;
  return SUCCESS;
}

int cuGraphAddKernelNode_v2(node **made, graph *g, node *const *after, size_t count, const node_parameters *p) {
  CONTEXT(cuGraphAddKernelNode);
  if (p->blocks_x == 0 || p->threads_x == 0 || p->blocks_y * p->blocks_z * p->threads_y * p->threads_z != 1 ||
      p->shared != 0 || p->extra != NULL || p->other_kernel != NULL)
    return INVALID_VALUE;
  return add(made, g, after, count, (node){.run = launch_of(p->kernel, p->blocks_x, p->threads_x, p->parameters)});
}

int cuGraphAddEmptyNode(node **made, graph *g, node *const *after, size_t count) {
  CONTEXT(cuGraphAddEmptyNode);
  return add(made, g, after, count, (node){.is_empty = 1});
}

static size_t number_of(const graph *g, const node *wanted) {
  size_t i = 0;
  for (const node *n = g->first; n != wanted; n = n->next)
    i++;
  return i;
}

static node *node_of(const graph *g, size_t number) {
  node *n = g->first;
  while (number-- > 0)
    n = n->next;
  return n;
}

int cuGraphInstantiateWithFlags(graph **made, const graph *g, unsigned long long flags) {
  CONTEXT(cuGraphInstantiate);
  if (flags != 0)
    return INVALID_VALUE;
  graph *const copy = calloc(1, sizeof *copy);
  copy->references = 1;
  for (const node *n = g->first; n != NULL; n = n->next) {
    node **const after = malloc((n->count + 1) * sizeof *after), *added;
    for (size_t i = 0; i < n->count; i++)
      after[i] = node_of(copy, number_of(g, n->after[i]));
    add(&added, copy, after, n->count, (node){.is_empty = n->is_empty, .run = n->run});
    free(after);
  }
  *made = copy;
  return SUCCESS;
}

int cuGraphDestroy(graph *g) {
  CONTEXT(cuGraphDestroy);
  free_nodes(g);
  return SUCCESS;
}

int cuGraphUpload(const graph *g, const stream *s) {
  CONTEXT(cuGraphUpload);
  return g != NULL && s != NULL ? SUCCESS : INVALID_HANDLE;
}

int cuGraphLaunch(graph *g, stream *s) {
  CONTEXT(cuGraphLaunch);
  g->references++;
  put(s, (work){.kind = GRAPH, .graph = g});
  return SUCCESS;
}

// A graph that is in a stream is freed when it has run.
int cuGraphExecDestroy(graph *g) {
  CONTEXT(cuGraphExecDestroy);
  release_graph(g);
  return SUCCESS;
}
