/* The loops around every product: blocks of A are packed by all threads together, then each claims parts of the result. The
 * tables differ in how a block is packed and a part of it multiplied; claims.h says which thread does what. */

/* Rows m … m + rows of A, numbers k … k + kc, packed; on tiles columns of B may lie behind them. */
struct Block {
  float *packed;
  size_t m, rows, k, kc;
};

typedef void PackPanels(float *dst, struct Factor src, size_t lanes, size_t kc, enum Dtype multiplied);

/* Some lanes of A: packed, and summed while they are in the cache. */
INLINE void gemm_pack_lanes(const struct Gemm *gemm, float *a, size_t lane, size_t lanes, size_t k, size_t kc,
                            PackPanels *pack_panels_of) {
  const size_t steps = pack_steps(kc, gemm->workers->dtype);
  if (gemm->lane_sums == NULL) {
    pack_panels_of(a, factor_at(gemm->a, lane, k), lanes, kc, gemm->workers->dtype);
    return;
  }
  for (const size_t end = lane + lanes; lane < end; lane += LANES_SUMMED, a += LANES_SUMMED * steps) {
    const size_t width = size_min(LANES_SUMMED, end - lane);
    pack_panels_of(a, factor_at(gemm->a, lane, k), width, kc, gemm->workers->dtype);
    gemm_sum_lanes(gemm, lane, width, k, kc);
  }
}

/* A thread's share of a block that holds rows of A alone. */
INLINE void gemm_pack(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block,
                      PackPanels *pack_panels_of, int thread, int threads) {
  const enum Dtype dtype = gemm->workers->dtype;
  const struct PackClaims packs =
      pack_claims(block.rows, block.kc, (size_t)threads, claims->tiling, gemm->lane_sums != NULL, false);
  struct Span share = pack_share(&packs, thread, threads), panels, numbers;
  while (pack_claimed(&packs, &share, &panels, &numbers)) {
    const size_t lane = panels.begin * claims->tiling.rows, end = size_min(panels.end * claims->tiling.rows, block.rows);
    float *to = block.packed + lane * pack_steps(block.kc, dtype) + pack_steps(numbers.begin, dtype) * claims->tiling.rows;
    gemm_pack_lanes(gemm, to, block.m + lane, end - lane, block.k + numbers.begin, numbers.end - numbers.begin, pack_panels_of);
  }
}

/* How a table packs its share of a block, and multiplies what a claim covers; own: the thread's scratch memory. */
typedef void PackBlock(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, int thread, int threads);
typedef void MultiplyPart(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, float *own,
                          struct Part part);

/* block_floats: of a packed block. */
INLINE void gemm_run(const struct Gemm *gemm, const struct ProductClaims *claims, size_t block_floats, PackBlock *pack_share_of,
                     MultiplyPart *multiply, int thread, int threads) {
  const struct Workers *workers = gemm->workers;
  float *own = workers->own + (size_t)thread * workers->own_floats;
  const size_t M = gemm->M, N = gemm->N, K = gemm->K;

  /* The blocks take turns in two places, so that one barrier is enough: a thread packs its part of the next block while
   * others still read the last. */
  size_t turn = 0;
  for (size_t m = 0; m < M; m += claims->rows) {
    for (size_t k = 0; k < K; k += claims->depth, turn++) {
      const struct Block block = {workers->shared + turn % 2 * block_floats, m, size_min(claims->rows, M - m), k,
                                  size_min(claims->depth, K - k)};
      pack_share_of(gemm, claims, block, thread, threads);
      pool_barrier(workers->pool);
      struct Near near = product_near(claims, workers->pool, turn, thread, threads);
      for (size_t claim; near_next(&near, &claim);) {
        struct Span rows, columns;
        product_claimed(claims, claim, block.rows, N, &rows, &columns);
        if (rows.begin == rows.end) continue;
        multiply(gemm, claims, block, own,
                 (struct Part){m + rows.begin, rows.end - rows.begin, columns.begin, columns.end - columns.begin, k, block.kc});
      }
    }
  }
}

/* Whether the rows of A and of the result are those of the batch. */
INLINE bool gemm_by_rows(const struct Gemm *gemm) { return gemm->a.step == 1 && !gemm->upper; }

/* By a table of whose blocks one holds at most so many rows, and of whose tiles one is rows x columns. */
INLINE void gemm_run_tiles(const struct Gemm *gemm, size_t rows, size_t columns, size_t block_rows, PackBlock *pack_share_of,
                           MultiplyPart *multiply, int thread, int threads) {
  const enum Dtype dtype = gemm->workers->dtype;
  const size_t grain = gemm->scales != NULL ? (size_t)WEIGHTS_BLOCK : pack_word(dtype);
  const struct ProductClaims claims = product_claims(gemm->M, gemm->N, gemm->K, (size_t)threads,
                                                     (struct Tiling){rows, columns, block_rows, KC, grain}, gemm_by_rows(gemm));
  gemm_run(gemm, &claims, claims.rows * pack_steps(claims.depth, dtype), pack_share_of, multiply, thread, threads);
}

INLINE void gemm_pack_left(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, int thread,
                           int threads) {
  gemm_pack(gemm, claims, block, pack_left, thread, threads);
}

/* Where a block holds the first row of a part. */
INLINE const float *block_row(const struct Gemm *gemm, struct Block block, struct Part part) {
  return block.packed + (part.m - block.m) * pack_steps(block.kc, gemm->workers->dtype);
}

INLINE void gemm_multiply(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, float *own,
                          struct Part part) {
  (void)claims;
  gemm_part(gemm, block_row(gemm, block, part), own, part);
}

__attribute__((unused)) static void gemm_task(void *argument, int thread, int threads) {
  gemm_run_tiles(argument, MR, NR, MC, gemm_pack_left, gemm_multiply, thread, threads);
}
