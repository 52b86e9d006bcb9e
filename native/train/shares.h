/* In how many shares an update's gradient is added up (team.h), and in how many batches it is computed. */
#ifndef LLMC_SHARES_H
#define LLMC_SHARES_H

#include "train/run.h"

/* Sets the options' shares and parts, the number of ranks being known; `state` is that of the checkpoint from which the run
 * goes on, or NULL. Without --shares a new run has one for each rank, and an old one those that it had, or one for each rank
 * where there are more of them. Without --total-batch-size an update is a batch of (B, T) for each share, and an old run
 * keeps its tokens. Dies with EXIT_USAGE where the update cannot be cut so, or where ranks would have no share. */
void shares_settle(struct Run *run, const struct State *state);

/* Says that an old run's shares are others than they were. */
void shares_tell(struct Run *run, size_t step);

#endif
