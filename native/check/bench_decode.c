/* llmc-native bench-decode: the linear layers of decoding, for one token of each of several sequences, on random
 * weights. Reading the weights is their limit: next to every step all of them are read by a plain loop. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check/bench_model.h"
#include "commands.h"
#include "files/format.h"
#include "base/pool.h"
#include "base/util.h"

enum { QKV, ATTPROJ, FC, FCPROJ, LAYER_MATRICES, HEAD = LAYER_MATRICES, MATRICES };

struct Matrix {
  const char *name;
  enum DecodeFinish finish;
  size_t N, K, inp, out;  // rows; columns; elements of the scratch activations where they begin
};

struct Run {
  struct BenchOptions options;
  const struct Kernels *kernels;
  struct Workers workers;
  struct Arena arena;
  struct Matrix matrices[MATRICES];
  char *weights;             // all of them, in the order of use, each matrix followed by its scales
  size_t bytes;
  size_t calls;              // matrices that a token goes through
  struct Weights *matrix;    // (calls)
  float *activations;        // (M, …)
  float *bias;               // (4C)
  uint64_t read;             // what the reading loop found, so that it is not left out
};

static void describe(struct Run *run) {
  const size_t M = run->options.batch_size, C = run->options.channels;
  const size_t Vp = round_up(run->options.vocab_size, VOCAB_MULTIPLE);
  const size_t x = 0, ln = x + M * C, wide = ln + M * C, logits = wide + M * 4 * C;
  const struct Matrix list[MATRICES] = {
      [QKV] = {"qkv", DECODE_STORE, 3 * C, C, ln, wide},
      [ATTPROJ] = {"attproj", DECODE_ADD, C, C, ln, x},
      [FC] = {"fc", DECODE_GELU, 4 * C, C, ln, wide},
      [FCPROJ] = {"fcproj", DECODE_ADD, C, 4 * C, wide, x},
      [HEAD] = {"head", DECODE_STORE, Vp, C, ln, logits},
  };
  memcpy(run->matrices, list, sizeof list);
}

static int kind(const struct Run *run, size_t call) {
  return call + 1 == run->calls ? HEAD : (int)(call % LAYER_MATRICES);
}

static size_t scale_bytes(const struct Run *run, const struct Matrix *m) {
  return run->options.dtype == INT8 ? m->N * weights_blocks(m->K) * sizeof(float) : 0;
}

/* Where everything lies. */
static void layout(struct Run *run) {
  const struct BenchOptions *o = &run->options;
  struct Arena *arena = &run->arena;
  run->calls = o->layers * LAYER_MATRICES + 1;
  run->matrix = arena_alloc(arena, run->calls, sizeof *run->matrix);
  size_t largest = o->batch_size;
  const size_t begin = arena->used;
  for (size_t i = 0; i < run->calls; i++) {
    const struct Matrix *m = &run->matrices[kind(run, i)];
    const void *data = arena_alloc(arena, m->N * m->K, dtype_size(o->dtype));
    const float *scales = arena_alloc(arena, scale_bytes(run, m), 1);
    if (arena->base != NULL) run->matrix[i] = (struct Weights){o->dtype, data, scales};
    if (i == 0) run->weights = (char *)(uintptr_t)data;
    largest = size_max(largest, size_max(m->N, m->K));
  }
  run->bytes = arena->used - begin;
  const struct Matrix *head = &run->matrices[HEAD];
  run->activations = arena_alloc(arena, head->out + o->batch_size * head->N, sizeof(float));
  run->bias = arena_alloc(arena, 4 * o->channels, sizeof(float));
  run->workers.shared = arena_alloc(arena, run->kernels->shared_floats(largest), sizeof(float));
  run->workers.own_floats = run->kernels->own_floats(1, 1);
  run->workers.own = arena_alloc(arena, run->workers.own_floats * o->threads, sizeof(float));
}

/* Random weights, a few rows at a time through the activations' place. */
static void fill(struct Run *run) {
  const struct Matrix *head = &run->matrices[HEAD];
  const size_t room = head->out + run->options.batch_size * head->N;
  bench_fill(run->activations, room, 0.035f);
  for (size_t i = 0; i < run->calls; i++) {
    const struct Matrix *m = &run->matrices[kind(run, i)];
    const struct Weights to = run->matrix[i];
    char *data = (char *)(uintptr_t)to.data;
    float *scales = (float *)(uintptr_t)to.scales;
    for (size_t n = 0, rows; n < m->N; n += rows) {
      rows = size_min(room / m->K, m->N - n);
      run->kernels->weights_store(&run->workers, data + n * m->K * dtype_size(to.dtype),
                                  scales + n * weights_blocks(m->K), to.dtype, run->activations, rows, m->K);
    }
  }
}

static void read_task(void *argument, int thread, int threads) {
  struct Run *run = argument;
  size_t begin, end;
  pool_part(run->bytes, 4096, thread, threads, &begin, &end);
  const uint64_t *from = (const uint64_t *)(const void *)(run->weights + begin);
  uint64_t sum[16] = {0};
  for (size_t i = 0; i + 16 <= (end - begin) / sizeof *from; i += 16) {
    for (size_t j = 0; j < 16; j++) sum[j] += from[i + j];
  }
  uint64_t all = 0;
  for (size_t j = 0; j < 16; j++) all += sum[j];
  __atomic_fetch_xor(&run->read, all, __ATOMIC_RELAXED);
}

static double read_seconds(struct Run *run) {
  const double started = clock_seconds();
  pool_run(run->workers.pool, "read", read_task, run);
  return clock_seconds() - started;
}

/* One token of every sequence through all linear layers; the seconds of each call. */
static double step_seconds(struct Run *run, double *seconds) {
  const size_t M = run->options.batch_size, C = run->options.channels;
  /* What comes out of a layer is no input of a real model: new ones, or they would grow. */
  bench_fill(run->activations, 6 * M * C, 1);
  double total = 0;
  for (size_t i = 0; i < run->calls; i++) {
    const struct Matrix *m = &run->matrices[kind(run, i)];
    const double started = clock_seconds();
    run->kernels->decode_linear(&run->workers, run->activations + m->out, run->activations + m->inp, run->matrix[i],
                                m->finish == DECODE_STORE ? NULL : run->bias, m->finish, M, m->N, m->K);
    seconds[i] = clock_seconds() - started;
    total += seconds[i];
  }
  return total;
}

static void print_step(const struct Run *run, double total, const double *seconds, double read) {
  printf("{\"event\":\"step\",\"seconds\":%.9f}\n", total);
  printf("{\"event\":\"read\",\"seconds\":%.9f}\n", read);
  for (size_t i = 0; i < run->calls; i++) {
    printf("{\"event\":\"call\",\"name\":\"%s\",\"seconds\":%.9f}\n", run->matrices[kind(run, i)].name, seconds[i]);
  }
  fflush(stdout);
}

int command_bench_decode(int argc, char **argv) {
  struct Run run = {.kernels = kernels_choose()};
  run.options = bench_options("bench-decode", WEIGHT_NAMES, NULL, argc, argv);
  const struct BenchOptions *o = &run.options;
  run.workers.pool = pool_create((int)o->threads);
  describe(&run);
  for (int pass = 0; pass < 2; pass++) {  // measure, take, lay out
    if (pass == 1) bench_take(&run.arena);
    layout(&run);
  }
  double *seconds = calloc(run.calls, sizeof *seconds);
  if (seconds == NULL) die(EXIT_BAD_DATA, "no memory is left; choose a smaller model");
  fill(&run);

  printf("{\"event\":\"start\",\"isa\":\"%s\",\"threads\":%zu,\"bytes\":%zu}\n", run.kernels->name, o->threads,
         run.bytes);
  for (int i = 0; i < MATRICES; i++) {
    const struct Matrix *m = &run.matrices[i];
    printf("{\"event\":\"kernel\",\"name\":\"%s\",\"M\":%zu,\"N\":%zu,\"K\":%zu,\"bytes\":%zu}\n", m->name,
           o->batch_size, m->N, m->K, m->N * m->K * dtype_size(o->dtype) + scale_bytes(&run, m));
  }
  for (size_t step = 0; step < o->warmup + o->steps; step++) {
    const double read = read_seconds(&run), total = step_seconds(&run, seconds);
    if (step >= o->warmup) print_step(&run, total, seconds, read);
  }
  printf("{\"event\":\"end\",\"peak_memory_bytes\":%zu}\n", bench_peak_memory());
  fflush(stdout);
  free(seconds);
  pool_destroy(run.workers.pool);
  arena_free(&run.arena);
  return EXIT_OK;
}
