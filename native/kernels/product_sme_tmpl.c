/* The product of gemm_tmpl.c on SME's outer products. The work is cut the same way, into blocks as large as the streaming
 * vectors make them: a claim packs its columns of B, enters streaming mode once, multiplies them with all its rows of the
 * packed block of A, leaves it, and finishes the sums.
 *
 * The sum over K runs in blocks of KC in order, in each of them in the order of K: which thread computes a block, and how
 * the work was cut, changes nothing in its bits.
 */
#include "kernels/sme.h"

enum { SME_ROWS = 512 };  // of a packed block of A, at most

static size_t sme_block_floats(size_t largest) {
  return size_min(SME_ROWS, round_up(largest, SME_LANES)) * size_min(KC, round_up(largest, WEIGHTS_BLOCK));
}

/* Packed columns of a claim, and its sums. */
static size_t sme_own_floats(void) { return (size_t)CLAIM_PANELS * SME_LANES * (KC + SME_ROWS); }

/* Panels as wide as two vectors. */
static void sme_pack(float *dst, struct Factor src, size_t lanes, size_t kc, enum Dtype multiplied) {
  const size_t R = 2 * sme_words();
  if (R == 32) pack(dst, src, lanes, kc, multiplied, 32);
  else pack(dst, src, lanes, kc, multiplied, R);
}

/* A claim's columns of INT8 weights: made floats and packed panel by panel, block by block. */
static void sme_pack_int8(const struct Gemm *gemm, float *dst, struct Part part, size_t R) {
  const struct WeightsView weight = {INT8, gemm->b.numbers.data, gemm->scales};
  for (size_t l = 0; l < part.columns; l += R) {
    const size_t lanes = size_min(R, part.columns - l);
    for (size_t k = part.k; k < part.k + part.kc; k += WEIGHTS_BLOCK) {
      float floats[SME_LANES * WEIGHTS_BLOCK];
      const size_t count = size_min(WEIGHTS_BLOCK, part.k + part.kc - k);
      pack_int8_floats(floats, weight, part.n + l, lanes, k, count, gemm->K);
      sme_pack(dst, (struct Factor){view_of(floats), WEIGHTS_BLOCK, 1}, lanes, count, gemm->workers->dtype);
      dst += R * pack_steps(count, gemm->workers->dtype);
    }
  }
}

INLINE void sme_pack_left(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, int thread,
                          int threads) {
  gemm_pack(gemm, claims, block, sme_pack, thread, threads);
}

static void sme_part(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, float *own,
                     struct Part part) {
  const enum Dtype dtype = gemm->workers->dtype;
  const size_t R = claims->tiling.rows, a_panels = ceil_div(part.rows, R), b_panels = ceil_div(part.columns, R);
  const size_t steps = pack_steps(part.kc, dtype), stride = b_panels * R;
  const float *a = block_row(gemm, block, part);
  float *b = own, *sums = own + (size_t)CLAIM_PANELS * SME_LANES * KC;
  if (gemm->scales != NULL) sme_pack_int8(gemm, b, part, R);
  else sme_pack(b, factor_at(gemm->b, part.n, part.k), part.columns, part.kc, dtype);
  if (dtype == BF16) sme_multiply_pairs(sums, stride, a, a_panels, b, b_panels, steps);
  else sme_multiply_floats(sums, stride, a, a_panels, b, b_panels, steps);
  gemm_finish_strip(gemm, sums, stride, part);
}

static void product_sme_task(void *argument, int thread, int threads) {
  const size_t R = 2 * sme_words();
  gemm_run_tiles(argument, R, R, SME_ROWS, sme_pack_left, sme_part, thread, threads);
}
