/* Step 6. Each block is copied before it is used, into panels that the tile reads straight ahead. */
#include "tile.h"

enum { KC = 384, NC = 240 / NR * NR, MC = 960 / MR * MR };

static _Alignas(64) float a_block[MC * KC], b_block[NC * KC];

/* Panels of R lanes: [panel][kc][R]. Lane l of step k is src[l * lane + k * step]; the lanes that are
 * missing in the last panel are zero, so that every tile is whole. */
static void pack(float *dst, const float *src, size_t lane, size_t step, size_t lanes, size_t kc, size_t R) {
  for (size_t l0 = 0; l0 < lanes; l0 += R) {
    for (size_t k = 0; k < kc; k++) {
      for (size_t l = l0; l < l0 + R; l++) *dst++ = l < lanes ? src[l * lane + k * step] : 0;
    }
  }
}

/* out (mc, nc) = or += the panels of A times the panels of B */
static void block(float *out, size_t N, size_t mc, size_t nc, size_t kc, int first) {
  for (size_t j = 0; j < nc; j += NR) {
    for (size_t i = 0; i < mc; i += MR) {
      vf sum[MR][NRV];
      tile(sum, a_block + i * kc, 1, MR, b_block + j * kc, NR, kc);
      if (i + MR <= mc && j + NR <= nc) {
        tile_out(out + i * N + j, N, sum, first);
      } else {
        tile_out_edge(out + i * N + j, N, sum, min(MR, mc - i), min(NR, nc - j), first);
      }
    }
  }
}

/* Element (k, n) of B is b[k * b_row + n * b_col]. */
static void product(float *out, const float *a, const float *b, size_t b_row, size_t b_col, size_t M, size_t N,
                    size_t K) {
  for (size_t m = 0; m < M; m += MC) {
    for (size_t k = 0; k < K; k += KC) {
      const size_t mc = min(MC, M - m), kc = min(KC, K - k);
      pack(a_block, a + m * K + k, K, 1, mc, kc, MR);
      for (size_t n = 0; n < N; n += NC) {
        const size_t nc = min(NC, N - n);
        pack(b_block, b + k * b_row + n * b_col, b_col, b_row, nc, kc, NR);
        block(out + m * N + n, N, mc, nc, kc, k == 0);
      }
    }
  }
}

void gemm(float *out, const float *a, const float *b, size_t M, size_t N, size_t K) {
  product(out, a, b, N, 1, M, N, K);
}

/* A linear layer: weight is (N, K), so B is its transpose. */
void linear(float *out, const float *inp, const float *weight, size_t M, size_t N, size_t K) {
  product(out, inp, weight, 1, K, M, N, K);
}
