/* Strips: so many vectors wide, a lane for each query or key of attention; their products and their way to memory. */

/* Vectors in each of the strips that n lanes are cut into: as few strips as can be, all of one width. */
_Static_assert(NRV == 2 || NRV == 3, "strip_product and pack_strip know strips of one, two and NRV vectors");
INLINE size_t strip_vectors(size_t n) { return ceil_div(ceil_div(n, ceil_div(n, NR)), VL); }

/* Lengths of the packed blocks, all lanes filled up: rows of T and of HS as left or right factor. */
INLINE size_t rows_left(size_t n) { return round_up(n, MR); }
INLINE size_t rows_right(size_t n) { return round_up(n, strip_vectors(n) * VL); }

enum { TURNED = 8 };  // strip_store_turned reads and turns so many numbers, some of them past a strip's end

/* What the factors are packed as. */
INLINE enum Dtype factors_as(const bool pairs) { return pairs ? BF16 : FP32; }

/* Steps of a product over n numbers, and the most of any type. */
INLINE size_t steps_of(size_t n, const bool pairs) { return pack_steps(n, factors_as(pairs)); }
INLINE size_t steps_most(size_t n) { return size_max(n, steps_of(n, true)); }

INLINE void strip_product_of(float *dst, const float *left, const float *right, size_t rows, size_t steps, bool add,
                             const size_t vectors, const bool pairs) {
  for (size_t i = 0; i < rows; i += MR) {
    vf acc[MR][NRV];
    gemm_tile(acc, left + i * steps, right, steps, vectors, pairs);
#pragma GCC unroll 16
    for (size_t r = 0; r < MR; r++) {
#pragma GCC unroll 4
      for (size_t v = 0; v < vectors; v++) {
        float *at = dst + ((i + r) * vectors + v) * VL;
        vstore(at, add ? acc[r][v] + vload(at) : acc[r][v]);
      }
    }
  }
}

INLINE void strip_product_as(float *dst, const float *left, const float *right, size_t rows, size_t steps, bool add,
                             size_t vectors, const bool pairs) {
  switch (vectors) {
    case 1: strip_product_of(dst, left, right, rows, steps, add, 1, pairs); break;
    case 2: strip_product_of(dst, left, right, rows, steps, add, 2, pairs); break;
    default: strip_product_of(dst, left, right, rows, steps, add, NRV, pairs); break;
  }
}

/* dst (rows, columns) = or += left panels (kc, rows) times one right panel (kc, columns); columns fill the vectors.
 * A panel of the left factor is as deep as the product, or deeper where there is only one. */
static void strip_product(float *dst, const float *left, const float *right, size_t rows, size_t kc, bool add,
                          size_t vectors, bool pairs) {
  if (PAIRS && pairs) strip_product_as(dst, left, right, rows, steps_of(kc, true), add, vectors, true);
  else strip_product_as(dst, left, right, rows, kc, add, vectors, false);
}

INLINE vi lane_numbers(size_t from) {
  vi lane = {0};
  for (int i = 0; i < VL; i++) lane[i] = (int32_t)from + i;
  return lane;
}

/* Up to eight rows of so many numbers each, from as many rows of eight. */
INLINE void strip_block_turned(struct Array dst, size_t stride, const float *strip, size_t width, size_t rows,
                               const size_t columns) {
  v8 row[TURNED];
#pragma GCC unroll 8
  for (size_t r = 0; r < TURNED; r++) row[r] = r < columns ? v8_load(strip + r * width, TURNED) : (v8){0};
  transpose8(row);
#pragma GCC unroll 8
  for (size_t r = 0; r < TURNED; r++) {
    if (r >= rows) break;
    const struct Array to = array_at(dst, r * stride);
    const h8 halves = narrow8(row[r]);
    if (dst.dtype == FP32) memcpy(to.data, &row[r], columns * sizeof row[r][0]);
    else memcpy(to.data, &halves, columns * sizeof halves[0]);
  }
}

/* Row t, column i of dst (rows, n) is column t, row i of the strip (n, width): the way back to memory order. */
static void strip_store_turned(struct Array dst, size_t stride, const float *strip, size_t width, size_t rows,
                               size_t n) {
  for (size_t t = 0; t < rows; t += TURNED) {
    for (size_t i = 0; i < n; i += TURNED) {
      const struct Array to = array_at(dst, t * stride + i);
      const float *from = strip + i * width + t;
      if (n - i >= TURNED) strip_block_turned(to, stride, from, width, rows - t, TURNED);
      else strip_block_turned(to, stride, from, width, rows - t, n - i);
    }
  }
}

/* Rows of one head of queries, keys or values from row t0 on, to be packed: a lane is a row, or with
 * `turned` a column. */
INLINE struct Factor head_rows(struct ArrayView head, size_t stride, size_t t0, bool turned) {
  head = view_at(head, t0 * stride);
  return turned ? (struct Factor){head, 1, stride} : (struct Factor){head, stride, 1};
}
