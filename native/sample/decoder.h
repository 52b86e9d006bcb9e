/* The model one token at a time: keys and values of the past are kept, so a token costs one pass over the
 * weights, however many texts get one in it.
 *
 * There are S slots, each the cache of one text; batch.h says what happens when a text outgrows it. Weights are
 * kept as floats, BF16 or INT8; where they are not floats, the cache is BF16.
 */
#ifndef LLMC_DECODER_H
#define LLMC_DECODER_H

#include "files/checkpoint.h"
#include "model/gpt2.h"

struct Decoder {
  struct Config config;
  const struct Kernels *kernels;
  struct Workers workers;
  enum Dtype dtype;               // of matrices
  union Gpt2Weights params;       // of a block's tensors, all blocks one after the other; vectors and wpe are floats
  float *rows_read;               // a few rows of a tensor, on their way from the file into `params`
  size_t slots, positions;        // at most maxT positions
  struct Cache cache;             // of L layers, one after the other
  size_t rows;                    // R: tokens in one pass, at most
  float *mean, *rstd;             // (R)
  float *x, *ln, *att;            // (R, C)
  float *qkv;                     // (R, 3C)
  float *fch;                     // (R, 4C)
  float *logits;                  // (S, Vp), the first V of each row meant
};

enum { DECODER_CHUNK = 256 };  // tokens that decoder_read takes at most
enum { PROMPT_ROWS = 16 };     // tokens from which on it uses the product of training: the bits differ from decoder_step's

/* Lays out weights, cache and scratch; config, kernels, dtype and workers.pool are set before. */
void decoder_layout(struct Decoder *decoder, struct Arena *arena, size_t slots, size_t positions);

/* The same with the weights and the scratch of a model that is being trained: they are always its newest. One
 * slot, which is fed one token at a time. */
void decoder_layout_beside(struct Decoder *decoder, struct Arena *arena, const struct Gpt2 *model, size_t positions);

/* Reads the weights into it as they are to be kept, a few rows at a time, and closes the file. */
void decoder_load(struct Decoder *decoder, int file, const char *path, const struct Checkpoint *checkpoint);

/* Keeps rows first … first + count of a tensor, those of all layers stacked: (count, columns) floats. */
void decoder_store(struct Decoder *decoder, int tensor, size_t first, size_t count, const float *rows);

/* Feeds `count` tokens to a slot from `position` on, all before which have been fed, and puts the logits after
 * the last into row 0. At most DECODER_CHUNK tokens. */
void decoder_read(struct Decoder *decoder, size_t slot, const int *tokens, size_t position, size_t count);

/* The fewest tokens of a decoder_read that leave each of them as any such read would: PROMPT_ROWS. A BLAS promises
 * that for products of the same size only: DECODER_CHUNK. */
size_t decoder_piece(const struct Decoder *decoder);

/* From where a prompt of `count` tokens is to be read, of which the slot holds the first `held` (fewer than `count`) as
 * reads of decoder_piece tokens or more have left them: so that in pieces that end at multiples of DECODER_CHUNK the
 * rest has the bits that it would have if all were read. */
size_t decoder_resume(const struct Decoder *decoder, size_t count, size_t held);

/* Copies keys and values of the tokens `first` … `end` - 1 from one slot to another. */
void decoder_copy(struct Decoder *decoder, size_t to, size_t from, size_t first, size_t end);

/* Puts the logits after `count` tokens of the last decoder_read, from its `first` on, into rows 0, 1, …: at most as
 * many as there are slots, and DECODE_ROWS. */
void decoder_logits(struct Decoder *decoder, size_t first, size_t count);

/* Feeds one token to each of `count` different slots; row i of the logits then holds what follows feeds[i].
 * A row's bits do not depend on the others. */
void decoder_step(struct Decoder *decoder, const struct Feed *feeds, size_t count);

#endif
