/* Linear layers: which product each of the six is. */

static void linear_run(const char *label, struct Gemm gemm) {
  gemm.sums = gemm.out.dtype == FP32 ? gemm.out.data : gemm.workers->sums;
  pool_run(gemm.workers->pool, label, product_task, &gemm);
}

/* inp (M, K) · weight (N, K)ᵀ */
INLINE struct Gemm linear_product(const struct Workers *workers, const struct Linear *a) {
  return (struct Gemm){.workers = workers, .out = a->out, .a = {a->inp, a->K, 1},
                       .b = {view_of(a->weight), a->K, 1}, .M = a->M, .N = a->N, .K = a->K, .bias = a->bias};
}

static void linear_forward(const struct Workers *workers, struct Linear a) {
  linear_run("linear_forward", linear_product(workers, &a));
}

static void linear_residual(const struct Workers *workers, struct Linear a) {
  struct Gemm gemm = linear_product(workers, &a);
  gemm.finish = RESIDUAL;
  gemm.other = view_of(a.residual);
  linear_run("linear_residual", gemm);
}

static void linear_gelu(const struct Workers *workers, struct Linear a) {
  struct Gemm gemm = linear_product(workers, &a);
  gemm.finish = GELU;
  gemm.slope = a.slope;
  linear_run("linear_gelu", gemm);
}

/* dout (M, N) · weight (N, K): the outputs of the layer are summed over */
INLINE struct Gemm linear_product_input(const struct Workers *workers, float *dinp, const float *dout,
                                        const float *weight, size_t M, size_t N, size_t K) {
  return (struct Gemm){.workers = workers, .out = array_of(dinp), .a = {view_of(dout), N, 1},
                       .b = {view_of(weight), 1, K}, .M = M, .N = K, .K = N};
}

static void linear_backward_input(const struct Workers *workers, float *dinp, const float *dout,
                                  const float *weight, size_t M, size_t N, size_t K) {
  linear_run("linear_backward_input", linear_product_input(workers, dinp, dout, weight, M, N, K));
}

static void linear_backward_gelu(const struct Workers *workers, float *dpre, const float *dout,
                                 struct ArrayView slope, const float *weight, size_t M, size_t N, size_t K) {
  struct Gemm gemm = linear_product_input(workers, dpre, dout, weight, M, N, K);
  gemm.finish = MULTIPLY;
  gemm.other = slope;
  linear_run("linear_backward_gelu", gemm);
}

/* doutᵀ (N, M) · inp (M, K): the rows are summed over, for the weight and for the bias */
static void linear_backward_weight(const struct Workers *workers, struct LinearBackwardWeight a) {
  linear_run("linear_backward_weight",
             (struct Gemm){.workers = workers, .out = array_of(a.dweight), .a = {view_of(a.dout), 1, a.N},
                           .b = {a.inp, 1, a.K}, .M = a.N, .N = a.K, .K = a.M, .add = a.add,
                           .lane_sums = a.dbias});
}

/* ---- a symmetric result ------------------------------------------------------------------------- */

enum { MIRRORED = 32 };  // rows and columns that are mirrored at once, so that both sides stay in the cache

/* What lies left of the diagonal, from what lies right of it. */
static void mirror_task(void *argument, int thread, int threads) {
  const struct Gemm *gemm = argument;
  const size_t N = gemm->N, blocks = ceil_div(N, MIRRORED);
  float *out = gemm->out.data;
  for (size_t block = (size_t)thread; block < blocks; block += (size_t)threads) {
    const size_t begin = block * MIRRORED, end = size_min(N, begin + MIRRORED);
    for (size_t from = 0; from < end; from += MIRRORED) {
      for (size_t i = begin; i < end; i++) {
        for (size_t j = from; j < size_min(i, from + MIRRORED); j++) out[i * N + j] = out[j * N + i];
      }
    }
  }
}

static void linear_symmetric(const struct Workers *workers, float *out, const float *a, const float *b, size_t N, size_t K,
                             bool columns) {
  const size_t lane = columns ? 1 : K, step = columns ? N : 1;
  struct Gemm gemm = {.workers = workers, .out = array_of(out), .a = {view_of(a), lane, step},
                      .b = {view_of(b), lane, step}, .M = N, .N = N, .K = K, .upper = true};
  linear_run("linear_symmetric", gemm);
  pool_run(workers->pool, "linear_symmetric", mirror_task, &gemm);
}
