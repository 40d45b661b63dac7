// What stands before the text of kernels (src/emit/cuda) and before numbers.h. The text is the part of C that CUDA C++
// has too; here is what the two write differently, for CUDA C++ by NVRTC, which has no standard headers, or nvcc. The
// tests compile the same text for a CPU, with tests/support/cuda/shim.h before it, which defines DM_KERNEL and the
// like.
#ifdef __CUDACC__
#ifdef __CUDACC_RTC__
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef int int32_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
typedef unsigned long long uint64_t;
#define INT32_MAX 2147483647
#define INT32_MIN (-2147483647 - 1)
#define UINT32_MAX 4294967295u
#else
#include <stdint.h>
#endif
#define DM_FUNCTION static __device__ __forceinline__
// A kernel of blocks of `threads` threads. Its parameters are 64-bit words: the address of an int32 or 0 (DM_SKIP), the
// address of each buffer, then each run-time integer. Two blocks run on a multiprocessor at the same time: without this
// number, the compiler leaves a thread too few registers.
#define DM_KERNEL(name, threads, words)                                                                                \
  struct name##_words {                                                                                                \
    int64_t word[words];                                                                                               \
  };                                                                                                                   \
  extern "C" __global__ void __launch_bounds__(threads, 2) name(const __grid_constant__ name##_words dm_p)
#define DM_WORD(i) (dm_p.word[i])
#define DM_BLOCK ((int32_t)blockIdx.x)
#define DM_THREAD ((int32_t)threadIdx.x)
#define DM_SHARED __shared__ __align__(16)
#define DM_UNROLL _Pragma("unroll")
#define DM_NANF __int_as_float(0x7fc00000)
#define DM_INFF __int_as_float(0x7f800000)
#define DM_NAN __longlong_as_double(0x7ff8000000000000ll)
#define DM_INF __longlong_as_double(0x7ff0000000000000ll)
#define DM_BLOCKS ((int32_t)gridDim.x)
#define dm_clz(x) __clz((int)(x))
DM_FUNCTION int32_t dm_bits(float x) { return __float_as_int(x); }
DM_FUNCTION float dm_float(int32_t bits) { return __int_as_float(bits); }
DM_FUNCTION double dm_double(uint64_t bits) { return __longlong_as_double((long long)bits); }
#endif
// Whether the int32 at the address in word 0 says that the kernel is skipped.
#define DM_SKIP (DM_WORD(0) != 0 && *(const int32_t *)DM_WORD(0) != 0)
#define dm_sqrt(x) sqrt(x)
// Functions of float64 promise no bits.
DM_FUNCTION double dm_exp(double x) { return exp(x); }
DM_FUNCTION double dm_log(double x) { return log(x); }
DM_FUNCTION double dm_tanh(double x) { return tanh(x); }
DM_FUNCTION double dm_sigmoid(double x) { return x < 0.0 ? exp(x) / (1.0 + exp(x)) : 1.0 / (1.0 + exp(-x)); }
DM_FUNCTION double dm_erf(double x) { return erf(x); }
DM_FUNCTION double dm_sin(double x) { return sin(x); }
DM_FUNCTION double dm_cos(double x) { return cos(x); }
DM_FUNCTION double dm_pow(double x, double y) { return pow(x, y); }
