#include "train/shares.h"

#include <stdio.h>

#include "base/util.h"

/* The largest batch of at most B rows of which an update of so many tokens has a number that the shares divide; 0: none. */
static size_t dividing_batch(const struct RunOptions *o, size_t total) {
  size_t B = o->batch_size;
  while (B > 0 && total % (B * o->seq_len * o->shares) != 0) B--;
  return B;
}

/* Batches of (B, T) in an update of so many tokens. */
static size_t parts_of(const struct RunOptions *o, size_t total) {
  const size_t BT = o->batch_size * o->seq_len;
  if (total % (BT * o->shares) == 0) return total / BT;
  char advice[128];
  const size_t B = dividing_batch(o, total);
  snprintf(advice, sizeof advice, "use --batch-size %zu", B);
  if (B == 0) {
    snprintf(advice, sizeof advice, "use fewer --shares, or a --total-batch-size that is a multiple of %zu",
             BT * o->shares);
  }
  die(EXIT_USAGE, "an update of %zu tokens cannot be cut into %zu equal shares of batches of %zu x %zu tokens; %s", total,
      o->shares, o->batch_size, o->seq_len, advice);
}

void shares_settle(struct Run *run, const struct State *state) {
  struct RunOptions *o = &run->options;
  const size_t ranks = (size_t)run->team.ranks.count, had = state != NULL ? state->shares : ranks;
  if (o->shares > 0 && o->shares < ranks) {
    die(EXIT_USAGE, "--shares %zu gives work to %zu ranks, and there are %zu; use --shares %zu, or start %zu ranks",
        o->shares, o->shares, ranks, ranks, o->shares);
  }
  if (o->shares == 0) o->shares = size_max(had, ranks);
  if (o->exchange_dtype == BF16 && o->shares == 1) {
    die(EXIT_USAGE, "--exchange-dtype bf16 is for gradients that are added up in several shares, and there is 1; give --shares, "
        "start several ranks, or leave it out");
  }
  run->shares_before = had;
  const size_t BT = o->batch_size * o->seq_len, total = o->total_batch_size;
  if (total > 0) o->parts = parts_of(o, total);
  else if (state != NULL && (o->shares > 1 || state->update_tokens % BT == 0)) o->parts = parts_of(o, state->update_tokens);
  else o->parts = o->shares;
}

void shares_tell(struct Run *run, size_t step) {
  const size_t before = run->shares_before, now = run->options.shares;
  if (before == now) return;
  events_note(&run->events, "until step %zu gradients were added up in %zu share%s, from here on in %zu: the same data, "
              "rounded otherwise", step, before, before == 1 ? "" : "s", now);
}
