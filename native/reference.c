/* Every operation as plain loops: what to read first, and what every fast table is held against.
 *
 * One thread, no scratch memory, no tricks. Sums run in float in the order of the loops, except where
 * a long sum would lose digits that the fast tables (which add in short runs) keep: those are double.
 */
#include "kernels.h"

#include <math.h>
#include <string.h>

static const float LAYERNORM_EPS = 1e-5f;

static size_t own_floats(size_t T, size_t HS) {
  (void)T, (void)HS;
  return 0;
}

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

/* ---- layernorm (derived step by step in docs/layernorm.md) ------------------------------------- */

static void layernorm_forward(const struct Workers *workers, float *out, float *mean, float *rstd,
                              const float *inp, const float *weight, const float *bias,
                              size_t N, size_t C) {
  (void)workers;
  for (size_t n = 0; n < N; n++) {
    const float *x = inp + n * C;
    double sum = 0;
    for (size_t c = 0; c < C; c++) sum += x[c];
    double m = sum / (double)C;
    double squares = 0;
    for (size_t c = 0; c < C; c++) squares += (x[c] - m) * (x[c] - m);
    double s = 1 / sqrt(squares / (double)C + (double)LAYERNORM_EPS);
    for (size_t c = 0; c < C; c++) {
      out[n * C + c] = (float)((x[c] - m) * s) * weight[c] + bias[c];
    }
    mean[n] = (float)m;
    rstd[n] = (float)s;
  }
}

static void layernorm_backward(const struct Workers *workers, float *dinp, float *dweight, float *dbias,
                               const float *dout, const float *inp, const float *mean,
                               const float *rstd, const float *weight, size_t N, size_t C) {
  (void)workers;
  for (size_t n = 0; n < N; n++) {
    const float *x = inp + n * C;
    const float *dy = dout + n * C;
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
      dinp[n * C + c] += rstd[n] * (dxhat - dxhat_mean - xhat * dxhat_xhat_mean);
      dweight[c] += dy[c] * xhat;
      dbias[c] += dy[c];
    }
  }
}

/* ---- linear layers ------------------------------------------------------------------------------ */

static void linear_forward(const struct Workers *workers, float *out, const float *inp,
                           const float *weight, const float *bias, size_t M, size_t N, size_t K) {
  (void)workers;
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float sum = 0;
      for (size_t k = 0; k < K; k++) sum += inp[m * K + k] * weight[n * K + k];
      out[m * N + n] = sum + (bias != NULL ? bias[n] : 0);
    }
  }
}

static void linear_residual(const struct Workers *workers, float *out, const float *residual,
                            const float *inp, const float *weight, const float *bias,
                            size_t M, size_t N, size_t K) {
  (void)workers;
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float sum = 0;
      for (size_t k = 0; k < K; k++) sum += inp[m * K + k] * weight[n * K + k];
      out[m * N + n] = residual[m * N + n] + sum + bias[n];
    }
  }
}

static const float SQRT_2_OVER_PI = 0.79788456080286536f;
static const float GELU_CUBIC = 0.044715f;

static float gelu(float x) {
  return 0.5f * x * (1 + tanhf(SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x)));
}

static float gelu_derivative(float x) {
  float t = tanhf(SQRT_2_OVER_PI * (x + GELU_CUBIC * x * x * x));
  return 0.5f * (1 + t) +
         0.5f * x * (1 - t * t) * SQRT_2_OVER_PI * (1 + 3 * GELU_CUBIC * x * x);
}

static void linear_gelu(const struct Workers *workers, float *out, float *pre, const float *inp,
                        const float *weight, const float *bias, size_t M, size_t N, size_t K) {
  linear_forward(workers, pre, inp, weight, bias, M, N, K);
  for (size_t i = 0; i < M * N; i++) out[i] = gelu(pre[i]);
}

static void linear_backward_input(const struct Workers *workers, float *dinp, const float *dout,
                                  const float *weight, size_t M, size_t N, size_t K) {
  (void)workers;
  for (size_t m = 0; m < M; m++) {
    float *drow = dinp + m * K;
    memset(drow, 0, K * sizeof *drow);
    for (size_t n = 0; n < N; n++) {
      for (size_t k = 0; k < K; k++) drow[k] += dout[m * N + n] * weight[n * K + k];
    }
  }
}

static void linear_backward_gelu(const struct Workers *workers, float *dpre, const float *dout,
                                 const float *pre, const float *weight, size_t M, size_t N, size_t K) {
  linear_backward_input(workers, dpre, dout, weight, M, N, K);
  for (size_t i = 0; i < M * K; i++) dpre[i] *= gelu_derivative(pre[i]);
}

static void linear_backward_weight(const struct Workers *workers, float *dweight, float *dbias,
                                   const float *dout, const float *inp, size_t M, size_t N, size_t K) {
  (void)workers;
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float d = dout[m * N + n];
      if (dbias != NULL) dbias[n] += d;
      for (size_t k = 0; k < K; k++) dweight[n * K + k] += d * inp[m * K + k];
    }
  }
}

/* ---- attention ---------------------------------------------------------------------------------- */

static float dot(const float *a, const float *b, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; i++) sum += a[i] * b[i];
  return sum;
}

/* One query against the keys and values of positions 0 … T-1, `stride` floats apart; returns the log
 * of the sum of exponentials. The softmax runs online: when a larger score turns up, what was summed
 * so far is scaled down (Milakov, Gimelshein 2018). So no row of scores is ever stored. */
static float attend(float *out, const float *q, const float *keys, const float *values,
                    size_t stride, size_t T, size_t HS) {
  float scale = 1 / sqrtf((float)HS);
  float max = -INFINITY, sum = 0;
  memset(out, 0, HS * sizeof *out);
  for (size_t t = 0; t < T; t++) {
    float score = scale * dot(q, keys + t * stride, HS);
    if (score > max) {
      float shrink = expf(max - score);
      sum *= shrink;
      for (size_t i = 0; i < HS; i++) out[i] *= shrink;
      max = score;
    }
    float weight = expf(score - max);
    sum += weight;
    for (size_t i = 0; i < HS; i++) out[i] += weight * values[t * stride + i];
  }
  for (size_t i = 0; i < HS; i++) out[i] /= sum;
  return max + logf(sum);
}

static void attention_forward(const struct Workers *workers, float *out, float *lse, const float *qkv,
                              size_t B, size_t T, size_t C, size_t NH) {
  (void)workers;
  size_t HS = C / NH;
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < NH; h++) {
      const float *q = qkv + b * T * 3 * C + h * HS;
      for (size_t t = 0; t < T; t++) {
        lse[(b * NH + h) * T + t] = attend(out + (b * T + t) * C + h * HS, q + t * 3 * C, q + C,
                                           q + 2 * C, 3 * C, t + 1, HS);
      }
    }
  }
}

static void attention_backward(const struct Workers *workers, float *dqkv, const float *dout,
                               const float *qkv, const float *out, const float *lse,
                               size_t B, size_t T, size_t C, size_t NH) {
  (void)workers;
  size_t HS = C / NH, stride = 3 * C;
  float scale = 1 / sqrtf((float)HS);
  memset(dqkv, 0, B * T * stride * sizeof *dqkv);
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < NH; h++) {
      size_t head = b * T * stride + h * HS;
      const float *q = qkv + head, *k = q + C, *v = q + 2 * C;
      float *dq = dqkv + head, *dk = dq + C, *dv = dq + 2 * C;
      for (size_t t = 0; t < T; t++) {
        const float *dy = dout + (b * T + t) * C + h * HS;
        const float *y = out + (b * T + t) * C + h * HS;
        float dy_y = dot(dy, y, HS);
        for (size_t s = 0; s <= t; s++) {
          float score = scale * dot(q + t * stride, k + s * stride, HS);
          float p = expf(score - lse[(b * NH + h) * T + t]);
          float dscore = scale * p * (dot(dy, v + s * stride, HS) - dy_y);
          for (size_t i = 0; i < HS; i++) {
            dv[s * stride + i] += p * dy[i];
            dq[t * stride + i] += dscore * k[s * stride + i];
            dk[s * stride + i] += dscore * q[t * stride + i];
          }
        }
      }
    }
  }
}

static void attention_decode(const struct Workers *workers, float *out, const float *q,
                             const float *keys, const float *values, size_t T, size_t C, size_t NH) {
  (void)workers;
  size_t HS = C / NH;
  for (size_t i = 0; i < C; i += HS) attend(out + i, q + i, keys + i, values + i, C, T, HS);
}

/* ---- loss and update ---------------------------------------------------------------------------- */

static void crossentropy(const struct Workers *workers, float *losses, float *logits,
                         const int *targets, float scale, size_t N, size_t V, size_t Vp) {
  (void)workers;
  for (size_t n = 0; n < N; n++) {
    float *row = logits + n * Vp;
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

static void adamw_update(const struct Workers *workers, float *params, float *m, float *v,
                         const float *grads, const struct AdamW *adamw, size_t n) {
  (void)workers;
  for (size_t i = 0; i < n; i++) {
    double g = grads[i];
    double mean = adamw->beta1 * m[i] + (1 - adamw->beta1) * g;
    double square = adamw->beta2 * v[i] + (1 - adamw->beta2) * g * g;
    double m_hat = mean / adamw->correction1;
    double v_hat = square / adamw->correction2;
    double step = m_hat / (sqrt(v_hat) + adamw->eps) + adamw->weight_decay * params[i];
    m[i] = (float)mean;
    v[i] = (float)square;
    params[i] = (float)(params[i] - adamw->lr * step);
  }
}

static double peak_flops(const struct Workers *workers) {
  (void)workers;
  enum { ROUNDS = 1 << 26 };
  volatile float a = 0.5f, b = 1;
  float x = 1, factor = a, term = b;
  for (int i = 0; i < ROUNDS; i++) x = x * factor + term;
  a = x;
  return 2.0 * (double)ROUNDS;
}

extern const struct Kernels kernels_reference;
const struct Kernels kernels_reference = {
    .name = "reference",
    .shared_floats = 0,
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
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_decode = attention_decode,
    .crossentropy = crossentropy,
    .sum_squares = sum_squares,
    .adamw_update = adamw_update,
    .peak_flops = peak_flops,
};
