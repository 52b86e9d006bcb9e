/* Decoding: how weights are stored, and their products with few rows and with many, in every table that this
 * CPU can run. The plain loops themselves are held against sums in double. */
#include <float.h>

#include "tests/kernels/cases.h"

/* ‖ours - expected‖ / ‖expected‖, as in test_kernels.c. Prompts multiply INT8 as BF16 where the CPU has it. */
static const double SUMMED = 2e-6, GELU = 8e-6, NARROWED = 1e-2;

static const char *const FINISHES[] = {
    [DECODE_STORE] = "decode_linear", [DECODE_ADD] = "decode_linear added", [DECODE_GELU] = "decode_linear gelu"};

/* Takes the place of random weights (N, K), stored by the plain table; two inputs of the case. */
static void case_weights(struct Case *c, size_t N, size_t K) {
  struct Memory floats = memory_take(N * K, FP32);
  struct Memory *data = &c->in[c->inputs++], *scales = &c->in[c->inputs++];
  for (size_t i = 0; i < N * K; i++) floats.data[i] = (float)(2 * random_unit() - 1);
  *data = memory_take(weights_count(c->dtype, N, K), c->dtype);
  *scales = memory_take(size_max(1, weights_scales(c->dtype, N, K)), FP32);  // any input may get a NaN
  const struct Weights weights = {c->dtype, data->array.data, scales->data};
  kernels_at(0)->weights_store(NULL, weights, floats.data, 0, N, K);
  memory_free(&floats);
}

static struct WeightsView weights_of(const struct Case *c) {
  return (struct WeightsView){c->dtype, c->in[1].array.data, c->in[2].data};
}

static void call_with(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                      const struct Memory *out, enum DecodeFinish finish) {
  k->decode_linear(w, (struct DecodeLinear){
      .out = out[0].data, .inp = c->in[0].data, .weight = weights_of(c),
      .bias = c->inputs > 3 ? c->in[3].data : NULL, .finish = finish, .M = c->M, .N = c->N, .K = c->K});
}

static void call_store(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                       const struct Memory *out) {
  call_with(k, w, c, out, DECODE_STORE);
}

static void call_add(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                     const struct Memory *out) {
  call_with(k, w, c, out, DECODE_ADD);
}

static void call_gelu(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                      const struct Memory *out) {
  call_with(k, w, c, out, DECODE_GELU);
}

/* By the product of training, however few rows. */
static void call_prompt(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                        const struct Memory *out) {
  k->prompt_linear(w, (struct DecodeLinear){
      .out = out[0].data, .inp = c->in[0].data, .weight = weights_of(c), .bias = c->in[3].data,
      .finish = DECODE_ADD, .M = c->M, .N = c->N, .K = c->K});
}

static Call *const CALLS[] = {[DECODE_STORE] = call_store, [DECODE_ADD] = call_add, [DECODE_GELU] = call_gelu};

static void case_decode(struct Case *c, enum DecodeFinish finish, bool bias) {
  c->op = FINISHES[finish], c->call = CALLS[finish];
  case_input(c, c->M * c->K, 0);
  case_weights(c, c->N, c->K);
  if (bias) case_input(c, c->N, 0);
  const bool narrowed = c->dtype == INT8 && c->M > DECODE_ROWS;
  case_output(c, "out", c->M * c->N, finish == DECODE_ADD ? ADDED_TO : OVERWRITTEN,
              narrowed ? NARROWED : finish == DECODE_GELU ? GELU : SUMMED);
}

static void check_decode(size_t M, size_t N, size_t K) {
  static int turn;
  for (enum Dtype dtype = FP32; dtype <= INT8; dtype++, turn++) {
    struct Case c = {.M = M, .N = N, .K = K, .dtype = dtype};
    case_decode(&c, (enum DecodeFinish)(turn / 3 % 3), turn / 9 % 2 == 0);
    case_check(&c);
    if (M > DECODE_ROWS || turn % 4 > 0) continue;
    c = (struct Case){.M = M, .N = N, .K = K, .dtype = dtype};
    case_decode(&c, DECODE_ADD, true);
    c.op = "prompt_linear", c.call = call_prompt, c.tolerances[0] = dtype == INT8 ? NARROWED : SUMMED;
    case_check(&c);
  }
}

/* ---- the plain loops against double ---------------------------------------------------------------- */

/* Row m of the input, number k, as it is multiplied. */
static double factor(const struct Case *c, size_t m, size_t k) {
  const float *row = c->in[0].data + m * c->K;
  if (c->dtype == BF16) return bf16_to_float(bf16_from_float(row[k]));
  if (c->dtype == FP32 || c->M > DECODE_ROWS) return row[k];
  double max = 0;
  const size_t begin = k / WEIGHTS_BLOCK * WEIGHTS_BLOCK;
  for (size_t i = begin; i < size_min(c->K, begin + WEIGHTS_BLOCK); i++) max = fmax(max, fabs((double)row[i]));
  return max == 0 ? 0 : nearbyint(row[k] / (max / 127)) * (max / 127);
}

static void check_plain(size_t M, size_t N, size_t K, enum Dtype dtype) {
  struct Case c = {.M = M, .N = N, .K = K, .dtype = dtype};
  case_always();
  case_decode(&c, DECODE_ADD, true);
  struct Memory out;
  case_run(&c, kernels_at(0), 0, &out);
  double above = 0, below = 0;
  for (size_t i = 0; i < M * N; i++) {
    double sum = c.in[3].data[i % N] + (double)c.initial[0].data[i];
    for (size_t k = 0; k < K; k++) sum += factor(&c, i / N, k) * weights_get(weights_of(&c), i % N, k, K);
    above += (out.data[i] - sum) * (out.data[i] - sum), below += sum * sum;
  }
  check(sqrt(above / below) <= SUMMED, "%s: expected the sums in double within %g, got %g", now, SUMMED,
        sqrt(above / below));
  memory_free(&out);
  case_free(&c);
}

/* ---- a row alone and among others ---------------------------------------------------------------- */

static void check_rows(size_t N, size_t K, enum Dtype dtype) {
  for (int t = 0; kernels_at(t) != NULL; t++) {
    if (!kernels_runnable(kernels_at(t))) continue;
    struct Case c = {.M = DECODE_ROWS, .N = N, .K = K, .dtype = dtype};
    case_always();
    case_decode(&c, DECODE_GELU, true);
    struct Memory all, some, whole = c.in[0];
    case_run(&c, kernels_at(t), 1, &all);
    for (size_t m = 0, rows = 1; m + rows <= DECODE_ROWS; m += rows, rows++) {
      c.M = rows, c.in[0].data = whole.data + m * K, c.initial[0].count = rows * N;
      case_run(&c, kernels_at(t), (int)(rows % THREAD_COUNTS), &some);
      check(memcmp(some.data, all.data + m * N, rows * N * sizeof(float)) == 0,
            "%s: expected the bits of %d rows together, from row %zu, got others", now, DECODE_ROWS, m);
      memory_free(&some);
    }
    c.in[0] = whole;
    memory_free(&all);
    case_free(&c);
  }
}

/* ---- storing ------------------------------------------------------------------------------------- */

/* Every table stores the same numbers, in two parts that begin anywhere; each is within half a step of the number it stands
 * for. */
static void check_store(size_t N, size_t K, enum Dtype dtype, float magnitude) {
  struct Memory from = memory_take(N * K, FP32), data[2], scales[2];
  struct Weights stored[2];
  for (size_t i = 0; i < N * K; i++) from.data[i] = (float)(2 * random_unit() - 1) * magnitude;
  for (int i = 0; i < 2; i++) {
    data[i] = memory_take(weights_count(dtype, N, K), dtype), scales[i] = memory_take(weights_scales(dtype, N, K), FP32);
    stored[i] = (struct Weights){dtype, data[i].array.data, scales[i].data};
  }
  kernels_at(0)->weights_store(NULL, stored[0], from.data, 0, N, K);
  for (size_t i = 0; i < N * K; i++) {
    const double x = from.data[i], got = weights_get(weights_view(stored[0]), i / K, i % K, K);
    const double step = dtype == INT8 ? scales[0].data[weights_scale_place(i / K, i % K / WEIGHTS_BLOCK, K)] : 0;
    const double most = dtype == INT8 ? 0.5001 * step : fabs(x) / 256;
    check(dtype == FP32 ? got == x : fabs(got - x) <= most + FLT_MIN,
          "weights_store in %s: expected %g within %g, got %g", dtype_name(dtype), x, most, got);
  }
  for (int t = 1; kernels_at(t) != NULL; t++) {
    if (!kernels_runnable(kernels_at(t))) continue;
    const struct Workers workers = {.pool = pools[t % THREAD_COUNTS]};
    const size_t cut = random_below(N);
    guard_write(&data[1]), guard_write(&scales[1]);
    kernels_at(t)->weights_store(&workers, stored[1], from.data, 0, cut, K);
    kernels_at(t)->weights_store(&workers, stored[1], from.data + cut * K, cut, N - cut, K);
    bool same = true;
    for (size_t i = 0; i < N * K; i++) {
      const float a = weights_get(weights_view(stored[0]), i / K, i % K, K);
      const float b = weights_get(weights_view(stored[1]), i / K, i % K, K);
      same &= memcmp(&a, &b, sizeof a) == 0;
    }
    check(same && guard_holds(&data[1]) && guard_holds(&scales[1]),
          "weights_store of %s in %s, N=%zu K=%zu, up to %g: expected the numbers of the plain loops, got others",
          kernels_at(t)->name, dtype_name(dtype), N, K, (double)magnitude);
  }
  memory_free(&from);
  for (int i = 0; i < 2; i++) memory_free(&data[i]), memory_free(&scales[i]);
}

/* A block in which something is not a number is none itself; its neighbours are as they were. */
static void check_store_odd(float odd) {
  enum { K = 3 * WEIGHTS_BLOCK };
  for (int t = 0; kernels_at(t) != NULL; t++) {
    if (!kernels_runnable(kernels_at(t))) continue;
    float weight[K], scales[3 * WEIGHTS_PANEL] = {0};
    int8_t data[WEIGHTS_PANEL * K] = {0};
    for (size_t i = 0; i < K; i++) weight[i] = 1;
    weight[WEIGHTS_BLOCK + random_below(WEIGHTS_BLOCK)] = odd;
    const struct Workers workers = {.pool = pools[0]};
    const struct Weights stored = {INT8, data, scales};
    kernels_at(t)->weights_store(&workers, stored, weight, 0, 1, K);
    const float of_odd = scales[weights_scale_place(0, 1, K)];
    const float before = weights_get(weights_view(stored), 0, 0, K), after = weights_get(weights_view(stored), 0, K - 1, K);
    check(!isfinite(of_odd) && isnan(of_odd) == isnan(odd) && before == 127 * (1 / 127.0f) && after == before,
          "weights_store of %s: expected a scale of %g, between those of ones, got %g", kernels_at(t)->name,
          (double)odd, (double)of_odd);
  }
}

int main(void) {
  cases_start();
  static const size_t rows[] = {1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 33, 48, 63, 64, 65, 70, 130};
  static const size_t sizes[] = {1, 2, 3, 5, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 95, 96, 100, 130, 257};
  enum { ROWS = sizeof rows / sizeof *rows, SIZES = sizeof sizes / sizeof *sizes };
  for (enum Dtype dtype = FP32; dtype <= INT8; dtype++) {
    for (size_t i = 0; i < SIZES; i++) {
      check_plain(rows[i % ROWS], sizes[i], sizes[(7 * i + 3) % SIZES], dtype);
      check_store(1 + i % 5, sizes[i], dtype, i % 3 == 0 ? 1e-3f : 1);
    }
    check_store(3, 96, dtype, 0), check_store(3, 96, dtype, 1e38f);
    check_rows(70, 97, dtype), check_rows(33, 320, dtype);
  }
  check_store(3, 96, INT8, 1e-39f);  // as BF16, AVX-512 makes nothing of what is subnormal
  static const float odd[] = {NAN, -NAN, INFINITY, -INFINITY};
  for (size_t i = 0; i < sizeof odd / sizeof *odd; i++) check_store_odd(odd[i]);
  for (size_t i = 0; i < ROWS; i++) {
    for (size_t j = 0; j < SIZES; j++) check_decode(rows[i], sizes[j], sizes[(3 * i + 7 * j) % SIZES]);
  }
  /* More claims than one for every thread; more blocks of a prompt than one, of rows, columns and depth. */
  check_decode(1, 1000, 200), check_decode(6, 517, 768), check_decode(2, 130, 3072);
  check_decode(1030, 35, 40), check_decode(66, 500, 64), check_decode(67, 50, 1037), check_decode(65, 100, 1600);
  cases_stop();
  return check_done("test_decode");
}
