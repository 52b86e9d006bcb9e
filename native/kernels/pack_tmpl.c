/* Packing: a matrix rewritten as panels, so that the inner loop of a product reads straight ahead.
 * A panel holds R lanes (R = MR for the left factor, NR for the right one) of kc steps:
 * physical order [panel][kc][R], lanes past the end zero. */

/* Lane l, step k of the panels is src[l * stride + k]: each lane's steps are contiguous in the source,
 * so blocks of eight by eight are turned. */
INLINE void pack_turned(float *dst, const float *src, size_t stride, size_t lanes, size_t kc, const size_t R) {
  for (size_t l0 = 0; l0 < lanes; l0 += R, dst += R * kc) {
    for (size_t g = 0; g < R; g += 8) {
      const size_t width = R - g < 8 ? R - g : 8;
      size_t have = l0 + g < lanes ? lanes - l0 - g : 0;
      const float *from = src + (l0 + g) * stride;
      size_t k = 0;
      for (; k + 8 <= kc; k += 8) {
        v8 row[8];
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) {
          row[i] = i < width && i < have ? v8_load(from + i * stride + k) : (v8){0};
        }
        transpose8(row);
#pragma GCC unroll 8
        for (size_t i = 0; i < 8; i++) memcpy(dst + (k + i) * R + g, &row[i], width * sizeof(float));
      }
      for (; k < kc; k++) {
        for (size_t i = 0; i < width; i++) dst[k * R + g + i] = i < have ? from[i * stride + k] : 0;
      }
    }
  }
}

/* Lane l, step k of the panels is src[k * stride + l]: lanes are contiguous, rows are copied. */
INLINE void pack_straight(float *dst, const float *src, size_t stride, size_t lanes, size_t kc, const size_t R) {
  for (size_t l0 = 0; l0 < lanes; l0 += R, dst += R * kc) {
    size_t have = size_min(R, lanes - l0);
    const float *from = src + l0;
    if (have == R) {
      for (size_t k = 0; k < kc; k++) memcpy(dst + k * R, from + k * stride, R * sizeof(float));
    } else {
      for (size_t k = 0; k < kc; k++) {
        for (size_t l = 0; l < R; l++) dst[k * R + l] = l < have ? from[k * stride + l] : 0;
      }
    }
  }
}
