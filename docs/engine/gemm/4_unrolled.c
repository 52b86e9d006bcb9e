/* Step 4. The tile of step 3 with its loops written out, so that every sum has a register. */
#include "tile.h"

void gemm(float *out, const float *a, const float *b, size_t M, size_t N, size_t K) {
  const size_t rows = M / MR * MR, columns = N / NR * NR;
  for (size_t n = 0; n < columns; n += NR) {
    for (size_t m = 0; m < rows; m += MR) {
      vf sum[MR][NRV];
      tile(sum, a + m * K, K, 1, b + n, N, K);
      tile_out(out + m * N + n, N, sum, 1);
    }
  }
  rest(out, a, b, N, K, 0, rows, columns, N);
  rest(out, a, b, N, K, rows, M, 0, N);
}
