/* llmc-native init: a model's first weights, for training from scratch. */
#include "base/args.h"
#include "files/checkpoint.h"
#include "commands.h"
#include "files/format.h"
#include "base/memory.h"
#include "base/pool.h"
#include "model/random.h"
#include "base/util.h"

int command_init(int argc, char **argv) {
  struct Config config = {.L = 12, .NH = 12, .C = 768, .maxT = 1024, .V = 50257};
  size_t seed = 1337, threads = 1;
  const char *out = NULL;
  const struct Arg args[] = {
      {"out", ARG_TEXT, &out, 0, 0, "file to write"},
      {"layers", ARG_COUNT, &config.L, 1, MOST_LAYERS, "L"},
      {"heads", ARG_COUNT, &config.NH, 1, MOST_HEADS, "NH"},
      {"channels", ARG_COUNT, &config.C, 1, MOST_CHANNELS, "C"},
      {"context", ARG_COUNT, &config.maxT, 1, MOST_CONTEXT, "maxT, positions"},
      {"vocab-size", ARG_COUNT, &config.V, 1, MOST_VOCAB, "V, tokens"},
      {"seed", ARG_COUNT, &seed, 0, 0x1p53, "same seed, same weights"},
      {"threads", ARG_COUNT, &threads, 1, POOL_MAX_THREADS, "number of threads"},
  };
  args_parse("init", args, sizeof args / sizeof *args, argc, argv);
  if (out == NULL) die(EXIT_USAGE, "init needs --out FILE");
  if (config.C % config.NH != 0) {
    die(EXIT_USAGE, "--heads %zu does not divide --channels %zu; choose channels as a multiple of heads", config.NH,
        config.C);
  }
  config.Vp = round_up(config.V, VOCAB_MULTIPLE);
  struct Gpt2 model = {.config = config, .kernels = kernels_best()};
  model.workers.pool = pool_create((int)threads);
  struct Arena arena = {0};
  gpt2_layout(&model, &arena, 0, 0, false);
  memory_take(&arena, "choose a smaller one", "the model needs");
  gpt2_layout(&model, &arena, 0, 0, false);
  random_weights(&model, seed);
  struct FileWriter writer = {0};
  const struct Checkpoint checkpoint = {.config = config};
  checkpoint_write(&writer, out, &checkpoint, model.params.first);
  file_writer_commit(&writer);
  pool_destroy(model.workers.pool);
  arena_free(&arena);
  return EXIT_OK;
}
