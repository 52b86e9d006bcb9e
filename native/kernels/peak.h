/* What the machine can do at most: its multipliers, and the way from one thread to another. */
#ifndef LLMC_PEAK_H
#define LLMC_PEAK_H

#include "kernels/kernels.h"

/* Floating-point operations a second: over all of the time, which a busy machine makes less, and over the
 * best thousandth of a second or so. */
struct Peak {
  double mean, best;
};

/* Multiplies and adds for 12 milliseconds, on the workers' threads. */
struct Peak peak_measure(const struct Kernels *kernels, const struct Workers *workers);

/* Seconds that a cache line takes from the first thread to the second and back; 0 with a single thread. Cores that
 * share a cache need some 80 ns, others several times that, and packed blocks travel the same way. */
double round_trip_measure(struct Pool *pool);

#endif
