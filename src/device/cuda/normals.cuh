// The kernel of initial values (src/device/normals.ts), after kernel.cuh, numbers.h and normals.h; for any number of
// blocks. Words: 0; the addresses of the numbers and of the generator's tables; count, seed, name, the low and the high
// word of the standard deviation (double), the bytes of a number (4: float, 2: bfloat16), the counter of the first
// pair.
#define DM_NORMALS_THREADS 256
DM_KERNEL(dm_normals, DM_NORMALS_THREADS, 10) {
  const double *const tables = (const double *)DM_WORD(2);
  const uint32_t seed = (uint32_t)DM_WORD(4), name = (uint32_t)DM_WORD(5), first = (uint32_t)DM_WORD(9);
  const double std = dm_double((uint64_t)(uint32_t)DM_WORD(7) << 32 | (uint32_t)DM_WORD(6));
  const int64_t count = DM_WORD(3), pairs = (count + 1) / 2, step = (int64_t)DM_BLOCKS * DM_NORMALS_THREADS;
  for (int64_t i = (int64_t)DM_BLOCK * DM_NORMALS_THREADS + DM_THREAD; i < pairs; i += step) {
    const dm_pair numbers = dm_normal_pair(tables, seed, name, first + (uint32_t)i, std);
    const int isLast = 2 * i + 1 == count;
    if (DM_WORD(8) == 2) {
      uint16_t *const out = (uint16_t *)DM_WORD(1) + 2 * i;
      out[0] = (uint16_t)dm_to_bfloat16(dm_bits(numbers.first));
      if (!isLast)
        out[1] = (uint16_t)dm_to_bfloat16(dm_bits(numbers.second));
    } else {
      float *const out = (float *)DM_WORD(1) + 2 * i;
      out[0] = numbers.first;
      if (!isLast)
        out[1] = numbers.second;
    }
  }
}
