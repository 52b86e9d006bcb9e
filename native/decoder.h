/* The model one token at a time: the keys and values of the past are kept, so a step costs one row.
 *
 * There are S slots, each the cache of one text. A text longer than `positions` slides (see writer.h).
 */
#ifndef LLMC_DECODER_H
#define LLMC_DECODER_H

#include "gpt2.h"

struct Decoder {
  size_t slots, positions;  // of the cache; at most maxT positions
  float *keys, *values;     // (L, S, positions, C)
  float *x, *ln;            // (C)
  float *qkv;               // (3C)
  float *att;               // (C)
  float *fch, *fch_gelu;    // (4C)
  float *logits;            // (S, Vp), the first V of each row meant
};

/* The next token of one slot. */
struct Feed {
  size_t slot, position;  // all before that position have been fed
  int token;
};

enum { DECODER_CHUNK = 256 };  // tokens that decoder_read takes at most

void decoder_layout(struct Decoder *decoder, struct Arena *arena, const struct Config *config,
                    size_t slots, size_t positions);

/* Feeds `count` tokens to a slot from `position` on, and puts the logits after the last into row 0. */
void decoder_read(struct Decoder *decoder, const struct Gpt2 *model, size_t slot, const int *tokens,
                  size_t position, size_t count);

/* Feeds one token to each of `count` different slots; row i of the logits then holds what follows feeds[i].
 * A row's bits do not depend on the others. */
void decoder_step(struct Decoder *decoder, const struct Gpt2 *model, const struct Feed *feeds, size_t count);

#endif
