#include "check/profile.h"

#include <stdlib.h>

#include "base/util.h"

static const struct Kernels *inner;
static struct ProfileCall *calls;
static size_t call_count, call_room;

void profile_reset(void) { call_count = 0; }

const struct ProfileCall *profile_calls(size_t *count) {
  *count = call_count;
  return calls;
}

/* Books a call that began at `started`. */
static void book(struct ProfileCall call, double started) {
  call.seconds = clock_seconds() - started;
  if (call_count == call_room) {
    call_room = call_room == 0 ? 1024 : 2 * call_room;
    calls = realloc(calls, call_room * sizeof *calls);
    if (calls == NULL) die(EXIT_BAD_DATA, "no memory is left for the profile; choose a smaller model");
  }
  calls[call_count++] = call;
}

static void encoder_forward(const struct Workers *w, float *out, const int *tokens, const float *wte,
                            const float *wpe, size_t B, size_t T, size_t C) {
  const double started = clock_seconds();
  inner->encoder_forward(w, out, tokens, wte, wpe, B, T, C);
  book((struct ProfileCall){"encoder_forward", .bytes = 3 * B * T * C * sizeof(float)}, started);
}

static void encoder_backward(const struct Workers *w, float *dwte, float *dwpe, const float *dout,
                             const int *tokens, size_t B, size_t T, size_t C) {
  const double started = clock_seconds();
  inner->encoder_backward(w, dwte, dwpe, dout, tokens, B, T, C);
  book((struct ProfileCall){"encoder_backward", .bytes = 5 * B * T * C * sizeof(float)}, started);
}

static void layernorm_forward(const struct Workers *w, struct LayerNormForward a) {
  const double started = clock_seconds();
  inner->layernorm_forward(w, a);
  const size_t bytes = a.N * a.C * (sizeof(float) + dtype_size(a.out.dtype));
  book((struct ProfileCall){"layernorm_forward", .bytes = bytes}, started);
}

static void layernorm_backward(const struct Workers *w, struct LayerNormBackward a) {
  const double started = clock_seconds();
  inner->layernorm_backward(w, a);
  book((struct ProfileCall){"layernorm_backward", .bytes = 4 * a.N * a.C * sizeof(float)}, started);
}

static void linear_forward(const struct Workers *w, struct Linear a) {
  const double started = clock_seconds();
  inner->linear_forward(w, a);
  book((struct ProfileCall){"linear_forward", a.weight, a.M, a.N, a.K, 0, 0}, started);
}

static void linear_residual(const struct Workers *w, struct Linear a) {
  const double started = clock_seconds();
  inner->linear_residual(w, a);
  book((struct ProfileCall){"linear_residual", a.weight, a.M, a.N, a.K, 0, 0}, started);
}

static void linear_gelu(const struct Workers *w, struct Linear a) {
  const double started = clock_seconds();
  inner->linear_gelu(w, a);
  book((struct ProfileCall){"linear_gelu", a.weight, a.M, a.N, a.K, 0, 0}, started);
}

static void linear_backward_input(const struct Workers *w, float *dinp, const float *dout, const float *weight,
                                  size_t M, size_t N, size_t K) {
  const double started = clock_seconds();
  inner->linear_backward_input(w, dinp, dout, weight, M, N, K);
  book((struct ProfileCall){"linear_backward_input", weight, M, N, K, 0, 0}, started);
}

static void linear_backward_gelu(const struct Workers *w, float *dpre, const float *dout, struct ArrayView slope,
                                 const float *weight, size_t M, size_t N, size_t K) {
  const double started = clock_seconds();
  inner->linear_backward_gelu(w, dpre, dout, slope, weight, M, N, K);
  book((struct ProfileCall){"linear_backward_gelu", weight, M, N, K, 0, 0}, started);
}

static void linear_backward_weight(const struct Workers *w, struct LinearBackwardWeight a) {
  const double started = clock_seconds();
  inner->linear_backward_weight(w, a);
  book((struct ProfileCall){"linear_backward_weight", a.dweight, a.M, a.N, a.K, 0, 0}, started);
}

static void decode_linear(const struct Workers *w, struct DecodeLinear a) {
  const enum Dtype dtype = a.weight.dtype;
  const size_t scales = weights_scales(dtype, a.N, a.K) * sizeof(float);
  const size_t bytes = weights_count(dtype, a.N, a.K) * dtype_size(dtype) + scales;
  const double started = clock_seconds();
  inner->decode_linear(w, a);
  book((struct ProfileCall){"decode_linear", a.weight.data, a.M, a.N, a.K, bytes, 0}, started);
}

static void attention_forward(const struct Workers *w, struct AttentionForward a) {
  const double started = clock_seconds();
  inner->attention_forward(w, a);
  book((struct ProfileCall){.operation = "attention_forward"}, started);
}

static void attention_backward(const struct Workers *w, struct AttentionBackward a) {
  const double started = clock_seconds();
  inner->attention_backward(w, a);
  book((struct ProfileCall){.operation = "attention_backward"}, started);
}

static void crossentropy(const struct Workers *w, float *losses, float *logits, const int *targets, float scale,
                         size_t N, size_t V, size_t Vp) {
  const double started = clock_seconds();
  inner->crossentropy(w, losses, logits, targets, scale, N, V, Vp);
  book((struct ProfileCall){"crossentropy", .bytes = 2 * N * Vp * sizeof(float)}, started);
}

static double sum_squares(const struct Workers *w, const float *x, size_t n) {
  const double started = clock_seconds(), sum = inner->sum_squares(w, x, n);
  book((struct ProfileCall){"sum_squares", .bytes = n * sizeof(float)}, started);
  return sum;
}

static double adamw_update(const struct Workers *w, float *params, struct Moments moments, const float *grads,
                           const struct AdamW *adamw, size_t n) {
  const double started = clock_seconds(), sum = inner->adamw_update(w, params, moments, grads, adamw, n);
  book((struct ProfileCall){"adamw_update", .bytes = 7 * n * sizeof(float)}, started);
  return sum;
}

const struct Kernels *profile_kernels(const struct Kernels *kernels) {
  static struct Kernels table;
  inner = kernels;
  table = *kernels;
  table.encoder_forward = encoder_forward, table.encoder_backward = encoder_backward;
  table.layernorm_forward = layernorm_forward, table.layernorm_backward = layernorm_backward;
  table.linear_forward = linear_forward, table.linear_residual = linear_residual, table.linear_gelu = linear_gelu;
  table.linear_backward_input = linear_backward_input, table.linear_backward_gelu = linear_backward_gelu;
  table.linear_backward_weight = linear_backward_weight, table.decode_linear = decode_linear;
  table.attention_forward = attention_forward, table.attention_backward = attention_backward;
  table.crossentropy = crossentropy, table.sum_squares = sum_squares, table.adamw_update = adamw_update;
  return &table;
}
