/* When a run ends, and why: whichever of its limits is reached first. */
#ifndef LLMC_STOPPING_H
#define LLMC_STOPPING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum EndReason { GOES_ON, END_STEPS, END_TOKENS, END_EPOCHS, END_TIME, END_EARLY, END_INTERRUPTED, END_NOT_FINITE };
extern const char *const END_NAMES[];  // in this order

enum { MOST_STEPS = 1000000000 };  // so many are no limit

/* Where 0 stands for no limit; for `steps` that is MOST_STEPS. */
struct Limits {
  size_t steps, tokens, epochs;
  double seconds;    // of training, from the first step on, over all resumes
  size_t patience;   // validations without a new best
  double min_delta;  // by which a new best must be lower
};

/* What one update takes of the data. */
struct Portion {
  size_t tokens, windows;
  uint64_t windows_in_epoch;
};

/* Steps, tokens and epochs as the number of updates that reaches the first of them; *reason is which. Where
 * an update goes beyond it, it is made. */
size_t stopping_steps(const struct Limits *limits, const struct Portion *update, enum EndReason *reason);

/* How long validation has not become better. */
struct Patience {
  double best;      // the loss to beat, infinity before the first
  uint64_t waited;  // validations since
};

/* Takes in a validation loss: a new best is lower by more than min_delta. */
void patience_take(struct Patience *patience, const struct Limits *limits, double val_loss);

/* Why a run ends that has made all steps, or has trained for so many seconds, or has waited so long. */
enum EndReason stopping_reason(const struct Limits *limits, double seconds, const struct Patience *patience);

#endif
