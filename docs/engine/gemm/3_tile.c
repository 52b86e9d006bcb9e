/* Step 3. A tile of MR x NR outputs at a time: each float of A and B that is loaded serves many sums.
 * The sums should stay in registers, but here they do not: see step 4. */
#include "vector.h"

/* out (MR, NR) = a (MR, K) · b (K, NR), pieces of the three matrices */
static void tile(float *out, const float *a, const float *b, size_t N, size_t K) {
  vf sum[MR][NRV] = {0};
  for (size_t k = 0; k < K; k++) {
#pragma GCC unroll 1
    for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 1
      for (size_t j = 0; j < NRV; j++) sum[i][j] += a[i * K + k] * load(b + k * N + j * VL);
    }
  }
  for (size_t i = 0; i < MR; i++) {
    for (size_t j = 0; j < NRV; j++) store(out + i * N + j * VL, sum[i][j]);
  }
}

void gemm(float *out, const float *a, const float *b, size_t M, size_t N, size_t K) {
  const size_t rows = M / MR * MR, columns = N / NR * NR;
  for (size_t n = 0; n < columns; n += NR) {
    for (size_t m = 0; m < rows; m += MR) tile(out + m * N + n, a + m * K, b + n, N, K);
  }
  rest(out, a, b, N, K, 0, rows, columns, N);
  rest(out, a, b, N, K, rows, M, 0, N);
}
