/* Step 5. The same tiles, visited block by block: what a block reads again is still in a cache. */
#include "tile.h"

enum { KC = 384, NC = 240 / NR * NR, MC = 960 / MR * MR };

/* out (mc, nc) = or += a (mc, kc) · b (kc, nc), pieces of the three matrices */
static void block(float *out, const float *a, const float *b, size_t N, size_t K, size_t mc, size_t nc, size_t kc,
                  int first) {
  for (size_t j = 0; j < nc; j += NR) {
    for (size_t i = 0; i < mc; i += MR) {
      vf sum[MR][NRV];
      tile(sum, a + i * K, K, 1, b + j, N, kc);
      tile_out(out + i * N + j, N, sum, first);
    }
  }
}

void gemm(float *out, const float *a, const float *b, size_t M, size_t N, size_t K) {
  const size_t rows = M / MR * MR, columns = N / NR * NR;
  for (size_t m = 0; m < rows; m += MC) {
    for (size_t k = 0; k < K; k += KC) {
      for (size_t n = 0; n < columns; n += NC) {
        block(out + m * N + n, a + m * K + k, b + k * N + n, N, K, min(MC, rows - m), min(NC, columns - n),
              min(KC, K - k), k == 0);
      }
    }
  }
  rest(out, a, b, N, K, 0, rows, columns, N);
  rest(out, a, b, N, K, rows, M, 0, N);
}
