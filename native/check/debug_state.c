/* llmc-native debug-state: what one batch does, in llm.c's debug_state format, for comparison with
 * another implementation. */
#include "base/args.h"
#include "files/checkpoint.h"
#include "commands.h"
#include "files/dataloader.h"
#include "files/file.h"
#include "files/format.h"
#include "model/gpt2.h"
#include "base/memory.h"
#include "base/pool.h"
#include "base/util.h"

/* logits (BT, V), a chunk of rows at a time, computed once more from the last layernorm. */
static void write_logits(struct FileWriter *writer, const struct Gpt2 *model) {
  const size_t BT = model->B * model->T, C = model->config.C, V = model->config.V, Vp = model->config.Vp;
  const size_t chunk = gpt2_head_rows(model);
  for (size_t row = 0; row < BT; row += chunk) {
    const size_t rows = size_min(chunk, BT - row);
    model->kernels->linear_forward(&model->workers, (struct Linear){
        .out = array_of(model->acts.logits), .inp = view(array_at(model->acts.lnf, row * C)),
        .weight = model->params.wte, .M = rows, .N = Vp, .K = C});
    for (size_t i = 0; i < rows; i++) {
      file_writer_write(writer, model->acts.logits + i * Vp, V * sizeof(float));
    }
  }
}

int command_debug_state(int argc, char **argv) {
  const char *data = NULL, *path = NULL, *out = NULL;
  size_t B = 4, T = 64, threads = 1, seed = 1337;
  enum Dtype dtype = FP32;
  bool recompute = false;
  double dropout = 0;
  const struct Arg args[] = {
      {"data", ARG_TEXT, &data, 0, 0, "token file or pattern; the first batch is used"},
      {"model", ARG_TEXT, &path, 0, 0, "checkpoint"},
      {"out", ARG_TEXT, &out, 0, 0, "file to write"},
      {"batch-size", ARG_COUNT, &B, 1, 65536, "B, rows in the batch"},
      {"seq-len", ARG_COUNT, &T, 1, MOST_CONTEXT, "T, tokens in a row"},
      {"threads", ARG_COUNT, &threads, 1, POOL_MAX_THREADS, "number of threads"},
      {"dtype", ARG_CHOICE, &(struct Choice){&dtype, DTYPE_NAMES}, 0, 0,
       "number type that linear layers multiply: fp32 or bf16"},
      {"recompute", ARG_SWITCH, &recompute, 0, 1, "1: recompute activations in the backward pass, to save memory"},
      {"dropout", ARG_NUMBER, &dropout, 0, ARG_BELOW_1,
       "fraction of activations dropped at random, as in a run's first update"},
      {"seed", ARG_COUNT, &seed, 0, 0x1p53, "random seed"},
  };
  args_parse("debug-state", args, sizeof args / sizeof *args, argc, argv);
  if (data == NULL || path == NULL || out == NULL) {
    die(EXIT_USAGE, "debug-state needs --data FILE, --model FILE and --out FILE");
  }
  struct Checkpoint checkpoint;
  const int file = checkpoint_open(path, &checkpoint);
  if (T > checkpoint.config.maxT) {
    die(EXIT_USAGE, "--seq-len %zu is more than the %zu positions of %s", T, checkpoint.config.maxT, path);
  }
  struct DataLoader loader;
  dataloader_open(&loader, data, B, T, checkpoint.config.V);
  dataloader_cut(&loader, T);
  struct Gpt2 model = {.config = checkpoint.config, .kernels = kernels_choose(dtype, NULL), .dtype = dtype,
                       .recompute = recompute, .dropout = {.rate = dropout, .seed = seed}};
  model.workers.pool = pool_create((int)threads);
  struct Arena arena = {0};
  int *tokens = NULL, *targets = NULL;
  for (int pass = 0; pass < 2; pass++) {  // measure, take, lay out
    if (pass == 1) {
      memory_take(&arena, "use a smaller --batch-size or --seq-len, or --recompute 1", "debug-state needs");
    }
    gpt2_layout(&model, &arena, B, T, true);
    dataloader_layout(&loader, &arena);
    tokens = arena_alloc(&arena, B * T, sizeof(int));
    targets = arena_alloc(&arena, B * T, sizeof(int));
  }
  checkpoint_read(file, path, &checkpoint, model.params.first);
  dataloader_batch(&loader, 0, tokens, targets);
  const float loss = (float)gpt2_gradients(&model, tokens, targets, gpt2_whole(&model, targets));

  int32_t header[HEADER_INTS] = {0};
  header[DEBUG_MAGIC_AT] = DEBUG_MAGIC;
  header[DEBUG_VERSION_AT] = DEBUG_VERSION;
  header[DEBUG_BATCH_AT] = (int32_t)B;
  header[DEBUG_TIME_AT] = (int32_t)T;
  struct FileWriter writer = {0};
  file_writer_open(&writer, out);
  file_writer_write(&writer, header, HEADER_BYTES);
  file_writer_write(&writer, tokens, B * T * sizeof(int));
  file_writer_write(&writer, targets, B * T * sizeof(int));
  write_logits(&writer, &model);
  file_writer_write(&writer, &loss, sizeof loss);
  file_writer_write(&writer, model.grads.first, model.count * sizeof(float));
  file_writer_commit(&writer);
  dataloader_close(&loader);
  pool_destroy(model.workers.pool);
  arena_free(&arena);
  return EXIT_OK;
}
