/* Step 2. The same sums, but the innermost loop runs along rows: of B, and of out. */
#include <stddef.h>

void gemm(float *restrict out, const float *restrict a, const float *restrict b, size_t M, size_t N, size_t K) {
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) out[m * N + n] = 0;
    for (size_t k = 0; k < K; k++) {
      for (size_t n = 0; n < N; n++) out[m * N + n] += a[m * K + k] * b[k * N + n];
    }
  }
}
