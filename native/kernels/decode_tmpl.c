/* out (M, N) = finish(inp (M, K) · weightᵀ + bias) for the few rows of decoding, from floats or BF16.
 *
 * Reading the weights is what it costs: they come once, straight ahead, for all rows. For BF16 the input is
 * rewritten first as it will be multiplied, by all threads together. Every output is one vector of sums down
 * K, added up in one order: neither the other rows nor the threads change its bits.
 */

enum {
  DECODE_M = 4,                          // rows of a tile
  DECODE_N = MR * NRV >= 16 ? 4 : 2,     // outputs of a tile: as many sums as stay in registers
  DECODE_UNROLL = 4,                     // steps
  DECODE_CLAIMS = 4,                     // for a thread
};

struct DecodeTask {
  const struct Workers *workers;
  struct DecodeLinear a;
  float *prepared;        // (M, row): the input as it is multiplied, unless the weights are floats
  size_t row;             // floats
};

/* Numbers of a row that one step of a sum takes. */
INLINE size_t decode_step(const enum Dtype dtype) { return dtype == FP32 ? VL : 2 * VL; }

/* Of a row as BF16. */
static size_t decode_row_floats(size_t K) { return ceil_div(K, decode_step(BF16)) * VL; }

/* One step of the input as BF16. */
static void decode_prepare_step(float *to, const float *from, size_t count) {
  float padded[2 * VL] = {0};
  if (count < 2 * VL) from = memcpy(padded, from, count * sizeof(float));
  vstore_array((struct Array){to, BF16}, 0, vload(from));
  vstore_array((struct Array){to, BF16}, VL, vload(from + VL));
}

static void decode_prepare(const struct DecodeTask *d, int thread, int threads) {
  const size_t step = decode_step(BF16), steps = ceil_div(d->a.K, step);
  size_t begin, end;
  pool_part(d->a.M * steps, 1, thread, threads, &begin, &end);
  for (size_t i = begin; i < end; i++) {
    const size_t k = i % steps * step;
    decode_prepare_step(d->prepared + i * VL, d->a.inp + i / steps * d->a.K + k, size_min(step, d->a.K - k));
  }
}

/* Step s of row n of the weights; of the row's last step only `count` numbers are there. */
INLINE vf decode_load(const struct DecodeTask *d, size_t n, size_t s, size_t count, const enum Dtype dtype) {
  const size_t step = decode_step(dtype), size = dtype_size(dtype);
  const char *from = (const char *)d->a.weight.data + n * d->a.K * size + s * step * size;
  char padded[VL * sizeof(float)] = {0};
  if (count < step) from = memcpy(padded, from, count * size);
  return vload((const float *)(const void *)from);
}

/* sum + a step of weights times step s of row m of the input */
INLINE vf decode_add(vf sum, vf weights, const struct DecodeTask *d, size_t m, size_t s, size_t count,
                     const enum Dtype dtype) {
  if (dtype == BF16) return vadd_pairs(sum, weights, vload(d->prepared + m * d->row + s * VL));
  const float *x = d->a.inp + m * d->a.K + s * VL;
  return sum + weights * (count == VL ? vload(x) : vload_part(x, count, 0));
}

INLINE void decode_steps(vf sum[DECODE_N][DECODE_M], const struct DecodeTask *d, size_t n, size_t m, size_t s,
                         size_t count, const size_t rows, const size_t outputs, const enum Dtype dtype) {
#pragma GCC unroll 8
  for (size_t i = 0; i < outputs; i++) {
    const vf w = decode_load(d, n + i, s, count, dtype);
#pragma GCC unroll 8
    for (size_t j = 0; j < rows; j++) sum[i][j] = decode_add(sum[i][j], w, d, m + j, s, count, dtype);
  }
}

/* The weights of the next outputs, a part of them with every tile, so that the first of its tiles does not wait. */
struct DecodeAhead {
  const char *line, *end;
  size_t share;  // bytes to fetch with a step
};

INLINE void decode_fetch(struct DecodeAhead *ahead, size_t steps) {
  for (size_t fetched = 0; fetched < steps * ahead->share && ahead->line < ahead->end; fetched += CACHE_LINE) {
    __builtin_prefetch(ahead->line, 0, 2);
    ahead->line += CACHE_LINE;
  }
}

/* part[j][at + i] = the vector whose sum is row m + j of the input times row n + i of the weights */
INLINE void decode_tile(vf part[DECODE_M][VL], size_t at, const struct DecodeTask *d, size_t n, size_t m,
                        struct DecodeAhead *ahead, const size_t rows, const size_t outputs, const enum Dtype dtype) {
  vf sum[DECODE_N][DECODE_M] = {0};
  const size_t step = decode_step(dtype), whole = d->a.K / step;
  size_t s = 0;
  for (; s + DECODE_UNROLL <= whole; s += DECODE_UNROLL) {
    if (rows == 1) {
#pragma GCC unroll 4
      for (size_t u = 0; u < DECODE_UNROLL; u++) decode_steps(sum, d, n, m, s + u, step, rows, outputs, dtype);
    } else {
      /* Not unrolled: what four steps read would take the registers of the sums. */
      decode_fetch(ahead, DECODE_UNROLL);
#pragma GCC unroll 1
      for (size_t u = 0; u < DECODE_UNROLL; u++) decode_steps(sum, d, n, m, s + u, step, rows, outputs, dtype);
    }
  }
  for (; s < whole; s++) {
    if (rows > 1) decode_fetch(ahead, 1);
    decode_steps(sum, d, n, m, s, step, rows, outputs, dtype);
  }
  if (whole * step < d->a.K) decode_steps(sum, d, n, m, whole, d->a.K - whole * step, rows, outputs, dtype);
#pragma GCC unroll 8
  for (size_t i = 0; i < outputs; i++) {
#pragma GCC unroll 8
    for (size_t j = 0; j < rows; j++) part[j][at + i] = sum[i][j];
  }
}

/* Outputs n … n + count of row m from their sums. */
INLINE void decode_finish(const struct DecodeTask *d, vf x, size_t n, size_t m, size_t count) {
  float *out = d->a.out + m * d->a.N + n;
  const bool whole = count == VL;
  if (d->a.bias != NULL) x += whole ? vload(d->a.bias + n) : vload_part(d->a.bias + n, count, 0);
  if (d->a.finish == DECODE_ADD) x += whole ? vload(out) : vload_part(out, count, 0);
  if (d->a.finish == DECODE_GELU) x = gelu_value(x);
  if (whole) vstore(out, x);
  else vstore_part(out, x, count);
}

/* Outputs n … n + count of `rows` rows of the input from row m on. */
INLINE void decode_outputs(const struct DecodeTask *d, size_t n, size_t count, size_t m, struct DecodeAhead *ahead,
                           const size_t rows, const enum Dtype dtype) {
  vf part[DECODE_M][VL];
  size_t i = 0;
  /* One row is bound by memory alone, which is fastest read straight ahead. */
  for (; rows > 1 && i + DECODE_N <= count; i += DECODE_N) {
    decode_tile(part, i, d, n + i, m, ahead, rows, DECODE_N, dtype);
  }
  for (; i < count; i++) decode_tile(part, i, d, n + i, m, ahead, rows, 1, dtype);
  for (size_t j = 0; j < rows; j++) {
    for (i = count; i < VL; i++) part[j][i] = (vf){0};
    decode_finish(d, vsums(part[j]), n, m + j, count);
  }
}

INLINE void decode_run(const struct DecodeTask *d, const enum Dtype dtype) {
  struct Pool *pool = d->workers->pool;
  /* A few long stretches for every thread: each begins with a wait, and the last one should not be long. */
  const size_t claim = round_up(ceil_div(d->a.N, DECODE_CLAIMS * (size_t)pool_threads(pool)), 16);
  const size_t row = d->a.K * dtype_size(dtype), steps = ceil_div(d->a.K, decode_step(dtype));
  const size_t tiles = ceil_div(d->a.M, DECODE_M) * ceil_div(VL, DECODE_N);
  const char *data = d->a.weight.data;
  for (size_t n; (n = pool_claim(pool) * claim) < d->a.N;) {
    const size_t end = size_min(n + claim, d->a.N);
    for (size_t i = n; i < end; i += VL) {
      const size_t count = size_min(VL, end - i), next = size_min(i + VL, d->a.N);
      struct DecodeAhead ahead = {.line = data + next * row, .end = data + size_min(next + VL, d->a.N) * row,
                                  .share = ceil_div(VL * row, tiles * steps)};
      size_t m = 0;
      for (; m + DECODE_M <= d->a.M; m += DECODE_M) decode_outputs(d, i, count, m, &ahead, DECODE_M, dtype);
      switch (d->a.M - m) {
        case 1: decode_outputs(d, i, count, m, &ahead, 1, dtype); break;
        case 2: decode_outputs(d, i, count, m, &ahead, 2, dtype); break;
        case 3: decode_outputs(d, i, count, m, &ahead, 3, dtype); break;
      }
    }
  }
}

static void decode_linear_task(void *argument, int thread, int threads) {
  const struct DecodeTask *d = argument;
  if (d->a.weight.dtype == FP32) {
    decode_run(d, FP32);
    return;
  }
  decode_prepare(d, thread, threads);
  pool_barrier(d->workers->pool);
  decode_run(d, BF16);
}
