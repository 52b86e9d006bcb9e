/* Every operation as plain loops: what to read first, and what every fast table is held against.
 *
 * One thread, no scratch memory, no tricks. Where linear layers multiply BF16, each factor is rounded to
 * it and multiplied as a float. Sums run in float in the order of the loops, except where
 * a long sum would lose digits that the fast tables (which add in short runs) keep: those are double.
 */
#include "kernels.h"

#include <float.h>
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

/* ---- layernorm (derived step by step in docs/layernorm.md) ------------------------------------- */

static void layernorm_forward(const struct Workers *workers, struct Array out, float *mean, float *rstd,
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
      array_set(out, n * C + c, (float)((x[c] - m) * s) * weight[c] + bias[c]);
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

/* A factor as linear layers multiply it. */
static float operand(const struct Workers *workers, float x) {
  return workers->dtype == BF16 ? bf16_to_float(bf16_from_float(x)) : x;
}

/* Row m of inp (M, K) times row n of weight (N, K) */
static float linear_output(const struct Workers *workers, struct Array inp, const float *weight,
                           size_t m, size_t n, size_t K) {
  float sum = 0;
  for (size_t k = 0; k < K; k++) {
    sum += operand(workers, array_get(inp, m * K + k)) * operand(workers, weight[n * K + k]);
  }
  return sum;
}

static void linear_forward(const struct Workers *workers, struct Array out, struct Array inp,
                           const float *weight, const float *bias, size_t M, size_t N, size_t K) {
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float sum = linear_output(workers, inp, weight, m, n, K);
      array_set(out, m * N + n, sum + (bias != NULL ? bias[n] : 0));
    }
  }
}

static void linear_residual(const struct Workers *workers, float *out, const float *residual,
                            struct Array inp, const float *weight, const float *bias,
                            size_t M, size_t N, size_t K) {
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float sum = linear_output(workers, inp, weight, m, n, K);
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

static void linear_gelu(const struct Workers *workers, struct Array out, struct Array pre,
                        struct Array inp, const float *weight, const float *bias,
                        size_t M, size_t N, size_t K) {
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float x = linear_output(workers, inp, weight, m, n, K) + bias[n];
      array_set(pre, m * N + n, x);
      array_set(out, m * N + n, gelu(x));
    }
  }
}

static void linear_backward_input(const struct Workers *workers, float *dinp, const float *dout,
                                  const float *weight, size_t M, size_t N, size_t K) {
  memset(dinp, 0, M * K * sizeof *dinp);
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float d = operand(workers, dout[m * N + n]);
      for (size_t k = 0; k < K; k++) dinp[m * K + k] += d * operand(workers, weight[n * K + k]);
    }
  }
}

static void linear_backward_gelu(const struct Workers *workers, float *dpre, const float *dout,
                                 struct Array pre, const float *weight, size_t M, size_t N, size_t K) {
  linear_backward_input(workers, dpre, dout, weight, M, N, K);
  for (size_t i = 0; i < M * K; i++) dpre[i] *= gelu_derivative(array_get(pre, i));
}

static void linear_backward_weight(const struct Workers *workers, float *dweight, float *dbias,
                                   const float *dout, struct Array inp, bool add,
                                   size_t M, size_t N, size_t K) {
  if (!add) memset(dweight, 0, N * K * sizeof *dweight);
  if (!add && dbias != NULL) memset(dbias, 0, N * sizeof *dbias);
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float d = dout[m * N + n];
      if (dbias != NULL) dbias[n] += d;
      d = operand(workers, d);
      for (size_t k = 0; k < K; k++) dweight[n * K + k] += d * operand(workers, array_get(inp, m * K + k));
    }
  }
}

/* ---- decoding ----------------------------------------------------------------------------------- */

/* The scale of a block of n numbers: what 1 stands for in INT8. 0 where it is too small to divide by. */
static float block_scale(const float *x, size_t n) {
  float max = 0;
  for (size_t i = 0; i < n; i++) max = fabsf(x[i]) <= max ? max : fabsf(x[i]) + (max - max);  // a NaN stays
  const float scale = max / 127;
  return scale < FLT_MIN ? 0 : scale;
}

static int8_t quantised(float x, float scale) {
  return scale > 0 && isfinite(scale) ? (int8_t)rintf(x / scale) : 0;
}

static void weights_store(const struct Workers *workers, void *data, float *scales, enum Dtype dtype,
                          const float *weight, size_t N, size_t K) {
  (void)workers;
  for (size_t n = 0; n < N; n++) {
    for (size_t k = 0; k < K; k++) {
      const size_t i = n * K + k, block = n * weights_blocks(K) + k / WEIGHTS_BLOCK;
      if (dtype != INT8) {
        array_set((struct Array){data, dtype}, i, weight[i]);
        continue;
      }
      if (k % WEIGHTS_BLOCK == 0) {
        scales[block] = block_scale(weight + i, K - k < WEIGHTS_BLOCK ? K - k : WEIGHTS_BLOCK);
      }
      ((int8_t *)data)[i] = quantised(weight[i], scales[block]);
    }
  }
}

/* A row of the input times row n of INT8 weights: sums of integers, block by block. */
static float decode_int8(const float *inp, struct Weights weight, size_t n, size_t K) {
  const int8_t *row = (const int8_t *)weight.data + n * K;
  float sum = 0;
  for (size_t begin = 0; begin < K; begin += WEIGHTS_BLOCK) {
    const size_t size = K - begin < WEIGHTS_BLOCK ? K - begin : WEIGHTS_BLOCK;
    const float scale = block_scale(inp + begin, size);
    int products = 0;
    for (size_t k = begin; k < begin + size; k++) products += quantised(inp[k], scale) * row[k];
    sum += (float)products * (scale * weight.scales[n * weights_blocks(K) + begin / WEIGHTS_BLOCK]);
  }
  return sum;
}

/* With `bytes`, INT8 weights meet an input that is made INT8 too. */
static void linear_of(const struct Workers *workers, float *out, const float *inp, struct Weights weight, bool bytes,
                      const float *bias, enum DecodeFinish finish, size_t M, size_t N, size_t K) {
  struct Workers multiply = *workers;
  multiply.dtype = weight.dtype;
  for (size_t m = 0; m < M; m++) {
    for (size_t n = 0; n < N; n++) {
      float x = 0;
      if (weight.dtype == INT8 && bytes) x = decode_int8(inp + m * K, weight, n, K);
      else for (size_t k = 0; k < K; k++) x += operand(&multiply, inp[m * K + k]) * weights_get(weight, n, k, K);
      if (bias != NULL) x += bias[n];
      if (finish == DECODE_ADD) x += out[m * N + n];
      out[m * N + n] = finish == DECODE_GELU ? gelu(x) : x;
    }
  }
}

static void decode_linear(const struct Workers *workers, float *out, const float *inp, struct Weights weight,
                          const float *bias, enum DecodeFinish finish, size_t M, size_t N, size_t K) {
  linear_of(workers, out, inp, weight, M <= DECODE_ROWS, bias, finish, M, N, K);
}

static void prompt_linear(const struct Workers *workers, float *out, const float *inp, struct Weights weight,
                          const float *bias, enum DecodeFinish finish, size_t M, size_t N, size_t K) {
  linear_of(workers, out, inp, weight, false, bias, finish, M, N, K);
}

/* ---- attention ---------------------------------------------------------------------------------- */

/* a and b (n), one after the other in memory */
static float dot(struct Array a, struct Array b, size_t n) {
  float sum = 0;
  for (size_t i = 0; i < n; i++) sum += array_get(a, i) * array_get(b, i);
  return sum;
}

/* One query against the keys and values of positions 0 … T-1, `stride` numbers apart; returns the log
 * of the sum of exponentials. The softmax runs online: when a larger score turns up, what was summed
 * so far is scaled down (Milakov, Gimelshein 2018). So no row of scores is ever stored. */
static float attend(struct Array out, struct Array q, struct Array keys, struct Array values,
                    size_t stride, size_t T, size_t HS) {
  enum { CHUNK = 64 };  // outputs at a time; their sums are floats, whatever out is
  float scale = 1 / sqrtf((float)HS);
  float max = -INFINITY, total = 0;
  for (size_t i0 = 0; i0 < HS; i0 += CHUNK) {
    size_t n = HS - i0 < CHUNK ? HS - i0 : CHUNK;
    float sums[CHUNK] = {0};
    max = -INFINITY, total = 0;
    for (size_t t = 0; t < T; t++) {
      float score = scale * dot(q, array_at(keys, t * stride), HS);
      if (score > max) {
        float shrink = expf(max - score);
        total *= shrink;
        for (size_t i = 0; i < n; i++) sums[i] *= shrink;
        max = score;
      }
      float weight = expf(score - max);
      total += weight;
      for (size_t i = 0; i < n; i++) sums[i] += weight * array_get(values, t * stride + i0 + i);
    }
    for (size_t i = 0; i < n; i++) array_set(out, i0 + i, sums[i] / total);
  }
  return max + logf(total);
}

static void attention_forward(const struct Workers *workers, struct Array out, float *lse,
                              struct Array qkv, size_t B, size_t T, size_t C, size_t NH) {
  (void)workers;
  size_t HS = C / NH;
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < NH; h++) {
      struct Array q = array_at(qkv, b * T * 3 * C + h * HS);
      for (size_t t = 0; t < T; t++) {
        lse[(b * NH + h) * T + t] = attend(array_at(out, (b * T + t) * C + h * HS), array_at(q, t * 3 * C),
                                           array_at(q, C), array_at(q, 2 * C), 3 * C, t + 1, HS);
      }
    }
  }
}

static void attention_backward(const struct Workers *workers, float *dqkv, const float *dout,
                               struct Array qkv, struct Array out, const float *lse,
                               size_t B, size_t T, size_t C, size_t NH) {
  (void)workers;
  size_t HS = C / NH, stride = 3 * C;
  float scale = 1 / sqrtf((float)HS);
  memset(dqkv, 0, B * T * stride * sizeof *dqkv);
  for (size_t b = 0; b < B; b++) {
    for (size_t h = 0; h < NH; h++) {
      size_t head = b * T * stride + h * HS;
      struct Array q = array_at(qkv, head), k = array_at(q, C), v = array_at(q, 2 * C);
      float *dq = dqkv + head, *dk = dq + C, *dv = dq + 2 * C;
      for (size_t t = 0; t < T; t++) {
        const float *dy = dout + (b * T + t) * C + h * HS;
        float dy_y = dot(array_of(dy), array_at(out, (b * T + t) * C + h * HS), HS);
        for (size_t s = 0; s <= t; s++) {
          float score = scale * dot(array_at(q, t * stride), array_at(k, s * stride), HS);
          float p = expf(score - lse[(b * NH + h) * T + t]);
          float dscore = scale * p * (dot(array_of(dy), array_at(v, s * stride), HS) - dy_y);
          for (size_t i = 0; i < HS; i++) {
            dv[s * stride + i] += p * dy[i];
            dq[t * stride + i] += dscore * array_get(k, s * stride + i);
            dk[s * stride + i] += dscore * array_get(q, t * stride + i);
          }
        }
      }
    }
  }
}

/* Where the cache holds position t of head h: CACHE_LANES divides a row's length. */
static struct Array cached(struct Cache cache, struct Array kept, size_t slot, size_t t, size_t h, size_t NH,
                           size_t HS) {
  const size_t row = (HS + CACHE_LANES - 1) / CACHE_LANES * CACHE_LANES;
  return array_at(kept, ((slot * NH + h) * cache.P + t) * row);
}

static void attention_decode(const struct Workers *workers, float *out, const float *qkv, struct Cache cache,
                             const struct Feed *feeds, size_t M, size_t C, size_t NH) {
  (void)workers;
  size_t HS = C / NH, row = (HS + CACHE_LANES - 1) / CACHE_LANES * CACHE_LANES;
  for (size_t m = 0; m < M; m++) {
    for (size_t h = 0; h < NH; h++) {
      const float *q = qkv + m * 3 * C + h * HS;
      const struct Feed at = feeds[m];
      const struct Array key = cached(cache, cache.keys, at.slot, at.position, h, NH, HS);
      const struct Array value = cached(cache, cache.values, at.slot, at.position, h, NH, HS);
      for (size_t i = 0; i < HS; i++) array_set(key, i, q[C + i]), array_set(value, i, q[2 * C + i]);
      attend(array_of(out + m * C + h * HS), array_of(q), cached(cache, cache.keys, at.slot, 0, h, NH, HS),
             cached(cache, cache.values, at.slot, 0, h, NH, HS), row, at.position + 1, HS);
    }
  }
}

static void attention_prompt(const struct Workers *workers, float *out, const float *qkv, struct Cache cache,
                             struct Feed first, size_t M, size_t C, size_t NH) {
  for (size_t m = 0; m < M; m++, first.position++) {
    attention_decode(workers, out + m * C, qkv + m * 3 * C, cache, &first, 1, C, NH);
  }
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

static float row_largest(const float *x, size_t n) {
  float max = x[0];
  for (size_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
  return max;
}

static double row_exponentials(float *out, const float *x, float max, float scale, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    const float e = expf((x[i] - max) * scale);
    if (out != NULL) out[i] = e;
    sum += (double)e + 0 * (double)x[i];
  }
  return sum;
}

static double sum_squares(const struct Workers *workers, const float *x, size_t n) {
  (void)workers;
  double sum = 0;
  for (size_t i = 0; i < n; i++) sum += (double)x[i] * x[i];
  return sum;
}

static double adamw_update(const struct Workers *workers, float *params, float *m, float *v,
                           const float *grads, const struct AdamW *adamw, size_t n) {
  for (size_t i = 0; i < n; i++) {
    double g = adamw->scale * grads[i];
    double mean = adamw->beta1 * m[i] + (1 - adamw->beta1) * g;
    double square = adamw->beta2 * v[i] + (1 - adamw->beta2) * g * g;
    double m_hat = mean / adamw->correction1;
    double v_hat = square / adamw->correction2;
    double step = m_hat / (sqrt(v_hat) + adamw->eps) + adamw->weight_decay * params[i];
    m[i] = (float)mean;
    v[i] = (float)square;
    params[i] = (float)(params[i] - adamw->lr * step);
  }
  return sum_squares(workers, grads, n);
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
    .decode_linear = decode_linear,
    .prompt_linear = prompt_linear,
    .weights_store = weights_store,
    .attention_forward = attention_forward,
    .attention_backward = attention_backward,
    .attention_prompt = attention_prompt,
    .attention_decode = attention_decode,
    .crossentropy = crossentropy,
    .row_largest = row_largest,
    .row_exponentials = row_exponentials,
    .sum_squares = sum_squares,
    .adamw_update = adamw_update,
    .peak_flops = peak_flops,
};
