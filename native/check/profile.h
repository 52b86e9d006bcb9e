/* What every call of a kernel in a real step costs: a table of kernels that times each call of another table.
 *
 * Only a model that is given the profiling table pays for it. One profile at a time: it is global, as the
 * functions of a table have no room for a pointer of their own.
 */
#ifndef LLMC_PROFILE_H
#define LLMC_PROFILE_H

#include "kernels/kernels.h"

struct ProfileCall {
  const char *operation;   // as in struct Kernels
  const void *weight;      // of a linear layer: its weight or, in linear_backward_weight, the weight's gradient
  size_t M, N, K;          // of a linear layer; else 0
  size_t bytes;            // that an operation bound by memory has to read and write; else 0
  double seconds;
};

/* Returns a table that calls `kernels` and records the calls that training and decoding make. */
const struct Kernels *profile_kernels(const struct Kernels *kernels);

/* The calls since the last reset, in their order; *count receives their number. */
const struct ProfileCall *profile_calls(size_t *count);
void profile_reset(void);

#endif
