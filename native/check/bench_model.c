#include "check/bench_model.h"

#include <stdio.h>
#include <string.h>

#include "files/format.h"
#include "base/memory.h"
#include "kernels/peak.h"
#include "base/pool.h"
#include "base/util.h"

struct BenchOptions bench_options(const char *subcommand, const char *const *dtypes, const struct Arg *more,
                                  int argc, char **argv) {
  struct BenchOptions o = {.layers = 12, .heads = 12, .channels = 768, .context = 1024, .vocab_size = 50257,
                           .batch_size = 4, .seq_len = 64, .threads = 1, .steps = 5, .warmup = 2};
  struct Arg args[] = {
      {"layers", ARG_COUNT, &o.layers, 1, MOST_LAYERS, "L"},
      {"heads", ARG_COUNT, &o.heads, 1, MOST_HEADS, "NH"},
      {"channels", ARG_COUNT, &o.channels, 1, MOST_CHANNELS, "C"},
      {"context", ARG_COUNT, &o.context, 1, MOST_CONTEXT, "maxT"},
      {"vocab-size", ARG_COUNT, &o.vocab_size, 2, MOST_VOCAB, "V"},
      {"batch-size", ARG_COUNT, &o.batch_size, 1, 65536, "B, rows in a batch"},
      {"seq-len", ARG_COUNT, &o.seq_len, 1, MOST_CONTEXT, "T, tokens in a row"},
      {"dtype", ARG_CHOICE, &(struct Choice){&o.dtype, dtypes}, 0, 0, "number type to compute in"},
      {"recompute", ARG_SWITCH, &o.recompute, 0, 1, "1: recompute activations in the backward pass, to save memory"},
      {"threads", ARG_COUNT, &o.threads, 1, POOL_MAX_THREADS, "number of threads"},
      {"steps", ARG_COUNT, &o.steps, 1, 1e6, "steps to time"},
      {"warmup", ARG_COUNT, &o.warmup, 0, 1e6, "steps before them"},
      {0},
  };
  size_t count = sizeof args / sizeof *args - 1;
  if (more != NULL) args[count++] = *more;
  args_parse(subcommand, args, count, argc, argv);
  if (o.channels % o.heads != 0) die(EXIT_USAGE, "--heads %zu does not divide --channels %zu", o.heads, o.channels);
  if (o.seq_len > o.context) die(EXIT_USAGE, "--seq-len %zu is more than --context %zu", o.seq_len, o.context);
  return o;
}

void bench_take(struct Arena *arena) {
  memory_take(arena, "use a smaller --model, --batch-size or --seq-len", "the benchmark needs");
}

void bench_model_create(struct BenchModel *bench, const struct BenchOptions *o) {
  *bench = (struct BenchModel){
      .gpt2 = {.config = {.maxT = o->context, .V = o->vocab_size, .Vp = round_up(o->vocab_size, VOCAB_MULTIPLE),
                          .L = o->layers, .NH = o->heads, .C = o->channels},
               .kernels = kernels_choose(o->dtype, NULL), .dtype = o->dtype,
               .optimizer = o->optimizer, .recompute = o->recompute, .update_in_backward = o->update_in_backward}};
  struct Gpt2 *model = &bench->gpt2;
  struct Arena *arena = &bench->arena;
  model->workers.pool = pool_create((int)o->threads);
  for (int pass = 0; pass < 2; pass++) {  // measure, take, lay out
    if (pass == 1) bench_take(arena);
    gpt2_layout(model, arena, o->batch_size, o->seq_len, true);
    bench->tokens = arena_alloc(arena, o->batch_size * o->seq_len, sizeof(int));
    bench->targets = arena_alloc(arena, o->batch_size * o->seq_len, sizeof(int));
  }
  gpt2_first_touch(model, arena);
  /* The padding rows of wte are zero in every checkpoint, so here too. */
  const struct Config *config = &model->config;
  bench_fill(model->params.first, model->count, 0.035f);
  memset(model->params.wte + config->V * config->C, 0, (config->Vp - config->V) * config->C * sizeof(float));
}

void bench_model_free(struct BenchModel *bench) {
  pool_destroy(bench->gpt2.workers.pool);
  arena_free(&bench->arena);
}

void bench_tokens(struct BenchModel *bench, size_t step) {
  const size_t BT = bench->gpt2.B * bench->gpt2.T, V = bench->gpt2.config.V;
  for (size_t i = 0; i < BT; i++) {
    bench->tokens[i] = (int)(mix64(step * BT + i) % V);
    bench->targets[i] = (int)(mix64(step * BT + i + 1) % V);
  }
}

void bench_fill(float *x, size_t n, float range) {
  for (size_t i = 0; i < n; i++) x[i] = range * ((float)(mix64(i) >> 40) * 0x1p-23f - 1);
}

void bench_print_start(const struct BenchModel *bench) {
  const struct Gpt2 *model = &bench->gpt2;
  printf("{\"event\":\"start\",\"isa\":\"%s\",\"multiplies_bf16\":%s,\"threads\":%d,\"arena_bytes\":%zu}\n",
         model->kernels->name, model->kernels->multiplies_bf16 ? "true" : "false", pool_threads(model->workers.pool),
         bench->arena.size);
}

void bench_print_peak(const struct BenchModel *bench) {
  const struct Workers *workers = &bench->gpt2.workers;
  printf("{\"event\":\"peak\",\"flops\":%.4g,\"round_trip\":%.3g}\n",
         peak_measure(bench->gpt2.kernels, workers).mean, round_trip_measure(workers->pool));
}
