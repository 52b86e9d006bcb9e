/* The product of gemm_tmpl.c by a BLAS, for floats. Each thread claims strips of the result, whose size does not depend
 * on the number of threads, and has the library multiply them alone: so the bits do not depend on it either. */
#include "kernels/blas.h"

enum { STRIP_ROWS = 128 / MR * MR, STRIP_COLUMNS = 512 / NR * NR };

static size_t blas_own_floats(void) { return STRIP_ROWS * STRIP_COLUMNS; }

/* So many lanes of a factor, K numbers each: rows of the left one, columns of the right one. The stride of a single row
 * means nothing, and a BLAS refuses one that is shorter than the row. */
INLINE struct BlasMatrix blas_matrix(struct Factor f, size_t lane, size_t lanes, size_t K, const bool right) {
  const bool along = f.step == 1;
  const size_t stride = along ? size_max(f.lane, K) : size_max(f.step, lanes);
  return (struct BlasMatrix){factor_at(f, lane, 0).numbers.data, stride, along == right};
}

static void product_blas_task(void *argument, int thread, int threads) {
  const struct Gemm *gemm = argument;
  if (gemm->workers->dtype != FP32 || gemm->b.numbers.dtype != FP32) {
    gemm_task(argument, thread, threads);
    return;
  }
  const size_t M = gemm->M, N = gemm->N, across = ceil_div(N, STRIP_COLUMNS);
  float *own = gemm->workers->own + (size_t)thread * gemm->workers->own_floats;
  if (gemm->lane_sums != NULL) {
    size_t begin, end;
    pool_part(M, LANES_SUMMED, thread, threads, &begin, &end);
    for (; begin < end; begin += LANES_SUMMED) {
      gemm_sum_lanes(gemm, begin, size_min(LANES_SUMMED, end - begin), 0, gemm->K);
    }
  }
  const bool direct = gemm->finish == STORE && gemm->bias == NULL;
  for (size_t claim; (claim = pool_claim(gemm->workers->pool)) < ceil_div(M, STRIP_ROWS) * across;) {
    const size_t m = claim / across * STRIP_ROWS, rows = size_min(STRIP_ROWS, M - m);
    const size_t n = claim % across * STRIP_COLUMNS, columns = size_min(STRIP_COLUMNS, N - n);
    float *out = direct ? (float *)gemm->out.data + m * N + n : own;
    blas_multiply(out, direct ? N : columns, blas_matrix(gemm->a, m, rows, gemm->K, false),
                  blas_matrix(gemm->b, n, columns, gemm->K, true), rows, columns, gemm->K, direct && gemm->add);
    if (!direct) gemm_finish_strip(gemm, own, columns, (struct Part){m, rows, n, columns, 0, gemm->K});
  }
}
