/* How AdamW's moments are stored: the running means m of the gradient and v of its square.
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
#ifndef LLMC_MOMENTS_H
#define LLMC_MOMENTS_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/dtype.h"

enum MomentsType { MOMENTS_FP32, MOMENTS_BF16, MOMENTS_8BIT };

static const char *const MOMENTS_NAMES[] = {"fp32", "bf16", "8bit", NULL};
static inline const char *moments_name(enum MomentsType type) { return MOMENTS_NAMES[type]; }

enum { MOMENTS_BLOCK = 256 };  // numbers that share a unit; threads split moments at whole blocks

struct Moments8 {
  float unit;
  uint8_t codes[MOMENTS_BLOCK];
};
_Static_assert(sizeof(struct Moments8) == 4 + MOMENTS_BLOCK, "state.bin holds these blocks");

/* Both moments of some numbers. */
struct Moments {
  enum MomentsType type;
  char *m, *v;
};

/* Bytes of one mean of n numbers: whole blocks. */
static inline size_t moments_bytes(enum MomentsType type, size_t n) {
  if (type == MOMENTS_8BIT) return (n + MOMENTS_BLOCK - 1) / MOMENTS_BLOCK * sizeof(struct Moments8);
  return n * (type == MOMENTS_BF16 ? 2 : 4);
}

/* The moments of the numbers from `first` on, a multiple of a block. */
static inline struct Moments moments_at(struct Moments moments, size_t first) {
  const size_t bytes = moments_bytes(moments.type, first);
  return (struct Moments){moments.type, moments.m + bytes, moments.v + bytes};
}

/* 32 random bits for number i (lowbias32, Wellons 2018, a key added before and between its rounds). */
static inline uint32_t moments_random(uint64_t key, size_t i) {
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
static inline float moments_decode(uint32_t code, int shift) { return float_of_bits(ONE_BITS + (code << shift)); }

/* The code of x >= 1, rounded by the lower 16 of the random bits. */
static inline uint32_t moments_encode(float x, int shift, uint32_t most, uint32_t random) {
  const uint32_t code = (float_bits(x) - ONE_BITS + ((random & 0xffff) << (shift - 16))) >> shift;
  return code < most ? code : most;
}

/* x, rounded by 16 random bits; a NaN stays one. */
static inline uint16_t moments_bf16(float x, uint32_t random) {
  return x == x ? (uint16_t)((float_bits(x) + random) >> 16) : 0x7fc0;
}

/* What the block's largest number is divided by; 0 where that leaves no ordinary float. */
static inline float moments_unit(float largest, float most) {
  const float unit = largest / most;
  return unit >= 0x1p-126f ? unit : 0;
}

/* Both moments of n <= 256 numbers as floats; of a block, or of floats and BF16 wherever they are. */
static inline void moments_load(float *restrict m, float *restrict v, struct Moments moments, size_t n) {
  if (moments.type == MOMENTS_8BIT) {
    const struct Moments8 *restrict m8 = (const void *)moments.m, *restrict v8 = (const void *)moments.v;
    const float m_unit = m8->unit, v_unit = v8->unit;
    for (size_t i = 0; i < n; i++) {
      const uint32_t code = m8->codes[i], sign = (code & 0x80) << 24;
      const float size = m_unit * (moments_decode(code & M_MOST, M_SHIFT) - 1);
      m[i] = float_of_bits(float_bits(size) | sign);
      v[i] = v_unit * moments_decode(v8->codes[i], V_SHIFT);
    }
  } else if (moments.type == MOMENTS_BF16) {
    const uint16_t *restrict m16 = (const void *)moments.m, *restrict v16 = (const void *)moments.v;
    for (size_t i = 0; i < n; i++) m[i] = bf16_to_float(m16[i]), v[i] = bf16_to_float(v16[i]);
  } else {
    memcpy(m, moments.m, n * sizeof *m);
    memcpy(v, moments.v, n * sizeof *v);
  }
}

/* The way back, of numbers `first` to first + n - 1: one random number rounds both moments, a half each. */
static inline void moments_store(struct Moments moments, const float *restrict m, const float *restrict v, uint64_t key,
                               size_t first, size_t n) {
  if (moments.type == MOMENTS_8BIT) {
    struct Moments8 *restrict m8 = (void *)moments.m, *restrict v8 = (void *)moments.v;
    float m_most = 0, v_most = 0;
    for (size_t i = 0; i < n; i++) {
      const float size = fabsf(m[i]);
      m_most = size > m_most ? size : m_most;
      v_most = v[i] > v_most ? v[i] : v_most;
    }
    const float m_unit = moments_unit(m_most, moments_decode(M_MOST, M_SHIFT) - 1);
    const float v_unit = moments_unit(v_most, moments_decode(V_MOST, V_SHIFT));
    const float m_scale = m_unit > 0 ? 1 / m_unit : 0, v_scale = v_unit > 0 ? 1 / v_unit : 0;
    m8->unit = m_unit, v8->unit = v_unit;
    for (size_t i = 0; i < n; i++) {
      const uint32_t random = moments_random(key, first + i), sign = float_bits(m[i]) >> 31 << 7;
      const float size = fabsf(m[i]) * m_scale + 1, square = v[i] * v_scale;
      m8->codes[i] = (uint8_t)(sign | moments_encode(size, M_SHIFT, M_MOST, random));
      v8->codes[i] = (uint8_t)moments_encode(square > 1 ? square : 1, V_SHIFT, V_MOST, random >> 16);
    }
  } else if (moments.type == MOMENTS_BF16) {
    uint16_t *restrict m16 = (void *)moments.m, *restrict v16 = (void *)moments.v;
    for (size_t i = 0; i < n; i++) {
      const uint32_t random = moments_random(key, first + i);
      m16[i] = moments_bf16(m[i], random & 0xffff);
      v16[i] = moments_bf16(v[i], random >> 16);
    }
  } else {
    memcpy(moments.m, m, n * sizeof *m);
    memcpy(moments.v, v, n * sizeof *v);
  }
}

#endif
