// What the parts of the stand-in share: its objects, results of calls, and calls that fail because a test wants it.
#include <stddef.h>
#include <stdint.h>

enum {
  SUCCESS = 0,
  INVALID_VALUE = 1,
  OUT_OF_MEMORY = 2,
  NOT_INITIALIZED = 3,
  NO_DEVICE = 100,
  INVALID_DEVICE = 101,
  INVALID_IMAGE = 200,
  INVALID_CONTEXT = 201,
  NO_BINARY_FOR_GPU = 209,
  INVALID_HANDLE = 400,
  NOT_FOUND = 500,
  NOT_READY = 600,
  ILLEGAL_ADDRESS = 700,
};

// Counts calls of a function. 0, or the error with which this one fails.
int standin_fails(const char *name);
// A number in the environment.
int64_t standin_number(const char *name, int64_t fallback);

enum { GPUS = 4, WORDS = 512, PAGE = 4096, ALIGNMENT = 256 };

// A block of memory: of the GPU, or pinned memory of the host.
typedef struct block {
  struct block *next;
  char *mapped, *start;
  int64_t map_bytes, bytes;
} block;

typedef struct {
  int references, error; // the error after which nothing works any more
  int64_t used;
  block *blocks;
} gpu;

typedef struct {
  void *library;
  int file;
  const char *(*launch)(void (*)(const int64_t *), const int64_t *, int64_t, int64_t);
} module;

typedef struct {
  module *of;
  void (*run)(const int64_t *);
} function;

typedef struct {
  function kernel;
  int64_t blocks, threads, words[WORDS];
} launch;

typedef struct node {
  struct node *next;
  int is_empty, done;
  launch run;
  size_t count;
  struct node **after;
} node;

typedef struct {
  node *first, *last;
  int references, runs; // of a graph that can run: the runs in streams, and its handle
} graph;

struct stream;

// of: the stream where it was recorded last. pending: how many times it is in streams.
typedef struct {
  int pending, destroyed, timed, asked;
  double ms;
  struct stream *of;
} event;

typedef struct work {
  struct work *next;
  enum { COPY, SET, LAUNCH, GRAPH, EVENT } kind;
  char *to, *own; // own: a copy of what is written
  const char *from;
  int64_t bytes;
  int value, to_host, from_host;
  launch run;
  graph *graph;
  event *event;
} work;

typedef struct stream {
  gpu *gpu;
  work *first, *last;
} stream;

// CUDA_KERNEL_NODE_PARAMS_v2 of cuda.h.
typedef struct {
  function *kernel;
  unsigned int blocks_x, blocks_y, blocks_z, threads_x, threads_y, threads_z, shared;
  void **parameters, **extra;
  void *other_kernel, *context;
} node_parameters;

extern block *standin_pinned;
// The GPU whose context is current on this thread.
extern __thread gpu *standin_current;

// Whether memory lies in one of these blocks.
int standin_lies_in(const block *list, const char *from, int64_t bytes);

#define CALL(name)                                                                                                     \
  do {                                                                                                                 \
    const int code = standin_fails(#name);                                                                             \
    if (code != 0)                                                                                                     \
      return code;                                                                                                     \
  } while (0)
// Of functions that need a context.
#define CONTEXT(name)                                                                                                  \
  do {                                                                                                                 \
    if (standin_current == NULL)                                                                                       \
      return INVALID_CONTEXT;                                                                                          \
    if (standin_current->error != 0)                                                                                   \
      return standin_current->error;                                                                                   \
    CALL(name);                                                                                                        \
  } while (0)

#define STANDIN_TEXT_OF(x) #x
#define STANDIN_TEXT(x) STANDIN_TEXT_OF(x)
