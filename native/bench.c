/* llmc-native bench: training steps on random weights and tokens, and where their time goes. */
#define _POSIX_C_SOURCE 200809L
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

#include "args.h"
#include "commands.h"
#include "format.h"
#include "gpt2.h"
#include "pool.h"
#include "util.h"

struct Options {
  size_t layers, heads, channels, context, vocab_size;
  size_t batch_size, seq_len, threads, steps, warmup;
  enum Dtype dtype;
  bool recompute;
};

static struct Options read_options(int argc, char **argv) {
  struct Options o = {.layers = 12, .heads = 12, .channels = 768, .context = 1024, .vocab_size = 50257,
                      .batch_size = 4, .seq_len = 64, .threads = 1, .steps = 5, .warmup = 2};
  const struct Arg args[] = {
      {"layers", ARG_COUNT, &o.layers, 1, 1 << 12, "L"},
      {"heads", ARG_COUNT, &o.heads, 1, 1 << 16, "NH"},
      {"channels", ARG_COUNT, &o.channels, 1, 1 << 20, "C"},
      {"context", ARG_COUNT, &o.context, 1, 1 << 24, "maxT"},
      {"vocab-size", ARG_COUNT, &o.vocab_size, 2, 1 << 24, "V"},
      {"batch-size", ARG_COUNT, &o.batch_size, 1, 65536, "B, rows in a batch"},
      {"seq-len", ARG_COUNT, &o.seq_len, 1, 1 << 24, "T, tokens in a row"},
      {"threads", ARG_COUNT, &o.threads, 1, POOL_MAX_THREADS, "threads to compute with"},
      {"dtype", ARG_DTYPE, &o.dtype, 0, 0, "what linear layers multiply: fp32 or bf16"},
      {"recompute", ARG_SWITCH, &o.recompute, 0, 1, "1: activations anew in backward, less memory"},
      {"steps", ARG_COUNT, &o.steps, 1, 1e6, "steps to time"},
      {"warmup", ARG_COUNT, &o.warmup, 0, 1e6, "steps before them"},
  };
  args_parse("bench", args, sizeof args / sizeof *args, argc, argv);
  if (o.channels % o.heads != 0) die(EXIT_USAGE, "--heads %zu does not divide --channels %zu", o.heads, o.channels);
  if (o.seq_len > o.context) die(EXIT_USAGE, "--seq-len %zu is more than --context %zu", o.seq_len, o.context);
  return o;
}

/* Uniform in [-range, range): as good as GPT-2's normal for timing. */
static void fill_random(float *x, size_t n, float range) {
  for (size_t i = 0; i < n; i++) x[i] = range * ((float)(mix64(i) >> 40) * 0x1p-23f - 1);
}

/* The padding rows of wte are zero in every checkpoint, so here too. */
static void fill_model(struct Gpt2 *model) {
  const struct Config *config = &model->config;
  fill_random(model->params.first, model->count, 0.035f);
  memset(model->params.wte + config->V * config->C, 0, (config->Vp - config->V) * config->C * sizeof(float));
}

static double step_seconds(struct Gpt2 *model, int *tokens, int *targets, size_t step) {
  const size_t BT = model->B * model->T, V = model->config.V;
  for (size_t i = 0; i < BT; i++) {
    tokens[i] = (int)(mix64(step * BT + i) % V);
    targets[i] = (int)(mix64(step * BT + i + 1) % V);
  }
  const double started = clock_seconds();
  gpt2_gradients(model, tokens, targets);
  gpt2_gradient_norm(model);
  gpt2_update(model, &(struct UpdateConfig){1e-4, 0.9, 0.999, 1e-8, 0}, step + 1);
  return clock_seconds() - started;
}

static size_t peak_memory(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return (size_t)usage.ru_maxrss;
#else
  return (size_t)usage.ru_maxrss * 1024;
#endif
}

int command_bench(int argc, char **argv) {
  const struct Options o = read_options(argc, argv);
  struct Gpt2 model = {.config = {.maxT = o.context, .V = o.vocab_size, .Vp = round_up(o.vocab_size, VOCAB_MULTIPLE),
                                  .L = o.layers, .NH = o.heads, .C = o.channels},
                       .kernels = kernels_choose(), .dtype = o.dtype, .recompute = o.recompute};
  struct Pool *pool = pool_create((int)o.threads);
  model.workers.pool = pool;
  struct Arena arena = {0};
  int *tokens = NULL, *targets = NULL;
  for (int pass = 0; pass < 2; pass++) {  // measure, take, lay out
    if (pass == 1) {
      arena_take(&arena);
      pool_zero(pool, arena.base, arena.size);
    }
    gpt2_layout(&model, &arena, o.batch_size, o.seq_len, true);
    tokens = arena_alloc(&arena, o.batch_size * o.seq_len, sizeof(int));
    targets = arena_alloc(&arena, o.batch_size * o.seq_len, sizeof(int));
  }
  fill_model(&model);

  double peak = 0;
  for (int round = 0; round < 3; round++) {
    const double started = clock_seconds();
    const double flops = model.kernels->peak_flops(&model.workers);
    const double rate = flops / (clock_seconds() - started);
    peak = rate > peak ? rate : peak;
  }
  printf("{\"event\":\"start\",\"isa\":\"%s\",\"threads\":%zu,\"peak_flops\":%.4g,\"arena_bytes\":%zu}\n",
         model.kernels->name, o.threads, peak, arena.size);
  for (size_t step = 0; step < o.warmup + o.steps; step++) {
    if (step == o.warmup) pool_profile_reset(pool);
    const double seconds = step_seconds(&model, tokens, targets, step);
    if (step >= o.warmup) printf("{\"event\":\"step\",\"seconds\":%.6f}\n", seconds);
    fflush(stdout);
  }
  const struct PoolProfile *profile;
  for (int i = 0; (profile = pool_profile(pool, i)) != NULL; i++) {
    printf("{\"event\":\"kernel\",\"name\":\"%s\",\"calls\":%zu,\"seconds\":%.6f}\n", profile->label,
           profile->calls, profile->seconds);
  }
  printf("{\"event\":\"end\",\"peak_memory_bytes\":%zu}\n", peak_memory());
  fflush(stdout);
  pool_destroy(pool);
  arena_free(&arena);
  return EXIT_OK;
}
