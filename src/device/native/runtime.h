// The contract between generated kernels, the driver (driver.c) and the matrix core (gemm.c). Plain C11, no intrinsics
// header. Every generated kernel NAME exports two functions:
//
//   int64_t NAME_tasks(const dm_ctx *c);
//     Returns how many independent tasks there are now (counts are read from buffers).
//   void NAME(const dm_ctx *c, int64_t task);
//     Runs one of them. Each task has outputs of its own, so any thread may run any task. Products also have the tasks
//     DM_GROUP_TASK(z) and DM_PREFETCH_TASK(z), see below.
#ifndef DM_RUNTIME_H
#define DM_RUNTIME_H
#include <stddef.h>
#include <stdint.h>

typedef struct dm_core dm_core;
typedef struct dm_ctx {
  void *const *buf;    // addresses of the kernel's buffers, in the order of its parameters
  const int64_t *n;    // the kernel's run-time integers (bounds)
  float *scratch;      // memory of this thread alone, 64-byte aligned, DM_SCRATCH_BYTES; not kept between tasks
  const dm_core *core; // services of the driver
  int32_t thread, threads;
  int64_t only; // of a grouped product: 0: all groups run; z + 1: the tasks are those of group z alone
} dm_ctx;
#define DM_SCRATCH_BYTES (8u << 20)
// Special tasks of a product. DM_GROUP_TASK(z): all of group z. DM_PREFETCH_TASK(z): computes nothing, but announces
// that DM_GROUP_TASK(z) of this product comes next; the next DM_GROUP_TASK of this thread, of any product, may
// prefetch its first operands.
#define DM_GROUP_TASK(z) (-1 - (int64_t)(z))
#define DM_PREFETCH_TASK(z) (DM_GROUP_TASK(z) - ((int64_t)1 << 40))

// C(z,i,j) = sum over k ascending, one fused multiply-add at a time, from +0, of A(z,i,k) * B(z,k,j); float32.
// i counts rows within group z, k counts depth within group z. In parts, C(z,i,j) is the tree
// ((p0 + p1) + (p2 + p3)) + ... of such sums over ranges of k (parts.h).
typedef struct dm_gemm {
  int64_t groups, n;            // number of groups z; columns, the same for every group
  int64_t m, k;                 // rows and depth of every group, unless ragged:
  const int32_t *m_off, *k_off; // NULL, or int32[groups+1]: group z has off[z+1]-off[z] rows (or depth), possibly 0
  // parts: a power of two up to 16, for products whose depth is not ragged; 0 or 1: a single sum. sample: steps of
  // depth that belong together. With part_off, part p begins at step part_off[p * part_step] * sample; else at sample
  // floor(samples * p / parts).
  int64_t parts, sample;
  const int32_t *part_off;
  int64_t part_step;
  // A, direct (a_base != NULL): element (i,k) of group z is a_base(c,z)[i*a_si + k*a_sk]; one of the strides is 1.
  const float *(*a_base)(const dm_ctx *, int64_t z);
  int64_t a_si, a_sk;
  // A, computed (a_pack != NULL): a_pack writes ni x nk elements to dst[i*ld + k] if !a_pack_cols, else to dst[k*ld +
  // i].
  void (*a_pack)(const dm_ctx *, int64_t z, int64_t i0, int64_t ni, int64_t k0, int64_t nk, float *dst, int64_t ld);
  int32_t a_pack_cols, pad_;
  // B, direct: element (k,j) is b_base(c,z)[k*b_sk + j*b_sj]; computed: b_pack always writes to dst[k*ld + j]. In
  // panels (b_panel != 0, b_sj is 1) of b_sk columns, a multiple of dm_panel_columns(), the last one complete in
  // memory: b_base(c,z)[j/b_sk*b_panel + k*b_sk + j%b_sk].
  const float *(*b_base)(const dm_ctx *, int64_t z);
  int64_t b_sk, b_sj, b_panel;
  void (*b_pack)(const dm_ctx *, int64_t z, int64_t k0, int64_t nk, int64_t j0, int64_t nj, float *dst, int64_t ld);
  // Epilogue: receives finished sums acc[i*ld + j] of rows i0..i0+ni and columns j0..j0+nj (ni, nj > 0), and stores
  // results.
  void (*store)(const dm_ctx *, int64_t z, int64_t i0, int64_t ni, int64_t j0, int64_t nj, const float *acc,
                int64_t ld);
  // Memory that the epilogue uses, or NULL: element (i,j) at out(c,z) + i*out_si + 4*j, and likewise `also`. It is
  // prefetched while sums are computed. plain: the epilogue only stores the sums at `out`.
  const void *(*out)(const dm_ctx *, int64_t z);
  const void *(*also)(const dm_ctx *, int64_t z);
  int64_t out_si, plain;
} dm_gemm;

struct dm_core {
  int64_t (*gemm_tasks)(const dm_ctx *, const dm_gemm *);           // number of tasks over all groups, for c->threads
  void (*gemm_task)(const dm_ctx *, const dm_gemm *, int64_t task); // runs one of them
  // A small product within a task: adds to C(i,j), over k ascending, one fused multiply-add at a time; i < rows, k <
  // depth, j < width, a multiple of 16. Rows of C and B are ldc and bs floats apart; A has any strides.
  void (*product)(int64_t rows, int64_t width, int64_t depth, float *c, int64_t ldc, const float *a, int64_t si,
                  int64_t sk, const float *b, int64_t bs);
  // to[16 * c + r] = from[stride * r + c] for r < rows <= 16, c < columns; 0 for the other r.
  void (*transpose)(int64_t rows, int64_t columns, const float *from, int64_t stride, float *to);
};
#endif
