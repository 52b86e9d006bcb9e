/* Windows over a stream of tokens that a model is measured on: spread over it, the same ones each time. */
#ifndef LLMC_WINDOWS_H
#define LLMC_WINDOWS_H

#include <stddef.h>
#include <stdint.h>

struct Windows {
  uint64_t targets;    // tokens of the stream that have one before them
  uint64_t predicted;  // of them, in all windows
  size_t T;            // of each window but the last, which may be shorter
  uint64_t count;      // windows
};

struct Window {
  uint64_t start;  // of its first input; its first target is one further on
  size_t length;   // inputs, and targets
};

/* Windows of T tokens, or of all of them where there are fewer, that predict `most` of the targets; 0: all.
 * No target is in two windows. What is left out is divided evenly between them. */
struct Windows windows_spread(uint64_t targets, uint64_t most, size_t T);

struct Window windows_at(const struct Windows *windows, uint64_t index);

#endif
