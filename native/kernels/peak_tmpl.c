/* What the machine's multipliers can do at most: multiply-adds that touch nothing but registers. */

enum { PEAK_CHAINS = MR * NRV, PEAK_ROUNDS = 1 << 22 };

static void peak_task(void *argument, int thread, int threads) {
  (void)thread, (void)threads;
  vf acc[PEAK_CHAINS];
  /* volatile: the factors are not known to the compiler, and the sums are asked for. */
  volatile float *factor = argument;
  const vf a = vsplat(factor[0]), b = vsplat(factor[1]);
#pragma GCC unroll 32
  for (int i = 0; i < PEAK_CHAINS; i++) acc[i] = vsplat((float)i);
  for (int round = 0; round < PEAK_ROUNDS; round++) {
#pragma GCC unroll 32
    for (int i = 0; i < PEAK_CHAINS; i++) acc[i] = acc[i] * a + b;
  }
  vf sum = {0};
  for (int i = 0; i < PEAK_CHAINS; i++) sum += acc[i];
  if (vsum(sum) == 1e30f) factor[0] = 0;
}

static double peak_flops(const struct Workers *workers) {
  float factor[2] = {0.5f, 1.0f};
  pool_run(workers->pool, "peak", peak_task, factor);
  const size_t operations = (size_t)2 * VL * PEAK_CHAINS * PEAK_ROUNDS;
  return (double)operations * pool_threads(workers->pool);
}
