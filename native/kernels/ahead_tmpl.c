/* Memory that will be wanted soon, asked for a little at a time while the CPU multiplies. */

enum { CACHE_LINE = 64 };

/* Cache lines that will be wanted soon, in the order of memory: a few are asked for at a time, so that those of
 * the product itself never wait behind them. */
struct Ahead {
  const char *line;
  size_t stride, left;       // bytes from one run of lines to the next, runs left
  size_t length, at, share;  // bytes of a run, how far it is, bytes to ask for at a time
};

INLINE struct Ahead ahead_of(const void *first, size_t runs, size_t stride, size_t length, size_t times) {
  const size_t bytes = runs * round_up(length, CACHE_LINE);
  return (struct Ahead){.line = first, .stride = stride, .left = runs, .length = length,
                        .share = ceil_div(bytes, times)};
}

INLINE struct Ahead ahead_of_rows(struct ArrayView array, size_t at, size_t rows, size_t N, size_t columns,
                                  size_t times) {
  const size_t size = dtype_size(array.dtype);
  return ahead_of(view_at(array, at).data, rows, N * size, columns * size, times);
}

INLINE struct Ahead ahead_of_factor(struct Factor f, size_t lanes, size_t kc, size_t times) {
  const size_t size = dtype_size(f.numbers.dtype);
  if (f.step == 1) return ahead_of(f.numbers.data, lanes, f.lane * size, kc * size, times);
  return ahead_of(f.numbers.data, kc, f.step * size, lanes * size, times);
}

INLINE void ahead_fetch(struct Ahead *ahead) {
  for (size_t fetched = 0; fetched < ahead->share && ahead->left > 0; fetched += CACHE_LINE) {
    __builtin_prefetch(ahead->line + ahead->at);
    ahead->at += CACHE_LINE;
    if (ahead->at >= ahead->length) ahead->at = 0, ahead->line += ahead->stride, ahead->left--;
  }
}
