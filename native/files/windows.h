/* Windows over a stream of tokens that a model is measured on: spread over it, the same ones each time. */
#ifndef LLMC_WINDOWS_H
#define LLMC_WINDOWS_H

#include <stddef.h>
#include <stdint.h>

#include "files/cuts.h"

struct Windows {
  uint64_t targets;    // tokens of the stream that have one before them; of cut windows, those that count
  uint64_t predicted;  // targets in the windows
  size_t T;            // of each window but the last, which may be shorter; of cut ones the most
  uint64_t count;      // windows
  const struct Cuts *cuts;  // of which these are some, or NULL
};

struct Window {
  uint64_t start;  // of its first input; its first target is one further on
  size_t length;   // inputs, and targets
  size_t counted;  // of the targets
};

/* Windows of T tokens, or of all of them where there are fewer, that predict `most` of the targets; 0: all.
 * No target is in two windows. What is left out is divided evenly between them. */
struct Windows windows_spread(uint64_t targets, uint64_t most, size_t T);

/* As many of the cut windows of T tokens as read `most` tokens, spread over all of them; 0: all. The result refers to the
 * table `cuts`. */
struct Windows windows_of_cuts(const struct Cuts *cuts, uint64_t most, size_t T);

struct Window windows_at(const struct Windows *windows, uint64_t index);

#endif
