/* Every operation of every table that this CPU can run, on ragged shapes, against the plain loops. */
#include "tests/kernels/cases.h"

/* How far a table may be from the plain loops: ‖ours - plain‖ / ‖plain‖. Both round: the longest
 * sums here have a thousand terms. */
static const double EXACT = 0, ROUNDED = 4e-7, SUMMED = 2e-6, SOFTMAX = 3e-6;
static const double PAIRED = 6e-3;  // attention whose factors are rounded to BF16 on the way, which those of the plain loops are not
static const double GELU = 8e-6;  // far left of 0 it passes a multiple of its input's error on
static const double GELU_OF_ONE = 2e-3;  // and nothing larger stands beside it

#include "tests/kernels/linears.h"

/* ---- attention ---------------------------------------------------------------------------------- */

static void call_attention_forward(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                                   const struct Memory *out) {
  k->attention_forward(w, (struct AttentionForward){.out = out[0].array, .lse = out[1].data,
      .qkv = view(c->in[0].array), .dropout = c->dropout, .B = c->B, .T = c->T, .C = c->C, .NH = c->NH});
}

static void call_attention_backward(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                                    const struct Memory *out) {
  k->attention_backward(w, (struct AttentionBackward){
      .dqkv = out[0].data, .dout = c->in[0].data, .qkv = view(c->in[1].array),
      .out = view(c->in[2].array), .lse = c->in[3].data, .dropout = c->dropout,
      .B = c->B, .T = c->T, .C = c->C, .NH = c->NH});
}

/* All tables drop the same weights: other ones would be far more than rounding. */
static void check_attention_with(size_t B, size_t T, size_t HS, size_t NH, enum Dtype dtype, double rate) {
  const size_t C = NH * HS;
  const struct Dropout dropout = dropout_of(rate, mix64(T), B);
  const struct Case shape = {.B = B, .T = T, .C = C, .NH = NH, .dtype = dtype, .dropout = dropout};
  struct Case c = shape;
  c.op = "attention_forward", c.call = call_attention_forward;
  case_array(&c, B * T * 3 * C, 0.1, dtype);
  const double within = dtype == BF16 ? (rate > 0 ? 2 : 1) * PAIRED : SOFTMAX;
  case_result(&c, "out", B * T * C, OVERWRITTEN, within, dtype), case_output(&c, "lse", B * NH * T, OVERWRITTEN, SOFTMAX);
  case_check(&c);

  c = shape, c.op = "attention_backward", c.call = call_attention_backward;
  case_input(&c, B * T * C, 0.1);
  const struct Array qkv = case_array(&c, B * T * 3 * C, 0.1, dtype), out = case_array(&c, B * T * C, 0, dtype);
  float *lse = case_input(&c, B * NH * T, 0);
  if (!left_out) kernels_at(0)->attention_forward(&(struct Workers){.pool = pools[0]}, (struct AttentionForward){
      .out = out, .lse = lse, .qkv = view(qkv), .dropout = dropout, .B = B, .T = T, .C = C, .NH = NH});
  case_output(&c, "dqkv", B * T * 3 * C, OVERWRITTEN, within);
  case_check(&c);
}

static void check_attention(size_t B, size_t T, size_t HS, size_t NH, enum Dtype dtype) {
  check_attention_with(B, T, HS, NH, dtype, 0);
}

static void check_attentions(void) {
  static const size_t times[] = {1, 2, 5, 16, 17, 47, 63, 64, 65, 100, 130};
  static const size_t head_sizes[] = {8, 16, 24, 40, 64, 72, 80};
  enum { TIMES = sizeof times / sizeof *times, HEAD_SIZES = sizeof head_sizes / sizeof *head_sizes };
  for (size_t t = 0; t < TIMES; t++) {
    for (size_t h = 0; h < HEAD_SIZES; h++) {
      check_attention(1 + (t + h) % 2, times[t], head_sizes[h], 2 + (t + h) % 3, (t + h) % 4 == 0 ? BF16 : FP32);
    }
  }
  /* More tiles than two, and a strip that begins in the middle of each. */
  check_attention(1, 300, 24, 2, FP32), check_attention(1, 257, 64, 1, BF16);
  check_attention(1, 70, 128, 1, FP32), check_attention(1, 131, 128, 2, BF16);
  check_attention(1, 9, 256, 1, FP32), check_attention(2, 34, 256, 1, BF16);
  check_attention(1, 33, 1, 3, FP32);
  check_attention(2, 70, 13, 1, FP32), check_attention(2, 70, 13, 1, BF16);
  for (size_t t = 0; t < TIMES; t++) {
    const enum Dtype dtype = t % 3 ? FP32 : BF16;
    check_attention_with(1 + t % 2, times[t], head_sizes[t % HEAD_SIZES], 1 + t % 3, dtype, t % 2 ? 0.2 : 0.5);
  }
  check_attention_with(1, 300, 24, 2, FP32, 0.1), check_attention_with(1, 257, 64, 1, BF16, 0.1);
  check_attention(1, 1, 1, 1, BF16), check_attention(1, 33, 1, 3, BF16), check_attention(2, 1, 8, 1, BF16);
}

/* ---- rows: layernorm, encoder, crossentropy ------------------------------------------------------ */

static void call_layernorm_forward(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                                   const struct Memory *out) {
  k->layernorm_forward(w, (struct LayerNormForward){
      .out = out[0].array, .mean = out[1].data, .rstd = out[2].data, .inp = c->in[0].data, .weight = c->in[1].data,
      .bias = c->in[2].data, .N = c->N, .C = c->C});
}

static void call_layernorm_backward(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                                    const struct Memory *out) {
  k->layernorm_backward(w, (struct LayerNormBackward){
      .dinp = out[0].data, .dweight = out[1].data, .dbias = out[2].data, .dout = c->in[0].data,
      .inp = c->in[1].data, .mean = c->in[2].data, .rstd = c->in[3].data, .weight = c->in[4].data, .N = c->N,
      .C = c->C});
}

static void check_layernorm(size_t N, size_t C, enum Dtype dtype) {
  struct Case c = {.op = "layernorm_forward", .call = call_layernorm_forward, .N = N, .C = C, .dtype = dtype};
  case_input(&c, N * C, 0.5), case_input(&c, C, 1), case_input(&c, C, 0);
  case_rounded(&c, "out", N * C, SUMMED);
  case_output(&c, "mean", N, OVERWRITTEN, SUMMED), case_output(&c, "rstd", N, OVERWRITTEN, SUMMED);
  case_check(&c);

  if (dtype == BF16) return;
  c = (struct Case){.op = "layernorm_backward", .call = call_layernorm_backward, .N = N, .C = C};
  case_input(&c, N * C, 0.2);
  const float *inp = case_input(&c, N * C, 0.5);
  float *mean = case_input(&c, N, 0), *rstd = case_input(&c, N, 0);
  const float *weight = case_input(&c, C, 1);
  struct Memory out = memory_take(N * C, FP32);
  if (!left_out) kernels_at(0)->layernorm_forward(&(struct Workers){.pool = pools[0]}, (struct LayerNormForward){
      .out = out.array, .mean = mean, .rstd = rstd, .inp = inp, .weight = weight, .bias = weight, .N = N, .C = C});
  memory_free(&out);
  /* In rows of two or three channels nearly everything cancels, and rounding is what is left. */
  case_output(&c, "dinp", N * C, ADDED_TO, C < 8 ? 10 * SUMMED : SUMMED);
  case_output(&c, "dweight", C, ADDED_TO, SUMMED), case_output(&c, "dbias", C, ADDED_TO, SUMMED);
  case_check(&c);
}

static void call_encoder_forward(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                                 const struct Memory *out) {
  k->encoder_forward(w, out[0].data, c->ids, c->in[0].data, c->in[1].data, c->B, c->T, c->C);
}

static void call_encoder_backward(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                                  const struct Memory *out) {
  k->encoder_backward(w, out[0].data, out[1].data, c->in[0].data, c->ids, c->B, c->T, c->C);
}

static void check_encoder(size_t B, size_t T, size_t C, size_t V) {
  int *ids = calloc(B * T, sizeof *ids);
  for (size_t i = 0; i < B * T; i++) ids[i] = (int)random_below(V);
  struct Case c = {.op = "encoder_forward", .call = call_encoder_forward, .ids = ids, .B = B, .T = T, .C = C, .V = V};
  case_input(&c, V * C, 0), case_input(&c, T * C, 0);
  case_output(&c, "out", B * T * C, OVERWRITTEN, EXACT);
  case_check(&c);
  c = (struct Case){.op = "encoder_backward", .call = call_encoder_backward, .ids = ids, .B = B, .T = T, .C = C, .V = V};
  case_input(&c, B * T * C, 0);
  case_output(&c, "dwte", V * C, ADDED_TO, ROUNDED), case_output(&c, "dwpe", T * C, ADDED_TO, ROUNDED);
  case_check(&c);
  free(ids);
}

static void call_dropout(const struct Kernels *k, const struct Workers *w, const struct Case *c, const struct Memory *out) {
  k->dropout(w, (struct DropoutRows){.out = out[0].data, .inp = c->in[0].data,
      .residual = c->inputs > 1 ? c->in[1].data : NULL, .dropout = c->dropout, .N = c->N, .C = c->C});
}

/* All tables drop the same numbers: another one would be far more than rounding. */
static void check_dropout(size_t N, size_t C, double rate) {
  for (int residual = 0; residual < 2; residual++) {
    struct Case c = {.op = residual ? "dropout" : "dropout without residual", .call = call_dropout, .N = N, .C = C};
    c.dropout = dropout_of(rate, mix64(N), (size_t)1 << (C % 40));
    case_input(&c, N * C, 0);
    if (residual) case_input(&c, N * C, 0);
    case_output(&c, "out", N * C, OVERWRITTEN, residual ? ROUNDED : EXACT);
    case_check(&c);
  }
}

static void call_crossentropy(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                              const struct Memory *out) {
  k->crossentropy(w, out[0].data, out[1].data, c->ids, 0.25f, c->N, c->V, c->Vp);
}

/* A target of -1 has loss 0 and no gradient, by the plain loops. */
static void check_uncounted(const struct Case *c, size_t row) {
  struct Memory got[2];
  if (left_out || row >= c->N) return;
  case_run(c, kernels_at(0), 0, got);
  float most = fabsf(got[0].data[row]);
  for (size_t v = 0; v < c->Vp; v++) most = fmaxf(most, fabsf(got[1].data[row * c->Vp + v]));
  check(most == 0, "%s: a target that does not count has a loss or a gradient, %g", now, (double)most);
  memory_free(&got[0]), memory_free(&got[1]);
}

static void check_crossentropy(size_t N, size_t V, size_t Vp) {
  int *targets = calloc(N, sizeof *targets);
  for (size_t n = 0; n < N; n++) targets[n] = (int)random_below(V);
  const size_t uncounted = N > 1 ? V % N : N;
  if (uncounted < N) targets[uncounted] = -1;
  struct Case c = {.op = "crossentropy", .call = call_crossentropy, .ids = targets, .N = N, .V = V, .Vp = Vp};
  case_output(&c, "losses", N, OVERWRITTEN, SOFTMAX);
  float *logits = case_output(&c, "logits", N * Vp, ADDED_TO, SOFTMAX);
  case_compare(&c, CLOSE);
  check_uncounted(&c, uncounted);

  /* Odd values, each in a row of its own: the other rows stay as they are, and the loss of that one is
   * what the formula says. Behind V nothing counts. */
  const size_t drawn = random_below(N), row = drawn == uncounted ? (drawn + 1) % N : drawn;
  const size_t other = row * Vp + ((size_t)targets[row] + 1) % V, target = row * Vp + (size_t)targets[row];
  static const float odd[] = {NAN, INFINITY, -INFINITY, 1e30f, -1e30f, 100};
  for (size_t i = 0; V > 1 && !left_out && i < 2 * sizeof odd / sizeof *odd; i++) {
    const size_t at = i % 2 ? other : target;
    const float before = logits[at];
    logits[at] = odd[i / 2];
    for (int t = 0; kernels_at(t) != NULL; t++) {
      struct Memory expected[2], got[2];
      if (!kernels_runnable(kernels_at(t))) continue;
      case_run(&c, kernels_at(0), 0, expected);
      case_run(&c, kernels_at(t), 1, got);
      for (size_t n = 0; n < N; n++) {
        const double e = expected[0].data[n], g = got[0].data[n];
        const bool same = isfinite(e) ? fabs(g - e) <= SOFTMAX * fmax(1, fabs(e)) : isnan(e) ? isnan(g) : g == e;
        check(same, "%s, logit %g %s the target: expected loss %g in row %zu, got %g", now, (double)odd[i / 2],
              i % 2 ? "beside" : "of", e, n, g);
      }
      for (int o = 0; o < 2; o++) memory_free(&expected[o]), memory_free(&got[o]);
    }
    logits[at] = before;
  }
  case_free(&c);
  free(targets);
}

/* ---- update -------------------------------------------------------------------------------------- */

static void call_sum_squares(const struct Kernels *k, const struct Workers *w, const struct Case *c,
                             const struct Memory *out) {
  const double sum = k->sum_squares(w, c->in[0].data, c->N);
  memcpy(out[0].data, &sum, sizeof sum);  // two floats, so that all of its bits are compared between threads
  out[1].data[0] = (float)sum;
}

static void call_adamw(const struct Kernels *k, const struct Workers *w, const struct Case *c, const struct Memory *out) {
  /* Moments of another type than floats are made from the case's, before, and back, after. */
  struct Memory stored[2];
  for (int i = 0; i < 2; i++) stored[i] = memory_take(moments_bytes(c->moments, c->N) / 2, BF16);
  const struct Moments moments = {c->moments, stored[0].array.data, stored[1].array.data};
  for (size_t at = 0; at < c->N; at += MOMENTS_BLOCK) {
    moments_store(moments_at(moments, at), out[1].data + at, out[2].data + at, 0, at, size_min(MOMENTS_BLOCK, c->N - at));
  }
  for (int i = 0; i < 2; i++) guard_write(&stored[i]);
  out[3].data[0] = (float)k->adamw_update(w, out[0].data, moments, c->in[0].data, &c->adamw, c->N);
  for (size_t at = 0; at < c->N; at += MOMENTS_BLOCK) {
    moments_load(out[1].data + at, out[2].data + at, moments_at(moments, at), size_min(MOMENTS_BLOCK, c->N - at));
  }
  for (int i = 0; i < 2; i++) {
    check(guard_holds(&stored[i]), "%s wrote in front of its moments", now);
    memory_free(&stored[i]);
  }
}

/* Of random rounding: a number that is near the border may go the other way, by one step of its type. */
static const double ROUNDED_BY[] = {[MOMENTS_FP32] = ROUNDED, [MOMENTS_BF16] = 0x1p-7, [MOMENTS_8BIT] = 0x1p-3};

static void check_adamw(size_t n, size_t step, enum MomentsType moments) {
  const double beta1 = 0.9, beta2 = 0.999;
  struct Case c = {.op = "adamw_update", .call = call_adamw, .N = n, .moments = moments};
  c.adamw = (struct AdamW){.lr = 1e-3, .beta1 = beta1, .beta2 = beta2, .eps = 1e-8, .weight_decay = step % 2 ? 0 : 0.1,
                           .correction1 = 1 - pow(beta1, (double)step), .correction2 = 1 - pow(beta2, (double)step),
                           .scale = step % 3 ? 1 : 0.3, .key = mix64(step)};
  case_input(&c, n, 0);
  case_output(&c, "params", n, ADDED_TO, ROUNDED), case_output(&c, "m", n, ADDED_TO, ROUNDED_BY[moments]);
  float *v = case_output(&c, "v", n, ADDED_TO, ROUNDED_BY[moments]);
  for (size_t i = 0; i < n; i++) v[i] = fabsf(v[i]);
  case_output(&c, "squares", 1, OVERWRITTEN, SUMMED);
  case_check(&c);
}

static void check_update(size_t n, size_t step) {
  struct Case c = {.op = "sum_squares", .call = call_sum_squares, .N = n};
  case_input(&c, n, 0);
  case_output(&c, "bits", 2, ADDED_TO, INFINITY), case_output(&c, "sum", 1, OVERWRITTEN, SUMMED);
  case_check(&c);
  check_adamw(n, step, MOMENTS_FP32);
}

int main(void) {
  cases_start();
  static const size_t sizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 127, 257};
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    const size_t n = sizes[i];
    if (n > 1) check_layernorm(1 + 97 % n, n, FP32), check_layernorm(n, 2 + 97 % n, i % 2 ? BF16 : FP32);
    check_encoder(1 + i % 3, 1 + n % 19, n, 5 + i);
    check_dropout(n, 1 + 7 * i, i % 2 ? 0.1 : 0.6);
    check_crossentropy(1 + n % 5, n, round_up(n, 128)), check_crossentropy(n, 301, 384), check_crossentropy(2, n, n);
    check_update(n, i + 1), check_update(n * 1021, i + 1);
  }
  check_linears();
  check_attentions();
  for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
    for (enum MomentsType moments = MOMENTS_BF16; moments <= MOMENTS_8BIT; moments++) {
      check_adamw(sizes[i], i + 1, moments), check_adamw(sizes[i] * 1021, i + 1, moments);
    }
  }
  cases_stop();
  return check_done("test_kernels");
}
