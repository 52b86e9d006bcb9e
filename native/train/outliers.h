/* Steps that stand out: the z-scores of a step's loss and of its gradient's norm, each among the last ones. */
#ifndef LLMC_OUTLIERS_H
#define LLMC_OUTLIERS_H

#include <stddef.h>
#include <stdint.h>

enum { OUTLIERS_WINDOW = 128 };
#define OUTLIERS_MOST_Z 11.2  // no score is above it: see below

/* Number i of all those ever taken in lies at i % OUTLIERS_WINDOW. */
struct Outliers {
  double losses[OUTLIERS_WINDOW], norms[OUTLIERS_WINDOW];
  uint64_t count;  // ever taken in
};

struct Scores {
  double loss, norm;
};

/* Takes in a step, whether it stands out or not, and returns how many standard deviations it lies above the
 * means of the windows, itself among them, as llm.c's detector does. It cannot be above
 * (n - 1) / sqrt(n) = 11.2 then. 0 as long as the windows are not full, and where all numbers are equal. */
struct Scores outliers_take(struct Outliers *outliers, double loss, double norm);

#endif
