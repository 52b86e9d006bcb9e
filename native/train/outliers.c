#include "train/outliers.h"

#include <math.h>

/* Summed anew each time: a running sum would drift, and would have to be saved to go on bit for bit. */
static double score(const double values[OUTLIERS_WINDOW], double value) {
  double sum = 0, squares = 0;
  for (size_t i = 0; i < OUTLIERS_WINDOW; i++) sum += values[i];
  const double mean = sum / OUTLIERS_WINDOW;
  for (size_t i = 0; i < OUTLIERS_WINDOW; i++) squares += (values[i] - mean) * (values[i] - mean);
  const double deviation = sqrt(squares / OUTLIERS_WINDOW);
  /* Less than this is rounding: the numbers are equal. */
  return deviation > 1e-12 * fabs(mean) ? (value - mean) / deviation : 0;
}

struct Scores outliers_take(struct Outliers *outliers, double loss, double norm) {
  const size_t at = outliers->count++ % OUTLIERS_WINDOW;
  outliers->losses[at] = loss;
  outliers->norms[at] = norm;
  if (outliers->count < OUTLIERS_WINDOW) return (struct Scores){0, 0};
  return (struct Scores){score(outliers->losses, loss), score(outliers->norms, norm)};
}
