#include "train/plan.h"

#include <stdio.h>
#include <string.h>

#include "base/disk.h"
#include "base/memory.h"
#include "base/util.h"
#include "train/validation.h"

/* ---- memory ------------------------------------------------------------------------------------- */

/* What may be changed so that a run fits. */
struct Change {
  size_t B, T;
  bool recompute;
  enum MomentsType moments;
};

static struct Change unchanged(const struct Run *run) {
  const struct RunOptions *o = &run->options;
  return (struct Change){o->batch_size, o->seq_len, o->recompute, o->optimizer_state};
}

/* Bytes of the arena with a change, all else as the run has it: measuring costs nothing. */
static size_t footprint(const struct Run *run, struct Change change) {
  const struct RunOptions *o = &run->options;
  struct Run trial = *run;
  struct Arena arena = {0};
  trial.options.batch_size = trial.train.B = change.B;
  trial.options.seq_len = trial.train.T = change.T;
  if (o->val_batches > 0) trial.val.B = change.B, trial.val.T = change.T;
  trial.model.recompute = change.recompute;
  trial.model.moments.type = change.moments;
  /* Of a total batch a smaller (B, T) is a part, and parts are added up in gradients that are kept. */
  if (o->total_batch_size > 0 && change.B * change.T < o->batch_size * o->seq_len) {
    trial.model.update_in_backward = false;
    trial.options.parts = o->total_batch_size / (change.B * change.T);
  }
  run_layout(&trial, &arena);
  return arena_footprint(&arena);
}

/* The widest way to store the moments, below the change's, that fits; false where none does. */
static bool smaller_moments(const struct Run *run, struct Change *change, size_t available) {
  while (change->moments < MOMENTS_8BIT) {
    change->moments++;
    if (footprint(run, *change) <= available) return true;
  }
  return false;
}

/* The largest number below *size, which is one of the change's, that fits and divides the total batch; 0
 * where none does. */
static void shrink(const struct Run *run, struct Change *change, size_t *size, size_t available) {
  const size_t total = run->options.total_batch_size;
  size_t fits = 0, exceeds = *size;
  while (exceeds - fits > 1) {
    *size = fits + (exceeds - fits) / 2;
    *(footprint(run, *change) <= available ? &fits : &exceeds) = *size;
  }
  for (*size = fits; *size > 0 && total % (change->B * change->T) != 0;) --*size;
}

/* The largest B below the run's that fits, or else the longest T with B = 1; false where no row fits. */
static bool smaller_batch(const struct Run *run, struct Change *change, size_t available) {
  shrink(run, change, &change->B, available);
  if (change->B > 0) return true;
  if (run->options.resume) return false;  // the order of its data follows from T
  change->B = 1;
  shrink(run, change, &change->T, available);
  return change->T > 0;
}

size_t plan_recompute_saves(const struct Run *run) {
  struct Change change = unchanged(run);
  change.recompute = false;
  const size_t without = footprint(run, change);
  change.recompute = true;
  return without - footprint(run, change);
}

enum { ADVICE = 256 };

/* Adds a way to make the run fit to those before it. */
static void add_way(char text[ADVICE], const struct Run *run, struct Change change, bool last) {
  const struct RunOptions *o = &run->options;
  const bool any_less = o->total_batch_size == 0;  // else a divisor of it
  char flags[4][48];
  int count = 0;
  if (change.recompute != o->recompute) snprintf(flags[count++], 48, "--recompute");
  if (change.moments != o->optimizer_state) {
    snprintf(flags[count++], 48, "--optimizer-state %s", moments_name(change.moments));
  }
  if (change.B != o->batch_size) {
    const bool less = any_less && change.T == o->seq_len && change.B > 1;
    snprintf(flags[count++], 48, "--batch-size %zu%s", change.B, less ? " or less" : "");
  }
  if (change.T != o->seq_len) {
    snprintf(flags[count++], 48, "--seq-len %zu%s", change.T, any_less && change.T > 1 ? " or less" : "");
  }
  size_t length = strlen(text);
  const char *before = length == 0 ? "use " : last ? ", or " : ", ";
  for (int i = 0; i < count; i++) {
    length += (size_t)snprintf(text + length, ADVICE - length, "%s%s", before, flags[i]);
    before = i + 2 < count ? ", " : " and ";
  }
}

/* What to change so that the run fits: what costs time only, what costs digits of the optimizer's moments only, or both;
 * or the batch, whose change makes it another run. */
static void advise(char text[ADVICE], const struct Run *run, size_t available) {
  const struct Change now = unchanged(run);
  struct Change ways[3], way = now;
  int count = 0;
  way.recompute = true;
  if (!now.recompute && footprint(run, way) <= available) ways[count++] = way;
  way = now;
  if (smaller_moments(run, &way, available)) ways[count++] = way;
  way = now;
  way.recompute = true;
  if (count == 0 && !now.recompute && smaller_moments(run, &way, available)) ways[count++] = way;
  way = now;
  if (smaller_batch(run, &way, available)) ways[count++] = way;
  way = (struct Change){now.B, now.T, true, MOMENTS_8BIT};
  if (count == 0 && smaller_batch(run, &way, available)) ways[count++] = way;
  text[0] = '\0';
  for (int i = 0; i < count; i++) add_way(text, run, ways[i], i + 1 == count);
  if (count > 0) return;
  snprintf(text, ADVICE, "use a smaller --model, such as 'llmc export-weights random:PRESET' makes: docs/guide/recipes.md says "
           "what each preset takes");
}

void plan_check(const struct Run *run, size_t needed, size_t available) {
  if (needed <= available) return;
  char change[ADVICE];
  advise(change, run, available);
  memory_refuse("the run needs", needed, available, change);
}

/* ---- disk --------------------------------------------------------------------------------------- */

void plan_check_disk(const struct Run *run) {
  const struct RunOptions *o = &run->options;
  const char *out = o->dry_run ? o->planned_out : o->out;
  if (out == NULL) return;
  const size_t needed = saving_least(run);
  const double available = disk_available(out) + (double)(run->saver.count * saving_bytes(run));
  if ((double)needed <= available) return;
  char needs[32], has[32];
  const size_t fewer = needed / saving_bytes(run) - o->keep + 1;
  const bool keeps_less = o->keep > 1 && (double)(fewer * saving_bytes(run)) <= available;
  memory_shown(needs, needed, has, (size_t)available);
  die(EXIT_USAGE, "the run's checkpoints need %s of the disk, but only %s are free in %s; free some space%s, or train "
      "on another disk", needs, has, out, keeps_less ? ", use a smaller --keep" : "");
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

/* The medians of some steps of `parts` batches, in milliseconds. The first warms up and is dropped, unless it
 * alone takes as long as a dry run may. */
static struct Measured time_steps(struct Run *run, size_t parts) {
  enum { STEPS = 5 };
  const double ends = clock_seconds() + 10;
  const size_t given = run->team.parts;
  double step_ms[1 + STEPS], exchange_ms[1 + STEPS];
  size_t count = 0;
  run->team.parts = run->options.parts = parts;
  do {
    const struct StepMetrics m = run_step(run, count);
    step_ms[count] = m.step_ms, exchange_ms[count] = m.exchange_ms;
    count++;
  } while (count < 1 + STEPS && clock_seconds() < ends);
  run->team.parts = run->options.parts = given;
  const size_t dropped = count > 1, steps = count - dropped;
  return (struct Measured){.steps = steps, .step_ms = median(step_ms + dropped, steps),
                           .exchange_ms = median(exchange_ms + dropped, steps)};
}

/* A step of many batches may take an hour: what two of each share take more than one, each of the others takes. */
static struct Measured time_parts(struct Run *run) {
  const size_t parts = run->options.parts, shares = run->options.shares;
  if (parts <= 2 * shares) return time_steps(run, parts);
  const double two = time_steps(run, 2 * shares).step_ms;
  struct Measured one = time_steps(run, shares);
  one.step_ms += (double)(parts / shares - 1) * fmin(fmax(two - one.step_ms, 0), one.step_ms);
  return one;
}

/* Before the steps are timed, they find out with how many threads; not where each takes seconds. */
static void try_threads(struct Run *run) {
  const size_t parts = run->options.parts;
  run->team.parts = run->options.parts = run->options.shares;
  while (!run->thread_trial.settled) run->thread_trial.settled |= run_step(run, 0).step_ms > 1000;
  run->team.parts = run->options.parts = parts;
}

void plan_dry_run(struct Run *run) {
  enum { TOKENS = 8 };
  const struct RunOptions *o = &run->options;
  try_threads(run);
  struct Measured measured = time_parts(run);

  if (o->val_data.count > 0) {
    const double started = clock_seconds();
    validation_turn(run, 0, 0);
    measured.val_batch_ms = 1e3 * (clock_seconds() - started);
    measured.val_batches = validation_turns(run);
  }
  if (o->sample_every > 0) {
    const double started = clock_seconds();
    const size_t written = run_write(run, size_min(o->sample_tokens, TOKENS));
    measured.token_ms = 1e3 * (clock_seconds() - started) / (double)size_max(written, 1);
    measured.sample_tokens = size_min(o->sample_tokens, run->batch.decoder.positions);
  }
  events_measured(&run->events, &measured);
}
