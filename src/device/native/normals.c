// The kernel of initial values (device/normals.ts): counter-based normal numbers, with the bits of base/random.ts.
// Buffers: float or bfloat16 [count], the generator's tables; integers: count, seed, name, the low and the high word of
// the standard deviation (double), and the bytes of a number (4: float, 2: bfloat16).
#include "kernel.h"
#include "math.h"
#include "runtime.h"
#include <string.h>

#define PART 32768 // numbers per task
#define STEPS 1024
#define ROTATED(x, r) (((x) << (r)) | ((x) >> (32 - (r))))
#define ROUND(r) (x0 += x1, x1 = ROTATED(x1, r) ^ x0)

static void put(void *out, int64_t i, int64_t bytes, float value) {
  if (bytes == 2)
    ((uint16_t *)out)[i] = (uint16_t)dm_to_bfloat16(dm_bits(value));
  else
    ((float *)out)[i] = value;
}

int64_t dm_normals_tasks(const dm_ctx *c) { return (c->n[0] + PART - 1) / PART; }

void dm_normals(const dm_ctx *c, int64_t task) {
  const double unit = 0x1p-24, turn = 2 * 3.141592653589793 * unit,
               ln2 = 0.6931471805599453, *const cosines = c->buf[1], *const sines = cosines + STEPS,
               *const logs = sines + STEPS, *const inverses = logs + STEPS + 1;
  const int64_t from = task * PART, count = c->n[0] - from < PART ? c->n[0] - from : PART;
  const uint32_t k0 = (uint32_t)c->n[1], k1 = (uint32_t)c->n[2], k2 = 0x1bd11bdau ^ k0 ^ k1, keys[3] = {k0, k1, k2};
  const int64_t bytes = c->n[5];
  void *const out = (char *)c->buf[0] + from * bytes;
  const uint64_t bits = (uint64_t)(uint32_t)c->n[4] << 32 | (uint32_t)c->n[3];
  double std;
  memcpy(&std, &bits, sizeof std);
  for (int64_t i = 0; i < count; i += 2) {
    uint32_t x0 = k0, x1 = (uint32_t)((from + i) / 2) + k1;
    for (uint32_t s = 1; s <= 5; s++) {
      if (s & 1) {
        ROUND(13);
        ROUND(15);
        ROUND(26);
        ROUND(6);
      } else {
        ROUND(17);
        ROUND(29);
        ROUND(16);
        ROUND(24);
      }
      x0 += keys[s % 3];
      x1 += keys[(s + 1) % 3] + s;
    }
    // log(1 - n / 2^24) for n = x0 >> 8: from a table of 1025 mantissas, corrected by a series.
    const int32_t rest = 0x1000000 - (int32_t)(x0 >> 8), shift = __builtin_clz((uint32_t)rest) - 8,
                  mantissa = shift < 0 ? 0 : rest << shift;
    const int32_t at = shift < 0 ? STEPS : (mantissa + 0x1000) >> 13;
    const double r = (mantissa - (at << 13)) * unit * inverses[at - STEPS];
    const double series =
        (logs[at - STEPS] - shift * ln2) + r * (1 - r * (1.0 / 2 - r * (1.0 / 3 - r * (1.0 / 4 - r / 5))));
    const double radius = std * __builtin_sqrt(-2 * (shift < 0 ? 0.0 : series));
    const int32_t angle = (int32_t)(x1 >> 8), step = angle >> 14;
    const double b = (angle & 0x3fff) * turn, q = b * b, even = 1 - q * (1.0 / 2 - q * (1.0 / 24 - q / 720)),
                 odd = 1 - q * (1.0 / 6 - q / 120);
    put(out, i, bytes, (float)(radius * (cosines[step] * even - sines[step] * b * odd)));
    if (i + 1 < count)
      put(out, i + 1, bytes, (float)(radius * (sines[step] * even + cosines[step] * b * odd)));
  }
}
