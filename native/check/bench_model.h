/* What the benchmarks share: a model of any shape on random weights, and what the machine can do. */
#ifndef LLMC_BENCH_MODEL_H
#define LLMC_BENCH_MODEL_H

#include <stdbool.h>
#include <stddef.h>

#include "base/arena.h"
#include "base/args.h"
#include "model/gpt2.h"

struct BenchOptions {
  size_t layers, heads, channels, context, vocab_size;
  size_t batch_size, seq_len, threads, steps, warmup;
  enum Dtype dtype;
  enum Optimizer optimizer;
  bool recompute;
  bool update_in_backward;  // as a training run has it; not where gradients are looked at
};

/* Reads the flags that all know; `dtypes` are the names it offers, `more` is one that this subcommand alone knows,
 * or NULL. */
struct BenchOptions bench_options(const char *subcommand, const char *const *dtypes, const struct Arg *more,
                                  int argc, char **argv);

/* Takes the memory of a benchmark that was laid out, or refuses. */
void bench_take(struct Arena *arena);

struct BenchModel {
  struct Gpt2 gpt2;
  struct Arena arena;
  int *tokens, *targets;  // (B, T)
};

/* Takes the memory of a training run and fills in random weights. */
void bench_model_create(struct BenchModel *bench, const struct BenchOptions *options);
void bench_model_free(struct BenchModel *bench);

/* Draws the random tokens of a step. */
void bench_tokens(struct BenchModel *bench, size_t step);

/* Uniform in [-range, range): as good as GPT-2's normal for timing. */
void bench_fill(float *x, size_t n, float range);

/* Prints the event that begins a benchmark: what computes, on how many threads, in how much memory. */
void bench_print_start(const struct BenchModel *bench);

/* Prints the event of what the machine can do at this moment: on shared machines that changes within minutes. */
void bench_print_peak(const struct BenchModel *bench);

#endif
