/* llmc-native bench-decode: the linear layers of decoding, in real steps of one token for each of several texts, on
 * random weights. Reading the weights is their limit: next to every step all of them are read by a plain loop. */
#include <stdio.h>
#include <string.h>

#include "base/pool.h"
#include "base/pages.h"
#include "base/util.h"
#include "check/bench_model.h"
#include "check/profile.h"
#include "commands.h"
#include "files/format.h"
#include "sample/decoder.h"

struct Run {
  struct Decoder decoder;
  struct Arena arena;
  struct Tensor tensors[GPT2_TENSOR_COUNT];
  struct Feed *feeds;  // (B)
  uint64_t read;       // the sum of all weights, so that the reading loop is not left out
};

static size_t matrices_of(const struct Run *run, int i) {
  return run->tensors[i].place == BLOCK ? run->decoder.config.L : 1;
}

static void layout(struct Run *run, const struct BenchOptions *o) {
  decoder_layout(&run->decoder, &run->arena, o->batch_size, 1);
  run->feeds = arena_alloc(&run->arena, o->batch_size, sizeof *run->feeds);
}

/* Random weights, a few rows at a time. */
static void fill(struct Run *run) {
  struct Decoder *d = &run->decoder;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    const size_t K = run->tensors[i].columns, N = matrices_of(run, i) * run->tensors[i].rows;
    const size_t room = size_max(1, 4 * d->config.C / K);
    bench_fill(d->rows_read, room * K, 0.035f);
    for (size_t n = 0; n < N; n += room) decoder_store(d, i, n, size_min(room, N - n), d->rows_read);
  }
}

/* The tensor that a call multiplied by. */
static int tensor_of(const struct Run *run, const struct ProfileCall *call) {
  const char *at = call->weight;
  int found = 0;
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    if (at >= (const char *)run->decoder.params.tensors[i].data) found = i;  // they follow each other
  }
  return found;
}

/* Its name without the final w; wte is the head. */
static int name_length(const char *name) { return (int)strlen(name) - 1; }

static const char *name_of(const struct Run *run, const struct ProfileCall *call) {
  const char *name = run->tensors[tensor_of(run, call)].name;
  return strcmp(name, "wte") == 0 ? "head " : name;
}

static void read_task(void *argument, int thread, int threads) {
  struct Run *run = argument;
  uint64_t sum[16] = {0};
  for (int i = 0; i < GPT2_TENSOR_COUNT; i++) {
    if (run->tensors[i].kind == VECTOR || strcmp(run->tensors[i].name, "wpe") == 0) continue;
    const struct Weights w = run->decoder.params.tensors[i];
    const size_t N = run->tensors[i].rows, K = run->tensors[i].columns, matrices = matrices_of(run, i);
    const void *parts[] = {w.data, w.scales};
    const size_t bytes[] = {matrices * weights_count(w.dtype, N, K) * dtype_size(w.dtype),
                            matrices * weights_scales(w.dtype, N, K) * sizeof(float)};
    for (int part = 0; part < 2; part++) {
      size_t begin, end;
      pool_part(bytes[part], 4096, thread, threads, &begin, &end);
      const uint64_t *from = parts[part];
      for (size_t at = begin / 8; at + 16 <= end / 8; at += 16) {
        for (size_t j = 0; j < 16; j++) sum[j] += from[at + j];
      }
    }
  }
  uint64_t all = 0;
  for (size_t j = 0; j < 16; j++) all += sum[j];
  __atomic_fetch_xor(&run->read, all, __ATOMIC_RELAXED);
}

static double read_seconds(struct Run *run) {
  const double started = clock_seconds();
  pool_run(run->decoder.workers.pool, "read", read_task, run);
  return clock_seconds() - started;
}

/* One token of every text; returns the seconds of the linear layers. */
static double step_seconds(struct Run *run, size_t texts) {
  for (size_t b = 0; b < texts; b++) run->feeds[b] = (struct Feed){b, 0, (int)(b % run->decoder.config.V)};
  profile_reset();
  decoder_step(&run->decoder, run->feeds, texts);
  size_t count;
  const struct ProfileCall *calls = profile_calls(&count);
  double total = 0;
  for (size_t i = 0; i < count; i++) {
    if (calls[i].M > 0) total += calls[i].seconds;
  }
  return total;
}

/* The events that tell the shapes: each operation once, as it is met first in a step. */
static void print_shapes(const struct Run *run, size_t threads) {
  size_t count, bytes = 0;
  const struct ProfileCall *calls = profile_calls(&count);
  bool head = false, met[GPT2_TENSOR_COUNT] = {0};
  for (size_t i = 0; i < count && !head; i++) {
    bytes += calls[i].bytes * (calls[i].M > 0);
    head = calls[i].M > 0 && tensor_of(run, &calls[i]) == 0;
  }
  printf("{\"event\":\"start\",\"isa\":\"%s\",\"threads\":%zu,\"bytes\":%zu}\n", run->decoder.kernels->name,
         threads, bytes);
  for (size_t i = 0; i < count; i++) {
    const struct ProfileCall *call = &calls[i];
    if (call->M == 0 || met[tensor_of(run, call)]) continue;
    met[tensor_of(run, call)] = true;
    const char *name = name_of(run, call);
    printf("{\"event\":\"kernel\",\"name\":\"%.*s\",\"M\":%zu,\"N\":%zu,\"K\":%zu,\"bytes\":%zu}\n",
           name_length(name), name, call->M, call->N, call->K, call->bytes);
  }
}

static void print_step(const struct Run *run, double total, double read) {
  size_t count;
  const struct ProfileCall *calls = profile_calls(&count);
  printf("{\"event\":\"step\",\"seconds\":%.9f}\n", total);
  printf("{\"event\":\"read\",\"seconds\":%.9f}\n", read);
  for (size_t i = 0; i < count; i++) {
    if (calls[i].M == 0) continue;
    const char *name = name_of(run, &calls[i]);
    printf("{\"event\":\"call\",\"name\":\"%.*s\",\"seconds\":%.9f}\n", name_length(name), name,
           calls[i].seconds);
  }
  fflush(stdout);
}

int command_bench_decode(int argc, char **argv) {
  struct Run run = {0};
  const struct BenchOptions o = bench_options("bench-decode", WEIGHT_NAMES, NULL, argc, argv);
  struct Decoder *d = &run.decoder;
  d->config = (struct Config){.maxT = o.context, .V = o.vocab_size, .Vp = round_up(o.vocab_size, VOCAB_MULTIPLE),
                              .L = o.layers, .NH = o.heads, .C = o.channels};
  d->kernels = profile_kernels(kernels_best());
  d->dtype = o.dtype;
  d->workers.pool = pool_create((int)o.threads);
  gpt2_tensors(&d->config, run.tensors);
  for (int pass = 0; pass < 2; pass++) {  // measure, take, lay out
    if (pass == 1) bench_take(&run.arena);
    layout(&run, &o);
  }
  fill(&run);
  step_seconds(&run, o.batch_size);
  print_shapes(&run, o.threads);
  for (size_t step = 0; step < o.warmup + o.steps; step++) {
    const double read = read_seconds(&run), total = step_seconds(&run, o.batch_size);
    if (step >= o.warmup) print_step(&run, total, read);
  }
  printf("{\"event\":\"end\",\"peak_memory_bytes\":%zu}\n", pages_peak());
  fflush(stdout);
  pool_destroy(d->workers.pool);
  arena_free(&run.arena);
  return EXIT_OK;
}
