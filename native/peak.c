#include "peak.h"

#include "util.h"

double peak_measure(const struct Kernels *kernels, const struct Workers *workers) {
  const double enough = 0.012, started = clock_seconds();  // seconds
  double flops = 0, seconds = 0;
  while (seconds < enough) {
    flops += kernels->peak_flops(workers);
    seconds = clock_seconds() - started;
  }
  return flops / seconds;
}
