/* The parameters cut into pieces, which several ranks divide among themselves.
 *
 * Each rank owns the optimizer state of a run of pieces and updates no other parameter (ZeRO, stage 1: Rajbhandari et al.
 * 2020). The pieces follow from the shapes and the optimizer alone. A sum over all of them, made in their order, has the
 * same bits for any number of ranks.
 */
#ifndef LLMC_PIECES_H
#define LLMC_PIECES_H

#include <stdbool.h>
#include <stddef.h>

#include "model/gpt2.h"

/* Some numbers of one tensor of one block, or of a tensor of the whole model: at most PIECES_MOST of them, or a matrix
 * that Muon updates. */
struct Piece {
  const struct Tensor *tensor;
  bool muon;
  size_t number;    // counted from 0
  size_t first, n;  // numbers of the tensor in front of it, and in it
  struct Border at;    // where it begins
  size_t tensor_m;  // bytes of first moments in front of the tensor
};

/* Of 256, so that blocks of 8-bit moments stay whole. */
enum { PIECES_MOST = 1 << 18 };

/* All pieces in the order of memory. */
struct Pieces {
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  size_t tensor, l, L, first;
  enum MomentsType type;
  enum Optimizer optimizer;
  struct Border at;
  size_t tensor_m;
};

struct Pieces pieces_of(const struct Config *config, enum MomentsType type, enum Optimizer optimizer);

/* The next piece; false after the last. */
bool pieces_next(struct Pieces *pieces, struct Piece *piece);

/* How many pieces a model's parameters have. */
size_t pieces_count(const struct Gpt2 *model);

/* Where the run of rank `rank` of `count` begins; of rank `count`, where all end. */
struct Border pieces_border(const struct Config *config, enum MomentsType type, enum Optimizer optimizer, size_t rank,
                      size_t count);

#endif
