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

/* The matrix of a linear layer as decoding keeps it: (N, K), row-major. INT8 counts in units of its block's
 * scale, which is a 127th of the block's largest magnitude; a row's last block may be shorter. */
struct Weights {
  enum Dtype dtype;
  void *data;     // (N, K)
  float *scales;  // (N, weights_blocks(K)); NULL unless INT8
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

enum { WEIGHTS_BLOCK = 32 };  // neighbours in a row that share a scale

/* Scales of a row. */
static inline size_t weights_blocks(size_t K) { return (K + WEIGHTS_BLOCK - 1) / WEIGHTS_BLOCK; }

/* The number in row n and column k. */
static inline float weights_get(struct WeightsView w, size_t n, size_t k, size_t K) {
  const size_t i = n * K + k;
  switch (w.dtype) {
    case FP32: return ((const float *)w.data)[i];
    case BF16: return bf16_to_float(((const uint16_t *)w.data)[i]);
    case INT8: return (float)((const int8_t *)w.data)[i] * w.scales[n * weights_blocks(K) + k / WEIGHTS_BLOCK];
  }
  return 0;
}

#endif
