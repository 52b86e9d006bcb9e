/* Step 7. Packing where each lane's steps lie side by side in memory: eight by eight floats are read
 * as rows and turned in registers. */
#include "tile.h"

typedef float v8 __attribute__((vector_size(32)));

/* Eight rows of eight floats become their columns: exchange ones, then pairs, then fours. */
INLINE void transpose(v8 row[8]) {
  v8 one[8], two[8];
#pragma GCC unroll 4
  for (size_t i = 0; i < 8; i += 2) {
    one[i] = __builtin_shufflevector(row[i], row[i + 1], 0, 8, 2, 10, 4, 12, 6, 14);
    one[i + 1] = __builtin_shufflevector(row[i], row[i + 1], 1, 9, 3, 11, 5, 13, 7, 15);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; i++) {
    const size_t at = i < 2 ? i : i + 2;  // 0, 1, 4, 5
    two[at] = __builtin_shufflevector(one[at], one[at + 2], 0, 1, 8, 9, 4, 5, 12, 13);
    two[at + 2] = __builtin_shufflevector(one[at], one[at + 2], 2, 3, 10, 11, 6, 7, 14, 15);
  }
#pragma GCC unroll 4
  for (size_t i = 0; i < 4; i++) {
    row[i] = __builtin_shufflevector(two[i], two[i + 4], 0, 1, 2, 3, 8, 9, 10, 11);
    row[i + 4] = __builtin_shufflevector(two[i], two[i + 4], 4, 5, 6, 7, 12, 13, 14, 15);
  }
}

/* Panels [panel][kc][R]; lane l of step k is src[l * stride + k]; lanes that are missing are zero. */
INLINE void pack_turned(float *dst, const float *src, size_t stride, size_t lanes, size_t kc, const size_t R) {
  for (size_t l0 = 0; l0 < lanes; l0 += R, dst += R * kc) {
    for (size_t g = 0; g < R; g += 8) {  // eight lanes, or what is left of R
      const size_t width = min(8, R - g), have = l0 + g < lanes ? lanes - l0 - g : 0;
      const float *from = src + (l0 + g) * stride;
      size_t k = 0;
      for (; k + 8 <= kc; k += 8) {
        v8 row[8] = {0};
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
          if (i < width && i < have) memcpy(&row[i], from + i * stride + k, sizeof row[i]);
        }
        transpose(row);
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) memcpy(dst + (k + i) * R + g, &row[i], width * sizeof(float));
      }
      for (; k < kc; k++) {
        for (size_t i = 0; i < width; i++) dst[k * R + g + i] = i < have ? from[i * stride + k] : 0;
      }
    }
  }
}
