#include "train/stopping.h"

#include "base/util.h"

const char *const END_NAMES[] = {"goes-on", "steps", "tokens", "epochs", "time", "early-stop", "interrupted",
                                 "not-finite"};

/* Updates of `each` that reach `epochs` times `size`; MOST_STEPS at most. */
static size_t updates(size_t epochs, uint64_t size, size_t each) {
  uint64_t whole;
  if (__builtin_mul_overflow((uint64_t)epochs, size, &whole)) return MOST_STEPS;
  return size_min(whole / each + (whole % each > 0), MOST_STEPS);
}

size_t stopping_steps(const struct Limits *limits, const struct Portion *update, enum EndReason *reason) {
  size_t steps = limits->steps;
  *reason = END_STEPS;
  if (limits->tokens > 0 && updates(1, limits->tokens, update->tokens) < steps) {
    steps = updates(1, limits->tokens, update->tokens);
    *reason = END_TOKENS;
  }
  if (limits->epochs > 0 && updates(limits->epochs, update->windows_in_epoch, update->windows) < steps) {
    steps = updates(limits->epochs, update->windows_in_epoch, update->windows);
    *reason = END_EPOCHS;
  }
  return steps;
}

void patience_take(struct Patience *patience, const struct Limits *limits, double val_loss) {
  if (val_loss < patience->best - limits->min_delta) {
    *patience = (struct Patience){.best = val_loss};
  } else {
    patience->waited++;
  }
}

enum EndReason stopping_reason(const struct Limits *limits, double seconds, const struct Patience *patience) {
  if (limits->seconds > 0 && seconds >= limits->seconds) return END_TIME;
  if (limits->patience > 0 && patience->waited >= limits->patience) return END_EARLY;
  return GOES_ON;
}
