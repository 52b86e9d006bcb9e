/* Numbers of eight bits: how blocks of them are made of floats, and how they are multiplied four by four.
 *
 * Every lane of a vector has four numbers of an output's weights, a quad, and meets the same four of the input. The
 * sums are of integers, exact and in any order.
 */
#include <float.h>

#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

/* QUAD_WORDS: words in which a quad of the input is prepared. QUAD_INSTRUCTION: whether one instruction adds up a quad. */
#if VL == 16 && defined(__AVX512VNNI__)
enum { QUAD_WORDS = 1, QUAD_INSTRUCTION = 1 };

/* vpdpbusd multiplies bytes without a sign by bytes with one. A weight w is given to it as w + 128, which is its
 * highest bit turned, so that the sums of a block start at -128 times the sum of its input. */
struct QuadWeights { vi word; };

INLINE struct QuadWeights quad_weights(vi w) { return (struct QuadWeights){w ^ ((vi){0} + (int32_t)0x80808080)}; }
INLINE void quad_prepare(float *to, const int8_t x[WEIGHTS_QUAD]) { memcpy(to, x, WEIGHTS_QUAD); }

INLINE int32_t quad_start(const int8_t x[WEIGHTS_BLOCK]) {
  int32_t sum = 0;
  for (int i = 0; i < WEIGHTS_BLOCK; i++) sum += x[i];
  return -128 * sum;
}

/* sum + the four products of every lane */
INLINE vi quad_add(vi sum, struct QuadWeights w, const float *x) {
  return (vi)_mm512_dpbusd_epi32((__m512i)sum, (__m512i)w.word, (__m512i)vsplat_word(x));
}

#elif VL == 4 && defined(__ARM_NEON)
struct QuadWeights { vi word; };

INLINE struct QuadWeights quad_weights(vi w) { return (struct QuadWeights){w}; }
INLINE void quad_prepare(float *to, const int8_t x[WEIGHTS_QUAD]) { memcpy(to, x, WEIGHTS_QUAD); }
INLINE int32_t quad_start(const int8_t x[WEIGHTS_BLOCK]) { return (void)x, 0; }

#if defined(__ARM_FEATURE_DOTPROD)
enum { QUAD_WORDS = 1, QUAD_INSTRUCTION = 1 };

INLINE vi quad_add(vi sum, struct QuadWeights w, const float *x) {
  return (vi)vdotq_s32((int32x4_t)sum, (int8x16_t)w.word, (int8x16_t)vsplat_word(x));
}
#else
enum { QUAD_WORDS = 1, QUAD_INSTRUCTION = 0 };

/* Two products fit into 16 bits, since none of the bytes is -128 in both factors. */
INLINE vi quad_add(vi sum, struct QuadWeights w, const float *x) {
  const int8x16_t left = (int8x16_t)w.word, right = (int8x16_t)vsplat_word(x);
  const int16x8_t low = vmull_s8(vget_low_s8(left), vget_low_s8(right)), high = vmull_high_s8(left, right);
  return (vi)vpadalq_s16((int32x4_t)sum, vpaddq_s16(low, high));
}
#endif

#elif VL == 8 && defined(__AVX2__)
enum { QUAD_WORDS = 1, QUAD_INSTRUCTION = 0 };

/* vpmaddubsw multiplies bytes without a sign by bytes with one: magnitudes of weights by what has the sign of the product.
 * Two products fit into 16 bits, since none of the bytes is -128. */
struct QuadWeights { vi word, magnitudes; };

INLINE struct QuadWeights quad_weights(vi w) { return (struct QuadWeights){w, (vi)_mm256_abs_epi8((__m256i)w)}; }
INLINE void quad_prepare(float *to, const int8_t x[WEIGHTS_QUAD]) { memcpy(to, x, WEIGHTS_QUAD); }
INLINE int32_t quad_start(const int8_t x[WEIGHTS_BLOCK]) { return (void)x, 0; }

INLINE vi quad_add(vi sum, struct QuadWeights w, const float *x) {
  const __m256i signs = _mm256_sign_epi8((__m256i)vsplat_word(x), (__m256i)w.word);
  const __m256i pairs = _mm256_maddubs_epi16((__m256i)w.magnitudes, signs);
  return sum + (vi)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
}

#else
enum { QUAD_WORDS = 2, QUAD_INSTRUCTION = 0 };

/* Numbers 0 and 2 of a quad, and 1 and 3, each as 16 bits. */
struct QuadWeights { vi even, odd; };

INLINE struct QuadWeights quad_weights(vi w) {
  typedef int16_t halves __attribute__((vector_size(4 * VL)));
  return (struct QuadWeights){(vi)((halves)w << 8 >> 8), (vi)((halves)w >> 8)};
}

INLINE void quad_prepare(float *to, const int8_t x[WEIGHTS_QUAD]) {
  const int16_t halves[WEIGHTS_QUAD] = {x[0], x[2], x[1], x[3]};
  memcpy(to, halves, sizeof halves);
}

INLINE int32_t quad_start(const int8_t x[WEIGHTS_BLOCK]) { return (void)x, 0; }

/* a[0] * b[0] + a[1] * b[1] in every lane, each word of a and b a pair of 16-bit numbers. */
INLINE vi add_products(vi a, vi b) {
#if VL == 16 && defined(__AVX512BW__)
  return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif VL == 4 && defined(__SSE2__)
  return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return (a >> 16) * (b >> 16) + (a << 16 >> 16) * (b << 16 >> 16);
#endif
}

INLINE vi quad_add(vi sum, struct QuadWeights w, const float *x) {
  return sum + (add_products(w.even, (vi)vsplat_word(x)) + add_products(w.odd, (vi)vsplat_word(x + 1)));
}
#endif

/* A block of `count` numbers, and zeros up to a whole one: to bytes, and their scale. Magnitudes are compared as
 * integers, among which a NaN is the largest: it ends up in the scale. Dividing, instead of multiplying by the
 * reciprocal, leaves the compiler nothing to contract: the same bytes on every CPU. */
INLINE float block_quantise(int8_t bytes[WEIGHTS_BLOCK], const float *from, size_t count) {
  enum { VECTORS = WEIGHTS_BLOCK / VL };
  typedef int8_t narrow __attribute__((vector_size(VL)));
  const float rounder = 12582912.0f;  // 1.5 * 2^23, as in vexp_between
  float padded[WEIGHTS_BLOCK] = {0};
  vf x[VECTORS];
  vi most = {0};
  if (count < WEIGHTS_BLOCK) from = memcpy(padded, from, count * sizeof(float));
#pragma GCC unroll 8
  for (int i = 0; i < VECTORS; i++) {
    x[i] = vload(from + i * VL);
    const vi magnitude = (vi)x[i] & 0x7fffffff, larger = magnitude > most;
    most = (larger & magnitude) | (~larger & most);
  }
  int32_t bits = 0;
  for (int i = 0; i < VL; i++) bits = most[i] > bits ? most[i] : bits;
  float max;
  memcpy(&max, &bits, sizeof max);
  const float scale = max / 127 < FLT_MIN ? 0 : max / 127;
  const vf divisor = vsplat(scale > 0 ? scale : 1);
#pragma GCC unroll 8
  for (int i = 0; i < VECTORS; i++) {
    const vf steps = scale > 0 ? x[i] / divisor : (vf){0};
    const narrow rounded = __builtin_convertvector((vi)(steps + rounder), narrow);  // the low byte of the sum
    memcpy(bytes + i * VL, &rounded, sizeof rounded);
  }
  return scale;
}
