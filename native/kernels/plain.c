/* Every operation as plain loops: what to read first, and what every fast table is held against.
 * Those that only decoding needs are in plain_decode.c.
 *
 * One thread, no scratch memory, no tricks. Where linear layers multiply BF16, each factor is rounded to
 * it and multiplied as a float. Sums run in float in the order of the loops, except where
 * a long sum would lose digits that the fast tables (which add in short runs) keep: those are double.
 */
#include "kernels/plain.h"

#include <math.h>
#include <string.h>

static const float LAYERNORM_EPS = 1e-5f;

static size_t shared_floats(size_t largest) { return (void)largest, 0; }

static size_t own_floats(size_t T, size_t HS) { return (void)T, (void)HS, 0; }

/* ---- encoder ---------------------------------------------------------------------------------- */

static void encoder_forward(const struct Workers *workers, float *out, const int *tokens,
                            const float *wte, const float *wpe, size_t B, size_t T, size_t C) {
  (void)workers;
  for (size_t b = 0; b < B; b++) {
    for (size_t t = 0; t < T; t++) {
      const float *token = wte + (size_t)tokens[b * T + t] * C;
      const float *position = wpe + t * C;
      float *row = out + (b * T + t) * C;
      for (size_t c = 0; c < C; c++) row[c] = token[c] + position[c];
    }
  }
}

static void encoder_backward(const struct Workers *workers, float *dwte, float *dwpe, const float *dout,
                             const int *tokens, size_t B, size_t T, size_t C) {
  (void)workers;
  for (size_t b = 0; b < B; b++) {
    for (size_t t = 0; t < T; t++) {
      const float *drow = dout + (b * T + t) * C;
      float *dtoken = dwte + (size_t)tokens[b * T + t] * C;
      float *dposition = dwpe + t * C;
      for (size_t c = 0; c < C; c++) {
        dtoken[c] += drow[c];
        dposition[c] += drow[c];
      }
    }
  }
}

/* ---- layernorm (derived step by step in docs/engine/layernorm.md) ------------------------------------- */

static void layernorm_forward(const struct Workers *workers, struct LayerNormForward a) {
  (void)workers;
  const size_t N = a.N, C = a.C;
  for (size_t n = 0; n < N; n++) {
    const float *x = a.inp + n * C;
    double sum = 0;
    for (size_t c = 0; c < C; c++) sum += x[c];
    double m = sum / (double)C;
    double squares = 0;
    for (size_t c = 0; c < C; c++) squares += (x[c] - m) * (x[c] - m);
    double s = 1 / sqrt(squares / (double)C + (double)LAYERNORM_EPS);
    for (size_t c = 0; c < C; c++) {
      array_set(a.out, n * C + c, (float)((x[c] - m) * s) * a.weight[c] + a.bias[c]);
    }
    a.mean[n] = (float)m;
    a.rstd[n] = (float)s;
  }
}

static void layernorm_backward(const struct Workers *workers, struct LayerNormBackward a) {
  (void)workers;
  const size_t N = a.N, C = a.C;
  const float *mean = a.mean, *rstd = a.rstd, *weight = a.weight;
  for (size_t n = 0; n < N; n++) {
    const float *x = a.inp + n * C;
    const float *dy = a.dout + n * C;
    /* With the normalised row xhat and its gradient dxhat = dy * weight:
     * dx = rstd * (dxhat - mean(dxhat) - xhat * mean(dxhat * xhat)) */
    double dxhat_sum = 0, dxhat_xhat_sum = 0;
    for (size_t c = 0; c < C; c++) {
      float xhat = (x[c] - mean[n]) * rstd[n];
      float dxhat = dy[c] * weight[c];
      dxhat_sum += dxhat;
      dxhat_xhat_sum += dxhat * xhat;
    }
    float dxhat_mean = (float)(dxhat_sum / (double)C);
    float dxhat_xhat_mean = (float)(dxhat_xhat_sum / (double)C);
    for (size_t c = 0; c < C; c++) {
      float xhat = (x[c] - mean[n]) * rstd[n];
      float dxhat = dy[c] * weight[c];
      a.dinp[n * C + c] += rstd[n] * (dxhat - dxhat_mean - xhat * dxhat_xhat_mean);
      a.dweight[c] += dy[c] * xhat;
      a.dbias[c] += dy[c];
    }
  }
}

/* ---- linear layers ------------------------------------------------------------------------------ */

/* A factor as linear layers multiply it. */
float plain_operand(const struct Workers *workers, float x) {
  return workers->dtype == BF16 ? bf16_to_float(bf16_from_float(x)) : x;
}

/* Row m of inp (M, K) times row n of weight (N, K) */
static float linear_output(const struct Workers *workers, const struct Linear *a, size_t m, size_t n) {
  const size_t K = a->K;
  float sum = 0;
  for (size_t k = 0; k < K; k++) {
    sum += plain_operand(workers, view_get(a->inp, m * K + k)) * plain_operand(workers, a->weight[n * K + k]);
  }
  return sum;
}

static void linear_forward(const struct Workers *workers, struct Linear a) {
  for (size_t m = 0; m < a.M; m++) {
    for (size_t n = 0; n < a.N; n++) {
      float sum = linear_output(workers, &a, m, n);
      array_set(a.out, m * a.N + n, sum + (a.bias != NULL ? a.bias[n] : 0));
    }
  }
}

static void linear_residual(const struct Workers *workers, struct Linear a) {
  for (size_t m = 0; m < a.M; m++) {
    for (size_t n = 0; n < a.N; n++) {
      float sum = linear_output(workers, &a, m, n);
      array_set(a.out, m * a.N + n, a.residual[m * a.N + n] + sum + a.bias[n]);
    }
  }
}

/* GELU's tanh form is x * (1 + tanh u) / 2. Half of 1 + tanh u is the logistic function of 2u, which far left
 * of 0 keeps the digits that 1 + tanh u loses. */
static float gelu_logistic(float x) {
  float twice_u = 1.5957691216057308f * (x + 0.044715f * x * x * x);  // 2 sqrt(2 / pi)
  return 1 / (1 + expf(-twice_u));
}

float plain_gelu(float x) { return x * gelu_logistic(x); }

static float gelu_derivative(float x) {
  float s = gelu_logistic(x);
  return s + x * s * (1 - s) * 1.5957691216057308f * (1 + 3 * 0.044715f * x * x);
}

static void linear_gelu(const struct Workers *workers, struct Linear a) {
  for (size_t m = 0; m < a.M; m++) {
    for (size_t n = 0; n < a.N; n++) {
      float x = linear_output(workers, &a, m, n) + a.bias[n];
      array_set(a.out, m * a.N + n, plain_gelu(x));
      array_set(a.slope, m * a.N + n, gelu_derivative(x));
    }
  }
}

static void linear_backward_input(const struct Workers *workers, float *dinp, const float *dout,
                                  const float *weight, size_t M, size_t N, size_t K) {
  memset(dinp, 0, M * K * sizeof *dinp);
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float d = plain_operand(workers, dout[m * N + n]);
      for (size_t k = 0; k < K; k++) dinp[m * K + k] += d * plain_operand(workers, weight[n * K + k]);
    }
  }
}

static void linear_backward_gelu(const struct Workers *workers, float *dpre, const float *dout,
                                 struct ArrayView slope, const float *weight, size_t M, size_t N, size_t K) {
  linear_backward_input(workers, dpre, dout, weight, M, N, K);
  for (size_t i = 0; i < M * K; i++) dpre[i] *= view_get(slope, i);
}

static void linear_backward_weight(const struct Workers *workers, struct LinearBackwardWeight a) {
  const size_t N = a.N, K = a.K;
  if (!a.add) memset(a.dweight, 0, N * K * sizeof *a.dweight);
  if (!a.add && a.dbias != NULL) memset(a.dbias, 0, N * sizeof *a.dbias);
  for (size_t m = 0; m < a.M; m++) {
    for (size_t n = 0; n < N; n++) {
      float d = a.dout[m * N + n];
      if (a.dbias != NULL) a.dbias[n] += d;
      d = plain_operand(workers, d);
      for (size_t k = 0; k < K; k++) {
        a.dweight[n * K + k] += d * plain_operand(workers, view_get(a.inp, m * K + k));
      }
    }
  }
}

static void linear_symmetric(const struct Workers *workers, float *out, const float *a, const float *b, size_t N, size_t K,
                             bool columns) {
  const size_t lane = columns ? 1 : K, step = columns ? N : 1;
  for (size_t i = 0; i < N; i++) {
    for (size_t j = i; j < N; j++) {
      float sum = 0;
      for (size_t k = 0; k < K; k++) {
        sum += plain_operand(workers, a[i * lane + k * step]) * plain_operand(workers, b[j * lane + k * step]);
      }
      out[i * N + j] = out[j * N + i] = sum;
    }
  }
}

static void dropout(const struct Workers *workers, struct DropoutRows a) {
  (void)workers;
  for (size_t n = 0; n < a.N; n++) {
    const uint64_t row = dropout_row(&a.dropout, n);
    for (size_t c = 0; c < a.C; c++) {
      const float x = a.inp[n * a.C + c] * dropout_factor(&a.dropout, row, c);
      a.out[n * a.C + c] = a.residual != NULL ? a.residual[n * a.C + c] + x : x;
    }
  }
}

/* ---- attention ---------------------------------------------------------------------------------- */

/* a and b (n), one after the other in memory */
static float dot(struct ArrayView a, struct ArrayView b, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; i++) sum += view_get(a, i) * view_get(b, i);
  return sum;
}

/* One query against the keys and values of positions 0 … T-1, `stride` numbers apart; returns the log
 * of the sum of exponentials. The softmax runs online: when a larger score turns up, what was summed
 * so far is scaled down (Milakov, Gimelshein 2018). So no row of scores is ever stored. */
float plain_attend(struct Array out, struct ArrayView q, struct ArrayView keys, struct ArrayView values,
                    size_t stride, size_t T, size_t HS, const struct Dropout *head) {
  enum { CHUNK = 64 };  // outputs at a time; their sums are floats, whatever out is
  float scale = 1 / sqrtf((float)HS);
  float max = -INFINITY, total = 0;
  for (size_t i0 = 0; i0 < HS; i0 += CHUNK) {
    size_t n = HS - i0 < CHUNK ? HS - i0 : CHUNK;
    float sums[CHUNK] = {0};
    max = -INFINITY, total = 0;
    for (size_t t = 0; t < T; t++) {
      float score = scale * dot(q, view_at(keys, t * stride), HS);
      if (score > max) {
        float shrink = expf(max - score);
        total *= shrink;
        for (size_t i = 0; i < n; i++) sums[i] *= shrink;
        max = score;
      }
      float weight = expf(score - max);
      total += weight;
      if (head != NULL) weight *= dropout_factor(head, head->key, dropout_weight(T - 1, t));
      for (size_t i = 0; i < n; i++) sums[i] += weight * view_get(values, t * stride + i0 + i);
    }
    for (size_t i = 0; i < n; i++) array_set(out, i0 + i, sums[i] / total);
  }
  return max + logf(total);
}

static void attention_forward(const struct Workers *workers, struct AttentionForward a) {
  (void)workers;
  const size_t B = a.B, T = a.T, C = a.C, NH = a.NH, HS = C / NH;
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < NH; h++) {
      const struct ArrayView q = view_at(a.qkv, b * T * 3 * C + h * HS), k = view_at(q, C), v = view_at(k, C);
      const struct Dropout head = dropout_head(&a.dropout, b * NH + h);
      for (size_t t = 0; t < T; t++) {
        a.lse[(b * NH + h) * T + t] =
            plain_attend(array_at(a.out, (b * T + t) * C + h * HS), view_at(q, t * 3 * C), k, v, 3 * C, t + 1, HS,
                         head.below > 0 ? &head : NULL);
      }
    }
  }
}

static void attention_backward(const struct Workers *workers, struct AttentionBackward a) {
  (void)workers;
  const size_t B = a.B, T = a.T, C = a.C, NH = a.NH, HS = C / NH, stride = 3 * C;
  float *dqkv = a.dqkv;
  float scale = 1 / sqrtf((float)HS);
  memset(dqkv, 0, B * T * stride * sizeof *dqkv);
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < NH; h++) {
      size_t head = b * T * stride + h * HS;
      struct ArrayView q = view_at(a.qkv, head), k = view_at(q, C), v = view_at(q, 2 * C);
      float *dq = dqkv + head, *dk = dq + C, *dv = dq + 2 * C;
      const struct Dropout dropout = dropout_head(&a.dropout, b * NH + h);
      for (size_t t = 0; t < T; t++) {
        const float *dy = a.dout + (b * T + t) * C + h * HS;
        float dy_y = dot(view_of(dy), view_at(a.out, (b * T + t) * C + h * HS), HS);
        for (size_t s = 0; s <= t; s++) {
          float score = scale * dot(view_at(q, t * stride), view_at(k, s * stride), HS);
          float p = expf(score - a.lse[(b * NH + h) * T + t]);
          float factor = dropout.below > 0 ? dropout_factor(&dropout, dropout.key, dropout_weight(t, s)) : 1;
          float dscore = scale * p * (factor * dot(view_of(dy), view_at(v, s * stride), HS) - dy_y);
          for (size_t i = 0; i < HS; i++) {
            dv[s * stride + i] += factor * p * dy[i];
            dq[t * stride + i] += dscore * view_get(k, s * stride + i);
            dk[s * stride + i] += dscore * view_get(q, t * stride + i);
          }
        }
      }
    }
  }
}

/* ---- loss and update ---------------------------------------------------------------------------- */

static void crossentropy(const struct Workers *workers, float *losses, float *logits,
                         const int *targets, float scale, size_t N, size_t V, size_t Vp) {
  (void)workers;
  for (size_t n = 0; n < N; n++) {
    float *row = logits + n * Vp;
    if (targets[n] < 0) {
      losses[n] = 0;
      memset(row, 0, Vp * sizeof(float));
      continue;
    }
    float max = -INFINITY;
    for (size_t v = 0; v < V; v++) max = fmaxf(max, row[v]);
    double sum = 0;
    for (size_t v = 0; v < V; v++) sum += expf(row[v] - max);
    float log_sum = (float)log(sum);
    losses[n] = log_sum - (row[targets[n]] - max);
    for (size_t v = 0; v < V; v++) row[v] = scale * expf(row[v] - max) / (float)sum;
    row[targets[n]] -= scale;
    for (size_t v = V; v < Vp; v++) row[v] = 0;
  }
}

static double sum_squares(const struct Workers *workers, const float *x, size_t n) {
  (void)workers;
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
  return sum;
}

static double adamw_update(const struct Workers *workers, float *params, struct Moments moments,
                           const float *grads, const struct AdamW *adamw, size_t n) {
  float m[MOMENTS_BLOCK], v[MOMENTS_BLOCK];
  for (size_t at = 0; at < n; at += MOMENTS_BLOCK) {
    size_t block = n - at < MOMENTS_BLOCK ? n - at : MOMENTS_BLOCK;
    moments_load(m, v, moments_at(moments, at), block);
    for (size_t i = 0; i < block; i++) {
      double g = adamw->scale * grads[at + i];
      double mean = adamw->beta1 * m[i] + (1 - adamw->beta1) * g;
      double square = adamw->beta2 * v[i] + (1 - adamw->beta2) * g * g;
      double m_hat = mean / adamw->correction1;
      double v_hat = square / adamw->correction2;
      double step = m_hat / (sqrt(v_hat) + adamw->eps) + adamw->weight_decay * params[at + i];
      m[i] = (float)mean;
      v[i] = (float)square;
      params[at + i] = (float)(params[at + i] - adamw->lr * step);
    }
    moments_store(moments_at(moments, at), m, v, adamw->key, adamw->first + at, block);
  }
  return sum_squares(workers, grads, n);
}

static double peak_flops(const struct Workers *workers) {
  (void)workers;
  enum { ROUNDS = 1 << 20 };
  volatile float a = 0.5f, b = 1;
  float x = 1, factor = a, term = b;
  for (int i = 0; i < ROUNDS; i++) x = x * factor + term;
  a = x;
  return 2.0 * (double)ROUNDS;
}

extern const struct Kernels kernels_plain;
const struct Kernels kernels_plain = {
    .name = "plain",
    .shared_floats = shared_floats,
    .own_floats = own_floats,
    .encoder_forward = encoder_forward,
    .encoder_backward = encoder_backward,
    .layernorm_forward = layernorm_forward,
    .layernorm_backward = layernorm_backward,
    .linear_forward = linear_forward,
    .linear_residual = linear_residual,
    .linear_gelu = linear_gelu,
    .linear_backward_input = linear_backward_input,
    .linear_backward_gelu = linear_backward_gelu,
    .linear_backward_weight = linear_backward_weight,
    .linear_symmetric = linear_symmetric,
    .dropout = dropout,
    .decode_linear = plain_decode_linear,
    .prompt_linear = plain_prompt_linear,
    .weights_store = plain_weights_store,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_prompt = plain_attention_prompt,
    .attention_forward_cached = plain_attention_forward_cached,
    .crossentropy = crossentropy,
    .row_largest = plain_row_largest,
    .row_exponentials = plain_row_exponentials,
    .sum_squares = sum_squares,
    .adamw_update = adamw_update,
    .peak_flops = peak_flops,
};
