/* Z-scores over the last steps, and when a run ends. */
#include "train/outliers.h"
#include "train/stopping.h"

#include "tests/check.h"
#include "base/util.h"

/* The score as its definition has it, over the last numbers in any order. */
static double expected(const double *last, double value) {
  double mean = 0, variance = 0;
  for (size_t i = 0; i < OUTLIERS_WINDOW; i++) mean += last[i] / OUTLIERS_WINDOW;
  for (size_t i = 0; i < OUTLIERS_WINDOW; i++) variance += (last[i] - mean) * (last[i] - mean) / OUTLIERS_WINDOW;
  return (value - mean) / sqrt(variance);
}

static void check_scores(void) {
  enum { COUNT = 500 };
  static double losses[COUNT], norms[COUNT];
  struct Outliers outliers = {.count = 0}, gone_on = {.count = 0};
  for (size_t i = 0; i < COUNT; i++) {
    losses[i] = 3 + 1e-3 * (double)(mix64(i) % 1000) + (i == 300 ? 50 : 0);
    norms[i] = 1 + 1e-3 * (double)(mix64(i + COUNT) % 1000);
    const struct Scores z = outliers_take(&outliers, losses[i], norms[i]);
    if (i == 200) gone_on = outliers;  // as if it had been saved and read
    const struct Scores again = i > 200 ? outliers_take(&gone_on, losses[i], norms[i]) : z;
    check(z.loss == again.loss && z.norm == again.norm, "score %zu differs after a resume", i);
    if (i + 1 < OUTLIERS_WINDOW) {
      check(z.loss == 0 && z.norm == 0, "score %zu comes before the window is full: %g, %g", i, z.loss, z.norm);
      continue;
    }
    const size_t first = i + 1 - OUTLIERS_WINDOW;
    check_near(z.loss, expected(losses + first, losses[i]), 1e-9, "score of a loss");
    check_near(z.norm, expected(norms + first, norms[i]), 1e-9, "score of a norm");
    check((z.loss > 10) == (i == 300), "score %zu of a loss is %g", i, z.loss);
  }
  struct Outliers equal = {.count = 0};
  struct Scores z = {1, 1};
  for (size_t i = 0; i < 2 * OUTLIERS_WINDOW; i++) z = outliers_take(&equal, 0.1, 0.1);
  check(z.loss == 0 && z.norm == 0, "equal numbers have scores %g and %g", z.loss, z.norm);
}

static void check_steps(const struct Limits *limits, size_t steps, enum EndReason reason) {
  const struct Portion update = {.tokens = 256, .windows = 4, .windows_in_epoch = 21};
  enum EndReason got;
  const size_t count = stopping_steps(limits, &update, &got);
  check(count == steps && got == reason, "expected %zu steps and %s, got %zu and %s", steps, END_NAMES[reason], count,
        END_NAMES[got]);
}

static void check_limits(void) {
  check_steps(&(struct Limits){.steps = 40}, 40, END_STEPS);
  check_steps(&(struct Limits){.steps = 0, .epochs = 1}, 0, END_STEPS);
  check_steps(&(struct Limits){.steps = MOST_STEPS}, MOST_STEPS, END_STEPS);
  check_steps(&(struct Limits){.steps = MOST_STEPS, .tokens = 1024}, 4, END_TOKENS);
  check_steps(&(struct Limits){.steps = MOST_STEPS, .tokens = 1025}, 5, END_TOKENS);
  check_steps(&(struct Limits){.steps = 5, .tokens = 1025}, 5, END_STEPS);
  check_steps(&(struct Limits){.steps = MOST_STEPS, .epochs = 1}, 6, END_EPOCHS);   // 21 windows, 4 at a time
  check_steps(&(struct Limits){.steps = MOST_STEPS, .epochs = 4}, 21, END_EPOCHS);
  check_steps(&(struct Limits){.steps = 100, .tokens = 2000, .epochs = 1}, 6, END_EPOCHS);
  check_steps(&(struct Limits){.steps = 100, .tokens = 1000, .epochs = 1}, 4, END_TOKENS);
  check_steps(&(struct Limits){.steps = MOST_STEPS, .epochs = MOST_STEPS}, MOST_STEPS, END_STEPS);
  enum EndReason got;
  const struct Portion huge = {.tokens = 1, .windows = 1, .windows_in_epoch = UINT64_MAX / 2};
  const struct Limits limits = {.steps = MOST_STEPS, .epochs = 3};
  check(stopping_steps(&limits, &huge, &got) == MOST_STEPS, "a product that does not fit is not a limit");
}

static void check_patience(void) {
  const struct Limits limits = {.patience = 2, .min_delta = 0.1}, timed = {.seconds = 60};
  struct Patience patience = {.best = INFINITY};
  const double losses[] = {5, 4.95, 4.8, 4.75, 4.71, 4.6};
  const uint64_t waited[] = {0, 1, 0, 1, 2, 0};  // 4.71 is not lower than 4.8 by more than 0.1, 4.6 is
  for (size_t i = 0; i < sizeof losses / sizeof *losses; i++) {
    patience_take(&patience, &limits, losses[i]);
    check(patience.waited == waited[i], "after validation %zu it has waited %llu, not %llu", i,
          (unsigned long long)patience.waited, (unsigned long long)waited[i]);
    check((stopping_reason(&limits, 1e9, &patience) == END_EARLY) == (waited[i] == 2), "validation %zu", i);
  }
  check(stopping_reason(&timed, 59.9, &patience) == GOES_ON, "it ends before its time");
  check(stopping_reason(&timed, 60, &patience) == END_TIME, "it does not end at its time");
  check(stopping_reason(&(struct Limits){0}, 1e9, &patience) == GOES_ON, "without limits it ends");
}

int main(void) {
  check_scores();
  check_limits();
  check_patience();
  return check_done("test_stopping");
}
