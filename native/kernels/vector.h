/* Vectors of VL floats, and the few things that the compiler's vector types do not bring along.
 * Included by isa/X.c after it has defined VL; everything here is static, so no vector crosses an
 * object file. */
#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#if defined(__AVX512BF16__)
#include <immintrin.h>
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
#include <arm_neon.h>
#endif

typedef float vf __attribute__((vector_size(4 * VL)));
typedef int32_t vi __attribute__((vector_size(4 * VL)));
typedef float vf_unaligned __attribute__((vector_size(4 * VL), aligned(1), may_alias));  // a row of BF16 begins anywhere

#define INLINE static inline __attribute__((always_inline, unused))

/* The given lanes of x and y, numbered through. gcc before 12 wants a vector of lane numbers, of integers as wide
 * as the numbers. */
#if defined(__clang__) || __GNUC__ >= 12
#define SHUFFLE(integers, x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define SHUFFLE(integers, x, y, ...) __builtin_shuffle(x, y, (integers){__VA_ARGS__})
#endif

INLINE vf vload(const float *at) { return *(const vf_unaligned *)at; }
INLINE void vstore(float *at, vf x) { *(vf_unaligned *)at = x; }

/* Stores to memory past the caches, at a multiple of the vector's size, and orders all of them before what follows. */
#if defined(__clang__) && defined(__x86_64__)
INLINE void vstore_past_caches(float *at, vf x) { __builtin_nontemporal_store(x, (vf *)(void *)at); }
INLINE void stores_end(void) { __builtin_ia32_sfence(); }
#else
INLINE void vstore_past_caches(float *at, vf x) { vstore(at, x); }
INLINE void stores_end(void) {}
#endif

INLINE vf vsplat(float x) { return x - (vf){0}; }

/* The first n < VL floats; the other lanes are `fill`. */
INLINE vf vload_part(const float *at, size_t n, float fill) {
  vf x = vsplat(fill);
  memcpy(&x, at, n * sizeof(float));
  return x;
}

INLINE void vstore_part(float *at, vf x, size_t n) { memcpy(at, &x, n * sizeof(float)); }

/* a in the lanes whose mask is all ones, b where it is zero */
INLINE vf vselect(vi mask, vf a, vf b) { return (vf)((mask & (vi)a) | (~mask & (vi)b)); }

INLINE vf vmax(vf a, vf b) { return vselect(a > b, a, b); }

/* Horizontal: a tree, so that the order of the sum is the same on every path. */
INLINE float vsum(vf x) {
  float lane[VL];
  memcpy(lane, &x, sizeof x);
#pragma GCC unroll 8
  for (int width = VL / 2; width > 0; width /= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < width; i++) lane[i] += lane[i + width];
  }
  return lane[0];
}

/* Lane i is vsum(x[i]), by the same tree: two vectors are folded into one, halves onto halves, and so on down. */
#define FOLD_LANE(i, half) ((i) / (half) * 2 * (half) + (i) % (half))
#define FOLD_FOUR(i, half, at) \
  FOLD_LANE(i, half) + at, FOLD_LANE(i + 1, half) + at, FOLD_LANE(i + 2, half) + at, FOLD_LANE(i + 3, half) + at
#if VL == 16
#define FOLD_LANES(half, at) \
  FOLD_FOUR(0, half, at), FOLD_FOUR(4, half, at), FOLD_FOUR(8, half, at), FOLD_FOUR(12, half, at)
#elif VL == 8
#define FOLD_LANES(half, at) FOLD_FOUR(0, half, at), FOLD_FOUR(4, half, at)
#else
#define FOLD_LANES(half, at) FOLD_FOUR(0, half, at)
#endif
#define FOLD(x, y, half) \
  (SHUFFLE(vi, x, y, FOLD_LANES(half, 0)) + SHUFFLE(vi, x, y, FOLD_LANES(half, half)))

INLINE vf vsums(const vf x[VL]) {
  vf sum[VL];
  memcpy(sum, x, sizeof sum);
#if VL == 16
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) sum[i] = FOLD(sum[2 * i], sum[2 * i + 1], 8);
#endif
#if VL >= 8
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) sum[i] = FOLD(sum[2 * i], sum[2 * i + 1], 4);
#endif
  sum[0] = FOLD(sum[0], sum[1], 2), sum[1] = FOLD(sum[2], sum[3], 2);
  return FOLD(sum[0], sum[1], 1);
}

INLINE float vmax_lane(vf x) {
  float max = x[0];
  for (int i = 1; i < VL; i++) max = x[i] > max ? x[i] : max;
  return max;
}

/* exp(x) for x from -87.3 to 88.37, relative error 2e-7; what it makes of a NaN is not a NaN.
 * x = n ln 2 + r with |r| <= ln 2 / 2, and exp(r) by its Taylor polynomial of degree 7, whose error
 * there is 5e-9. Adding 1.5 * 2^23 rounds to an integer and leaves it in the low bits. */
INLINE vf vexp_between(vf x) {
  const float rounder = 12582912.0f;
  vf shifted = x * 1.44269504088896341f + rounder;
  vf n = shifted - rounder;
  vf r = x - n * 0.693145751953125f;  // the high bits of ln 2: the product is exact
  r = r - n * 1.42860682030941723e-6f;
  vf p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return (vf)((vi)p + ((vi)shifted << 23));
}

INLINE vf vclamp_exponent(vf x) {
  const float high = 88.37f, low = -87.3f;
  vf clamped = vselect(x > high, vsplat(high), x);
  return vselect(clamped < low, vsplat(low), clamped);
}

/* exp(x), of any x: 0 below -87.3, where float would be subnormal; NaN stays NaN. */
INLINE vf vexp(vf x) {
  vf result = vselect(x < -87.3f, vsplat(0), vexp_between(vclamp_exponent(x)));
  return vselect(x == x, result, x);
}

/* Eights of floats and of BF16, whatever VL is: what packing works in. */
typedef float v8 __attribute__((vector_size(32)));
typedef uint32_t v8_bits __attribute__((vector_size(32)));
typedef uint16_t h8 __attribute__((vector_size(16)));

/* Eight numbers from memory, or the first `width` of them and zeros. */
INLINE v8 v8_load(const float *at, size_t width) {
  v8 x = {0};
  memcpy(&x, at, width * sizeof *at);
  return x;
}

INLINE h8 h8_load(const uint16_t *at, size_t width) {
  h8 x = {0};
  memcpy(&x, at, width * sizeof *at);
  return x;
}

INLINE v8 widen8(h8 x) { return (v8)(__builtin_convertvector(x, v8_bits) << 16); }

/* To BF16, as bf16_from_float does; where the CPU does it, subnormal numbers become zero. */
INLINE h8 narrow8(v8 x) {
#if defined(__AVX512BF16__)
  return (h8)_mm256_cvtneps_pbh((__m256)x);
#elif defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
  float32x4_t half[2];
  memcpy(half, &x, sizeof half);
  return (h8)vcvtq_high_bf16_f32(vcvtq_low_bf16_f32(half[0]), half[1]);
#else
  v8_bits bits = (v8_bits)x;
  v8_bits rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16, quiet = bits >> 16 | 0x40;
  v8_bits number = (v8_bits)(x == x);
  return __builtin_convertvector((number & rounded) | (~number & quiet), h8);
#endif
}

/* A vector of an array's numbers from element i on. */
INLINE vf vload_array(struct ArrayView a, size_t i) {
  if (a.dtype == FP32) return vload((const float *)a.data + i);
  typedef uint16_t half __attribute__((vector_size(2 * VL)));
  half x;
  memcpy(&x, (const uint16_t *)a.data + i, sizeof x);
  return (vf)(__builtin_convertvector(x, vi) << 16);
}

INLINE void vstore_array(struct Array a, size_t i, vf x) {
  if (a.dtype == FP32) {
    vstore((float *)a.data + i, x);
    return;
  }
  uint16_t *at = (uint16_t *)a.data + i;
#if VL == 16 && defined(__AVX512BF16__)
  const __m256bh halves = _mm512_cvtneps_pbh((__m512)x);
  memcpy(at, &halves, sizeof halves);
#else
  enum { WIDTH = VL < 8 ? VL : 8 };
#pragma GCC unroll 2
  for (size_t j = 0; j < VL; j += WIDTH) {
    v8 part = {0};
    memcpy(&part, (const float *)&x + j, WIDTH * sizeof(float));
    h8 narrow = narrow8(part);
    memcpy(at + j, &narrow, WIDTH * sizeof *at);
  }
#endif
}

/* Words of two BF16: a's number in the lower half, b's in the upper. */
INLINE vf vpairs(vf a, vf b) {
  typedef uint16_t half __attribute__((vector_size(2 * VL)));
  half low = {0}, high = {0};
  vstore_array((struct Array){&low, BF16}, 0, a);
  vstore_array((struct Array){&high, BF16}, 0, b);
  return (vf)(__builtin_convertvector(low, vi) | __builtin_convertvector(high, vi) << 16);
}

/* A word in every lane, whatever its bits mean. */
INLINE vf vsplat_word(const float *word) {
  int32_t bits;
  memcpy(&bits, word, sizeof bits);
  return (vf)(bits - (vi){0});
}

/* acc + a[0] * b[0] + a[1] * b[1] in every lane, each word of a and b a pair of BF16. */
#if VL == 16 && defined(__AVX512BF16__)
INLINE vf vadd_pairs(vf acc, vf a, vf b) {
  return (vf)_mm512_dpbf16_ps((__m512)acc, (__m512bh)a, (__m512bh)b);
}
#elif VL == 4 && defined(__ARM_FEATURE_BF16_VECTOR_ARITHMETIC)
INLINE vf vadd_pairs(vf acc, vf a, vf b) {
  return (vf)vbfdotq_f32((float32x4_t)acc, (bfloat16x8_t)a, (bfloat16x8_t)b);
}
#else
INLINE vf vadd_pairs(vf acc, vf a, vf b) {
  const vi high = (vi){0} - 0x10000;
  acc += (vf)((vi)a & high) * (vf)((vi)b & high);
  return acc + (vf)((vi)a << 16) * (vf)((vi)b << 16);
}
#endif

#if QUADS
/* acc (2, 2) + a (2, 4) · b (2, 4)ᵀ, of which a lane holds two BF16: the four products are added up two by two, each
 * time as vadd_pairs does it. */
INLINE vf vadd_quads(vf acc, vf a, vf b) {
  return (vf)vbfmmlaq_f32((float32x4_t)acc, (bfloat16x8_t)a, (bfloat16x8_t)b);
}
#endif

/* Eight rows of eight words, turned: three rounds of exchanging pairs, fours and halves. */
INLINE void transpose8(v8 row[8]) {
  v8 pair[8], four[8];
#pragma GCC unroll 4
  for (int i = 0; i < 8; i += 2) {
    pair[i] = SHUFFLE(v8_bits, row[i], row[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    pair[i + 1] = SHUFFLE(v8_bits, row[i], row[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    int at = (i & 1) | ((i & 2) << 1);
    four[at] = SHUFFLE(v8_bits, pair[at], pair[at + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    four[at + 2] = SHUFFLE(v8_bits, pair[at], pair[at + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    row[i] = SHUFFLE(v8_bits, four[i], four[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    row[i + 4] = SHUFFLE(v8_bits, four[i], four[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}
