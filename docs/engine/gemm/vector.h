/* Vectors of VL floats, and the tile of MR rows by NRV vectors that fits this machine's registers. */
#include <stddef.h>
#include <string.h>

#if defined(__AVX512F__)
#define VL 16
#elif defined(__AVX2__)
#define VL 8
#else  // SSE2, NEON
#define VL 4
#endif

#if defined(MR)  // run.py --tiles tries others
#elif defined(__AVX512F__) || defined(__aarch64__)  // 32 registers
#define MR 8
#define NRV 3
#elif defined(__AVX2__)  // 16 registers
#define MR 6
#define NRV 2
#else  // 16 registers, and the product needs one before it is added
#define MR 4
#define NRV 2
#endif
enum { NR = NRV * VL };

#define INLINE static inline __attribute__((always_inline, unused))

typedef float vf __attribute__((vector_size(4 * VL)));

/* memcpy, because a float's address need not suit a vector; it becomes one instruction. */
INLINE vf load(const float *at) {
  vf x;
  memcpy(&x, at, sizeof x);
  return x;
}

INLINE void store(float *at, vf x) { memcpy(at, &x, sizeof x); }

INLINE size_t min(size_t a, size_t b) { return a < b ? a : b; }

/* Rows m0 to m1 of columns n0 to n1, in the order of step 2: for what does not fill a tile. */
INLINE void rest(float *restrict out, const float *restrict a, const float *restrict b, size_t N, size_t K,
                 size_t m0, size_t m1, size_t n0, size_t n1) {
  for (size_t m = m0; m < m1; m++) {
    for (size_t n = n0; n < n1; n++) out[m * N + n] = 0;
    for (size_t k = 0; k < K; k++) {
      for (size_t n = n0; n < n1; n++) out[m * N + n] += a[m * K + k] * b[k * N + n];
    }
  }
}
