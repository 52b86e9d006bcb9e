/* out (M, N) = finish(A (M, K) · B (K, N)): the product under every linear layer, forward and backward.
 *
 * Goto and van de Geijn 2008. Blocks of at most MC rows of A by KC steps are packed by all threads
 * together into one shared block. Then each thread claims columns of B, packs them a panel of NR at a
 * time, and runs the tile of MR x NR down the block while the panel lies in its second cache.
 *
 * The sum over K runs in blocks of KC, in order, each in one accumulator: which thread computes a tile,
 * and how the work was cut, changes nothing in its bits.
 */

enum { MC = 1024 / MR * MR };

enum Finish {
  STORE,            // out = product + bias
  RESIDUAL,         // out = product + bias + other
  GELU,             // out = gelu(product + bias), slope = gelu'(product + bias) unless NULL, as when decoding
  MULTIPLY,         // out = product * other
};

struct Gemm {
  const struct Workers *workers;
  struct Array out;       // (M, N)
  struct Factor a, b;     // A: lanes are rows; B: lanes are columns
  const float *scales;    // of B, where it is INT8: the rows of struct Weights
  size_t M, N, K;
  enum Finish finish;
  bool add;               // to what out holds
  bool upper;             // out (M, M) is symmetric: no more is needed of it than the diagonal and what is right of it
  const float *bias;      // (N) or NULL
  struct ArrayView other; // (M, N) or NULL: the residual, or the slope of GELU to multiply by
  struct Array slope;     // (M, N) or NULL: the slope of GELU to write
  float *sums;            // (M, N): collects what the blocks of K add; out itself if that holds floats
  float *lane_sums;       // (M) or NULL: A, which then holds floats, lanes neighbours, summed over K; `add` as for out
};

/* What a tile fetches while it multiplies: where its results go, what finishes them, the next panel of B. */
struct Fetches { struct Ahead out, other, panel; };

enum { FETCH_STEPS = 32 };

/* How often a tile of so many steps fetches. */
INLINE size_t fetch_times(size_t steps) { return size_max(1, steps / FETCH_STEPS); }

/* acc (MR, columns) += a (steps, MR)ᵀ · b (steps, columns), both panels; columns fill so many vectors. */
INLINE void gemm_steps(vf acc[MR][NRV], const float *a, const float *b, size_t steps, const size_t vectors,
                       const bool pairs) {
  for (size_t s = 0; s < steps; s++, a += MR, b += vectors * VL) {
    vf b_row[NRV];
#pragma GCC unroll 4
    for (size_t j = 0; j < vectors; j++) b_row[j] = vload(b + j * VL);
#pragma GCC unroll 16
    for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
      for (size_t j = 0; j < vectors; j++) {
        if (pairs) acc[i][j] = vadd_pairs(acc[i][j], vsplat_word(a + i), b_row[j]);
        else acc[i][j] += a[i] * b_row[j];
      }
    }
  }
}

INLINE void tile_zero(vf acc[MR][NRV]) {
#pragma GCC unroll 16
  for (int i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (int j = 0; j < NRV; j++) acc[i][j] = (vf){0};
  }
}

INLINE void gemm_tile(vf acc[MR][NRV], const float *a, const float *b, size_t steps, const size_t vectors,
                      const bool pairs) {
  tile_zero(acc);
  if (QUADS && pairs) gemm_steps_quads(acc, a, b, steps, vectors), tile_turn_quads(acc);
  else gemm_steps(acc, a, b, steps, vectors, pairs);
}

/* A tile of the product, and now and then a few of the lines that will be wanted next. */
INLINE void gemm_tile_fetching(vf acc[MR][NRV], const float *a, const float *b, size_t steps, struct Fetches *fetches,
                               const bool pairs) {
  tile_zero(acc);
  for (; steps >= FETCH_STEPS; steps -= FETCH_STEPS, a += FETCH_STEPS * MR, b += FETCH_STEPS * NR) {
    ahead_fetch(&fetches->out), ahead_fetch(&fetches->other), ahead_fetch(&fetches->panel);
    if (QUADS && pairs) gemm_steps_quads(acc, a, b, FETCH_STEPS, NRV);
    else gemm_steps(acc, a, b, FETCH_STEPS, NRV, pairs);
  }
  if (QUADS && pairs) gemm_steps_quads(acc, a, b, steps, NRV), tile_turn_quads(acc);
  else gemm_steps(acc, a, b, steps, NRV, pairs);
}

/* Rows of the tile lie N numbers apart in an array, from element `at` on. */
INLINE void tile_add(vf acc[MR][NRV], struct ArrayView from, size_t at, size_t N) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) acc[i][j] += vload_array(from, at + i * N + j * VL);
  }
}

INLINE void tile_add_row(vf acc[MR][NRV], const float *row) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) acc[i][j] += vload(row + j * VL);
  }
}

INLINE void tile_multiply(vf acc[MR][NRV], struct ArrayView by, size_t at, size_t N) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) acc[i][j] *= vload_array(by, at + i * N + j * VL);
  }
}

INLINE void tile_gelu(vf acc[MR][NRV]) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) acc[i][j] = gelu_value(acc[i][j]);
  }
}

/* GELU and, while its exponential is at hand, its slope. */
INLINE void tile_gelu_slope(vf acc[MR][NRV], struct Array slope, size_t at, size_t N) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) {
      const vf x = acc[i][j], logistic = gelu_logistic(x);
      acc[i][j] = x * logistic;
      vstore_array(slope, at + i * N + j * VL, gelu_slope(x, logistic));
    }
  }
}

INLINE void tile_store(struct Array to, size_t at, size_t N, vf acc[MR][NRV]) {
#pragma GCC unroll 16
  for (size_t i = 0; i < MR; i++) {
#pragma GCC unroll 4
    for (size_t j = 0; j < NRV; j++) vstore_array(to, at + i * N + j * VL, acc[i][j]);
  }
}

/* A tile on its way out, to row and column that begin at element `at`. Each stage passes over all of it:
 * one decision for a tile, and the sums stay in registers. */
INLINE void gemm_finish(const struct Gemm *gemm, vf acc[MR][NRV], size_t at, size_t N, const float *bias,
                        bool first, bool last) {
  if (!first || gemm->add) tile_add(acc, view_of(gemm->sums), at, N);
  if (!last) {
    tile_store(array_of(gemm->sums), at, N, acc);
    return;
  }
  if (bias != NULL) tile_add_row(acc, bias);
  switch (gemm->finish) {
    case STORE: break;
    case RESIDUAL: tile_add(acc, gemm->other, at, N); break;
    case GELU:
      if (gemm->slope.data != NULL) tile_gelu_slope(acc, gemm->slope, at, N);
      else tile_gelu(acc);
      break;
    case MULTIPLY: tile_multiply(acc, gemm->other, at, N); break;
  }
  tile_store(gemm->out, at, N, acc);
}

/* The same for a tile that hangs over the edge, of which only rows and columns exist: they are copied into
 * a tile of floats, finished there, and copied back. */
static void gemm_finish_edge(const struct Gemm *gemm, const float *tile, size_t at, const float *bias,
                             size_t rows, size_t columns, bool first, bool last) {
  float out[MR * NR] = {0}, other[MR * NR] = {0}, slope[MR * NR] = {0}, sums[MR * NR] = {0}, bias_row[NR] = {0};
  vf acc[MR][NRV];
  tile_zero(acc);
  tile_add(acc, view_of(tile), 0, NR);
  struct Gemm edge = *gemm;
  edge.out = array_of(out), edge.sums = sums;
  edge.other = view_of(other);
  if (gemm->slope.data != NULL) edge.slope = array_of(slope);
  if (bias != NULL) bias = memcpy(bias_row, bias, columns * sizeof(float));
  for (size_t i = 0; i < rows; i++) {
    for (size_t j = 0; j < columns; j++) {
      const size_t from = at + i * gemm->N + j;
      if (!first || gemm->add) sums[i * NR + j] = gemm->sums[from];
      if (last && (gemm->finish == RESIDUAL || gemm->finish == MULTIPLY)) {
        other[i * NR + j] = view_get(gemm->other, from);
      }
    }
  }
  gemm_finish(&edge, acc, 0, NR, bias, first, last);
  for (size_t i = 0; i < rows; i++) {
    for (size_t j = 0; j < columns; j++) {
      const size_t to = at + i * gemm->N + j;
      if (last) array_set(gemm->out, to, out[i * NR + j]);
      else gemm->sums[to] = sums[i * NR + j];
      if (last && gemm->slope.data != NULL) array_set(gemm->slope, to, slope[i * NR + j]);
    }
  }
}

/* What one claim covers: rows of the packed block, columns of the result. */
struct Part {
  size_t m, rows, n, columns;
  size_t k, kc;
};

/* The sums of a part, rows `stride` floats apart, on their way out tile by tile. */
INLINE void gemm_finish_strip(const struct Gemm *gemm, const float *sums, size_t stride, struct Part part) {
  const bool first = part.k == 0, last = part.k + part.kc == gemm->K;
  for (size_t i = 0; i < part.rows; i += MR) {
    for (size_t j = 0; j < part.columns; j += NR) {
      const float *bias = gemm->bias != NULL ? gemm->bias + part.n + j : NULL, *from = sums + i * stride + j;
      const size_t at = (part.m + i) * gemm->N + part.n + j;
      const size_t height = size_min(MR, part.rows - i), width = size_min(NR, part.columns - j);
      if (height == MR && width == NR) {
        vf acc[MR][NRV];
        tile_zero(acc);
        tile_add(acc, view_of(from), 0, stride);
        gemm_finish(gemm, acc, at, gemm->N, bias, first, last);
        continue;
      }
      float edge[MR * NR] = {0};
      for (size_t r = 0; r < height; r++) memcpy(edge + r * NR, from + r * stride, width * sizeof *edge);
      gemm_finish_edge(gemm, edge, at, bias, height, width, first, last);
    }
  }
}

/* Columns n … n + columns of the part, at most NR of them: both factors are packed. */
INLINE void gemm_panel(const struct Gemm *gemm, const float *a, const float *b, struct Part part,
                       struct Ahead next, const bool pairs) {
  const bool first = part.k == 0, last = part.k + part.kc == gemm->K;
  const size_t steps = pack_steps(part.kc, gemm->workers->dtype), times = fetch_times(steps);
  const float *bias = gemm->bias != NULL ? gemm->bias + part.n : NULL;
  struct Fetches fetches = {.panel = next};
  for (size_t i = 0; i < part.rows; i += MR) {
    const size_t at = (part.m + i) * gemm->N + part.n, rows = size_min(MR, part.rows - i);
    vf acc[MR][NRV];
    const struct ArrayView out = last ? view(gemm->out) : view_of(gemm->sums);
    fetches.out = ahead_of_rows(out, at, rows, gemm->N, part.columns, times);
    const struct ArrayView other = gemm->slope.data != NULL ? view(gemm->slope) : gemm->other;
    if (last && other.data != NULL) {
      fetches.other = ahead_of_rows(other, at, rows, gemm->N, part.columns, times);
    }
    gemm_tile_fetching(acc, a + i * steps, b, steps, &fetches, pairs);
    if (rows == MR && part.columns == NR) {
      gemm_finish(gemm, acc, at, gemm->N, bias, first, last);
    } else {
      /* A copy: sums whose address were known elsewhere could not stay in registers between the fetches. */
      float edge[MR * NR];
      tile_store(array_of(edge), 0, NR, acc);
      gemm_finish_edge(gemm, edge, at, bias, rows, part.columns, first, last);
    }
  }
}

INLINE void gemm_pack_int8(const struct Gemm *gemm, float *b, struct Part part) {
  const struct WeightsView weight = {INT8, gemm->b.numbers.data, gemm->scales};
  pack_int8(b, weight, part.n, part.columns, part.k, part.kc, gemm->K, gemm->workers->dtype);
}

static void gemm_part(const struct Gemm *gemm, const float *a, float *b, struct Part part) {
  const bool pairs = pack_word(gemm->workers->dtype) > 1;
  const size_t tiles = ceil_div(part.rows, MR), steps = pack_steps(part.kc, gemm->workers->dtype);
  const size_t end = part.n + part.columns;
  for (const size_t rows = part.rows; part.n < end; part.n += NR) {
    const size_t next = part.n + NR;
    if (gemm->upper && next <= part.m) continue;
    if (gemm->upper) part.rows = size_min(rows, next - part.m);
    struct Ahead ahead = {0};
    if (next < end) {
      ahead = ahead_of_factor(factor_at(gemm->b, next, part.k), size_min(NR, end - next), part.kc,
                              tiles * fetch_times(steps));
    }
    part.columns = size_min(NR, end - part.n);
    if (gemm->scales != NULL) gemm_pack_int8(gemm, b, part);
    else pack_right(b, factor_at(gemm->b, part.n, part.k), part.columns, part.kc, gemm->workers->dtype);
    if (PAIRS && pairs) gemm_panel(gemm, a, b, part, ahead, true);
    else gemm_panel(gemm, a, b, part, ahead, false);
  }
}

enum { LANES_SUMMED = 64 / MR * MR };

/* At most LANES_SUMMED lanes of A, summed over numbers k … k + kc. */
INLINE void gemm_sum_lanes(const struct Gemm *gemm, size_t lane, size_t lanes, size_t k, size_t kc) {
  float sums[LANES_SUMMED] = {0};
  if (gemm->add || k > 0) memcpy(sums, gemm->lane_sums + lane, lanes * sizeof *sums);
  const float *row = factor_at(gemm->a, lane, k).numbers.data;
  for (size_t s = 0; s < kc; s++, row += gemm->a.step) {
    for (size_t l = 0; l < lanes; l++) sums[l] += row[l];
  }
  memcpy(gemm->lane_sums + lane, sums, lanes * sizeof *sums);
}
