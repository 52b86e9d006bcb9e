/* How the shares of an update become its gradient: each rank gets its own run of all shares, and adds them up in order.
 *
 * As BF16 a share is half the bytes. It is rounded up or down at random, as often as it is near to either, so that the sum
 * is right on average (moments.h). The random bits follow from the seed, the step, the share and the place: whoever rounds
 * it, and in one process too, the bits are the same.
 */
#ifndef LLMC_EXCHANGE_H
#define LLMC_EXCHANGE_H

#include "train/team.h"

enum { EXCHANGE_PIECE = 1 << 18 };  // numbers that a rank gets of another at a time

/* Lays out what the messages need. */
void exchange_layout(struct Team *team, struct Arena *arena);

/* Adds the shares from `first` on, one of each rank, to the sum of those before: of the own run, in model->total or in
 * model->grads. */
void exchange_shares(struct Team *team, struct Gpt2 *model, size_t step, size_t first);

#endif
