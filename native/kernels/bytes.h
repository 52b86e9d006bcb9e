/* Numbers of eight bits: how blocks of them are made of floats, and how two blocks are multiplied.
 *
 * A group is what one vector of sums takes in: a block, or two of them where the CPU multiplies 64 bytes at
 * once. The sums are of integers, exact and in any order; each lane belongs to one block.
 */
#include <float.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#if VL == 16 && defined(__AVX512VNNI__)
enum { GROUP_BLOCKS = 2, GROUP_PARTS = 1, GROUP_CORRECTED = 1 };
#elif VL == 4 && defined(__ARM_NEON)
#include <arm_neon.h>
enum { GROUP_BLOCKS = 1, GROUP_PARTS = 2, GROUP_CORRECTED = 0 };
#else
enum { GROUP_BLOCKS = 1, GROUP_PARTS = 16 / VL, GROUP_CORRECTED = 0 };  // widened to 16 bits
#endif
enum { GROUP = GROUP_BLOCKS * WEIGHTS_BLOCK };

/* The numbers of a group, as they are multiplied. */
struct Group {
  vi part[GROUP_PARTS];
};

#if VL == 16 && defined(__AVX512VNNI__)
INLINE struct Group group_load(const int8_t *at) {
  struct Group group;
  memcpy(&group, at, GROUP);
  return group;
}

/* vpdpbusd multiplies bytes without a sign by bytes with one. A weight w is given to it as w + 128, which is its
 * highest bit turned, so that every sum of four products starts at -128 times the sum of the four inputs. */
INLINE vi group_correction(struct Group x) {
  const vi offsets = (vi){0} + (int32_t)0x80808080;
  return -(vi)_mm512_dpbusd_epi32((__m512i)(vi){0}, (__m512i)offsets, (__m512i)x.part[0]);
}

INLINE vi group_dot(struct Group w, struct Group x, vi correction) {
  const vi offsets = (vi){0} + (int32_t)0x80808080;
  return (vi)_mm512_dpbusd_epi32((__m512i)correction, (__m512i)(w.part[0] ^ offsets), (__m512i)x.part[0]);
}

/* Each scale in the lanes of its block. */
INLINE vf group_scale(const float *scales, bool both) {
  vf first = vsplat(scales[0]), second = vsplat(both ? scales[1] : 0);
  return SHUFFLE(vi, first, second, 0, 1, 2, 3, 4, 5, 6, 7, 24, 25, 26, 27, 28, 29, 30, 31);
}

#elif VL == 4 && defined(__ARM_NEON)
INLINE struct Group group_load(const int8_t *at) {
  struct Group group;
  memcpy(&group, at, GROUP);
  return group;
}

#if defined(__ARM_FEATURE_DOTPROD)
INLINE vi group_dot(struct Group w, struct Group x, vi correction) {
  (void)correction;
  int32x4_t sum = vdotq_s32(vdupq_n_s32(0), (int8x16_t)w.part[0], (int8x16_t)x.part[0]);
  return (vi)vdotq_s32(sum, (int8x16_t)w.part[1], (int8x16_t)x.part[1]);
}
#else
/* Two products fit into 16 bits, since none of the bytes is -128 in both factors. */
INLINE int16x8_t group_products(vi w, vi x) {
  int16x8_t low = vmull_s8(vget_low_s8((int8x16_t)w), vget_low_s8((int8x16_t)x));
  return vmlal_s8(low, vget_high_s8((int8x16_t)w), vget_high_s8((int8x16_t)x));
}

INLINE vi group_dot(struct Group w, struct Group x, vi correction) {
  (void)correction;
  int32x4_t sum = vpaddlq_s16(group_products(w.part[0], x.part[0]));
  return (vi)vpadalq_s16(sum, group_products(w.part[1], x.part[1]));
}
#endif

#else
INLINE struct Group group_load(const int8_t *at) {
  typedef int8_t bytes __attribute__((vector_size(2 * VL)));
  typedef int16_t wide __attribute__((vector_size(4 * VL)));
  struct Group group;
#pragma GCC unroll 4
  for (int i = 0; i < GROUP_PARTS; i++) {
    bytes narrow;
    memcpy(&narrow, at + i * 2 * VL, sizeof narrow);
    group.part[i] = (vi)__builtin_convertvector(narrow, wide);
  }
  return group;
}

/* a[0] * b[0] + a[1] * b[1] in every lane, each word of a and b a pair of 16-bit numbers. */
INLINE vi add_products(vi a, vi b) {
#if VL == 16 && defined(__AVX512BW__)
  return (vi)_mm512_madd_epi16((__m512i)a, (__m512i)b);
#elif VL == 8 && defined(__AVX2__)
  return (vi)_mm256_madd_epi16((__m256i)a, (__m256i)b);
#elif VL == 4 && defined(__SSE2__)
  return (vi)_mm_madd_epi16((__m128i)a, (__m128i)b);
#else
  return (a >> 16) * (b >> 16) + (a << 16 >> 16) * (b << 16 >> 16);
#endif
}

INLINE vi group_dot(struct Group w, struct Group x, vi correction) {
  (void)correction;
  vi sum = add_products(w.part[0], x.part[0]);
#pragma GCC unroll 4
  for (int i = 1; i < GROUP_PARTS; i++) sum += add_products(w.part[i], x.part[i]);
  return sum;
}
#endif

#if !(VL == 16 && defined(__AVX512VNNI__))
INLINE vi group_correction(struct Group x) { return (void)x, (vi){0}; }
INLINE vf group_scale(const float *scales, bool both) { return (void)both, vsplat(scales[0]); }
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
