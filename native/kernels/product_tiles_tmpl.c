/* The product of gemm_tmpl.c on AMX tiles, in the loops of product_tmpl.c: a thread packs the columns of its claim and
 * multiplies blocks of 32 x 32. Where the columns are few for so many threads, or few at all, B is packed by all together
 * too, and a claim is a rectangle of the result.
 *
 * Numbers are multiplied as BF16. A float is the sum of three of them, so a product of floats takes six products of
 * tiles; those that are left out are below 2^-24 of it, and the sums are more exact than those of FMA, because 32
 * products are added up before they are rounded into the sum. Two kinds of numbers need FMA: an infinity less its first
 * part is a NaN, and tiles take what is below 2^-126 for zero, the lower parts of small products too. A block whose
 * factors have such numbers is multiplied by floats.
 *
 * The sum over K runs in blocks of kc in order, in the order of the tiles within: which thread computes a block, and how
 * the work was cut, changes nothing in its bits.
 */

enum {
  TILED_STREAM = 1 << 21,                     // bytes of a result that no cache keeps until it is read again
  TILED_STAY = 16,                            // steps of A's panel that are kept in the first cache
  FLOAT_PARTS = 3,
};

_Static_assert((int)PANEL == (int)TILED_PANEL && (int)PANEL_STEP == (int)TILED_PANEL, "claims.h counts in these");
enum { TILED_PANELS = TILED_SHARED / (PANEL * PANEL_STEP * 2) };  // of A in a block, at most

/* A packed block of A in floats; in front of it are the largest magnitudes of its panels. A whole number of vectors. */
static size_t tiled_a_floats(void) { return TILED_PANELS + TILED_SHARED / sizeof(float); }

/* The same, and a block of B that all threads share. */
static size_t tiled_block_floats(void) { return tiled_a_floats() + TILED_SHARED / sizeof(float); }

INLINE uint32_t *tiled_a(struct Block block) { return (uint32_t *)(void *)(block.packed + TILED_PANELS); }
INLINE uint32_t *tiled_b(struct Block block) { return (uint32_t *)(void *)(block.packed + tiled_a_floats()); }

/* What a thread has for itself: three blocks of sums, a group of panels of B and their largest magnitudes. */
static size_t tiled_own_floats(void) {
  return 3 * PANEL * PANEL + TILED_GROUP / sizeof(float) + TILED_GROUP / (PANEL_STEP * PANEL * sizeof(uint16_t));
}

/* Tiles 0 to 3 hold the sums, 4 and 5 the left factor, 6 and 7 the right one. */
INLINE void tiled_load_left(const uint32_t *left, const int part) {
  amx_load(4, left + part * 2 * PANEL_TILE, TILE_BYTES);
  amx_load(5, left + (part * 2 + 1) * PANEL_TILE, TILE_BYTES);
}

INLINE void tiled_load_right(const uint32_t *right, const int part) {
  amx_load(6, right + part * 2 * PANEL_TILE, TILE_BYTES);
  amx_load(7, right + (part * 2 + 1) * PANEL_TILE, TILE_BYTES);
}

INLINE void tiled_multiply(void) {
  amx_multiply_bf16(0, 4, 6);
  amx_multiply_bf16(2, 5, 6);
  amx_multiply_bf16(1, 4, 7);
  amx_multiply_bf16(3, 5, 7);
}

INLINE void tiled_zero(void) {
  amx_zero(0);
  amx_zero(1);
  amx_zero(2);
  amx_zero(3);
}

/* The sums += one step of both factors. Parts are multiplied in an order in which each product shares a factor with the
 * one before. The right factor passes by; the left one is needed again for the next panel, as far as it `stays`. */
INLINE void tiled_step(const uint32_t *left, const uint32_t *right, const bool stays, const int parts) {
  if (parts == FLOAT_PARTS) {
    tiled_load_left(left, 2), tiled_load_right(right, 0), tiled_multiply();
    tiled_load_left(left, 1), tiled_multiply();
    tiled_load_right(right, 1), tiled_multiply();
    tiled_load_left(left, 0), tiled_multiply();
    tiled_load_right(right, 0), tiled_multiply();
    tiled_load_right(right, 2), tiled_multiply();
    return;
  }
  if (stays) {
    amx_load(4, left, TILE_BYTES);
  } else {
    amx_load_once(4, left, TILE_BYTES);
  }
  amx_load_once(6, right, TILE_BYTES);
  amx_multiply_bf16(0, 4, 6);
  if (stays) {
    amx_load(5, left + PANEL_TILE, TILE_BYTES);
  } else {
    amx_load_once(5, left + PANEL_TILE, TILE_BYTES);
  }
  amx_multiply_bf16(2, 5, 6);
  amx_load_once(7, right + PANEL_TILE, TILE_BYTES);
  amx_multiply_bf16(1, 4, 7);
  amx_multiply_bf16(3, 5, 7);
}

/* A block of floats whose rows are `stride` floats apart. */
INLINE void tiled_load(const float *at, size_t stride) {
  const size_t bytes = stride * sizeof(float);
  amx_fence();
  amx_load(0, at, bytes);
  amx_load(1, at + TILE_WORDS, bytes);
  amx_load(2, at + TILE_ROWS * stride, bytes);
  amx_load(3, at + TILE_ROWS * stride + TILE_WORDS, bytes);
}

INLINE void tiled_store(float *at, size_t stride) {
  const size_t bytes = stride * sizeof(float);
  amx_store(0, at, bytes);
  amx_store(1, at + TILE_WORDS, bytes);
  amx_store(2, at + TILE_ROWS * stride, bytes);
  amx_store(3, at + TILE_ROWS * stride + TILE_WORDS, bytes);
  amx_fence();
}

/* Whether results go to memory past the caches: many floats that nothing is added to, and that fill whole lines. A line
 * that is written whole is then not read first. */
INLINE bool tiled_streams(const struct Gemm *gemm) {
  return gemm->finish == STORE && !gemm->add && gemm->out.dtype == FP32 &&
         gemm->M * gemm->N * sizeof(float) >= TILED_STREAM && gemm->N % VL == 0 &&
         (uintptr_t)gemm->out.data % sizeof(vf) == 0;
}

/* A block of sums on its way out. A few rows leave with each step of the next block: by then what the tiles stored lies
 * in the first cache, and nothing waits for it. */
struct TiledPending {
  const float *sums;     // (PANEL, PANEL)
  const float *bias;     // of its columns, or NULL
  size_t at;             // the element of the result where the next row goes
  size_t rows, columns;  // rows left, columns that are there
  bool first, last;      // of the blocks of K
  bool stream;           // past the caches, into whole lines
};

/* A row of PANEL sums, at element `at` of all arrays; their types are known to the compiler. */
INLINE void tiled_finish_row(const struct Gemm *gemm, const float *row, const float *bias, size_t at, bool first,
                             const bool last, const enum Finish finish, const enum Dtype out_type,
                             const enum Dtype other_type) {
  const struct Array out = {gemm->out.data, out_type}, slope = {gemm->slope.data, out_type};
  const struct ArrayView other = {gemm->other.data, other_type};
#pragma GCC unroll 2
  for (size_t j = 0; j < PANEL; j += VL) {
    vf x = vload(row + j);
    if (!first || gemm->add) x += vload(gemm->sums + at + j);
    if (!last) {
      vstore(gemm->sums + at + j, x);
      continue;
    }
    if (bias != NULL) x += vload(bias + j);
    switch (finish) {
      case STORE: break;
      case RESIDUAL: x += vload_array(other, at + j); break;
      case MULTIPLY: x *= vload_array(other, at + j); break;
      case GELU: {
        const vf logistic = gelu_logistic(x);
        if (slope.data != NULL) vstore_array(slope, at + j, gelu_slope(x, logistic));
        x *= logistic;
        break;
      }
    }
    vstore_array(out, at + j, x);
  }
}

/* A row in which only some columns are there is finished in a row of its own. */
static void tiled_finish_edge(const struct Gemm *gemm, const struct TiledPending *p) {
  float out[PANEL] = {0}, other[PANEL] = {0}, slope[PANEL] = {0}, sums[PANEL] = {0}, bias[PANEL] = {0};
  struct Gemm edge = *gemm;
  edge.out = array_of(out), edge.sums = sums, edge.other = view_of(other);
  if (gemm->slope.data != NULL) edge.slope = array_of(slope);
  for (size_t j = 0; j < p->columns; j++) {
    if (!p->first || gemm->add) sums[j] = gemm->sums[p->at + j];
    if (p->bias != NULL) bias[j] = p->bias[j];
    if (p->last && gemm->other.data != NULL) other[j] = view_get(gemm->other, p->at + j);
  }
  const enum Finish finish = p->last ? gemm->finish : STORE;
  tiled_finish_row(&edge, p->sums, bias, 0, p->first, p->last, finish, FP32, FP32);
  for (size_t j = 0; j < p->columns; j++) {
    if (p->last) array_set(gemm->out, p->at + j, out[j]);
    else gemm->sums[p->at + j] = sums[j];
    if (p->last && gemm->slope.data != NULL) array_set(gemm->slope, p->at + j, slope[j]);
  }
}

INLINE void tiled_stream_rows(const struct Gemm *gemm, struct TiledPending *p, size_t rows) {
  for (; rows > 0; rows--, p->rows--, p->sums += PANEL, p->at += gemm->N) {
#pragma GCC unroll 2
    for (size_t j = 0; j < PANEL; j += VL) {
      vf x = vload(p->sums + j);
      if (p->bias != NULL) x += vload(p->bias + j);
      vstore_past_caches((float *)gemm->out.data + p->at + j, x);
    }
  }
}

INLINE void tiled_finish_rows(const struct Gemm *gemm, struct TiledPending *p, size_t rows, const bool last,
                              const enum Finish finish, const enum Dtype out_type, const enum Dtype other_type) {
  for (; rows > 0; rows--, p->rows--, p->sums += PANEL, p->at += gemm->N) {
    tiled_finish_row(gemm, p->sums, p->bias, p->at, p->first, last, finish, out_type, other_type);
  }
}

/* The next rows of a block. One decision for all of them: their code has no other branches than for the bias and for
 * sums that are there already. */
INLINE void tiled_finish(const struct Gemm *gemm, struct TiledPending *p, size_t rows) {
  const bool half = gemm->out.dtype == BF16, other_half = gemm->other.dtype == BF16;
  rows = size_min(rows, p->rows);
  if (rows == 0) return;
  if (p->columns < PANEL) {
    for (; rows > 0; rows--, p->rows--, p->sums += PANEL, p->at += gemm->N) tiled_finish_edge(gemm, p);
  } else if (p->stream) {
    tiled_stream_rows(gemm, p, rows);
  } else if (!p->last) {
    tiled_finish_rows(gemm, p, rows, false, STORE, FP32, FP32);
  } else if (gemm->finish == STORE) {
    if (half) tiled_finish_rows(gemm, p, rows, true, STORE, BF16, FP32);
    else tiled_finish_rows(gemm, p, rows, true, STORE, FP32, FP32);
  } else if (gemm->finish == GELU) {
    if (half) tiled_finish_rows(gemm, p, rows, true, GELU, BF16, FP32);
    else tiled_finish_rows(gemm, p, rows, true, GELU, FP32, FP32);
  } else if (gemm->finish == RESIDUAL) {
    tiled_finish_rows(gemm, p, rows, true, RESIDUAL, FP32, FP32);
  } else {
    if (other_half) tiled_finish_rows(gemm, p, rows, true, MULTIPLY, FP32, BF16);
    else tiled_finish_rows(gemm, p, rows, true, MULTIPLY, FP32, FP32);
  }
}

/* Whether three parts hold the products of two panels: none infinite, and the largest so far above 2^-126 that the
 * lowest of its 24 bits is there. */
INLINE bool tiled_fits(float left, float right) {
  const float least = 0x1p-86f;
  if (!(left < INFINITY && right < INFINITY)) return false;
  return left == 0 || right == 0 || (left >= least && right >= least && left * right >= least);
}

/* A block of sums by floats, as FMA computes them. */
static void tiled_by_floats(float sums[PANEL * PANEL], struct Factor a, struct Factor b, size_t rows, size_t columns,
                            size_t kc) {
  memset(sums, 0, PANEL * PANEL * sizeof *sums);
  for (size_t k = 0; k < kc; k++) {
    for (size_t i = 0; i < rows; i++) {
      const float x = view_get(a.numbers, i * a.lane + k * a.step);
      for (size_t j = 0; j < columns; j++) sums[i * PANEL + j] += x * view_get(b.numbers, j * b.lane + k * b.step);
    }
  }
}

/* A thread's columns of B, packed; b_most: of its panels. */
INLINE void tiled_pack_own(const struct Gemm *gemm, uint32_t *b, float *b_most, struct Part part, const int parts) {
  if (gemm->scales != NULL) {
    const struct WeightsView weight = {INT8, gemm->b.numbers.data, gemm->scales};
    pack_panels_int8(b, weight, part.n, part.columns, part.k, part.kc, gemm->K);
  } else {
    pack_panels(b, factor_at(gemm->b, part.n, part.k), part.columns, part.kc, b_most, true, parts);
  }
}

/* A part of the result; own: scratch memory, and the place of columns that the thread packs for itself. */
INLINE void tiled_part(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, float *own,
                       struct Part part, const int parts) {
  const size_t steps = ceil_div(part.kc, PANEL_STEP), words = panel_words(part.kc, parts), N = gemm->N;
  const bool first = part.k == 0, last = part.k + part.kc == gemm->K;
  const size_t rows_a_step = ceil_div(PANEL, steps), step_words = (size_t)parts * 2 * PANEL_TILE;
  const struct Array lines = last ? gemm->out : array_of(gemm->sums);
  const size_t size = dtype_size(lines.dtype);
  float *blocks = own, *b_most = own + 3 * PANEL * PANEL + TILED_GROUP / sizeof(float);
  const size_t first_panel = (part.m - block.m) / PANEL;
  const float *a_most = block.packed + first_panel;
  const uint32_t *a = tiled_a(block) + first_panel * words;
  uint32_t *packed = (uint32_t *)(void *)(own + 3 * PANEL * PANEL);
  const uint32_t *b = claims->together ? tiled_b(block) + part.n / PANEL * words : packed;
  const bool streams = first && last && tiled_streams(gemm);
  struct TiledPending pending = {0};
  size_t turn = 0;
  if (!claims->together) tiled_pack_own(gemm, packed, b_most, part, parts);
  amx_fence();
  for (size_t i = 0; i < part.rows; i += PANEL) {
    for (size_t j = 0; j < part.columns; j += PANEL) {
      const size_t at = (part.m + i) * N + part.n + j;
      const size_t rows = size_min(PANEL, part.rows - i), columns = size_min(PANEL, part.columns - j);
      const uint32_t *left = a + i / PANEL * words, *right = b + j / PANEL * words;
      const bool fits = parts == 1 || tiled_fits(a_most[i / PANEL], b_most[j / PANEL]);
      /* Whole blocks of floats that need no finishing stay in the tiles all the way. */
      const bool direct = !streams && fits && rows == PANEL && columns == PANEL &&
                          (!last || (gemm->finish == STORE && gemm->bias == NULL && size == sizeof(float)));
      float *sums = blocks + (turn ^= 1) * PANEL * PANEL;
      if (direct && (!first || gemm->add)) tiled_load(gemm->sums + at, N);
      else tiled_zero();
      const char *line = (const char *)lines.data + at * size;
      size_t lines_left = streams ? 0 : rows;
      const size_t multiplied = fits ? steps : 0;
#pragma GCC unroll 1
      for (size_t s = 0; s < multiplied; s++, left += step_words, right += step_words) {
        tiled_step(left, right, s < TILED_STAY, parts);
        /* The way from tiles to memory falls asleep: after 2,000 cycles without a store, the next takes 700. */
        if (s % (parts == 1 ? 16 : 2) == 1) {
          amx_store(7, blocks + 2 * PANEL * PANEL, TILE_BYTES);
        }
        tiled_finish(gemm, &pending, rows_a_step);
        for (size_t r = 0; r < rows_a_step && lines_left > 0; r++, lines_left--, line += N * size) {
          __builtin_prefetch(line, 1);
          if (size == sizeof(float)) __builtin_prefetch(line + CACHE_LINE, 1);
        }
      }
      if (direct) {
        tiled_store(gemm->sums + at, N);
        continue;
      }
      tiled_finish(gemm, &pending, PANEL);
      if (fits) tiled_store(sums, PANEL);
      else tiled_by_floats(sums, factor_at(gemm->a, part.m + i, part.k), factor_at(gemm->b, part.n + j, part.k), rows,
                           columns, part.kc);
      const float *bias = gemm->bias != NULL ? gemm->bias + part.n + j : NULL;
      pending = (struct TiledPending){sums, bias, at, rows, columns, first, last, streams};
    }
  }
  tiled_finish(gemm, &pending, PANEL);
}

/* A thread's share of a block: panels of A, the sums of its lanes, and panels of B where all threads pack those. */
INLINE void tiled_pack_block(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, int thread,
                             int threads, const int parts) {
  const struct Factor a = factor_at(gemm->a, block.m, block.k);
  pack_panels_share(tiled_a(block), a, block.rows, block.kc, block.packed, false, parts > 1, thread, threads, parts);
  size_t lane, end;
  pool_part(block.rows, VL, thread, threads, &lane, &end);
  for (; gemm->lane_sums != NULL && lane < end; lane += LANES_SUMMED) {
    gemm_sum_lanes(gemm, block.m + lane, size_min(LANES_SUMMED, end - lane), block.k, block.kc);
  }
  if (claims->together) {
    const struct Factor b = factor_at(gemm->b, 0, block.k);
    pack_panels_share(tiled_b(block), b, gemm->N, block.kc, NULL, true, false, thread, threads, 1);
  }
}

INLINE void tiled_pack_pairs(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, int thread,
                             int threads) {
  tiled_pack_block(gemm, claims, block, thread, threads, 1);
}

/* A function of its own, so that its loop has all registers. */
__attribute__((noinline)) static void tiled_multiply_pairs(const struct Gemm *gemm, const struct ProductClaims *claims,
                                                           struct Block block, float *own, struct Part part) {
  tiled_part(gemm, claims, block, own, part, 1);
}

INLINE void tiled_pack_floats(const struct Gemm *gemm, const struct ProductClaims *claims, struct Block block, int thread,
                              int threads) {
  tiled_pack_block(gemm, claims, block, thread, threads, FLOAT_PARTS);
}

__attribute__((noinline)) static void tiled_multiply_floats(const struct Gemm *gemm, const struct ProductClaims *claims,
                                                            struct Block block, float *own, struct Part part) {
  tiled_part(gemm, claims, block, own, part, FLOAT_PARTS);
}

INLINE void product_tiles_run(const struct Gemm *gemm, PackBlock *pack_share_of, MultiplyPart *multiply, int thread, int threads,
                              const int parts) {
  const struct ProductClaims claims = tiled_claims(gemm->M, gemm->N, gemm->K, (size_t)threads, (size_t)parts,
                                                   gemm->scales != NULL, gemm_by_rows(gemm));
  amx_begin();
  gemm_run(gemm, &claims, tiled_block_floats(), pack_share_of, multiply, thread, threads);
  stores_end();
  amx_end();
}

static void product_tiles_task(void *argument, int thread, int threads) {
  const struct Gemm *gemm = argument;
  if (gemm->workers->dtype == BF16) {
    product_tiles_run(gemm, tiled_pack_pairs, tiled_multiply_pairs, thread, threads, 1);
  } else if (TILES == FLOAT_PARTS) {
    product_tiles_run(gemm, tiled_pack_floats, tiled_multiply_floats, thread, threads, FLOAT_PARTS);
  } else {
    gemm_task(argument, thread, threads);
  }
}
