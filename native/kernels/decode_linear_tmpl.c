/* Linear layers of decoding: which product makes them, and how their weights are made. */

/* Whether a prompt of INT8 weights is multiplied as INT8: where that is faster than the product of training. Tiles and
 * outer products of BF16 are not slower, and take the input as it is. */
enum { INT8_PROMPTS = QUAD_INSTRUCTION && TILES == 0 && SME == 0 && QUADS == 0 };

static void prompt_linear(const struct Workers *given, struct DecodeLinear a) {
  static const enum Finish finishes[] = {[DECODE_STORE] = STORE, [DECODE_ADD] = STORE, [DECODE_GELU] = GELU};
  const enum Dtype dtype = a.weight.dtype;
  if (INT8_PROMPTS && dtype == INT8) {
    int8_linear(given, a);
    return;
  }
  struct Workers workers = *given;
  workers.dtype = dtype == BF16 || ((PAIRS || TILES > 0) && dtype == INT8) ? BF16 : FP32;
  struct Gemm gemm = {
      .workers = &workers, .out = array_of(a.out), .a = {view_of(a.inp), a.K, 1},
      .b = {{a.weight.data, dtype}, a.K, 1}, .scales = dtype == INT8 ? a.weight.scales : NULL,
      .M = a.M, .N = a.N, .K = a.K, .bias = a.bias, .finish = finishes[a.finish], .add = a.finish == DECODE_ADD,
      .sums = a.out};
  pool_run(workers.pool, "prompt_linear", product_task, &gemm);
}

static void decode_linear(const struct Workers *workers, struct DecodeLinear a) {
  if (a.M > DECODE_ROWS) {
    prompt_linear(workers, a);
    return;
  }
  if (a.weight.dtype == INT8) {
    int8_linear(workers, a);
    return;
  }
  struct DecodeTask d = {.workers = workers, .a = a, .prepared = workers->shared, .row = decode_row_floats(a.K)};
  /* As many rows at a time as the scratch memory has room for: all of them, unless K is tens of thousands. */
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
  size_t first, count, K;
};

static void weights_store_row(struct Weights out, size_t row, const float *from, size_t K) {
  const struct Array to = {out.data, out.dtype};
  size_t k = 0;
  for (; k + VL <= K; k += VL) vstore_array(to, row * K + k, vload(from + k));
  for (; k < K; k++) array_set(to, row * K + k, from[k]);
}

static void weights_store_int8(struct Weights out, size_t row, const float *from, size_t K) {
  for (size_t block = 0; block < weights_blocks(K); block++, from += WEIGHTS_BLOCK) {
    int8_t bytes[WEIGHTS_BLOCK];
    const float scale = block_quantise(bytes, from, size_min(WEIGHTS_BLOCK, K - block * WEIGHTS_BLOCK));
    weights_set_block(out, row, block, K, bytes, scale);
  }
}

static void weights_store_task(void *argument, int thread, int threads) {
  const struct WeightsStore *store = argument;
  const size_t K = store->K;
  size_t begin, end;
  pool_part(store->count, 1, thread, threads, &begin, &end);
  for (size_t n = begin; n < end; n++) {
    const float *from = store->weight + n * K;
    if (store->out.dtype == INT8) weights_store_int8(store->out, store->first + n, from, K);
    else weights_store_row(store->out, store->first + n, from, K);
  }
}

static void weights_store(const struct Workers *workers, struct Weights out, const float *weight, size_t first,
                          size_t count, size_t K) {
  pool_run(workers->pool, "weights_store", weights_store_task, &(struct WeightsStore){out, weight, first, count, K});
}
