/* What the machine's multipliers can do at most. */
#ifndef LLMC_PEAK_H
#define LLMC_PEAK_H

#include "kernels.h"

/* Multiplies and adds for some milliseconds, on the workers' threads: floating-point operations a second. */
double peak_measure(const struct Kernels *kernels, const struct Workers *workers);

#endif
