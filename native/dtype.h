/* The two types that numbers are stored in, and arrays that may hold either. */
#ifndef LLMC_DTYPE_H
#define LLMC_DTYPE_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum Dtype { FP32, BF16 };

static const char *const DTYPE_NAMES[] = {"fp32", "bf16", NULL};
static inline const char *dtype_name(enum Dtype dtype) { return DTYPE_NAMES[dtype]; }
static inline size_t dtype_size(enum Dtype dtype) { return dtype == BF16 ? 2 : 4; }

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

/* Numbers of either type; who reads or writes them asks which. */
struct Array {
  void *data;
  enum Dtype dtype;
};

/* Floats as an array; one made from const floats is only read. */
static inline struct Array array_of(const float *x) { return (struct Array){(void *)(uintptr_t)x, FP32}; }

/* The array from element i on. */
static inline struct Array array_at(struct Array a, size_t i) {
  return (struct Array){(char *)a.data + i * dtype_size(a.dtype), a.dtype};
}

static inline float array_get(struct Array a, size_t i) {
  return a.dtype == BF16 ? bf16_to_float(((const uint16_t *)a.data)[i]) : ((const float *)a.data)[i];
}

static inline void array_set(struct Array a, size_t i, float x) {
  if (a.dtype == BF16) ((uint16_t *)a.data)[i] = bf16_from_float(x);
  else ((float *)a.data)[i] = x;
}

#endif
