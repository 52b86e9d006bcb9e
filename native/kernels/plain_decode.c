/* The operations of decoding as plain loops; those of training are in plain.c. */
#include "kernels/plain.h"

#include <float.h>
#include <math.h>

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

static void store_block(struct Weights out, const float *numbers, size_t n, size_t block, size_t K) {
  const size_t begin = block * WEIGHTS_BLOCK, size = K - begin < WEIGHTS_BLOCK ? K - begin : WEIGHTS_BLOCK;
  const float scale = block_scale(numbers + begin, size);
  int8_t bytes[WEIGHTS_BLOCK] = {0};
  for (size_t k = 0; k < size; k++) bytes[k] = quantised(numbers[begin + k], scale);
  weights_set_block(out, n, block, K, bytes, scale);
}

void plain_weights_store(const struct Workers *workers, struct Weights out, const float *weight, size_t first,
                         size_t count, size_t K) {
  (void)workers;
  for (size_t n = 0; n < count; n++) {
    if (out.dtype == INT8) {
      for (size_t block = 0; block < weights_blocks(K); block++) store_block(out, weight + n * K, first + n, block, K);
    } else {
      const struct Array to = {out.data, out.dtype};
      for (size_t k = 0; k < K; k++) array_set(to, (first + n) * K + k, weight[n * K + k]);
    }
  }
}

/* A row of the input times row n of INT8 weights: sums of integers, block by block. */
static float decode_int8(const float *inp, struct WeightsView weight, size_t n, size_t K) {
  float sum = 0;
  for (size_t block = 0; block < weights_blocks(K); block++, inp += WEIGHTS_BLOCK) {
    const size_t left = K - block * WEIGHTS_BLOCK, size = left < WEIGHTS_BLOCK ? left : WEIGHTS_BLOCK;
    const float scale = block_scale(inp, size);
    int8_t bytes[WEIGHTS_BLOCK];
    int products = 0;
    weights_get_block(bytes, weight, n, block, K);
    for (size_t k = 0; k < size; k++) products += quantised(inp[k], scale) * bytes[k];
    sum += (float)products * (scale * weight.scales[weights_scale_place(n, block, K)]);
  }
  return sum;
}

/* With `bytes`, INT8 weights meet an input that is made INT8 too. */
static void linear_of(const struct Workers *workers, const struct DecodeLinear *a, bool bytes) {
  const size_t N = a->N, K = a->K;
  struct Workers multiply = *workers;
  multiply.dtype = a->weight.dtype;
  for (size_t m = 0; m < a->M; m++) {
    const float *row = a->inp + m * K;
    for (size_t n = 0; n < N; n++) {
      float x = 0;
      if (a->weight.dtype == INT8 && bytes) {
        x = decode_int8(row, a->weight, n, K);
      } else {
        for (size_t k = 0; k < K; k++) x += plain_operand(&multiply, row[k]) * weights_get(a->weight, n, k, K);
      }
      if (a->bias != NULL) x += a->bias[n];
      if (a->finish == DECODE_ADD) x += a->out[m * N + n];
      a->out[m * N + n] = a->finish == DECODE_GELU ? plain_gelu(x) : x;
    }
  }
}

void plain_decode_linear(const struct Workers *workers, struct DecodeLinear linear) {
  linear_of(workers, &linear, linear.M <= DECODE_ROWS);
}

void plain_prompt_linear(const struct Workers *workers, struct DecodeLinear linear) {
  linear_of(workers, &linear, false);
}

/* Where the cache holds position t of head h: CACHE_LANES divides a row's length. */
static struct Array cached(struct Cache cache, struct Array kept, size_t slot, size_t t, size_t h, size_t NH,
                           size_t HS) {
  const size_t row = (HS + CACHE_LANES - 1) / CACHE_LANES * CACHE_LANES;
  return array_at(kept, ((slot * NH + h) * cache.P + t) * row);
}

void plain_attention_forward_cached(const struct Workers *workers, float *out, const float *qkv, struct Cache cache,
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
      const struct Array keys = cached(cache, cache.keys, at.slot, 0, h, NH, HS);
      const struct Array values = cached(cache, cache.values, at.slot, 0, h, NH, HS);
      plain_attend(array_of(out + m * C + h * HS), view_of(q), view(keys), view(values), row,
                   at.position + 1, HS, NULL);
    }
  }
}

void plain_attention_prompt(const struct Workers *workers, float *out, const float *qkv, struct Cache cache,
                             struct Feed first, size_t M, size_t C, size_t NH) {
  for (size_t m = 0; m < M; m++, first.position++) {
    plain_attention_forward_cached(workers, out + m * C, qkv + m * 3 * C, cache, &first, 1, C, NH);
  }
}

float plain_row_largest(const float *x, size_t n) {
  float max = x[0];
  for (size_t i = 1; i < n; i++) max = x[i] > max ? x[i] : max;
  return max;
}

double plain_row_exponentials(float *out, const float *x, float max, float scale, size_t n) {
  double sum = 0;
  for (size_t i = 0; i < n; i++) {
    const float e = expf((x[i] - max) * scale);
    if (out != NULL) out[i] = e;
    sum += (double)e + 0 * (double)x[i];
  }
  return sum;
}
