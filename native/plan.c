#include "plan.h"

#include <math.h>
#include <stdio.h>

#include "util.h"

/* ---- memory ------------------------------------------------------------------------------------- */

/* Bytes of the arena for batches of (B, T), all else as the run has it: measuring costs nothing. */
static size_t footprint(const struct Run *run, size_t B, size_t T, bool recompute) {
  struct Run trial = *run;
  struct Arena arena = {0};
  trial.options.batch_size = trial.train.B = trial.val.B = B;
  trial.options.seq_len = trial.train.T = trial.val.T = T;
  trial.model.recompute = recompute;
  run_layout(&trial, &arena);
  return arena_footprint(&arena);
}

/* The largest B below the run's that fits; 0 where none does. */
static size_t largest_batch(const struct Run *run, size_t available) {
  size_t fits = 0, exceeds = run->options.batch_size;
  while (exceeds - fits > 1) {
    const size_t B = fits + (exceeds - fits) / 2;
    *(footprint(run, B, run->options.seq_len, run->options.recompute) <= available ? &fits : &exceeds) = B;
  }
  return fits;
}

/* The largest T below the run's that fits with B = 1; 0 where none does. */
static size_t longest_row(const struct Run *run, size_t available) {
  size_t fits = 0, exceeds = run->options.seq_len;
  while (exceeds - fits > 1) {
    const size_t T = fits + (exceeds - fits) / 2;
    *(footprint(run, 1, T, run->options.recompute) <= available ? &fits : &exceeds) = T;
  }
  return fits;
}

/* Bytes as a person reads them. What is needed is rounded up and what is available down, so that the
 * larger of two reads as the larger. */
static const char *shown(char text[32], size_t bytes, double (*rounded)(double)) {
  const bool giga = bytes >= 1000000000;
  snprintf(text, 32, "%.2f %s", rounded((double)bytes / (giga ? 1e7 : 1e4)) / 100, giga ? "GB" : "MB");
  return text;
}

size_t plan_recompute_saves(const struct Run *run) {
  const size_t B = run->options.batch_size, T = run->options.seq_len;
  return footprint(run, B, T, false) - footprint(run, B, T, true);
}

/* What to change so that the run fits, all else as it is. */
static void advise(char text[128], const struct Run *run, size_t available) {
  const struct RunOptions *o = &run->options;
  const bool recompute = !o->recompute && footprint(run, o->batch_size, o->seq_len, true) <= available;
  const size_t B = largest_batch(run, available), T = B > 0 ? 0 : longest_row(run, available);
  const char *first = recompute ? "use --recompute, or " : "use ";
  if (B > 0) {
    snprintf(text, 128, "%s--batch-size %zu%s", first, B, B > 1 ? " or less" : "");
  } else if (T > 0) {
    snprintf(text, 128, "%s%s--seq-len %zu%s", first, o->batch_size > 1 ? "--batch-size 1 and " : "", T,
             T > 1 ? " or less" : "");
  } else {
    snprintf(text, 128, "%s", recompute ? "use --recompute" : "use a smaller model");
  }
}

void plan_check(const struct Run *run, size_t needed, size_t available) {
  if (needed <= available) return;
  char needs[32], has[32], change[128];
  advise(change, run, available);
  die(EXIT_USAGE, "the run needs %s of memory, but only %s are available; %s", shown(needs, needed, ceil),
      shown(has, available, floor), change);
}

/* ---- time --------------------------------------------------------------------------------------- */

static double median(double *values, size_t count) {
  for (size_t i = 1; i < count; i++) {
    for (size_t j = i; j > 0 && values[j - 1] > values[j]; j--) {
      const double swapped = values[j];
      values[j] = values[j - 1];
      values[j - 1] = swapped;
    }
  }
  return (values[(count - 1) / 2] + values[count / 2]) / 2;
}

/* The median of some steps of `parts` batches, in milliseconds. The first warms up and is dropped, unless it
 * alone takes as long as a rehearsal may. */
static double rehearse_steps(struct Run *run, size_t parts, size_t *steps) {
  enum { STEPS = 5 };
  const double ends = clock_seconds() + 10;
  const size_t given = run->options.parts;
  double step_ms[1 + STEPS];
  size_t count = 0;
  run->options.parts = parts;
  do {
    step_ms[count] = run_step(run, count).step_ms;
    count++;
  } while (count < 1 + STEPS && clock_seconds() < ends);
  run->options.parts = given;
  const size_t dropped = count > 1;
  *steps = count - dropped;
  return median(step_ms + dropped, *steps);
}

/* A step of many batches may take an hour: what two take more than one, each of the others takes. */
static double rehearse_parts(struct Run *run, size_t *steps) {
  const size_t parts = run->options.parts;
  if (parts <= 2) return rehearse_steps(run, parts, steps);
  const double two = rehearse_steps(run, 2, steps), one = rehearse_steps(run, 1, steps);
  const double more = fmin(fmax(two - one, 0), one);
  return one + (double)(parts - 1) * more;
}

void plan_rehearse(struct Run *run) {
  enum { TOKENS = 8 };
  const struct RunOptions *o = &run->options;
  struct Measured measured = {0};
  measured.step_ms = rehearse_parts(run, &measured.steps);

  if (o->val_data != NULL) {
    const double started = clock_seconds();
    run_val_batch(run, 0);
    measured.val_batch_ms = 1e3 * (clock_seconds() - started);
    measured.val_batches = run_val_batches(run);
  }
  if (o->sample_every > 0) {
    const double started = clock_seconds();
    const size_t written = run_write(run, size_min(o->sample_tokens, TOKENS));
    measured.token_ms = 1e3 * (clock_seconds() - started) / (double)written;
    measured.sample_tokens = size_min(o->sample_tokens, run->decoder.positions);
  }
  events_measured(&run->events, &measured);
}
