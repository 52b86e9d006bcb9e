/* Step 1. out (M, N) = A (M, K) · B (K, N), as the formula says it: one sum per output. */
#include <stddef.h>

void gemm(float *out, const float *a, const float *b, size_t M, size_t N, size_t K) {
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float sum = 0;
      for (size_t k = 0; k < K; k++) sum += a[m * K + k] * b[k * N + n];
      out[m * N + n] = sum;
    }
  }
}
