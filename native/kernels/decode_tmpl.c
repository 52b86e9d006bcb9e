/* out (M, N) = finish(inp (M, K) · weightᵀ + bias) for the few rows of decoding, from weights of any type.
 *
 * Reading the weights is what it costs: they come once, straight ahead, for all rows. Where they are not
 * floats, the input is rewritten first as it will be multiplied, by all threads together. Every output is
 * one vector of sums down K, added up in one order: neither the other rows nor the threads change its bits.
 */

enum {
  DECODE_M = 4,                          // rows of a tile
  DECODE_N = MR * NRV >= 16 ? 4 : 2,     // outputs of a tile: as many sums as stay in registers
  DECODE_UNROLL = 4,                     // steps
  DECODE_AHEAD = 8192,                   // bytes
  DECODE_CLAIMS = 4,                     // for a thread
};

struct DecodeTask {
  const struct Workers *workers;
  struct DecodeLinear a;
  float *prepared;        // (M, row): the input as it is multiplied, unless the weights are floats
  size_t row;             // floats
};

/* Numbers of a row that one step of a sum takes, and the floats that they are prepared in. */
INLINE size_t decode_step(const enum Dtype dtype) { return dtype == FP32 ? VL : dtype == BF16 ? 2 * VL : GROUP; }
INLINE size_t decode_step_floats(const enum Dtype dtype) {
  return dtype == INT8 ? (GROUP_PARTS + GROUP_CORRECTED + 1) * VL : VL;
}

static size_t decode_row_floats(enum Dtype dtype, size_t K) {
  return ceil_div(K, decode_step(dtype)) * decode_step_floats(dtype);
}

/* One step of the input. INT8: the bytes, what their sums start at, and the scale of each lane's block. */
static void decode_prepare_step(float *to, const float *from, size_t count, enum Dtype dtype) {
  if (dtype == BF16) {
    float padded[2 * VL] = {0};
    if (count < 2 * VL) from = memcpy(padded, from, count * sizeof(float));
    vstore_array((struct Array){to, BF16}, 0, vload(from));
    vstore_array((struct Array){to, BF16}, VL, vload(from + VL));
    return;
  }
  int8_t bytes[GROUP] = {0};
  float scales[GROUP_BLOCKS] = {0};
  for (size_t i = 0; i * WEIGHTS_BLOCK < count; i++) {
    const size_t begin = i * WEIGHTS_BLOCK;
    scales[i] = block_quantise(bytes + begin, from + begin, size_min(WEIGHTS_BLOCK, count - begin));
  }
  const struct Group group = group_load(bytes);
  memcpy(to, &group, sizeof group);
  to += GROUP_PARTS * VL;
  if (GROUP_CORRECTED) vstore(to, (vf)group_correction(group)), to += VL;
  vstore(to, group_scale(scales, true));
}

static void decode_prepare(const struct DecodeTask *d, int thread, int threads) {
  const enum Dtype dtype = d->a.weight.dtype;
  const size_t step = decode_step(dtype), steps = ceil_div(d->a.K, step);
  size_t begin, end;
  pool_part(d->a.M * steps, 1, thread, threads, &begin, &end);
  for (size_t i = begin; i < end; i++) {
    const size_t k = i % steps * step;
    decode_prepare_step(d->prepared + i * decode_step_floats(dtype), d->a.inp + i / steps * d->a.K + k,
                        size_min(step, d->a.K - k), dtype);
  }
}

/* A step of a row of weights. */
struct DecodeWeights {
  vf words;            // floats or pairs
  struct Group group;  // INT8
  vf scale;
};

/* Step s of row n; of the row's last step only `count` numbers are there. */
INLINE struct DecodeWeights decode_load(const struct DecodeTask *d, size_t n, size_t s, size_t count,
                                        const enum Dtype dtype) {
  struct DecodeWeights w = {0};
  const size_t step = decode_step(dtype), size = dtype_size(dtype);
  const char *from = (const char *)d->a.weight.data + n * d->a.K * size + s * step * size;
  char padded[GROUP * sizeof(float)] = {0};
  if (count < step) from = memcpy(padded, from, count * size);
  if (dtype != INT8) {
    w.words = vload((const float *)(const void *)from);
    return w;
  }
  w.group = group_load((const int8_t *)from);
  w.scale = group_scale(d->a.weight.scales + n * weights_blocks(d->a.K) + s * GROUP_BLOCKS, count > WEIGHTS_BLOCK);
  return w;
}

/* sum + a step of weights times step s of row m of the input */
INLINE vf decode_add(vf sum, struct DecodeWeights w, const struct DecodeTask *d, size_t m, size_t s, size_t count,
                     const enum Dtype dtype) {
  if (dtype == FP32) {
    const float *x = d->a.inp + m * d->a.K + s * VL;
    return sum + w.words * (count == VL ? vload(x) : vload_part(x, count, 0));
  }
  const float *x = d->prepared + m * d->row + s * decode_step_floats(dtype);
  if (dtype == BF16) return vadd_pairs(sum, w.words, vload(x));
  struct Group group;
  memcpy(&group, x, sizeof group);
  x += GROUP_PARTS * VL;
  vi correction = {0};
  if (GROUP_CORRECTED) correction = (vi)vload(x), x += VL;
  return sum + __builtin_convertvector(group_dot(w.group, group, correction), vf) * (w.scale * vload(x));
}

INLINE void decode_steps(vf sum[DECODE_N][DECODE_M], const struct DecodeTask *d, size_t n, size_t m, size_t s,
                         size_t count, const size_t rows, const size_t outputs, const enum Dtype dtype) {
#pragma GCC unroll 8
  for (size_t i = 0; i < outputs; i++) {
    const struct DecodeWeights w = decode_load(d, n + i, s, count, dtype);
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
  for (; dtype != INT8 && s + DECODE_UNROLL <= whole; s += DECODE_UNROLL) {
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
    /* A step of INT8 takes so many instructions that the CPU does not look far enough ahead by itself. Into the
     * second cache: what the first one waits for at a time is less than memory needs to be kept busy. */
    else if (dtype == INT8) {
      __builtin_prefetch((const char *)d->a.weight.data + n * d->a.K + s * step + DECODE_AHEAD, 0, 2);
    }
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
  if (d->a.weight.dtype != FP32) {
    decode_prepare(d, thread, threads);
    pool_barrier(d->workers->pool);
  }
  switch (d->a.weight.dtype) {
    case FP32: decode_run(d, FP32); break;
    case BF16: decode_run(d, BF16); break;
    case INT8: decode_run(d, INT8); break;
  }
}

/* A prompt: the product of training, whose packing knows INT8 too. */
static void prompt_linear(const struct Workers *given, struct DecodeLinear a) {
  static const enum Finish finishes[] = {[DECODE_STORE] = STORE, [DECODE_ADD] = STORE, [DECODE_GELU] = GELU};
  const enum Dtype dtype = a.weight.dtype;
  struct Workers workers = *given;
  workers.dtype = dtype == BF16 || ((PAIRS || TILES > 0) && dtype == INT8) ? BF16 : FP32;
  struct Gemm gemm = {
      .workers = &workers, .out = array_of(a.out), .a = {view_of(a.inp), a.K, 1},
      .b = {{a.weight.data, dtype}, a.K, 1}, .scales = dtype == INT8 ? a.weight.scales : NULL,
      .M = a.M, .N = a.N, .K = a.K, .bias = a.bias, .finish = finishes[a.finish], .add = a.finish == DECODE_ADD,
      .sums = a.out};
  pool_run(workers.pool, "prompt_linear", product_task, &gemm);
}

static size_t shared_floats(size_t largest);

static void decode_linear(const struct Workers *workers, struct DecodeLinear a) {
  struct DecodeTask d = {workers, a, workers->shared, 0};
  if (a.M > DECODE_ROWS) {
    prompt_linear(workers, a);
    return;
  }
  /* As many rows at a time as the scratch memory has room for: all of them, unless K is tens of thousands. */
  d.row = decode_row_floats(a.weight.dtype, a.K);
  const size_t room = a.weight.dtype == FP32 ? a.M : shared_floats(a.K) / d.row;
  for (size_t m = 0; m < a.M; m += d.a.M) {
    d.a.M = size_min(room, a.M - m), d.a.out = a.out + m * a.N, d.a.inp = a.inp + m * a.K;
    pool_run(workers->pool, "decode_linear", decode_linear_task, &d);
  }
}

/* ---- making the weights -------------------------------------------------------------------------- */

struct WeightsStore {
  struct Weights out;
  const float *weight;
  size_t N, K;
};

static void weights_store_task(void *argument, int thread, int threads) {
  const struct WeightsStore *store = argument;
  const size_t K = store->K, blocks = weights_blocks(K);
  size_t begin, end;
  pool_part(store->N, 1, thread, threads, &begin, &end);
  for (size_t n = begin; n < end; n++) {
    const float *from = store->weight + n * K;
    size_t k = 0;
    if (store->out.dtype != INT8) {
      const struct Array to = {store->out.data, store->out.dtype};
      for (; k + VL <= K; k += VL) vstore_array(to, n * K + k, vload(from + k));
      for (; k < K; k++) array_set(to, n * K + k, from[k]);
    }
    for (size_t block = 0; k < K; k += WEIGHTS_BLOCK, block++) {
      int8_t bytes[WEIGHTS_BLOCK];
      const size_t count = size_min(WEIGHTS_BLOCK, K - k);
      store->out.scales[n * blocks + block] = block_quantise(bytes, from + k, count);
      memcpy((int8_t *)store->out.data + n * K + k, bytes, count);
    }
  }
}

static void weights_store(const struct Workers *workers, struct Weights out, const float *weight, size_t N,
                          size_t K) {
  pool_run(workers->pool, "weights_store", weights_store_task, &(struct WeightsStore){out, weight, N, K});
}
