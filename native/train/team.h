/* The ranks at work on one run: rank 0 leads, and the others do what it asks.
 *
 * An update is `parts` batches of (B, T), in order. They are cut into S shares of equal length. Within a share a batch's
 * gradient is added to that of the batches before it, and the shares are added in order: ((s0 + s1) + s2) + … So S, and
 * not the number of ranks, decides the bits. Up to S ranks work: share s falls to rank s modulo their number.
 *
 * Each rank adds up the shares of its own run of the parameters, of which it gets the others' (pieces.h), updates it with
 * its part of the optimizer's state, and all get the new weights. Only rank 0 touches files and speaks: it deals out the
 * rows of tokens, and collects the losses and, for a checkpoint, the moments. A run of one process has a team of one.
 */
#ifndef LLMC_TEAM_H
#define LLMC_TEAM_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/arena.h"
#include "files/mixture.h"
#include "model/gpt2.h"
#include "ranks/ranks.h"

/* What each rank is and takes. */
struct Member {
  char machine[RANKS_NAME], isa[16];
  size_t threads, memory, available;  // bytes; SIZE_MAX where it is not known
};

struct Team {
  struct Ranks ranks;
  uint64_t tables;       // kernel tables that all can run, by number
  size_t threads;        // for this rank: a core each, of those that it may use
  size_t shares, parts;  // S; batches in an update, a multiple of it
  size_t B, T;           // of a batch in training
  size_t eval_B, eval_T; // of a batch of validation windows; 0: there is none
  struct Member members[RANKS_MOST];
  size_t cuts[RANKS_MOST + 1];         // floats in front of each rank's run
  size_t piece_cuts[RANKS_MOST + 1];   // its pieces, in floats of `squares`
  double means[RANKS_MOST];            // of each rank's batch of losses
  int *tokens, *targets; // (a share's parts, B, T), or one batch of either kind: the own ones
  int *hand[2];          // (ranks, as many) tokens and targets, rank 0's
  double *losses;        // (ranks, parts of its shares + 1)
  float *row_losses;     // (ranks, eval_B, eval_T)
  enum Dtype exchange_dtype;  // of the shares' gradients, when they are added up
  float *received;       // (ranks, EXCHANGE_PIECE) of that type
  float *packed;         // (ranks, EXCHANGE_PIECE) of BF16, to be sent
  double *squares;       // (pieces) of the gradient
  double exchanging;     // seconds of messages and of waiting for them, since team_clock
  double computing;      // seconds of gradients and losses
};

/* Whether a rank adds up its shares apart from the gradients: it has several. */
bool team_adds_apart(const struct Team *team);

/* Lays out what the messages need, after the model (see arena.h: called twice). */
void team_layout(struct Team *team, struct Arena *arena, const struct Gpt2 *model);

/* The gradient of update number `step` + 1, in which so many targets count: of the own run it is complete. Returns the
 * loss. */
double team_gradients(struct Team *team, struct Gpt2 *model, struct Mixture *data, size_t step, size_t counted);

/* The norm of the whole gradient. */
double team_norm(struct Team *team, struct Gpt2 *model);

/* The optimizer's step number `step`, counted from 1, by a gradient of this norm. Returns the norm; of one share, whose norm
 * is a sum of its own that the step makes, that one. */
double team_update(struct Team *team, struct Gpt2 *model, const struct UpdateConfig *update, size_t step, double norm);

/* Batches whose losses are to be computed, one for each rank: from number `first` on, of `count`. */
struct TeamLosses {
  size_t first, count;
  size_t windows;  // of a validation, eval_B in a batch, fewer in the last; 0: batches of (B, T)
};

/* Fills in batch number `batch`. */
typedef void TeamReader(void *context, size_t batch, int *tokens, int *targets);

/* Computes the losses of these batches and returns how many there were. The mean of the r-th goes into means, and if it
 * has windows, the loss of each target into row_losses. */
size_t team_losses(struct Team *team, struct Gpt2 *model, struct TeamLosses asked, TeamReader *read, void *context);

/* Gives `take` the moments of all ranks, m of all in order, then v. */
typedef void TeamTaker(void *context, const void *bytes, size_t count);
void team_collect(struct Team *team, const struct Gpt2 *model, TeamTaker *take, void *context);

/* Begins to count the seconds anew. */
void team_clock(struct Team *team);

/* The others stop. */
void team_end(struct Team *team);

/* What rank 0 tells the others before the work: how the model is made, and how it goes on. */
struct TeamPlan {
  struct Config config;
  char isa[16];
  size_t B, T, eval_B, eval_T, shares, parts, threads;
  enum Dtype dtype;
  enum Optimizer optimizer;
  enum MomentsType moments, stored;  // stored: of a checkpoint
  bool recompute, fewer_threads, goes_on;
  enum Dtype exchange_dtype;
  double dropout;
  uint64_t seed, key;
};

/* Finds out what all ranks have in common. Before the plan, by all. */
void team_call(struct Team *team);

/* Rank 0's plan, to all. */
void team_plan(const struct Team *team, struct TeamPlan *plan);

/* Fills in `members` on rank 0. `memory` and `available` are this rank's, in bytes. */
void team_gather_members(struct Team *team, const struct Gpt2 *model, size_t memory, size_t available);

/* All that a rank above 0 does: it takes part in the work until rank 0 ends it. Returns its exit code. */
int team_work(struct Team *team);

#endif
