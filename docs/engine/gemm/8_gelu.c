/* Step 8. What comes after the product happens while the sums are still in registers. */
#include "gelu.h"

enum { KC = 384, NC = 240 / NR * NR, MC = 960 / MR * MR };

static _Alignas(64) float a_block[MC * KC], b_block[NC * KC];

static void block(float *out, size_t N, size_t mc, size_t nc, size_t kc, int first, int last) {
  for (size_t j = 0; j < nc; j += NR) {
    for (size_t i = 0; i < mc; i += MR) {
      vf sum[MR][NRV];
      tile(sum, a_block + i * kc, 1, MR, b_block + j * kc, NR, kc);
      if (i + MR <= mc && j + NR <= nc) {
        finish(out + i * N + j, N, sum, first, last);
      } else {
        finish_edge(out + i * N + j, N, sum, min(MR, mc - i), min(NR, nc - j), first, last);
      }
    }
  }
}

static void product(float *out, const float *inp, const float *weight, size_t M, size_t N, size_t K, int with_gelu) {
  for (size_t m = 0; m < M; m += MC) {
    for (size_t k = 0; k < K; k += KC) {
      const size_t mc = min(MC, M - m), kc = min(KC, K - k);
      pack_turned(a_block, inp + m * K + k, K, mc, kc, MR);
      for (size_t n = 0; n < N; n += NC) {
        const size_t nc = min(NC, N - n);
        pack_turned(b_block, weight + n * K + k, K, nc, kc, NR);
        block(out + m * N + n, N, mc, nc, kc, k == 0, with_gelu && k + kc == K);
      }
    }
  }
}

/* out (M, N) = gelu(inp (M, K) · weight (N, K)ᵀ) */
void linear_gelu(float *out, const float *inp, const float *weight, size_t M, size_t N, size_t K) {
  product(out, inp, weight, M, N, K, 1);
}

/* The same in two passes. */
void linear_then_gelu(float *out, const float *inp, const float *weight, size_t M, size_t N, size_t K) {
  product(out, inp, weight, M, N, K, 0);
  size_t i = 0;
  for (; i + VL <= M * N; i += VL) store(out + i, gelu(load(out + i)));
  for (; i < M * N; i++) out[i] = gelu((vf){0} + out[i])[0];
}
