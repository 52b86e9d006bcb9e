/* From logits to a token: what may be drawn, and a seeded draw from it.
 *
 * First biases are added to the logits, and penalties taken from them, as OpenAI describes them. The filters and their
 * order are those of transformers' generate(): repetition penalty, temperature, top-k, top-p, min-p
 * (generation/logits_process.py); each works on what the one before it left. docs/reference/generate.md has their edge
 * cases.
 */
#ifndef LLMC_SAMPLER_H
#define LLMC_SAMPLER_H

#include <stdbool.h>
#include <stdint.h>

#include "base/arena.h"
#include "kernels/kernels.h"

/* What is added to the logit of a token. */
struct Bias {
  int token;
  float added;
};

enum { MOST_BIASES = 300 };

/* How a text wants its tokens drawn. */
struct Sampling {
  double temperature;         // 0: the most likely token, always
  size_t top_k;               // 0: no limit
  double top_p;               // 1: no limit
  double min_p;               // 0: no limit
  double repetition_penalty;  // 1: none
  double frequency_penalty;   // taken from a token's logit each time that it was written; 0: none
  double presence_penalty;    // taken from it once if it was written; 0: none
  uint64_t seed, draws;       // draws of that seed which are used up already
  size_t bias_count;
  struct Bias biases[MOST_BIASES];
};

/* What a text holds already. */
struct Past {
  const uint8_t *seen;      // (V) not 0 for the tokens of prompt and text
  const uint32_t *written;  // (V) how often each token was written; the prompt does not count
};

struct Candidate {
  float number;
  int token;
};

/* What a draw works with and in. */
struct Sampler {
  const struct Kernels *kernels;
  float *scores;                 // (V) logits, after biases and penalties
  float *weights;                // (V) of the tokens that may be drawn, 0 of the others
  struct Candidate *candidates;  // (V)
  size_t V;
};

/* Lays out as many as there are threads, one after the other. */
void sampler_layout(struct Sampler *sampler, struct Arena *arena, const struct Kernels *kernels, size_t V,
                    int threads);

/* A thread's own. */
struct Sampler sampler_at(const struct Sampler *all, int thread);

/* Fills sampler->weights with numbers in proportion to the probability that each token is drawn with, and
 * returns their sum. The logits are finite. */
double sampler_filter(struct Sampler *sampler, const struct Sampling *sampling, const float *logits,
                      struct Past past, size_t V);

/* Draw number `draw` with that seed: nothing else that was drawn matters. */
int sampler_draw(struct Sampler *sampler, const struct Sampling *sampling, const float *logits,
                 struct Past past, size_t V, uint64_t draw);

/* The `count` most likely tokens and their logits, the most likely first and the lower among equals. Returns
 * how many there are. */
size_t sampler_top(struct Candidate *top, size_t count, const float *logits, size_t V);

/* Ids that no token of the tokenizer has, as ranges: "500-511,600-600". The first mistake in the text, NULL where there
 * is none; every id is below V. */
const char *sampler_unused_fault(const char *ranges, size_t V);

/* Makes the ids of such ranges impossible: their logits (V) become the lowest number there is. NULL: none. */
void sampler_exclude(float *logits, const char *ranges);

/* log Σ exp(logits), what turns a logit into a log-probability; not finite when one of them is not. */
double sampler_log_sum(const struct Sampler *sampler, const float *logits, size_t V);

#endif
