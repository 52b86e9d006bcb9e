/* Step 7. Step 6 for a linear layer, out (M, N) = inp (M, K) · weight (N, K)ᵀ, packed by shuffles. */
#include "pack.h"

enum { KC = 384, NC = 240 / NR * NR, MC = 960 / MR * MR };

static _Alignas(64) float a_block[MC * KC], b_block[NC * KC];

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

void linear(float *out, const float *inp, const float *weight, size_t M, size_t N, size_t K) {
  for (size_t m = 0; m < M; m += MC) {
    for (size_t k = 0; k < K; k += KC) {
      const size_t mc = min(MC, M - m), kc = min(KC, K - k);
      pack_turned(a_block, inp + m * K + k, K, mc, kc, MR);
      for (size_t n = 0; n < N; n += NC) {
        const size_t nc = min(NC, N - n);
        pack_turned(b_block, weight + n * K + k, K, nc, kc, NR);
        block(out + m * N + n, N, mc, nc, kc, k == 0);
      }
    }
  }
}
