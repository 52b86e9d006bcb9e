#include "train/validation.h"

#include <math.h>
#include <string.h>

#include "base/util.h"

enum { BATCH_TOKENS = 1024 };  // at a time, more or less: never by B, so that B cannot change a bit

static bool by_batches(const struct Run *run) { return run->options.val_batches > 0; }

static void choose_batches(struct Run *run) {
  const struct RunOptions *o = &run->options;
  struct DataLoader *val = &run->val.parts[0];
  if (run->val.count > 1) die(EXIT_USAGE, "--val-batches measures one text; give --val-tokens for several");
  if (val->masked) die(EXIT_USAGE, "--val-batches measures no text with a mask; give --val-tokens for %s", val->path);
  run->val.B = val->B = o->batch_size, run->val.T = val->T = o->seq_len;
  if (val->count <= (uint64_t)size_product(val->B, val->T)) {
    die(EXIT_BAD_DATA, "%s holds %llu tokens, less than one batch of %zu x %zu and the token after it; "
        "use a smaller --batch-size or --seq-len, or more text", val->path, (unsigned long long)val->count, val->B,
        val->T);
  }
}

/* Windows of a text that read `most` tokens; 0: all. */
static struct Windows choose_windows(struct DataLoader *part, uint64_t most, size_t maxT) {
  const uint64_t targets = part->count - 1;
  if (!part->masked) return windows_spread(targets, most, maxT);
  const size_t T = targets < maxT ? (size_t)targets : maxT;
  dataloader_cut(part, T);
  return windows_of_cuts(&part->cuts, most, T);
}

void validation_choose(struct Run *run) {
  const struct RunOptions *o = &run->options;
  struct Mixture *val = &run->val;
  if (by_batches(run)) {
    choose_batches(run);
    return;
  }
  size_t T = 0;
  uint64_t most = 0;
  for (size_t i = 0; i < val->count; i++) {
    struct Windows *windows = &run->validations[i].windows;
    *windows = choose_windows(&val->parts[i], mixture_share(val, i, o->val_tokens), run->model.config.maxT);
    T = size_max(T, windows->T);
    if (windows->count > most) most = windows->count;
  }
  val->B = 1, val->T = T;
  run->model.eval = (struct EvalPass){.B = size_min(ceil_div(BATCH_TOKENS, T), most), .T = T};
}

/* Batches of one part's windows. */
static size_t batches_of(const struct Run *run, size_t part) {
  if (by_batches(run)) return size_min(run->options.val_batches, dataloader_batches(&run->val.parts[0]));
  return ceil_div(run->validations[part].windows.count, run->model.eval.B);
}

size_t validation_turns(const struct Run *run) {
  size_t turns = 0;
  for (size_t i = 0; i < run->val.count; i++) turns += ceil_div(batches_of(run, i), (size_t)run->team.ranks.count);
  return turns;
}

/* A window's sum of losses, into the sums that mean and error follow from. */
static void add_window(struct Validation *v, double sum, double size) {
  v->loss += sum, v->tokens += size;
  v->loss2 += sum * sum, v->loss_tokens += sum * size, v->tokens2 += size * size;
}

/* One of the parts, whose batches are measured. */
struct Reader {
  struct Run *run;
  size_t part;
};

static void read_batch(void *context, size_t batch, int *tokens, int *targets) {
  const struct Reader *reader = context;
  mixture_batch(&reader->run->val, batch, tokens, targets);
}

static size_t windows_in(const struct Run *run, size_t part, size_t batch) {
  const size_t B = run->model.eval.B;
  return size_min(B, run->validations[part].windows.count - batch * B);
}

static void read_windows(void *context, size_t batch, int *tokens, int *targets) {
  const struct Reader *reader = context;
  struct Run *run = reader->run;
  const size_t B = run->model.eval.B, T = run->model.eval.T, n = windows_in(run, reader->part, batch);
  memset(tokens, 0, n * T * sizeof(int));
  memset(targets, 0, n * T * sizeof(int));
  for (size_t b = 0; b < n; b++) {
    const struct Window w = windows_at(&run->validations[reader->part].windows, batch * B + b);
    mixture_run(&run->val, reader->part, w, tokens + b * T, targets + b * T);
  }
}

/* Adds the windows of a batch, whose losses these are. */
static void add_windows(struct Run *run, size_t part, size_t batch, const float *losses) {
  struct Validation *v = &run->validations[part];
  const size_t B = run->model.eval.B, T = run->model.eval.T, n = windows_in(run, part, batch);
  for (size_t b = 0; b < n; b++) {
    const struct Window w = windows_at(&v->windows, batch * B + b);
    double sum = 0;  // where a target does not count, its loss is 0
    for (size_t t = 0; t < w.length; t++) sum += (double)losses[b * T + t];
    add_window(v, sum, (double)w.counted);
  }
}

size_t validation_turn(struct Run *run, size_t part, size_t first) {
  struct Reader reader = {run, part};
  struct TeamLosses asked = {.first = first, .count = batches_of(run, part)};
  if (!by_batches(run)) asked.windows = run->validations[part].windows.count;
  const size_t count = team_losses(&run->team, &run->model, asked, by_batches(run) ? read_batch : read_windows, &reader);
  for (size_t i = 0; i < count; i++) {
    if (by_batches(run)) add_window(&run->validations[0], run->team.means[i], 1);
    else add_windows(run, part, first + i, run->team.row_losses + i * run->model.eval.B * run->model.eval.T);
  }
  return count;
}

/* The error of a ratio of sums over windows, drawn independently: Cochran, Sampling Techniques (1977), chapter 6. */
static struct ValLoss loss_of(const struct Validation *v, double windows) {
  const double mean = v->loss / v->tokens;
  const double squares = fmax(v->loss2 - 2 * mean * v->loss_tokens + mean * mean * v->tokens2, 0);
  return (struct ValLoss){mean, windows < 2 ? (double)NAN : sqrt(windows / (windows - 1) * squares) / v->tokens};
}

/* The mean of strata by weight: chapter 5 there. */
static struct ValLoss mean_of(const struct Mixture *val, const struct ValLoss *parts) {
  double mean = 0, variance = 0;
  for (size_t i = 0; i < val->count; i++) {
    const double share = (double)val->weights[i] / (double)val->weight;
    mean += share * parts[i].mean;
    variance += share * parts[i].error * share * parts[i].error;
  }
  return (struct ValLoss){mean, sqrt(variance)};
}

bool validation_loss(struct Run *run, struct ValLosses *losses) {
  const size_t parts = run->val.count;
  for (size_t i = 0; i < parts; i++) {
    run->validations[i] = (struct Validation){.windows = run->validations[i].windows};
  }
  for (size_t i = 0; i < parts; i++) {
    for (size_t first = 0; first < batches_of(run, i);) {
      first += validation_turn(run, i, first);
      if (run_asked_to_stop(run)) return false;
    }
  }
  losses->count = parts;
  for (size_t i = 0; i < parts; i++) {
    const struct Validation *v = &run->validations[i];
    losses->parts[i] = loss_of(v, by_batches(run) ? 1 : (double)v->windows.count);
  }
  losses->all = parts == 1 ? losses->parts[0] : mean_of(&run->val, losses->parts);
  return true;
}
