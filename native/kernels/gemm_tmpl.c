/* out (M, N) = finish(A (M, K) · B (K, N)): the product under every linear layer, forward and backward.
 *
 * Goto and van de Geijn 2008. Blocks of MC rows of A by KC are packed by all threads together into one
 * shared block; then each thread claims chunks of NC columns of B, packs its own, and runs the tile of
 * MR x NR over both. A panel of B (KC x NR) stays in the first cache while the panels of A pass by.
 *
 * The sum over K runs in blocks of KC, in order, each in one accumulator: which thread computes a tile,
 * and how the chunks were cut, changes nothing in its bits.
 */

enum { NR = NRV * VL, MC = 960 / MR * MR, NC_MAX = 240 / NR * NR };

enum Finish {
  STORE,            // out = product + bias
  RESIDUAL,         // out = product + bias + other
  GELU,             // other = product + bias, out = gelu(other)
  GELU_DERIVATIVE,  // out = product * gelu'(other)
};

struct Gemm {
  const struct Workers *workers;
  float *out;             // (M, N)
  const float *a, *b;     // A (M, K), B (K, N), by their strides below
  size_t a_row, a_col;    // one of the two is 1
  size_t b_row, b_col;    // one of the two is 1
  size_t M, N, K;
  enum Finish finish;
  int accumulate;         // add to what out holds
  const float *bias;      // (N) or NULL
  float *other;           // (M, N): the residual, or the input of GELU
};

/* acc (MR, NR) = a (kc, MR)ᵀ · b (kc, NR), both panels */
INLINE void gemm_tile(vf acc[MR][NRV], const float *a, const float *b, size_t kc) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < NRV; j++) acc[i][j] = (vf){0};
  }
  for (size_t k = 0; k < kc; k++, a += MR, b += NR) {
    vf b_row[NRV];
#pragma GCC unroll 4
    for (int j = 0; j < NRV; j++) b_row[j] = vload(b + j * VL);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
      for (int j = 0; j < NRV; j++) acc[i][j] += a[i] * b_row[j];
    }
  }
}

/* One vector of the result, on its way out: `at` counts floats from the start of out. */
INLINE void gemm_finish(const struct Gemm *gemm, vf x, size_t at, size_t column, int first, int last) {
  if (!first || gemm->accumulate) x += vload(gemm->out + at);
  if (!last) {
    vstore(gemm->out + at, x);
    return;
  }
  if (gemm->bias != NULL) x += vload(gemm->bias + column);
  switch (gemm->finish) {
    case STORE: break;
    case RESIDUAL: x += vload(gemm->other + at); break;
    case GELU:
      vstore(gemm->other + at, x);
      x = gelu_value(x);
      break;
    case GELU_DERIVATIVE: x *= gelu_derivative(vload(gemm->other + at)); break;
  }
  vstore(gemm->out + at, x);
}

/* The same for a tile that hangs over the edge: rows and columns are what is left of it. The floats
 * that exist are copied into a full tile, finished there, and copied back. */
static void gemm_finish_edge(const struct Gemm *gemm, vf acc[MR][NRV], size_t m, size_t n,
                             size_t rows, size_t columns, int first, int last) {
  float out[NR] = {0}, other[NR] = {0}, bias[NR] = {0};
  struct Gemm edge = *gemm;
  edge.out = out;
  if (gemm->other != NULL) edge.other = other;
  if (gemm->bias != NULL) {
    memcpy(bias, gemm->bias + n, columns * sizeof(float));
    edge.bias = bias;
  }
  for (size_t i = 0; i < rows; i++) {
    size_t at = (m + i) * gemm->N + n;
    memcpy(out, gemm->out + at, columns * sizeof(float));
    if (gemm->other != NULL) memcpy(other, gemm->other + at, columns * sizeof(float));
    for (size_t j = 0; j < NRV; j++) gemm_finish(&edge, acc[i][j], j * VL, j * VL, first, last);
    memcpy(gemm->out + at, out, columns * sizeof(float));
    if (gemm->finish == GELU && last) memcpy(gemm->other + at, other, columns * sizeof(float));
  }
}

/* Columns n … n + nc of rows m … m + mc, over kc of the K: both factors are packed. */
static void gemm_block(const struct Gemm *gemm, const float *a, const float *b, size_t m, size_t mc,
                       size_t n, size_t nc, size_t kc, int first, int last) {
  for (size_t j = 0; j < nc; j += NR) {
    for (size_t i = 0; i < mc; i += MR) {
      vf acc[MR][NRV];
      gemm_tile(acc, a + i * kc, b + j * kc, kc);
      if (i + MR <= mc && j + NR <= nc) {
        size_t at = (m + i) * gemm->N + n + j;
#pragma GCC unroll 16
        for (size_t r = 0; r < MR; r++) {
#pragma GCC unroll 4
          for (size_t v = 0; v < NRV; v++) {
            gemm_finish(gemm, acc[r][v], at + r * gemm->N + v * VL, n + j + v * VL, first, last);
          }
        }
      } else {
        gemm_finish_edge(gemm, acc, m + i, n + j, size_min(MR, mc - i), size_min(NR, nc - j), first, last);
      }
    }
  }
}

static void gemm_pack_a(const struct Gemm *gemm, float *dst, size_t m, size_t mc, size_t k, size_t kc) {
  const float *src = gemm->a + m * gemm->a_row + k * gemm->a_col;
  if (gemm->a_col == 1) {
    pack_turned(dst, src, gemm->a_row, mc, kc, MR);
  } else {
    pack_straight(dst, src, gemm->a_col, mc, kc, MR);
  }
}

static void gemm_pack_b(const struct Gemm *gemm, float *dst, size_t k, size_t kc, size_t n, size_t nc) {
  const float *src = gemm->b + k * gemm->b_row + n * gemm->b_col;
  if (gemm->b_row == 1) {
    pack_turned(dst, src, gemm->b_col, nc, kc, NR);
  } else {
    pack_straight(dst, src, gemm->b_row, nc, kc, NR);
  }
}

static void gemm_task(void *argument, int thread, int threads) {
  const struct Gemm *gemm = argument;
  struct Pool *pool = gemm->workers->pool;
  float *a = gemm->workers->shared;
  float *b = gemm->workers->own + (size_t)thread * gemm->workers->own_floats;
  /* The same number of chunks for every thread, each a multiple of the tile and at most NC_MAX wide. */
  size_t chunks = round_up(ceil_div(gemm->N, NC_MAX), (size_t)threads);
  size_t width = size_max(NR, round_up(ceil_div(gemm->N, chunks), NR));
  chunks = ceil_div(gemm->N, width);

  for (size_t m = 0; m < gemm->M; m += MC) {
    size_t mc = size_min(MC, gemm->M - m);
    for (size_t k = 0; k < gemm->K; k += KC) {
      size_t kc = size_min(KC, gemm->K - k);
      if (m + k > 0) pool_barrier(pool);  // the last block is no longer read
      if (thread == 0) pool_claim_reset(pool);
      size_t begin, end;
      pool_part(mc, MR, thread, threads, &begin, &end);
      if (begin < end) gemm_pack_a(gemm, a + begin * kc, m + begin, end - begin, k, kc);
      pool_barrier(pool);
      for (size_t chunk; (chunk = pool_claim(pool)) < chunks;) {
        size_t n = chunk * width, nc = size_min(width, gemm->N - n);
        gemm_pack_b(gemm, b, k, kc, n, nc);
        gemm_block(gemm, a, b, m, mc, n, nc, kc, k == 0, k + kc == gemm->K);
      }
    }
  }
}
