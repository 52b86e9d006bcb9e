/* GELU in its tanh form, on vectors: 0.5 (1 + tanh u) is the logistic function of 2u, so it costs one
 * exponential, and that is a polynomial. */
#include "pack.h"

#include <stdint.h>

typedef int32_t vi __attribute__((vector_size(4 * VL)));

INLINE vf select(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

/* exp(x) = 2^n exp(r) with x = n ln 2 + r. Adding 1.5 * 2^23 rounds to an integer; n then stands in the
 * low bits, and shifted by 23 it becomes the exponent of a float. */
INLINE vf exponential(vf x) {
  const vf zero = {0}, low = zero - 87.3f, high = zero + 88.3f;
  x = select(x < low, low, select(x > high, high, x));
  const vf shifted = x * 1.44269504088896341f + 12582912.0f, n = shifted - 12582912.0f;
  vf r = x - n * 0.693145751953125f;
  r = r - n * 1.42860682030941723e-6f;
  vf p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (vf)((vi)p + (((vi)shifted - (vi)(zero + 12582912.0f)) << 23));
}

INLINE vf gelu(vf x) {
  const vf twice_u = x * (1.59576912160573071f + 0.0713548162726009f * (x * x));
  return x / (1.0f + exponential(-twice_u));
}

/* A tile on its way out, as in step 6; `last`: its sums over K are complete, so their GELU goes out. */
INLINE void finish(float *out, size_t N, vf sum[MR][NRV], int first, int last) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) {
      float *at = out + i * N + j * VL;
      vf x = first ? sum[i][j] : sum[i][j] + load(at);
      store(at, last ? gelu(x) : x);
    }
  }
}

/* The same for a tile that hangs over the edge: finished in a whole tile of its own, and copied. */
INLINE void finish_edge(float *out, size_t N, vf sum[MR][NRV], size_t rows, size_t columns, int first, int last) {
  float whole[MR * NR] = {0};
  for (size_t i = 0; i < rows; i++) memcpy(whole + i * NR, out + i * N, columns * sizeof(float));
  finish(whole, NR, sum, first, last);
  for (size_t i = 0; i < rows; i++) memcpy(out + i * N, whole + i * NR, columns * sizeof(float));
}
