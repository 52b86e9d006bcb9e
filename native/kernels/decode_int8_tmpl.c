/* out (M, N) = finish(inp (M, K) · weightᵀ + bias) with INT8 weights; the input is made INT8 too, in the same blocks.
 *
 * The weights lie in panels of 16 outputs (base/dtype.h). A vector of them has four numbers of each output and meets four
 * numbers of a row of the input, the same in every lane. A block's products are added up as integers, exactly, and the
 * sum enters the output's float once, scaled. So a block costs eight products and three instructions more, and a panel
 * that was read from memory serves all rows from the caches.
 *
 * Blocks are added up in their order: neither the other rows nor the threads change a bit.
 */

enum {
  INT8_ROWS = VL == 16 ? 8 : VL == 8 || QUAD_INSTRUCTION ? 2 : 1,  // of a tile: their sums stay in registers
  INT8_VECTORS = WEIGHTS_PANEL / VL,
  INT8_QUADS = WEIGHTS_BLOCK / WEIGHTS_QUAD,
  INT8_SCALE = INT8_QUADS * QUAD_WORDS,  // where a prepared block of a row has its scale, after its quads
  INT8_START,                            // and what its sums start at
  INT8_PREPARED,                         // words of a prepared block
  INT8_ROWS_AT_ONCE = 128,               // prepared rows that a second cache has room for
  INT8_AHEAD = 4096,                     // bytes from what is multiplied to what is fetched, of a panel used once
};

/* Prepared rows lie in tiles: [tile][block][row][word]. */
static size_t int8_row_floats(size_t K) { return weights_blocks(K) * INT8_PREPARED; }

INLINE float *int8_prepared(const struct DecodeTask *d, size_t m, size_t block) {
  const size_t tile = m / INT8_ROWS * weights_blocks(d->a.K) + block;
  return d->prepared + (tile * INT8_ROWS + m % INT8_ROWS) * INT8_PREPARED;
}

static void int8_prepare_block(float *to, const float *from, size_t count) {
  int8_t bytes[WEIGHTS_BLOCK];
  to[INT8_SCALE] = block_quantise(bytes, from, count);
  for (size_t i = 0; i < INT8_QUADS; i++) quad_prepare(to + i * QUAD_WORDS, bytes + i * WEIGHTS_QUAD);
  const int32_t start = quad_start(bytes);
  memcpy(to + INT8_START, &start, sizeof start);
}

static void int8_prepare(const struct DecodeTask *d, int thread, int threads) {
  const size_t K = d->a.K, blocks = weights_blocks(K);
  size_t begin, end;
  pool_part(d->a.M * blocks, 1, thread, threads, &begin, &end);
  for (size_t i = begin; i < end; i++) {
    const size_t m = i / blocks, block = i % blocks, k = block * WEIGHTS_BLOCK;
    int8_prepare_block(int8_prepared(d, m, block), d->a.inp + m * K + k, size_min(WEIGHTS_BLOCK, K - k));
  }
}

/* sum (rows, panel) += a block of a panel times that of so many prepared rows */
INLINE void int8_block(vf sum[INT8_ROWS][INT8_VECTORS], const int8_t *bytes, const float *scales, const float *x,
                       const size_t rows) {
  vi products[INT8_ROWS][INT8_VECTORS];
#pragma GCC unroll 8
  for (size_t i = 0; i < rows; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < INT8_VECTORS; j++) products[i][j] = (vi)vsplat_word(x + i * INT8_PREPARED + INT8_START);
  }
#pragma GCC unroll 1
  for (size_t q = 0; q < INT8_QUADS; q++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < INT8_VECTORS; j++) {
      vi word;
      memcpy(&word, bytes + (q * WEIGHTS_PANEL + j * VL) * WEIGHTS_QUAD, sizeof word);
      const struct QuadWeights weights = quad_weights(word);
#pragma GCC unroll 8
      for (size_t i = 0; i < rows; i++) {
        products[i][j] = quad_add(products[i][j], weights, x + i * INT8_PREPARED + q * QUAD_WORDS);
      }
    }
  }
#pragma GCC unroll 4
  for (size_t j = 0; j < INT8_VECTORS; j++) {
    const vf scale = vload(scales + j * VL);
#pragma GCC unroll 8
    for (size_t i = 0; i < rows; i++) {
      const vf both = scale * vsplat_word(x + i * INT8_PREPARED + INT8_SCALE);
      sum[i][j] += __builtin_convertvector(products[i][j], vf) * both;
    }
  }
}

/* With many rows, a part of the next panel with every block. A panel that is used once is wanted at once, by the first
 * cache. */
INLINE void int8_fetch(struct DecodeAhead *ahead, const int8_t *bytes) {
  if (ahead != NULL) {
    decode_fetch(ahead, 1);
    return;
  }
#pragma GCC unroll 8
  for (size_t line = 0; line < WEIGHTS_PANEL * WEIGHTS_BLOCK; line += CACHE_LINE) {
    __builtin_prefetch(bytes + INT8_AHEAD + line, 0, 3);
  }
}

/* Outputs n … n + count of a panel, of `rows` rows of the input from row m on; `ahead` is NULL if those are all. */
INLINE void int8_tile(const struct DecodeTask *d, size_t n, size_t count, size_t m, struct DecodeAhead *ahead,
                      const size_t rows) {
  const size_t blocks = weights_blocks(d->a.K);
  const int8_t *bytes = (const int8_t *)d->a.weight.data + n * blocks * WEIGHTS_BLOCK;
  const float *scales = d->a.weight.scales + n * blocks, *x = int8_prepared(d, m, 0);
  vf sum[INT8_ROWS][INT8_VECTORS] = {0};
  for (size_t block = 0; block < blocks; block++) {
    int8_fetch(ahead, bytes);
    int8_block(sum, bytes, scales, x, rows);
    bytes += WEIGHTS_PANEL * WEIGHTS_BLOCK, scales += WEIGHTS_PANEL, x += INT8_ROWS * INT8_PREPARED;
  }
  for (size_t i = 0; i < rows; i++) {
    for (size_t j = 0; j * VL < count; j++) {
      decode_finish(d, sum[i][j], n + j * VL, m + i, size_min(VL, count - j * VL));
    }
  }
}

/* A panel for all rows. Tiles begin at multiples of INT8_ROWS, or within the last one at those of half of it, and so on. */
INLINE void int8_panel(const struct DecodeTask *d, size_t n, size_t count, struct DecodeAhead *ahead) {
  size_t m = 0;
  for (; m + INT8_ROWS <= d->a.M; m += INT8_ROWS) int8_tile(d, n, count, m, ahead, INT8_ROWS);
  if (INT8_ROWS > 4 && d->a.M - m >= 4) int8_tile(d, n, count, m, ahead, 4), m += 4;
  if (INT8_ROWS > 2 && d->a.M - m >= 2) int8_tile(d, n, count, m, ahead, 2), m += 2;
  if (INT8_ROWS > 1 && d->a.M > m) int8_tile(d, n, count, m, ahead, 1);
}

static void int8_linear_task(void *argument, int thread, int threads) {
  const struct DecodeTask *d = argument;
  struct Pool *pool = d->workers->pool;
  int8_prepare(d, thread, threads);
  pool_barrier(pool);
  const size_t N = d->a.N, blocks = weights_blocks(d->a.K), row = blocks * WEIGHTS_BLOCK, tiles = ceil_div(d->a.M, INT8_ROWS);
  const size_t claim = round_up(ceil_div(N, DECODE_CLAIMS * (size_t)threads), WEIGHTS_PANEL);
  const char *data = d->a.weight.data;
  for (size_t n; (n = pool_claim(pool) * claim) < N;) {
    const size_t end = size_min(n + claim, N);
    for (; n < end; n += WEIGHTS_PANEL) {
      const size_t next = n + WEIGHTS_PANEL;
      struct DecodeAhead ahead = {.line = data + next * row, .end = data + size_min(next + WEIGHTS_PANEL, end) * row,
                                  .share = ceil_div(WEIGHTS_PANEL * WEIGHTS_BLOCK, tiles)};
      int8_panel(d, n, size_min(WEIGHTS_PANEL, N - n), tiles == 1 ? NULL : &ahead);
    }
  }
}

static size_t shared_floats(size_t largest);

/* As many rows at a time as the second cache and the scratch memory have room for. */
static void int8_linear(const struct Workers *workers, struct DecodeLinear a) {
  struct DecodeTask d = {.workers = workers, .a = a, .prepared = workers->shared};
  const size_t fit = shared_floats(a.K) / int8_row_floats(a.K) / INT8_ROWS * INT8_ROWS;
  const size_t room = size_min(fit, INT8_ROWS_AT_ONCE);
  for (size_t m = 0; m < a.M; m += d.a.M) {
    d.a.M = size_min(room, a.M - m), d.a.out = a.out + m * a.N, d.a.inp = a.inp + m * a.K;
    pool_run(workers->pool, "int8_linear", int8_linear_task, &d);
  }
}
