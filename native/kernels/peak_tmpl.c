/* What the machine's multipliers can do at most: multiply-adds that touch nothing but registers. */

/* As many sums at a time as the product's tile has; twelve at least, since each waits for itself before. */
enum { PEAK_CHAINS = MR * NRV < 12 ? 12 : MR * NRV, PEAK_ROUNDS = 1 << 18 };

INLINE void peak_run(volatile float *factor, const bool pairs) {
  vf acc[PEAK_CHAINS];
  /* volatile: the factors are not known to the compiler, and the sums are asked for. */
  const vf a = vsplat(factor[0]), b = vsplat(factor[1]);
#pragma GCC unroll 32
  for (int i = 0; i < PEAK_CHAINS; i++) acc[i] = vsplat((float)i);
  for (int round = 0; round < PEAK_ROUNDS; round++) {
#pragma GCC unroll 32
    for (int i = 0; i < PEAK_CHAINS; i++) {
      /* A sum is a factor of itself: a product of a and b alone would be the same for all, and made once. */
#if QUADS
      acc[i] = pairs ? vadd_quads(acc[i], a, b) : acc[i] + acc[i] * a;
#else
      acc[i] = pairs ? vadd_pairs(acc[i], a, b) : acc[i] + acc[i] * a;
#endif
    }
  }
  vf sum = {0};
  for (int i = 0; i < PEAK_CHAINS; i++) sum += acc[i];
  if (vsum(sum) == 1e30f) factor[0] = 0;
}

struct PeakTask {
  float factor[2];
  bool pairs;
};

static void peak_task(void *argument, int thread, int threads) {
  struct PeakTask *peak = argument;
  (void)thread, (void)threads;
  if (PAIRS && peak->pairs) peak_run(peak->factor, true);
  else peak_run(peak->factor, false);
}

#if TILES
#ifdef LLMC_TILES_MODEL
enum { PEAK_TILE_ROUNDS = 1 << 8 };
#else
enum { PEAK_TILE_ROUNDS = 1 << 16 };
#endif

static void peak_tiles_task(void *argument, int thread, int threads) {
  (void)argument, (void)thread, (void)threads;
  amx_begin();
  for (int tile = 0; tile < PEAK_TILE_ROUNDS; tile += 4) tiled_multiply();
  amx_end();
}
#elif BLAS
enum { PEAK_SIDE = 128, PEAK_PRODUCTS = 32 };

static void peak_blas_task(void *argument, int thread, int threads) {
  static const float factor[PEAK_SIDE * PEAK_SIDE];
  float out[PEAK_SIDE * PEAK_SIDE];
  (void)argument, (void)thread, (void)threads;
  const struct BlasMatrix square = {factor, PEAK_SIDE, false};
  for (int i = 0; i < PEAK_PRODUCTS; i++) {
    blas_multiply(out, PEAK_SIDE, square, square, PEAK_SIDE, PEAK_SIDE, PEAK_SIDE, false);
  }
}
#endif

#if SME
enum { PEAK_SME_ROUNDS = 1 << 14 };

static void peak_sme_task(void *argument, int thread, int threads) {
  const enum Dtype *dtype = argument;
  (void)thread, (void)threads;
  sme_peak(PEAK_SME_ROUNDS, *dtype == BF16);
}
#endif

static double peak_flops(const struct Workers *workers) {
#if SME
  enum Dtype dtype = workers->dtype;
  pool_run(workers->pool, "peak", peak_sme_task, &dtype);
  const double products = 4.0 * (double)(sme_words() * sme_words()) * (dtype == BF16 ? 2 : 1);
  if (dtype == FP32 || dtype == BF16) return 2 * products * PEAK_SME_ROUNDS * pool_threads(workers->pool);
#endif
#if BLAS
  if (workers->dtype == FP32) {
    pool_run(workers->pool, "peak", peak_blas_task, NULL);
    return 2.0 * PEAK_SIDE * PEAK_SIDE * PEAK_SIDE * PEAK_PRODUCTS * pool_threads(workers->pool);
  }
#endif
#if TILES
  if (workers->dtype == BF16 || TILES == FLOAT_PARTS) {
    pool_run(workers->pool, "peak", peak_tiles_task, NULL);
    const double products = workers->dtype == BF16 ? 1 : 6;  // of tiles, for one of floats
    return 2.0 * TILE_ROWS * TILE_WORDS * PANEL_STEP * PEAK_TILE_ROUNDS * pool_threads(workers->pool) / products;
  }
#endif
  struct PeakTask peak = {{-2.0f, 1.0f}, PAIRS && workers->dtype == BF16};
  pool_run(workers->pool, "peak", peak_task, &peak);
  const size_t operations = (size_t)(!peak.pairs ? 2 : QUADS ? 8 : 4) * VL * PEAK_CHAINS * PEAK_ROUNDS;
  return (double)operations * pool_threads(workers->pool);
}
