/* What one core can do at most: multiply-adds that touch nothing but registers, enough of them at once
 * to hide the latency of each. */
#include "vector.h"

enum { CHAINS = MR * NRV, ROUNDS = 1 << 21 };

/* Returns the number of floating-point operations; the sums go to out (VL), so that they are asked for. */
double peak(float *out, float factor) {
  vf sum[CHAINS];
#pragma GCC unroll 32
  for (int i = 0; i < CHAINS; i++) sum[i] = (vf){0} + (float)i;
  for (int round = 0; round < ROUNDS; round++) {
#pragma GCC unroll 32
    for (int i = 0; i < CHAINS; i++) sum[i] = sum[i] * factor + 1.0f;
  }
  for (int i = 1; i < CHAINS; i++) sum[0] += sum[i];
  store(out, sum[0]);
  return 2.0 * VL * CHAINS * ROUNDS;
}
