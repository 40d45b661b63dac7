// A stand-in for libcuda, for tests without a GPU: the functions that src/device/cuda uses, over the memory of the
// host. Kernels are shared objects that standin-nvrtc.c makes. It is stricter than the library:
// - What is put into a stream runs only when somebody waits: at a synchronise, or after an event was asked for several
//   times. So what is read too early has old values.
// - New memory holds NaN. Freed memory, and what lies before and behind a block, cannot be accessed: a kernel or a copy
//   that does it is an error that appears later, as on a GPU, and from then on every call fails.
// - Nodes of a graph that do not depend on each other run in one order, and in the next run in the other.
// In the environment: DYNAMOE_STANDIN_FAIL=NAME:N[:CODE] lets the n-th call of a function fail (cuMemAlloc stands for
// cuMemAlloc_v2), or the n-th kernel (NAME is `kernel`); it counts anew when this text changes. DYNAMOE_STANDIN_MEMORY:
// bytes of a GPU; _GPUS: how many there are; _VERSION: of the driver (13000); _CAPABILITY: of the GPUs (99).
#define _GNU_SOURCE
#include "standin.h"
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static gpu gpus[GPUS];
block *standin_pinned;
static int initialised;
__thread gpu *standin_current;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

int64_t standin_number(const char *name, int64_t fallback) {
  const char *const text = getenv(name);
  return text == NULL ? fallback : strtoll(text, NULL, 10);
}

// Whether `name` is the function that a test means.
static int is_named(const char *name, const char *wanted, size_t length) {
  return strncmp(name, wanted, length) == 0 && (name[length] == 0 || strcmp(name + length, "_v2") == 0);
}

static int fired;

// Whether the call that was to fail has failed.
int standin_fired(void) { return fired; }

int standin_fails(const char *name) {
  static char text[128];
  static long calls;
  pthread_mutex_lock(&lock);
  const char *const now = getenv("DYNAMOE_STANDIN_FAIL");
  if (strcmp(text, now == NULL ? "" : now) != 0) {
    snprintf(text, sizeof text, "%s", now == NULL ? "" : now);
    calls = 0;
    fired = 0;
  }
  const char *const number = strchr(text, ':');
  int code = 0;
  if (number != NULL && is_named(name, text, (size_t)(number - text))) {
    char *rest;
    if (strtol(number + 1, &rest, 10) == ++calls) {
      fired = 1;
      code = *rest == ':' ? atoi(rest + 1) : strstr(name, "Alloc") != NULL ? OUT_OF_MEMORY : INVALID_VALUE;
    }
  }
  pthread_mutex_unlock(&lock);
  return code;
}

// The driver and its GPUs.

int cuInit(unsigned int flags) {
  CALL(cuInit);
  if (flags != 0)
    return INVALID_VALUE;
  if (standin_number("DYNAMOE_STANDIN_GPUS", 1) == 0)
    return NO_DEVICE;
  initialised = 1;
  return SUCCESS;
}

int cuDriverGetVersion(int *version) {
  *version = (int)standin_number("DYNAMOE_STANDIN_VERSION", 13000);
  return standin_fails("cuDriverGetVersion");
}

int cuGetErrorName(int code, const char **text) {
  static char texts[1000][32];
  if (code < 0 || code >= 1000)
    return INVALID_VALUE;
  if (texts[code][0] == 0)
    snprintf(texts[code], sizeof texts[code], code == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_%d",
             code);
  *text = texts[code];
  return SUCCESS;
}

int cuGetErrorString(int code, const char **text) {
  *text = code == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : "an error of the stand-in";
  return SUCCESS;
}

int cuDeviceGetCount(int *count) {
  CALL(cuDeviceGetCount);
  if (!initialised)
    return NOT_INITIALIZED;
  *count = (int)standin_number("DYNAMOE_STANDIN_GPUS", 1);
  return SUCCESS;
}

int cuDeviceGet(int *device, int ordinal) {
  CALL(cuDeviceGet);
  *device = ordinal;
  return ordinal >= 0 && ordinal < GPUS ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetName(char *name, int length, int device) {
  CALL(cuDeviceGetName);
  snprintf(name, (size_t)length, "Stand-in %d", device);
  return SUCCESS;
}

int cuDeviceGetUuid_v2(char *uuid, int device) {
  CALL(cuDeviceGetUuid);
  for (int i = 0; i < 16; i++)
    uuid[i] = (char)(i + 16 * device);
  return SUCCESS;
}

static int64_t memory_of_gpu(void) { return standin_number("DYNAMOE_STANDIN_MEMORY", 1 << 30); }

int cuDeviceTotalMem_v2(size_t *bytes, int device) {
  CALL(cuDeviceTotalMem);
  *bytes = (size_t)memory_of_gpu();
  return device < GPUS ? SUCCESS : INVALID_DEVICE;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
  CALL(cuDeviceGetAttribute);
  const int capability = (int)standin_number("DYNAMOE_STANDIN_CAPABILITY", 99);
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? 2 : -1;
  return device < GPUS && *value >= 0 ? SUCCESS : INVALID_VALUE;
}

int cuDevicePrimaryCtxRetain(gpu **context, int device) {
  CALL(cuDevicePrimaryCtxRetain);
  *context = &gpus[device];
  gpus[device].references++;
  return SUCCESS;
}

static void unmap(block *b) {
  munmap(b->mapped, (size_t)b->map_bytes);
  free(b);
}

int cuDevicePrimaryCtxRelease_v2(int device) {
  CALL(cuDevicePrimaryCtxRelease);
  gpu *const g = &gpus[device];
  if (--g->references > 0)
    return SUCCESS;
  for (block *b = g->blocks, *next; b != NULL; b = next) {
    next = b->next;
    unmap(b);
  }
  *g = (gpu){0};
  if (standin_current == g)
    standin_current = NULL;
  return SUCCESS;
}

int cuCtxSetCurrent(gpu *context) {
  CALL(cuCtxSetCurrent);
  standin_current = context;
  return SUCCESS;
}

// Memory.

static int map(block **list, int64_t bytes) {
  block *const b = calloc(1, sizeof *b);
  const int64_t whole = (bytes + PAGE - 1) / PAGE * PAGE, aligned = (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
  b->map_bytes = whole + 2 * PAGE;
  b->mapped = mmap(NULL, (size_t)b->map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (b->mapped == MAP_FAILED || mprotect(b->mapped + PAGE, (size_t)whole, PROT_READ | PROT_WRITE) != 0) {
    free(b);
    return OUT_OF_MEMORY;
  }
  b->start = b->mapped + PAGE + whole - aligned; // ends at a page that cannot be accessed
  b->bytes = bytes;
  b->next = *list;
  *list = b;
  return SUCCESS;
}

static block *taken(block **list, const void *start) {
  for (block **at = list; *at != NULL; at = &(*at)->next)
    if ((*at)->start == start) {
      block *const found = *at;
      *at = found->next;
      return found;
    }
  return NULL;
}

int standin_lies_in(const block *list, const char *from, int64_t bytes) {
  for (; list != NULL; list = list->next)
    if (from >= list->start && from + bytes <= list->start + list->bytes)
      return 1;
  return 0;
}

int cuMemGetInfo_v2(size_t *left, size_t *total) {
  CONTEXT(cuMemGetInfo);
  *total = (size_t)memory_of_gpu();
  *left = *total - (size_t)standin_current->used;
  return SUCCESS;
}

int cuMemAlloc_v2(char **address, size_t bytes) {
  CONTEXT(cuMemAlloc);
  if (bytes == 0)
    return INVALID_VALUE;
  if (standin_current->used + (int64_t)bytes > memory_of_gpu())
    return OUT_OF_MEMORY;
  const int code = map(&standin_current->blocks, (int64_t)bytes);
  if (code != 0)
    return code;
  *address = standin_current->blocks->start;
  memset(*address, 0xff, bytes);
  standin_current->used += (int64_t)bytes;
  return SUCCESS;
}

// What uses the memory and waits in a stream fails.
int cuMemFree_v2(char *address) {
  CONTEXT(cuMemFree);
  block *const found = taken(&standin_current->blocks, address);
  if (found == NULL)
    return INVALID_VALUE;
  standin_current->used -= found->bytes;
  unmap(found);
  return SUCCESS;
}

int cuMemHostAlloc(void **address, size_t bytes, unsigned int flags) {
  CONTEXT(cuMemHostAlloc);
  if (flags != 0)
    return INVALID_VALUE;
  const int code = map(&standin_pinned, (int64_t)bytes);
  if (code == 0)
    *address = standin_pinned->start;
  return code;
}

int cuMemFreeHost(void *address) {
  CONTEXT(cuMemFreeHost);
  block *const found = taken(&standin_pinned, address);
  if (found == NULL)
    return INVALID_VALUE;
  unmap(found);
  return SUCCESS;
}
