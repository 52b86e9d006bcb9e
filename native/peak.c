#include "peak.h"

#include "util.h"

double peak_measure(const struct Kernels *kernels, const struct Workers *workers) {
  const double started = clock_seconds();
  const double flops = kernels->peak_flops(workers);
  return flops / (clock_seconds() - started);
}
