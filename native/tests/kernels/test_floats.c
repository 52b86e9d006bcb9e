/* Products of floats that are infinite, large or small, and how exact those of ordinary floats are. */
#include "tests/kernels/cases.h"

static const double SUMMED = 2e-6;  // ‖ours - plain‖ / ‖plain‖: both round

static void call_forward(const struct Kernels *k, const struct Workers *w, const struct Case *c, const struct Memory *out) {
  k->linear_forward(w, (struct Linear){.out = out[0].array, .inp = view(c->in[0].array), .weight = c->in[1].data,
                                       .M = c->M, .N = c->N, .K = c->K});
}

/* A float is finite, infinite or no number where it is in the plain loops; finite ones are as near as always. */
static void check_same_kind(struct Case *c) {
  for (int t = 0; kernels_at(t) != NULL; t++) {
    if (!kernels_runnable(kernels_at(t))) continue;
    struct Memory expected, got;
    case_run(c, kernels_at(0), 0, &expected);
    case_run(c, kernels_at(t), 1, &got);
    for (size_t i = 0; i < got.count; i++) {
      const double e = expected.data[i], g = got.data[i];
      const bool same = isfinite(e) ? fabs(g - e) <= 1e-4 * (1 + fabs(e)) : isnan(e) ? isnan(g) : g == e;
      check(same, "%s: expected %g in out[%zu], got %g", now, e, i, g);
    }
    memory_free(&expected), memory_free(&got);
  }
}

/* Infinities stay infinite, and the other rows and columns do not notice them. */
static void check_infinities(size_t M, size_t N, size_t K) {
  struct Case c = {.op = "linear_forward of infinities", .call = call_forward, .M = M, .N = N, .K = K};
  case_always();
  float *inp = case_input(&c, M * K, 0), *weight = case_input(&c, N * K, 0);
  case_output(&c, "out", M * N, OVERWRITTEN, SUMMED);
  inp[random_below(M * K)] = INFINITY;
  check_same_kind(&c);
  weight[random_below(N * K)] = -INFINITY;
  check_same_kind(&c);
  inp[random_below(M * K)] = 3e38f, inp[random_below(M * K)] = -3e38f;
  check_same_kind(&c);
  case_free(&c);
}

/* Factors of any size, as long as their products are floats: those of 1e-30 by 1e-3 lie near the smallest ones. */
static void check_sizes(float a, float b) {
  struct Case c = {.op = "linear_forward of large or small numbers", .call = call_forward, .M = 70, .N = 65, .K = 300};
  case_always();
  float *inp = case_input(&c, c.M * c.K, 0), *weight = case_input(&c, c.N * c.K, 0);
  for (size_t i = 0; i < c.M * c.K; i++) inp[i] *= a;
  for (size_t i = 0; i < c.N * c.K; i++) weight[i] *= b;
  case_output(&c, "out", c.M * c.N, OVERWRITTEN, SUMMED);
  case_compare(&c, CLOSE);
  case_free(&c);
}

/* The root of the mean of squares of |error| / sum |a| |b|, in units of 2^-24, against sums of doubles. FMA has 0.47 at
 * this depth; no table may be worse. */
static void check_exactness(void) {
  enum { M = 64, N = 64, K = 768 };
  struct Case c = {.op = "linear_forward", .call = call_forward, .M = M, .N = N, .K = K};
  case_always();
  float *inp = case_input(&c, M * K, 0), *weight = case_input(&c, N * K, 0);
  case_output(&c, "out", M * N, OVERWRITTEN, SUMMED);
  for (int t = 1; kernels_at(t) != NULL; t++) {
    if (!kernels_runnable(kernels_at(t))) continue;
    struct Memory out;
    double squares = 0;
    case_run(&c, kernels_at(t), 0, &out);
    for (size_t m = 0; m < M; m++) {
      for (size_t n = 0; n < N; n++) {
        double sum = 0, sizes = 0;
        for (size_t k = 0; k < K; k++) {
          const double product = (double)inp[m * K + k] * (double)weight[n * K + k];
          sum += product, sizes += fabs(product);
        }
        const double error = ((double)out.data[m * N + n] - sum) / sizes * 0x1p24;
        squares += error * error;
      }
    }
    const double units = sqrt(squares / (M * N));
    check(units <= 0.75, "%s: expected an error of at most 0.75 units of 2^-24, got %.2f", now, units);
    memory_free(&out);
  }
  case_free(&c);
}

static const struct Kernels *table_named(const char *name) {
  for (int t = 0; kernels_at(t) != NULL; t++) {
    if (strcmp(kernels_at(t)->name, name) == 0 && kernels_runnable(kernels_at(t))) return kernels_at(t);
  }
  return NULL;
}

static void call_attention(const struct Kernels *k, const struct Workers *w, const struct Case *c, const struct Memory *out) {
  k->attention_forward(w, (struct AttentionForward){.out = out[0].array, .lse = out[1].data,
      .qkv = view(c->in[0].array), .B = c->B, .T = c->T, .C = c->C, .NH = c->NH});
  k->attention_backward(w, (struct AttentionBackward){
      .dqkv = out[2].data, .dout = c->in[1].data, .qkv = view(c->in[0].array), .out = view(out[0].array),
      .lse = out[1].data, .B = c->B, .T = c->T, .C = c->C, .NH = c->NH});
}

/* Both tables make the same bits of a case. */
static void check_same_bits(struct Case *c, const struct Kernels *one, const struct Kernels *other) {
  struct Memory expected[MOST_OUTPUTS], got[MOST_OUTPUTS];
  case_run(c, one, 1, expected);
  case_run(c, other, 2, got);
  for (size_t o = 0; o < c->outputs; o++) {
    check(memcmp(got[o].array.data, expected[o].array.data, got[o].count * dtype_size(got[o].array.dtype)) == 0,
          "%s: expected the bits of %s in %s, got others", now, one->name, c->names[o]);
    memory_free(&expected[o]), memory_free(&got[o]);
  }
  case_free(c);
}

/* BFMMLA adds up products as two BFDOT do, and outer products are added up in the same order: which of them a CPU is
 * fastest with decides no bit. */
static void check_same_as(const char *one, const char *other) {
  const struct Kernels *dot = table_named(one), *matrix = table_named(other);
  if (dot == NULL || matrix == NULL) return;
  static const size_t sizes[] = {1, 2, 3, 5, 9, 12, 31, 64, 67};
  enum { SIZES = sizeof sizes / sizeof *sizes };
  for (size_t i = 0; i < SIZES; i++) {
    const size_t M = sizes[i], N = sizes[(2 * i + 1) % SIZES], K = sizes[(i + 4) % SIZES] * (i % 3 == 0 ? 17 : 1);
    struct Case c;
    for (enum Dtype dtype = FP32; dtype <= BF16; dtype++) {
      c = (struct Case){.op = "linear_forward", .call = call_forward, .M = M, .N = N, .K = K, .dtype = dtype};
      case_always();
      case_array(&c, M * K, 0, dtype), case_input(&c, N * K, 0);
      case_output(&c, "out", M * N, OVERWRITTEN, SUMMED);
      check_same_bits(&c, dot, matrix);
    }
    const size_t T = sizes[(i + 2) % SIZES] * (i % 4 == 0 ? 5 : 1), HS = sizes[i], NH = 1 + i % 2;
    c = (struct Case){.op = "attention", .call = call_attention, .B = 1, .T = T, .C = NH * HS, .NH = NH, .dtype = BF16};
    case_always();
    case_array(&c, T * 3 * c.C, 0, BF16), case_input(&c, T * c.C, 0);
    case_result(&c, "out", T * c.C, OVERWRITTEN, SUMMED, BF16), case_output(&c, "lse", NH * T, OVERWRITTEN, SUMMED);
    case_output(&c, "dqkv", T * 3 * c.C, OVERWRITTEN, SUMMED);
    check_same_bits(&c, dot, matrix);
  }
}

int main(void) {
  cases_start();
  static const size_t sizes[] = {1, 31, 32, 33, 70, 130};
  enum { SIZES = sizeof sizes / sizeof *sizes };
  for (size_t i = 0; i < SIZES; i++) check_infinities(sizes[i], sizes[(i + 2) % SIZES], sizes[(i + 3) % SIZES] * 5);
  static const float pairs[][2] = {{1e-30f, 1e-3f}, {1e-3f, 1e-30f}, {1e-18f, 1e-15f}, {1e30f, 1e-30f}, {1e18f, 1e18f}};
  for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) check_sizes(pairs[i][0], pairs[i][1]);
  check_exactness();
  check_same_as("neonbf16", "bfmmla"), check_same_as("neonbf16", "sme");
  cases_stop();
  return check_done("test_floats");
}
