#include "train/validation.h"

#include <math.h>
#include <string.h>

#include "base/util.h"

enum { BATCH_TOKENS = 1024 };  // at a time, more or less: never by B, so that B cannot change a bit

static bool by_batches(const struct Run *run) { return run->options.val_batches > 0; }

void validation_choose(struct Run *run) {
  const struct RunOptions *o = &run->options;
  if (by_batches(run)) return;
  struct Windows *windows = &run->validation.windows;
  *windows = windows_spread(run->val.count - 1, o->val_tokens, run->model.config.maxT);
  run->val.T = windows->T;
  run->model.look = (struct Look){.B = size_min(ceil_div(BATCH_TOKENS, windows->T), windows->count), .T = windows->T};
}

size_t validation_batches(const struct Run *run) {
  if (by_batches(run)) return size_min(run->options.val_batches, dataloader_batches(&run->val));
  return ceil_div(run->validation.windows.count, run->model.look.B);
}

/* A window's sum of losses, into the sums that mean and error follow from. */
static void add_window(struct Validation *v, double sum, double size) {
  v->loss += sum, v->tokens += size;
  v->loss2 += sum * sum, v->loss_tokens += sum * size, v->tokens2 += size * size;
}

void validation_batch(struct Run *run, size_t i) {
  struct Validation *v = &run->validation;
  if (by_batches(run)) {
    dataloader_batch(&run->val, i, run->tokens, run->targets);
    add_window(v, gpt2_loss(&run->model, run->tokens, run->targets), 1);
    return;
  }
  struct Gpt2 looking = gpt2_looking(&run->model);
  const size_t T = looking.T, first = i * looking.B;
  const size_t n = looking.B = size_min(looking.B, v->windows.count - first);
  memset(run->tokens, 0, n * T * sizeof(int));
  memset(run->targets, 0, n * T * sizeof(int));
  for (size_t b = 0; b < n; b++) {
    const struct Window w = windows_at(&v->windows, first + b);
    dataloader_run(&run->val, w.start, w.length, run->tokens + b * T, run->targets + b * T);
  }
  gpt2_loss(&looking, run->tokens, run->targets);
  for (size_t b = 0; b < n; b++) {
    const size_t length = windows_at(&v->windows, first + b).length;
    double sum = 0;
    for (size_t t = 0; t < length; t++) sum += (double)looking.acts.losses[b * T + t];
    add_window(v, sum, (double)length);
  }
}

/* The error of a ratio of sums over windows, drawn independently: Cochran, Sampling Techniques (1977), chapter 6. */
static struct ValLoss loss_of(const struct Validation *v, double windows) {
  const double mean = v->loss / v->tokens;
  const double squares = fmax(v->loss2 - 2 * mean * v->loss_tokens + mean * mean * v->tokens2, 0);
  return (struct ValLoss){mean, windows < 2 ? (double)NAN : sqrt(windows / (windows - 1) * squares) / v->tokens};
}

bool validation_loss(struct Run *run, struct ValLoss *loss) {
  const size_t batches = validation_batches(run);
  run->validation = (struct Validation){.windows = run->validation.windows};
  for (size_t i = 0; i < batches; i++) {
    validation_batch(run, i);
    if (run_asked_to_stop(run)) return false;
  }
  *loss = loss_of(&run->validation, by_batches(run) ? 1 : (double)run->validation.windows.count);
  return true;
}
