/* The linear layers of test_kernels.c, which includes this after its tolerances. */
#ifndef LLMC_TEST_LINEARS_H
#define LLMC_TEST_LINEARS_H

#include "tests/kernels/cases.h"

static void call_forward(const struct Kernels *k, const struct Workers *w, const struct Case *c, const struct Memory *out) {
  k->linear_forward(w, (struct Linear){
      .out = out[0].array, .inp = view(c->in[0].array), .weight = c->in[1].data,
      .bias = c->inputs > 2 ? c->in[2].data : NULL, .M = c->M, .N = c->N, .K = c->K});
}

static void call_residual(const struct Kernels *k, const struct Workers *w, const struct Case *c, const struct Memory *out) {
  k->linear_residual(w, (struct Linear){
      .out = out[0].array, .residual = c->in[3].data, .inp = view(c->in[0].array), .weight = c->in[1].data,
      .bias = c->in[2].data, .M = c->M, .N = c->N, .K = c->K});
}

static void call_gelu(const struct Kernels *k, const struct Workers *w, const struct Case *c, const struct Memory *out) {
  k->linear_gelu(w, (struct Linear){
      .out = out[0].array, .slope = out[1].array, .inp = view(c->in[0].array), .weight = c->in[1].data,
      .bias = c->in[2].data, .M = c->M, .N = c->N, .K = c->K});
}

static void call_backward_input(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                                const struct Memory *out) {
  k->linear_backward_input(w, out[0].data, c->in[0].data, c->in[1].data, c->M, c->N, c->K);
}

static void call_backward_gelu(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                               const struct Memory *out) {
  k->linear_backward_gelu(w, out[0].data, c->in[0].data, view(c->in[2].array), c->in[1].data, c->M, c->N, c->K);
}

static void call_backward_weight(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                                 const struct Memory *out) {
  k->linear_backward_weight(w, (struct LinearBackwardWeight){
      .dweight = out[0].data, .dbias = c->outputs > 1 ? out[1].data : NULL, .dout = c->in[0].data,
      .inp = view(c->in[1].array), .add = c->add, .M = c->M, .N = c->N, .K = c->K});
}

/* Of any two factors, as only what lies right of the diagonal is multiplied. c->add: of their columns. */
static void call_symmetric(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                           const struct Memory *out) {
  k->linear_symmetric(w, out[0].data, c->in[0].data, c->in[1].data, c->N, c->K, c->add);
}

/* The next result, in the case's type. Where it is BF16, a sum that differs in its last bit can fall on the
 * other side of a rounding: seldom, so that over many results it hardly shows. */
static void case_rounded(struct Case *c, const char *name, size_t n, double tolerance) {
  const double flip = n < 1000 ? 8e-3 : 5e-4;
  case_result(c, name, n, OVERWRITTEN, c->dtype == BF16 ? flip : tolerance, c->dtype);
}

static void check_linear(size_t M, size_t N, size_t K, enum Dtype dtype) {
  const struct Case shape = {.M = M, .N = N, .K = K, .dtype = dtype};
  for (int bias = 0; bias < 2; bias++) {
    struct Case c = shape;
    c.op = bias ? "linear_forward" : "linear_forward without bias", c.call = call_forward;
    case_array(&c, M * K, 0, dtype), case_input(&c, N * K, 0);
    if (bias) case_input(&c, N, 0), case_rounded(&c, "out", M * N, SUMMED);
    else case_output(&c, "out", M * N, OVERWRITTEN, SUMMED);  // as of the logits, which stay floats
    case_check(&c);
  }
  struct Case c = shape;
  c.op = "linear_residual", c.call = call_residual;
  case_array(&c, M * K, 0, dtype), case_input(&c, N * K, 0), case_input(&c, N, 0), case_input(&c, M * N, 0);
  case_output(&c, "out", M * N, OVERWRITTEN, SUMMED);
  case_check(&c);
  c = shape, c.op = "linear_gelu", c.call = call_gelu;
  case_array(&c, M * K, 0, dtype), case_input(&c, N * K, 0), case_input(&c, N, 0);
  const double gelu = M * N > 1 ? GELU : GELU_OF_ONE;
  case_rounded(&c, "out", M * N, gelu), case_rounded(&c, "slope", M * N, gelu);
  case_check(&c);

  c = shape, c.op = "linear_backward_input", c.call = call_backward_input;
  case_input(&c, M * N, 0), case_input(&c, N * K, 0);
  case_output(&c, "dinp", M * K, OVERWRITTEN, SUMMED);
  case_check(&c);

  c = shape, c.op = "linear_backward_gelu", c.call = call_backward_gelu;
  case_input(&c, M * N, 0), case_input(&c, N * K, 0), case_array(&c, M * K, 0.5, dtype);
  case_output(&c, "dpre", M * K, OVERWRITTEN, 4 * SUMMED);  // a single result whose terms nearly cancel
  case_check(&c);

  for (int bias = 0; bias < 2; bias++) {
    for (int add = 0; add < 2; add++) {
      c = shape, c.op = bias ? "linear_backward_weight" : "linear_backward_weight without bias";
      c.call = call_backward_weight, c.add = add;
      case_input(&c, M * N, 0), case_array(&c, M * K, 0, dtype);
      case_output(&c, "dweight", N * K, add ? ADDED_TO : OVERWRITTEN, SUMMED);
      if (bias) case_output(&c, "dbias", N, add ? ADDED_TO : OVERWRITTEN, SUMMED);
      case_check(&c);
    }
  }
}

static void check_symmetric(size_t N, size_t K, enum Dtype dtype) {
  for (int columns = 0; columns < 2; columns++) {
    struct Case c = {.N = N, .K = K, .dtype = dtype, .op = columns ? "linear_symmetric of columns" : "linear_symmetric",
                     .call = call_symmetric, .add = columns};
    case_input(&c, N * K, 0), case_input(&c, N * K, 0);
    case_output(&c, "out", N * N, OVERWRITTEN, SUMMED);
    case_check(&c);
  }
}

static void check_linears(void) {
  static const size_t sizes[] = {1, 2, 3, 5, 6, 7, 8, 13, 15, 16, 17, 31, 47, 48, 63, 97, 130, 257};
  enum { SIZES = sizeof sizes / sizeof *sizes };
  /* Every pair of sizes comes up in some two dimensions; all triples would take minutes. */
  for (size_t i = 0; i < SIZES; i++) {
    for (size_t j = i % 3; j < SIZES; j += 3) {
      check_linear(sizes[i], sizes[j], sizes[(i + 2 * j) % SIZES], FP32);
      if (j % 2 == 0) check_linear(sizes[i], sizes[j], sizes[(i + 2 * j) % SIZES], BF16);
      check_symmetric(sizes[i], sizes[j], j % 2 == 0 ? BF16 : FP32);
    }
  }
  for (size_t j = 0; j < SIZES; j++) {
    check_linear(1, sizes[j], sizes[SIZES - 1 - j], FP32), check_linear(1, sizes[j], sizes[SIZES - 1 - j], BF16);
  }
  /* Beyond one block: of rows (MC 1024, of tiles as many as 1.5 MB hold), of columns (NC 240), of depth (KC 256 to 384, of pairs 768), each
   * as summed over too. */
  for (enum Dtype dtype = FP32; dtype <= BF16; dtype++) {
    check_linear(1025, 17, 9, dtype);
    check_linear(2065, 3, 31, dtype);
    check_linear(9, 241, 513, dtype);
    check_linear(5, 1000, 257, dtype);
    check_linear(7, 50, 1037, dtype);
    check_linear(130, 485, 300, dtype);
    check_linear(1600, 17, 1037, dtype);
    check_linear(3, 1040, 528, dtype);  // results of 2 MB, which tiles write past the caches
    check_linear(1040, 528, 3, dtype);
  }
}

#endif
