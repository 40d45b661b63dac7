// The kernel of initial values (device/normals.ts): counter-based normal numbers, with the bits of base/random.ts.
// Buffers: float or bfloat16 [count], the generator's tables; integers: count, seed, name, the low and the high word of
// the standard deviation (double), the bytes of a number (4: float, 2: bfloat16), and the counter of the first pair.
#include "kernel.h"
#include "math.h"
#include "runtime.h"
#include <string.h>

#define dm_clz(x) __builtin_clz(x)
#define dm_sqrt(x) __builtin_sqrt(x)
#include "normals.h"

#define PART 32768 // numbers per task

static void put(void *out, int64_t i, int64_t bytes, float value) {
  if (bytes == 2)
    ((uint16_t *)out)[i] = (uint16_t)dm_to_bfloat16(dm_bits(value));
  else
    ((float *)out)[i] = value;
}

int64_t dm_normals_tasks(const dm_ctx *c) { return (c->n[0] + PART - 1) / PART; }

void dm_normals(const dm_ctx *c, int64_t task) {
  const int64_t from = task * PART, count = c->n[0] - from < PART ? c->n[0] - from : PART, bytes = c->n[5];
  void *const out = (char *)c->buf[0] + from * bytes;
  const uint64_t bits = (uint64_t)(uint32_t)c->n[4] << 32 | (uint32_t)c->n[3];
  double std;
  memcpy(&std, &bits, sizeof std);
  for (int64_t i = 0; i < count; i += 2) {
    const uint32_t pair = (uint32_t)(c->n[6] + (from + i) / 2);
    const dm_pair numbers = dm_normal_pair(c->buf[1], (uint32_t)c->n[1], (uint32_t)c->n[2], pair, std);
    put(out, i, bytes, numbers.first);
    if (i + 1 < count)
      put(out, i + 1, bytes, numbers.second);
  }
}
