// Two normal numbers by Box-Muller, with the bits of base/random.ts, in the part of C that CUDA C++ has too. Included
// after numbers.h; dm_clz counts the zeros before the first one bit of a uint32 that is not 0, dm_sqrt is the square
// root of a float64.
#ifndef DM_NORMALS_H
#define DM_NORMALS_H
#define DM_STEPS 1024 // steps in a full turn, and in the mantissas from 1/2 to 1 (src/base/trig.ts)

typedef struct {
  float first, second;
} dm_pair;
// Numbers 2 i and 2 i + 1 for `pair` i. keys: seed and name. tables: TABLES of src/base/trig.ts.
DM_FUNCTION dm_pair dm_normal_pair(const double *tables, uint32_t seed, uint32_t name, uint32_t pair, double std) {
  const double unit = 0x1p-24, turn = 2 * 3.141592653589793 * unit, ln2 = 0.6931471805599453;
  const double *const cosines = tables, *const sines = cosines + DM_STEPS, *const logs = sines + DM_STEPS,
                      *const inverses = logs + DM_STEPS + 1;
  const dm_words words = dm_threefry(seed, name, 0, pair);
  // log(1 - n / 2^24) for n = words.first >> 8: from a table of 1025 mantissas, corrected by a series.
  const int32_t rest = 0x1000000 - (int32_t)(words.first >> 8), shift = dm_clz((uint32_t)rest) - 8,
                mantissa = shift < 0 ? 0 : rest << shift;
  const int32_t at = shift < 0 ? DM_STEPS : (mantissa + 0x1000) >> 13;
  const double r = (mantissa - (at << 13)) * unit * inverses[at - DM_STEPS];
  const double series =
      (logs[at - DM_STEPS] - shift * ln2) + r * (1 - r * (1.0 / 2 - r * (1.0 / 3 - r * (1.0 / 4 - r / 5))));
  const double radius = std * dm_sqrt(-2 * (shift < 0 ? 0.0 : series));
  const int32_t angle = (int32_t)(words.second >> 8), step = angle >> 14;
  const double b = (angle & 0x3fff) * turn, q = b * b, even = 1 - q * (1.0 / 2 - q * (1.0 / 24 - q / 720)),
               odd = 1 - q * (1.0 / 6 - q / 120);
  dm_pair numbers;
  numbers.first = (float)(radius * (cosines[step] * even - sines[step] * b * odd));
  numbers.second = (float)(radius * (sines[step] * even + cosines[step] * b * odd));
  return numbers;
}
#endif
