/* From logits to a token: temperature, top-k, top-p, and a seeded draw. */
#ifndef LLMC_SAMPLER_H
#define LLMC_SAMPLER_H

#include <stdint.h>

#include "arena.h"

struct Candidate {
  float logit;
  int token;
};

struct Sampler {
  double temperature;      // 0: the most likely token, always
  size_t top_k;            // 0: no limit
  double top_p;            // 1: no limit
  uint64_t seed, draws;
  struct Candidate *heap;  // (V)
};

void sampler_layout(struct Sampler *sampler, struct Arena *arena, size_t V);

/* Draws a token from softmax(logits / temperature), restricted first to the top_k most likely, then to
 * the fewest of those whose probabilities reach top_p (Holtzman et al. 2020). The same seed gives the
 * same tokens. */
int sampler_draw(struct Sampler *sampler, const float *logits, size_t V);

#endif
