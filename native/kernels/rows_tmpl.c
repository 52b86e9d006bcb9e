/* One row of logits, by the thread that calls: what a sampler asks of it. */

/* The largest; where numbers are not finite, any. */
static float row_largest(const float *x, size_t n) {
  vf max[4];
  for (size_t j = 0; j < 4; j++) max[j] = vsplat(x[0]);
  size_t i = 0;
  for (; i + 4 * VL <= n; i += 4 * VL) {
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; j++) max[j] = vmax(vload(x + i + j * VL), max[j]);
  }
  float largest = vmax_lane(vmax(vmax(max[0], max[1]), vmax(max[2], max[3])));
  for (; i < n; i++) largest = x[i] > largest ? x[i] : largest;
  return largest;
}

/* Sums of floats are short, so that they stay exact to their last digits or nearly; those of sums are double. */
static double row_exponentials(float *out, const float *x, float max, float scale, size_t n) {
  enum { RUN = 64 * VL };
  double total = 0;
  for (size_t i = 0; i < n; i += RUN) {
    const size_t end = size_min(n, i + RUN);
    vf sum = {0};
    for (size_t j = i; j < end; j += VL) {
      const size_t width = size_min(VL, end - j);
      const vf row = width == VL ? vload(x + j) : vload_part(x + j, width, -INFINITY);
      const vf e = vexp((row - max) * scale);
      if (out != NULL && width == VL) vstore(out + j, e);
      if (out != NULL && width < VL) vstore_part(out + j, e, width);
      sum += width == VL ? e + 0.0f * row : e;
      for (size_t l = 0; width < VL && l < width; l++) total += 0 * (double)row[l];
    }
    total += (double)vsum(sum);
  }
  return total;
}
