// The contract between generated kernels, the driver (driver.c) and the matrix core (gemm.c). Plain C11, no intrinsics
// header. Every generated kernel NAME exports two functions:
//   int64_t NAME_tasks(const dm_ctx *c);            how many independent tasks it has now (counts are read from
//   buffers) void    NAME(const dm_ctx *c, int64_t task);    does one of them; tasks own their outputs, so any thread
//   may take any task.
//                                                   A product's tasks DM_WHOLE(z) and DM_SOON(z): see below
#ifndef DM_RUNTIME_H
#define DM_RUNTIME_H
#include <stddef.h>
#include <stdint.h>

typedef struct dm_core dm_core;
typedef struct dm_ctx {
  void *const *buf;    // addresses of the kernel's buffers, in the order of its parameters
  const int64_t *n;    // its run-time integers (bounds)
  float *scratch;      // memory of this thread alone, 64-byte aligned, DM_SCRATCH_BYTES; not kept between tasks
  const dm_core *core; // services of the driver
  int32_t thread, threads;
} dm_ctx;
#define DM_SCRATCH_BYTES (8u << 20)
// All of group z; or nothing, but the next DM_WHOLE of this thread, whatever its kernel, may ask for what DM_WHOLE(z)
// of this one begins with.
#define DM_WHOLE(z) (-1 - (int64_t)(z))
#define DM_SOON(z) (DM_WHOLE(z) - ((int64_t)1 << 40))

// C(z,i,j) = sum over k ascending, one fused multiply-add at a time, from +0, of A(z,i,k) * B(z,k,j); float32.
// i counts rows within group z, k counts depth within group z.
typedef struct dm_gemm {
  int64_t groups, n;            // number of groups z; columns, the same for every group
  int64_t m, k;                 // rows and depth of every group, unless ragged:
  const int32_t *m_off, *k_off; // NULL, or int32[groups+1]: group z has off[z+1]-off[z] rows (or depth); any may be 0
  // A: direct (a_base != NULL): element (i,k) of group z at a_base(c,z)[i*a_si + k*a_sk]; one of the strides is 1.
  const float *(*a_base)(const dm_ctx *, int64_t z);
  int64_t a_si, a_sk;
  // A: computed (a_pack != NULL): writes ni x nk elements; to dst[i*ld + k] if !a_pack_cols, else to dst[k*ld + i].
  void (*a_pack)(const dm_ctx *, int64_t z, int64_t i0, int64_t ni, int64_t k0, int64_t nk, float *dst, int64_t ld);
  int32_t a_pack_cols, pad_;
  // B likewise: direct: element (k,j) at b_base(c,z)[k*b_sk + j*b_sj]; or computed, to dst[k*ld + j] (always).
  const float *(*b_base)(const dm_ctx *, int64_t z);
  int64_t b_sk, b_sj;
  void (*b_pack)(const dm_ctx *, int64_t z, int64_t k0, int64_t nk, int64_t j0, int64_t nj, float *dst, int64_t ld);
  // Epilogue: gets finished sums acc[i*ld + j] of the tile rows i0..i0+ni, columns j0..j0+nj (ni, nj > 0), and stores
  // what it likes.
  void (*store)(const dm_ctx *, int64_t z, int64_t i0, int64_t ni, int64_t j0, int64_t nj, const float *acc,
                int64_t ld);
  // What the epilogue touches of memory, or NULL: element (i,j) at out(c,z) + i*out_si + 4*j, and likewise `also`. It
  // is brought nearer while sums are made. plain: all that the epilogue does is to store sums at `out`.
  const char *(*out)(const dm_ctx *, int64_t z);
  const char *(*also)(const dm_ctx *, int64_t z);
  int64_t out_si, plain;
} dm_gemm;

struct dm_core {
  int64_t (*gemm_tasks)(const dm_ctx *, const dm_gemm *);           // tiles over all groups, sized for c->threads
  void (*gemm_task)(const dm_ctx *, const dm_gemm *, int64_t task); // one of them
  // A small product within a task: C(i,j) goes on, over k ascending, one fused multiply-add at a time, from what is
  // there; i < rows, k < depth, j < width, a multiple of 16. Rows of C and B are ldc and bs floats apart, A has any
  // strides.
  void (*product)(int64_t rows, int64_t width, int64_t depth, float *c, int64_t ldc, const float *a, int64_t si,
                  int64_t sk, const float *b, int64_t bs);
  // to[16 * c + r] = from[stride * r + c] for r < rows <= 16, c < columns; 0 for the other r.
  void (*turn)(int64_t rows, int64_t columns, const float *from, int64_t stride, float *to);
};
#endif
