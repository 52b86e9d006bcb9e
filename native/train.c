/* llmc-native train: its flags, and what a run does when. */
#define _POSIX_C_SOURCE 200809L
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "args.h"
#include "commands.h"
#include "memory.h"
#include "plan.h"
#include "pool.h"
#include "run.h"
#include "util.h"

static struct RunOptions read_options(int argc, char **argv) {
  struct RunOptions o = {
      .events = "text", .steps = 40, .batch_size = 4, .seq_len = 64, .threads = 1, .seed = 1337,
      .val_every = 10, .val_batches = 5, .sample_every = 20, .sample_tokens = 64, .save_every = 0,
      .lr = 1e-4, .beta1 = 0.9, .beta2 = 0.999, .eps = 1e-8, .weight_decay = 0, .shuffle = true,
  };
  const double most = 1e9, below1 = 1 - 0x1p-53;
  const struct Arg args[] = {
      {"data", ARG_TEXT, &o.data, 0, 0, "token file, or pattern of several, to train on"},
      {"val-data", ARG_TEXT, &o.val_data, 0, 0, "token file, or pattern, to validate on"},
      {"model", ARG_TEXT, &o.model, 0, 0, "checkpoint to start from"},
      {"out", ARG_TEXT, &o.out, 0, 0, "folder for model.bin and metrics.jsonl"},
      {"events", ARG_TEXT, &o.events, 0, 0, "what stdout carries: text or json"},
      {"steps", ARG_COUNT, &o.steps, 0, most, "updates to make"},
      {"batch-size", ARG_COUNT, &o.batch_size, 1, 65536, "B, rows in a batch"},
      {"seq-len", ARG_COUNT, &o.seq_len, 1, 1 << 24, "T, tokens in a row"},
      {"lr", ARG_NUMBER, &o.lr, 0, most, "learning rate"},
      {"beta1", ARG_NUMBER, &o.beta1, 0, below1, "AdamW's decay of the mean"},
      {"beta2", ARG_NUMBER, &o.beta2, 0, below1, "AdamW's decay of the square"},
      {"eps", ARG_NUMBER, &o.eps, 0, most, "AdamW's epsilon"},
      {"weight-decay", ARG_NUMBER, &o.weight_decay, 0, most, "AdamW's decay of matrices"},
      {"grad-clip", ARG_NUMBER, &o.grad_clip, 0, most, "largest global norm of the gradient, 0: any"},
      {"threads", ARG_COUNT, &o.threads, 1, POOL_MAX_THREADS, "threads to compute with"},
      {"dtype", ARG_DTYPE, &o.dtype, 0, 0, "what linear layers multiply: fp32 or bf16"},
      {"recompute", ARG_SWITCH, &o.recompute, 0, 1, "1: activations anew in backward, less memory"},
      {"seed", ARG_COUNT, &o.seed, 0, 0x1p53, "seed of the shuffle and of samples"},
      {"shuffle", ARG_SWITCH, &o.shuffle, 0, 1, "1: shuffled windows, 0: in order"},
      {"val-every", ARG_COUNT, &o.val_every, 0, most, "steps between validations, 0: never"},
      {"val-batches", ARG_COUNT, &o.val_batches, 1, most, "batches in a validation, at most"},
      {"sample-every", ARG_COUNT, &o.sample_every, 0, most, "steps between samples, 0: never"},
      {"sample-tokens", ARG_COUNT, &o.sample_tokens, 1, 1024, "tokens in a sample"},
      {"eot", ARG_COUNT, &o.eot, 0, INT32_MAX, "token that samples begin with, 0: the vocabulary's last"},
      {"save-every", ARG_COUNT, &o.save_every, 0, most, "steps between checkpoints, 0: at the end"},
      {"dry-run", ARG_SWITCH, &o.dry_run, 0, 1, "1: tell what the run takes, and write nothing"},
  };
  args_parse("train", args, sizeof args / sizeof *args, argc, argv);
  if (o.val_every == 0) o.val_data = NULL;
  if (o.dry_run) o.out = NULL;
  if (o.data == NULL || o.model == NULL) die(EXIT_USAGE, "train needs --data FILE and --model FILE");
  if (strcmp(o.events, "text") != 0 && strcmp(o.events, "json") != 0) {
    die(EXIT_USAGE, "--events takes text or json, not '%s'", o.events);
  }
  return o;
}

/* The first Ctrl-C lets the step finish and saves; the second leaves at once. */
static volatile sig_atomic_t interrupts;

static void on_interrupt(int signal) {
  (void)signal;
  if (++interrupts > 1) _exit(EXIT_INTERRUPTED);
}

/* Ctrl-C, kill, and a terminal that closes, unless nohup asked to outlive that. */
static void catch_stops(void) {
  const struct sigaction stop = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
  struct sigaction now;
  sigaction(SIGINT, &stop, NULL);
  sigaction(SIGTERM, &stop, NULL);
  if (sigaction(SIGHUP, NULL, &now) == 0 && now.sa_handler != SIG_IGN) sigaction(SIGHUP, &stop, NULL);
}

static bool due(size_t step, size_t every) { return every > 0 && step % every == 0; }

static int loop(struct Run *run) {
  const struct RunOptions *o = &run->options;
  size_t step = 0;
  for (;; step++) {
    /* Told to stop, it saves at once: whoever asked may not wait for a validation. */
    const bool stopped = interrupts > 0 || run->events.unheard;
    const bool last = step == o->steps || stopped;
    if (o->val_data != NULL && !stopped && (due(step, o->val_every) || last)) run_validate(run, step);
    if (step > 0 && !stopped && due(step, o->sample_every)) run_sample(run, step);
    if (last || (step > 0 && due(step, o->save_every))) run_save(run, step);
    if (last) return interrupts > 0 ? EXIT_INTERRUPTED : EXIT_OK;
    const struct StepMetrics metrics = run_step(run, step);
    events_step(&run->events, &metrics);
  }
}

static void open_outputs(struct Run *run) {
  const struct RunOptions *o = &run->options;
  if (o->out == NULL) return;
  if (mkdir(o->out, 0777) != 0 && errno != EEXIST) {
    die(EXIT_BAD_DATA, "cannot make the folder %s: %s; choose another --out", o->out, strerror(errno));
  }
  char path[sizeof run->model_path];
  int length = snprintf(path, sizeof path, "%s/metrics.jsonl", o->out);
  if (length < 0 || (size_t)length >= sizeof path) die(EXIT_USAGE, "the path %s is too long", o->out);
  snprintf(run->model_path, sizeof run->model_path, "%s/model.bin", o->out);
  run->events.metrics = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0666);  // emptied when all is well
  if (run->events.metrics < 0) die(EXIT_BAD_DATA, "cannot write %s: %s", path, strerror(errno));
}

int command_train(int argc, char **argv) {
  static struct Run run;  // static: too large to be anyone's stack frame
  struct Arena arena = {0};
  run.options = read_options(argc, argv);
  const struct RunOptions *o = &run.options;

  const int file = checkpoint_open(o->model, &run.checkpoint);
  run.checkpoint.has_val_loss = false;  // the starting model's, on other data perhaps
  const struct Config *config = &run.checkpoint.config;
  if (o->seq_len > config->maxT) {
    die(EXIT_USAGE, "--seq-len %zu is more than the %zu positions of %s; use at most that", o->seq_len,
        config->maxT, o->model);
  }
  if (o->eot >= config->V) die(EXIT_USAGE, "--eot %zu is not below the %zu tokens of %s", o->eot, config->V, o->model);
  dataloader_open(&run.train, o->data, o->batch_size, o->seq_len, config->V);
  run.train.shuffle = o->shuffle;
  run.train.seed = o->seed;
  if (o->val_data != NULL) dataloader_open(&run.val, o->val_data, o->batch_size, o->seq_len, config->V);
  run.sampler = (struct Sampler){.temperature = 1, .top_p = 1, .seed = o->seed};
  run.model.config = *config;
  run.model.kernels = kernels_choose();
  run.model.dtype = o->dtype;
  run.model.recompute = o->recompute;
  run.model.update_in_backward = o->grad_clip == 0;  // the norm to clip by needs all gradients at once
  run.model.workers.pool = pool_create((int)o->threads);
  run.events = (struct Events){.json = strcmp(o->events, "json") == 0, .metrics = -1};

  run_layout(&run, &arena);
  const size_t available = memory_available();
  events_start(&run.events, &run.model, &arena, available, plan_recompute_saves(&run), o->steps);
  plan_check(&run, arena_footprint(&arena), available);
  open_outputs(&run);
  arena_take(&arena);
  run_layout(&run, &arena);
  gpt2_first_touch(&run.model, &arena);
  checkpoint_read(file, o->model, &run.checkpoint, run.model.params.first);
  if (run.events.metrics >= 0 && ftruncate(run.events.metrics, 0) != 0) {
    die(EXIT_BAD_DATA, "cannot empty the old metrics.jsonl in %s: %s", o->out, strerror(errno));
  }

  int code = EXIT_OK;
  if (o->dry_run) {
    plan_rehearse(&run);
  } else {
    catch_stops();
    code = loop(&run);
  }
  dataloader_close(&run.train);
  if (o->val_data != NULL) dataloader_close(&run.val);
  pool_destroy(run.model.workers.pool);
  arena_free(&arena);
  return code;
}
