/* The model one token at a time: keys and values of the past are kept, so a step costs one row. */
#ifndef LLMC_DECODER_H
#define LLMC_DECODER_H

#include "gpt2.h"

struct Decoder {
  size_t positions;         // length of the cache, at most maxT
  float *keys, *values;     // (L, positions, C)
  float *x, *ln;            // (C)
  float *qkv;               // (3C)
  float *att;               // (C)
  float *fch_gelu;          // (4C)
  float *logits;            // (Vp), the first V of them meant
};

void decoder_layout(struct Decoder *decoder, struct Arena *arena, const struct Config *config,
                    size_t positions);

/* Feeds the token at `position` (all before it have been fed); decoder->logits then holds the next
 * token's. */
void decoder_step(struct Decoder *decoder, const struct Gpt2 *model, int token, size_t position);

#endif
