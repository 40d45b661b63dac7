// What every generated kernel file includes beside runtime.h and math.h.
#ifndef DM_KERNEL_H
#define DM_KERNEL_H
// The loop that follows has independent iterations, also where it writes what it reads.
#if defined(__clang__)
#define DM_VECTOR _Pragma("clang loop vectorize(assume_safety)")
#else
// Not unrolled before it is vectorised: gcc would then see straight code and branches.
#define DM_VECTOR _Pragma("GCC ivdep") _Pragma("GCC unroll 1")
#endif
// First in the body of a loop around vector loops: compilers then leave that loop as it is. GCC 12 otherwise may make vectors of the
// outer loop, and gets it wrong where a row's first iterations are another case (rows 0..7 right, row 8 not; tests/conformance: pad of
// [31, 2]).
#define DM_OUTER __asm__ volatile("");
// The larger of two; NaN if either is NaN.
#define dm_pick(v, m) (((v) > (m)) | ((v) != (v)) ? (v) : (m))
static inline int32_t dm_to_int32(double x) { return x >= 2147483647.0 ? INT32_MAX : x <= -2147483648.0 ? INT32_MIN : x == x ? (int32_t)x : 0; }
static inline uint32_t dm_to_uint32(double x) { return x >= 4294967295.0 ? UINT32_MAX : x > 0.0 ? (uint32_t)x : 0; }
#endif
