/* What the machine's multipliers can do at most. */
#ifndef LLMC_PEAK_H
#define LLMC_PEAK_H

#include "kernels.h"

/* Floating-point operations a second: over all of the time, which a busy machine makes less, and over the
 * best thousandth of a second or so. */
struct Peak {
  double mean, best;
};

/* Multiplies and adds for 12 milliseconds, on the workers' threads. */
struct Peak peak_measure(const struct Kernels *kernels, const struct Workers *workers);

#endif
