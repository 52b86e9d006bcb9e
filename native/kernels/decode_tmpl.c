/* out (M, N) = finish(inp (M, K) · weightᵀ + bias) for the few rows of decoding, from weights of any type.
 *
 * Reading the weights is what it costs: they come once, straight ahead, for all rows. Where they are not
 * floats, the input is rewritten first as it will be multiplied, by all threads together. Every output is
 * one vector of sums down K, added up in one order: neither the other rows nor the threads change its bits.
 */

enum { DECODE_M = 4, DECODE_N = 4, DECODE_CLAIM = 64 };

struct DecodeLinear {
  const struct Workers *workers;
  float *out;             // (M, N)
  const float *inp;       // (M, K)
  struct Weights weight;  // (N, K)
  const float *bias;      // (N) or NULL
  enum DecodeFinish finish;
  size_t M, N, K;
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
    uint16_t pairs[2 * VL] = {0};
    for (size_t i = 0; i < count; i++) pairs[i] = bf16_from_float(from[i]);
    memcpy(to, pairs, sizeof pairs);
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

static void decode_prepare(const struct DecodeLinear *d, int thread, int threads) {
  const enum Dtype dtype = d->weight.dtype;
  const size_t step = decode_step(dtype), steps = ceil_div(d->K, step);
  size_t begin, end;
  pool_part(d->M * steps, 1, thread, threads, &begin, &end);
  for (size_t i = begin; i < end; i++) {
    const size_t k = i % steps * step;
    decode_prepare_step(d->prepared + i * decode_step_floats(dtype), d->inp + i / steps * d->K + k,
                        size_min(step, d->K - k), dtype);
  }
}

/* A step of a row of weights. */
struct DecodeWeights {
  vf words;            // floats or pairs
  struct Group group;  // INT8
  vf scale;
};

/* From row n on number k; of the row's last step only `count` numbers are there. */
INLINE struct DecodeWeights decode_load(const struct DecodeLinear *d, size_t n, size_t k, size_t count,
                                        const enum Dtype dtype) {
  struct DecodeWeights w = {0};
  const size_t at = n * d->K + k, step = decode_step(dtype);
  if (dtype != INT8) {
    const char *from = (const char *)d->weight.data + at * dtype_size(dtype);
    if (count == step) w.words = vload((const float *)from);
    else memcpy(&w.words, from, count * dtype_size(dtype));
    return w;
  }
  const int8_t *from = (const int8_t *)d->weight.data + at;
  int8_t padded[GROUP] = {0};
  if (count < step) from = memcpy(padded, from, count);
  w.group = group_load(from);
  w.scale = group_scale(d->weight.scales + n * weights_blocks(d->K) + k / WEIGHTS_BLOCK, count > WEIGHTS_BLOCK);
  return w;
}

/* sum + a step of weights times a step of row m of the input */
INLINE vf decode_add(vf sum, struct DecodeWeights w, const struct DecodeLinear *d, size_t m, size_t k, size_t count,
                     const enum Dtype dtype) {
  if (dtype == FP32) {
    const float *x = d->inp + m * d->K + k;
    return sum + w.words * (count == VL ? vload(x) : vload_part(x, count, 0));
  }
  const float *x = d->prepared + m * d->row + k / decode_step(dtype) * decode_step_floats(dtype);
  if (dtype == BF16) return vadd_pairs(sum, w.words, vload(x));
  struct Group group;
  memcpy(&group, x, sizeof group);
  x += GROUP_PARTS * VL;
  vi correction = {0};
  if (GROUP_CORRECTED) correction = (vi)vload(x), x += VL;
  return sum + __builtin_convertvector(group_dot(w.group, group, correction), vf) * (w.scale * vload(x));
}

INLINE void decode_steps(vf sum[DECODE_N][DECODE_M], const struct DecodeLinear *d, size_t n, size_t m, size_t k, size_t count,
                         const size_t rows, const size_t outputs, const enum Dtype dtype) {
#pragma GCC unroll 8
  for (size_t i = 0; i < outputs; i++) {
    const struct DecodeWeights w = decode_load(d, n + i, k, count, dtype);
#pragma GCC unroll 8
    for (size_t j = 0; j < rows; j++) sum[i][j] = decode_add(sum[i][j], w, d, m + j, k, count, dtype);
  }
}

/* to[j * DECODE_CLAIM + i] = row m + j of the input times row n + i of the weights */
INLINE void decode_tile(float *to, const struct DecodeLinear *d, size_t n, size_t m, const size_t rows, const size_t outputs,
                        const enum Dtype dtype) {
  vf sum[DECODE_N][DECODE_M] = {0};
  const size_t step = decode_step(dtype);
  size_t k = 0;
  for (; k + step <= d->K; k += step) decode_steps(sum, d, n, m, k, step, rows, outputs, dtype);
  if (k < d->K) decode_steps(sum, d, n, m, k, d->K - k, rows, outputs, dtype);
#pragma GCC unroll 8
  for (size_t i = 0; i < outputs; i++) {
#pragma GCC unroll 8
    for (size_t j = 0; j < rows; j++) to[j * DECODE_CLAIM + i] = vsum(sum[i][j]);
  }
}

/* All rows of the input times `outputs` rows of the weights: those stay in the first cache meanwhile. */
INLINE void decode_rows(float *to, const struct DecodeLinear *d, size_t n, const size_t outputs, const enum Dtype dtype) {
  size_t m = 0;
  for (; m + DECODE_M <= d->M; m += DECODE_M) {
    decode_tile(to + m * DECODE_CLAIM, d, n, m, DECODE_M, outputs, dtype);
  }
  for (; m < d->M; m++) decode_tile(to + m * DECODE_CLAIM, d, n, m, 1, outputs, dtype);
}

/* Outputs n … n + count of row m. */
INLINE void decode_finish(const struct DecodeLinear *d, const float *sums, size_t m, size_t n, size_t count) {
  vf x = vload_part(sums, count, 0);
  float *out = d->out + m * d->N + n;
  if (d->bias != NULL) x += vload_part(d->bias + n, count, 0);
  if (d->finish == DECODE_ADD) x += vload_part(out, count, 0);
  if (d->finish == DECODE_GELU) x = gelu_value(x);
  vstore_part(out, x, count);
}

INLINE void decode_run(const struct DecodeLinear *d, const enum Dtype dtype) {
  float sums[DECODE_ROWS * DECODE_CLAIM];  // (M, DECODE_CLAIM)
  struct Pool *pool = d->workers->pool;
  const size_t claim = size_min(DECODE_CLAIM, round_up(ceil_div(d->N, 4 * (size_t)pool_threads(pool)), 16));
  for (size_t n; (n = pool_claim(pool) * claim) < d->N;) {
    const size_t end = size_min(n + claim, d->N);
    size_t i = n;
    for (; d->M >= DECODE_M && i + DECODE_N <= end; i += DECODE_N) decode_rows(sums + i - n, d, i, DECODE_N, dtype);
    for (; i < end; i++) decode_rows(sums + i - n, d, i, 1, dtype);
    for (size_t m = 0; m < d->M; m++) {
      const float *row = sums + m * DECODE_CLAIM;
      for (i = n; i + VL <= end; i += VL) decode_finish(d, row + i - n, m, i, VL);
      if (i < end) decode_finish(d, row + i - n, m, i, end - i);
    }
  }
}

static void decode_linear_task(void *argument, int thread, int threads) {
  const struct DecodeLinear *d = argument;
  if (d->weight.dtype != FP32) {
    decode_prepare(d, thread, threads);
    pool_barrier(d->workers->pool);
  }
  switch (d->weight.dtype) {
    case FP32: decode_run(d, FP32); break;
    case BF16: decode_run(d, BF16); break;
    case INT8: decode_run(d, INT8); break;
  }
}

/* A prompt: the product of training, to which a third type of factor is no news. */
static void decode_prompt(const struct DecodeLinear *d) {
  static const enum Finish finishes[] = {[DECODE_STORE] = STORE, [DECODE_ADD] = STORE, [DECODE_GELU] = GELU};
  struct Workers workers = *d->workers;
  workers.dtype = d->weight.dtype == BF16 || (PAIRS && d->weight.dtype == INT8) ? BF16 : FP32;
  struct Gemm gemm = {
      .workers = &workers, .out = array_of(d->out), .a = {array_of(d->inp), d->K, 1},
      .b = {{(void *)(uintptr_t)d->weight.data, d->weight.dtype}, d->K, 1}, .scales = d->weight.dtype == INT8 ? d->weight.scales : NULL,
      .M = d->M, .N = d->N, .K = d->K, .bias = d->bias, .finish = finishes[d->finish],
      .add = d->finish == DECODE_ADD, .sums = d->out};
  pool_run(workers.pool, "decode_prompt", gemm_task, &gemm);
}

static size_t shared_floats(size_t largest);

static void decode_linear(const struct Workers *workers, float *out, const float *inp, struct Weights weight,
                          const float *bias, enum DecodeFinish finish, size_t M, size_t N, size_t K) {
  struct DecodeLinear d = {workers, out, inp, weight, bias, finish, M, N, K, workers->shared, 0};
  if (M > DECODE_ROWS) {
    decode_prompt(&d);
    return;
  }
  /* As many rows at a time as the scratch memory has room for: all of them, unless K is tens of thousands. */
  d.row = decode_row_floats(weight.dtype, K);
  const size_t room = weight.dtype == FP32 ? M : shared_floats(K) / d.row;
  for (size_t m = 0; m < M; m += d.M) {
    d.M = size_min(room, M - m), d.out = out + m * N, d.inp = inp + m * K;
    pool_run(workers->pool, "decode_linear", decode_linear_task, &d);
  }
}

/* ---- making the weights -------------------------------------------------------------------------- */

struct WeightsStore {
  void *data;
  float *scales;
  enum Dtype dtype;
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
    if (store->dtype != INT8) {
      const struct Array to = {store->data, store->dtype};
      for (; k + VL <= K; k += VL) vstore_array(to, n * K + k, vload(from + k));
      for (; k < K; k++) array_set(to, n * K + k, from[k]);
    }
    for (size_t block = 0; k < K; k += WEIGHTS_BLOCK, block++) {
      int8_t bytes[WEIGHTS_BLOCK];
      const size_t count = size_min(WEIGHTS_BLOCK, K - k);
      store->scales[n * blocks + block] = block_quantise(bytes, from + k, count);
      memcpy((int8_t *)store->data + n * K + k, bytes, count);
    }
  }
}

static void weights_store(const struct Workers *workers, void *data, float *scales, enum Dtype dtype,
                          const float *weight, size_t N, size_t K) {
  pool_run(workers->pool, "weights_store", weights_store_task,
           &(struct WeightsStore){data, scales, dtype, weight, N, K});
}
