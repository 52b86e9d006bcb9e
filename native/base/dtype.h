/* The types that numbers are stored in, arrays of floats or BF16, and weights of any type. */
#ifndef LLMC_DTYPE_H
#define LLMC_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum Dtype { FP32, BF16, INT8 };

static const char *const DTYPE_NAMES[] = {"fp32", "bf16", NULL};           // to compute in
static const char *const WEIGHT_NAMES[] = {"fp32", "bf16", "int8", NULL};  // to keep weights in, for decoding
static inline const char *dtype_name(enum Dtype dtype) { return WEIGHT_NAMES[dtype]; }
static inline size_t dtype_size(enum Dtype dtype) { return dtype == FP32 ? 4 : dtype == BF16 ? 2 : 1; }

/* BF16 is the upper half of a float: its sign, its exponent, and seven bits of its mantissa. Rounded to
 * the nearest, ties to even, as the CPUs that have an instruction for it do; a NaN stays one. */
static inline uint16_t bf16_from_float(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if (x != x) return (uint16_t)(bits >> 16 | 0x40);
  return (uint16_t)((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

static inline float bf16_to_float(uint16_t x) {
  const uint32_t bits = (uint32_t)x << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

/* Floats or BF16. */
struct Array {
  void *data;
  enum Dtype dtype;
};

/* An array that is only read. */
struct ArrayView {
  const void *data;
  enum Dtype dtype;
};

static inline struct Array array_of(float *x) { return (struct Array){x, FP32}; }
static inline struct ArrayView view_of(const float *x) { return (struct ArrayView){x, FP32}; }
static inline struct ArrayView view(struct Array a) { return (struct ArrayView){a.data, a.dtype}; }

/* The array from element i on. */
static inline struct Array array_at(struct Array a, size_t i) {
  return (struct Array){(char *)a.data + i * dtype_size(a.dtype), a.dtype};
}

static inline struct ArrayView view_at(struct ArrayView a, size_t i) {
  return (struct ArrayView){(const char *)a.data + i * dtype_size(a.dtype), a.dtype};
}

static inline float view_get(struct ArrayView a, size_t i) {
  return a.dtype == BF16 ? bf16_to_float(((const uint16_t *)a.data)[i]) : ((const float *)a.data)[i];
}

static inline float array_get(struct Array a, size_t i) { return view_get(view(a), i); }

static inline void array_set(struct Array a, size_t i, float x) {
  if (a.dtype == BF16) ((uint16_t *)a.data)[i] = bf16_from_float(x);
  else ((float *)a.data)[i] = x;
}

/* The matrix of a linear layer as decoding keeps it: (N, K), row-major unless it is INT8.
 *
 * INT8 counts in units of its block's scale, which is a 127th of the block's largest magnitude. It lies as it is
 * multiplied, in panels of 16 rows: [panel][block of 32 numbers][quad of 4][row][number], and the scales
 * [panel][block][row]. What a last panel or block lacks is there, and does not count. */
struct Weights {
  enum Dtype dtype;
  void *data;     // weights_count(…) numbers
  float *scales;  // weights_scales(…); NULL unless INT8
};

/* Weights that are only read. */
struct WeightsView {
  enum Dtype dtype;
  const void *data;
  const float *scales;
};

static inline struct WeightsView weights_view(struct Weights w) {
  return (struct WeightsView){w.dtype, w.data, w.scales};
}

enum {
  WEIGHTS_BLOCK = 32,  // neighbours in a row that share a scale
  WEIGHTS_QUAD = 4,    // neighbours in a row that are neighbours in memory
  WEIGHTS_PANEL = 16,  // rows
};

/* Blocks of a row. */
static inline size_t weights_blocks(size_t K) { return (K + WEIGHTS_BLOCK - 1) / WEIGHTS_BLOCK; }

/* Scales of N rows. */
static inline size_t weights_scales(enum Dtype dtype, size_t N, size_t K) {
  const size_t rows = (N + WEIGHTS_PANEL - 1) / WEIGHTS_PANEL * WEIGHTS_PANEL;
  return dtype == INT8 ? rows * weights_blocks(K) : 0;
}

/* Numbers of N rows. */
static inline size_t weights_count(enum Dtype dtype, size_t N, size_t K) {
  return dtype == INT8 ? weights_scales(dtype, N, K) * WEIGHTS_BLOCK : N * K;
}

/* The matrix that follows so many others of N rows. */
static inline struct Weights weights_at(struct Weights w, size_t matrices, size_t N, size_t K) {
  w.data = (char *)w.data + matrices * weights_count(w.dtype, N, K) * dtype_size(w.dtype);
  if (w.dtype == INT8) w.scales += matrices * weights_scales(w.dtype, N, K);
  return w;
}

/* Where INT8 weights have the scale of a block of row n. */
static inline size_t weights_scale_place(size_t n, size_t block, size_t K) {
  return (n / WEIGHTS_PANEL * weights_blocks(K) + block) * WEIGHTS_PANEL + n % WEIGHTS_PANEL;
}

/* And the first number of a quad of that block. */
static inline size_t weights_quad_place(size_t n, size_t block, size_t quad, size_t K) {
  const size_t at = (n / WEIGHTS_PANEL * weights_blocks(K) + block) * (WEIGHTS_BLOCK / WEIGHTS_QUAD) + quad;
  return (at * WEIGHTS_PANEL + n % WEIGHTS_PANEL) * WEIGHTS_QUAD;
}

/* The number in row n and column k. */
static inline float weights_get(struct WeightsView w, size_t n, size_t k, size_t K) {
  const size_t block = k / WEIGHTS_BLOCK, quad = k % WEIGHTS_BLOCK / WEIGHTS_QUAD;
  switch (w.dtype) {
    case FP32: return ((const float *)w.data)[n * K + k];
    case BF16: return bf16_to_float(((const uint16_t *)w.data)[n * K + k]);
    case INT8: return (float)((const int8_t *)w.data)[weights_quad_place(n, block, quad, K) + k % WEIGHTS_QUAD] *
                      w.scales[weights_scale_place(n, block, K)];
  }
  return 0;
}

/* The bytes of a block of row n, in the order of K. */
static inline void weights_get_block(int8_t bytes[WEIGHTS_BLOCK], struct WeightsView w, size_t n, size_t block, size_t K) {
  for (size_t quad = 0; quad < WEIGHTS_BLOCK / WEIGHTS_QUAD; quad++) {
    memcpy(bytes + quad * WEIGHTS_QUAD, (const int8_t *)w.data + weights_quad_place(n, block, quad, K), WEIGHTS_QUAD);
  }
}

static inline void weights_set_block(struct Weights w, size_t n, size_t block, size_t K, const int8_t bytes[WEIGHTS_BLOCK],
                                     float scale) {
  w.scales[weights_scale_place(n, block, K)] = scale;
  for (size_t quad = 0; quad < WEIGHTS_BLOCK / WEIGHTS_QUAD; quad++) {
    memcpy((int8_t *)w.data + weights_quad_place(n, block, quad, K), bytes + quad * WEIGHTS_QUAD, WEIGHTS_QUAD);
  }
}

#endif
