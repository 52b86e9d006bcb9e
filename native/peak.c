#include "peak.h"

#include <math.h>

#include "util.h"

struct Peak peak_measure(const struct Kernels *kernels, const struct Workers *workers) {
  const double enough = 0.012, started = clock_seconds();  // seconds
  double all = 0, best = 0, now = started;
  while (now - started < enough) {
    const double before = now, flops = kernels->peak_flops(workers);
    now = clock_seconds();
    all += flops;
    best = fmax(best, flops / (now - before));
  }
  return (struct Peak){all / (now - started), best};
}
