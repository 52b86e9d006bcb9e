/* Dropout: numbers become zero at random, and those that are kept are multiplied by 1 / (1 - rate), so that a sum stays
 * what it is on average. Srivastava et al. 2014; torch.nn.Dropout.
 *
 * No mask is stored. The random bits of a number are a hash of a key, of its row and of its place in the row, so the
 * backward pass finds those of the forward pass again, and neither threads nor the CPU nor a resume change them. */
#ifndef LLMC_DROPOUT_H
#define LLMC_DROPOUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/util.h"
#include "kernels/moments.h"

struct Dropout {
  uint64_t key;    // of an update, and of a place in the model
  size_t first;    // the number that the first row has in the update
  uint32_t below;  // numbers whose random bits are below it are dropped; 0: none
  float scale;     // of the numbers that are kept
};

/* Of a rate from 0 to below 1. */
static inline struct Dropout dropout_of(double rate, uint64_t key, size_t first) {
  return (struct Dropout){key, first, (uint32_t)(rate * 0x1p32), (float)(1 / (1 - rate))};
}

/* The key of a row, n rows after the first. */
static inline uint64_t dropout_row(const struct Dropout *dropout, size_t n) {
  return mix64(dropout->key + dropout->first + n);
}

/* The same for the n-th head alone, whose weights are one row: its key is the row's. */
static inline struct Dropout dropout_head(const struct Dropout *dropout, size_t n) {
  return (struct Dropout){dropout_row(dropout, n), 0, dropout->below, dropout->scale};
}

/* The place of a weight of attention in its head: no two share one in up to 65536 positions. */
static inline uint32_t dropout_weight(size_t query, size_t key) { return (uint32_t)(query << 16) + (uint32_t)key; }

/* What number i of a row is multiplied by. */
static inline float dropout_factor(const struct Dropout *dropout, uint64_t row, size_t i) {
  return moments_random(row, i) < dropout->below ? 0 : dropout->scale;
}

#endif
