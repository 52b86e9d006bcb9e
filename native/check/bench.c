/* llmc-native bench: training steps on random weights and tokens, and where their time goes. */
#include <stdio.h>
#include <string.h>

#include "check/bench_model.h"
#include "commands.h"
#include "base/pool.h"
#include "base/pages.h"
#include "base/util.h"

static double step_seconds(struct BenchModel *bench, size_t step) {
  bench_tokens(bench, step);
  const double started = clock_seconds();
  const struct UpdateConfig update = {1e-4, 0.9, 0.999, 1e-8, 0, 0, 0};
  gpt2_step(&bench->gpt2, bench->tokens, bench->targets, &update, step + 1);
  return clock_seconds() - started;
}

int command_bench(int argc, char **argv) {
  enum Optimizer optimizer = ADAMW;
  const struct Arg more = {"optimizer", ARG_CHOICE, &(struct Choice){&optimizer, OPTIMIZER_NAMES}, 0, 0,
                           "what updates the weights"};
  struct BenchOptions o = bench_options("bench", DTYPE_NAMES, &more, argc, argv);
  o.update_in_backward = true;
  o.optimizer = optimizer;
  struct BenchModel bench;
  bench_model_create(&bench, &o);
  struct Pool *pool = bench.gpt2.workers.pool;

  bench_print_start(&bench);
  for (size_t step = 0; step < o.warmup + o.steps; step++) {
    if (step == o.warmup) pool_profile_reset(pool);
    const double seconds = step_seconds(&bench, step);
    if (step >= o.warmup) {
      printf("{\"event\":\"step\",\"seconds\":%.9f}\n", seconds);
      bench_print_peak(&bench);
    }
    fflush(stdout);
  }
  const struct PoolProfile *profile;
  for (int i = 0; (profile = pool_profile(pool, i)) != NULL; i++) {
    if (strcmp(profile->label, "peak") == 0 || strcmp(profile->label, "round trips") == 0) continue;
    printf("{\"event\":\"kernel\",\"name\":\"%s\",\"calls\":%zu,\"seconds\":%.9f}\n", profile->label,
           profile->calls, profile->seconds);
  }
  printf("{\"event\":\"end\",\"peak_memory_bytes\":%zu}\n", pages_peak());
  fflush(stdout);
  bench_model_free(&bench);
  return EXIT_OK;
}
