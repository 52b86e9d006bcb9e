/* How AdamW's running means are stored: m of the gradient, v of its square.
 *
 * fp32: as they are. bf16: the upper half of each float. 8bit: in blocks of 256 numbers, each a float and a
 * byte a number (Dettmers et al. 2022). A byte is a small float itself, laid out like the upper bits of a
 * float from 1 on: byte c stands for F(c), whose bits are those of 1 plus c steps.
 *   m: a sign, and 7 bits of magnitude, unit * (F(c) - 1): zero is there, and near it the steps are equal
 *   v: 8 bits, unit * F(c): none is zero unless all are, so that no update is divided by nothing
 * The unit makes the largest of the block the largest that there is.
 *
 * A mean changes by a thousandth in a step, less than half of the least step of either: rounded to the
 * nearest it would stand still. So it is rounded up or down at random, as often as it is near to either
 * (stochastic rounding), and right on average. The random bits are a hash of a key and the number's
 * place: any thread may round it at any time, and a run that goes on rounds as it would have. */
#ifndef LLMC_MEANS_H
#define LLMC_MEANS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/dtype.h"

enum MeansType { MEANS_FP32, MEANS_BF16, MEANS_8BIT };

static const char *const MEANS_NAMES[] = {"fp32", "bf16", "8bit", NULL};
static inline const char *means_name(enum MeansType type) { return MEANS_NAMES[type]; }

enum { MEANS_BLOCK = 256 };  // numbers that share a unit; whoever works on means takes whole blocks

struct Means8 {
  float unit;
  uint8_t codes[MEANS_BLOCK];
};
_Static_assert(sizeof(struct Means8) == 4 + MEANS_BLOCK, "state.bin holds these blocks");

/* Both means of some numbers. */
struct Means {
  enum MeansType type;
  char *m, *v;
};

/* Bytes of one mean of n numbers: whole blocks. */
static inline size_t means_bytes(enum MeansType type, size_t n) {
  if (type == MEANS_8BIT) return (n + MEANS_BLOCK - 1) / MEANS_BLOCK * sizeof(struct Means8);
  return n * (type == MEANS_BF16 ? 2 : 4);
}

/* The means of the numbers from `first` on, a multiple of a block. */
static inline struct Means means_at(struct Means means, size_t first) {
  const size_t bytes = means_bytes(means.type, first);
  return (struct Means){means.type, means.m + bytes, means.v + bytes};
}

/* 32 random bits for number i (lowbias32, Wellons 2018, a key added before and between its rounds). */
static inline uint32_t means_random(uint64_t key, size_t i) {
  uint32_t x = (uint32_t)i + (uint32_t)key;
  x = (x ^ x >> 16) * 0x7feb352du;
  x = (x ^ x >> 15) + (uint32_t)(key >> 32);
  x *= 0x846ca68bu;
  return x ^ x >> 16;
}

static inline uint32_t float_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

static inline float float_of_bits(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

/* One is 127 << 23; a step of a code is the lowest of the mantissa's bits that it keeps. */
enum { ONE_BITS = 0x3f800000, M_SHIFT = 23 - 4, V_SHIFT = 23 - 3, M_MOST = 127, V_MOST = 255 };

/* F(c) */
static inline float means_decode(uint32_t code, int shift) { return float_of_bits(ONE_BITS + (code << shift)); }

/* The code of x >= 1, rounded by the lower 16 of the random bits. */
static inline uint32_t means_encode(float x, int shift, uint32_t most, uint32_t random) {
  const uint32_t code = (float_bits(x) - ONE_BITS + ((random & 0xffff) << (shift - 16))) >> shift;
  return code < most ? code : most;
}

/* x, rounded by 16 random bits; a NaN stays one. */
static inline uint16_t means_bf16(float x, uint32_t random) {
  return x == x ? (uint16_t)((float_bits(x) + random) >> 16) : 0x7fc0;
}

/* What the block's largest number is divided by; 0 where that leaves no ordinary float. */
static inline float means_unit(float largest, float most) {
  const float unit = largest / most;
  return unit >= 0x1p-126f ? unit : 0;
}

/* Both means of n <= 256 numbers as floats; of a block, or of floats and BF16 wherever they are. */
static inline void means_load(float *restrict m, float *restrict v, struct Means means, size_t n) {
  if (means.type == MEANS_8BIT) {
    const struct Means8 *restrict m8 = (const void *)means.m, *restrict v8 = (const void *)means.v;
    const float m_unit = m8->unit, v_unit = v8->unit;
    for (size_t i = 0; i < n; i++) {
      const uint32_t code = m8->codes[i], sign = (code & 0x80) << 24;
      const float size = m_unit * (means_decode(code & M_MOST, M_SHIFT) - 1);
      m[i] = float_of_bits(float_bits(size) | sign);
      v[i] = v_unit * means_decode(v8->codes[i], V_SHIFT);
    }
  } else if (means.type == MEANS_BF16) {
    const uint16_t *restrict m16 = (const void *)means.m, *restrict v16 = (const void *)means.v;
    for (size_t i = 0; i < n; i++) m[i] = bf16_to_float(m16[i]), v[i] = bf16_to_float(v16[i]);
  } else {
    memcpy(m, means.m, n * sizeof *m);
    memcpy(v, means.v, n * sizeof *v);
  }
}

/* The way back, of numbers `first` to first + n - 1: one random number rounds both means, a half each. */
static inline void means_store(struct Means means, const float *restrict m, const float *restrict v, uint64_t key,
                               size_t first, size_t n) {
  if (means.type == MEANS_8BIT) {
    struct Means8 *restrict m8 = (void *)means.m, *restrict v8 = (void *)means.v;
    float m_most = 0, v_most = 0;
    for (size_t i = 0; i < n; i++) {
      const float size = fabsf(m[i]);
      m_most = size > m_most ? size : m_most;
      v_most = v[i] > v_most ? v[i] : v_most;
    }
    const float m_unit = means_unit(m_most, means_decode(M_MOST, M_SHIFT) - 1);
    const float v_unit = means_unit(v_most, means_decode(V_MOST, V_SHIFT));
    const float m_scale = m_unit > 0 ? 1 / m_unit : 0, v_scale = v_unit > 0 ? 1 / v_unit : 0;
    m8->unit = m_unit, v8->unit = v_unit;
    for (size_t i = 0; i < n; i++) {
      const uint32_t random = means_random(key, first + i), sign = float_bits(m[i]) >> 31 << 7;
      const float size = fabsf(m[i]) * m_scale + 1, square = v[i] * v_scale;
      m8->codes[i] = (uint8_t)(sign | means_encode(size, M_SHIFT, M_MOST, random));
      v8->codes[i] = (uint8_t)means_encode(square > 1 ? square : 1, V_SHIFT, V_MOST, random >> 16);
    }
  } else if (means.type == MEANS_BF16) {
    uint16_t *restrict m16 = (void *)means.m, *restrict v16 = (void *)means.v;
    for (size_t i = 0; i < n; i++) {
      const uint32_t random = means_random(key, first + i);
      m16[i] = means_bf16(m[i], random & 0xffff);
      v16[i] = means_bf16(v[i], random >> 16);
    }
  } else {
    memcpy(means.m, m, n * sizeof *m);
    memcpy(means.v, v, n * sizeof *v);
  }
}

#endif
