/* Linear layers: which product each of the six is. */

static void linear_run(const char *label, struct Gemm gemm) {
  gemm.sums = gemm.out.dtype == FP32 ? gemm.out.data : gemm.workers->sums;
  pool_run(gemm.workers->pool, label, gemm_task, &gemm);
}

/* inp (M, K) · weight (N, K)ᵀ */
INLINE struct Gemm linear_product(const struct Workers *workers, struct Array out, struct Array inp,
                                  const float *weight, const float *bias, size_t M, size_t N, size_t K) {
  return (struct Gemm){.workers = workers, .out = out, .a = {inp, K, 1}, .b = {array_of(weight), K, 1},
                       .M = M, .N = N, .K = K, .bias = bias};
}

static void linear_forward(const struct Workers *workers, struct Array out, struct Array inp,
                           const float *weight, const float *bias, size_t M, size_t N, size_t K) {
  linear_run("linear_forward", linear_product(workers, out, inp, weight, bias, M, N, K));
}

static void linear_residual(const struct Workers *workers, float *out, const float *residual,
                            struct Array inp, const float *weight, const float *bias,
                            size_t M, size_t N, size_t K) {
  struct Gemm gemm = linear_product(workers, array_of(out), inp, weight, bias, M, N, K);
  gemm.finish = RESIDUAL;
  gemm.other = array_of(residual);
  linear_run("linear_residual", gemm);
}

static void linear_gelu(const struct Workers *workers, struct Array out, struct Array slope, struct Array inp,
                        const float *weight, const float *bias, size_t M, size_t N, size_t K) {
  struct Gemm gemm = linear_product(workers, out, inp, weight, bias, M, N, K);
  gemm.finish = GELU;
  gemm.other = slope;
  linear_run("linear_gelu", gemm);
}

/* dout (M, N) · weight (N, K): the outputs of the layer are summed over */
INLINE struct Gemm linear_product_input(const struct Workers *workers, float *dinp, const float *dout,
                                        const float *weight, size_t M, size_t N, size_t K) {
  return (struct Gemm){.workers = workers, .out = array_of(dinp), .a = {array_of(dout), N, 1},
                       .b = {array_of(weight), 1, K}, .M = M, .N = K, .K = N};
}

static void linear_backward_input(const struct Workers *workers, float *dinp, const float *dout,
                                  const float *weight, size_t M, size_t N, size_t K) {
  linear_run("linear_backward_input", linear_product_input(workers, dinp, dout, weight, M, N, K));
}

static void linear_backward_gelu(const struct Workers *workers, float *dpre, const float *dout,
                                 struct Array slope, const float *weight, size_t M, size_t N, size_t K) {
  struct Gemm gemm = linear_product_input(workers, dpre, dout, weight, M, N, K);
  gemm.finish = MULTIPLY;
  gemm.other = slope;
  linear_run("linear_backward_gelu", gemm);
}

static void linear_backward_weight(const struct Workers *workers, float *dweight, float *dbias,
                                   const float *dout, struct Array inp, bool add,
                                   size_t M, size_t N, size_t K) {
  /* doutᵀ (N, M) · inp (M, K): the rows are summed over, for the weight and for the bias */
  linear_run("linear_backward_weight", (struct Gemm){.workers = workers, .out = array_of(dweight),
             .a = {array_of(dout), 1, N}, .b = {inp, 1, K}, .M = N, .N = K, .K = M, .add = add,
             .lane_sums = dbias});
}
