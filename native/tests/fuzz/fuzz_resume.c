/* `llmc-native train --resume 1` in a folder with any checkpoint: it is refused, or the run goes on from it, trains,
 * validates, samples and saves. */
#include "fuzz.h"

#include <sys/stat.h>

static void fuzz_prepare(void) {
  fuzz_put_model();
  fuzz_put_tokens(20);
}

/* The name of the checkpoint's folder: a name, not a path. */
static void put_name(char name[32], struct Input piece) {
  strcpy(name, "00000004");
  if (piece.left == 0) return;
  for (size_t i = 0; i < piece.left; i++) name[i] = piece.at[i] == '/' || piece.at[i] == '\0' ? '0' : (char)piece.at[i];
  name[piece.left] = '\0';
  if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0) strcpy(name, "00000004");
}

static void resume(uint8_t options) {
  static char *moments[] = {"fp32", "bf16", "8bit", "fp32"};
  char *argv[] = {"--model", "model.bin", "--data", "tokens.bin", "--val-data", "tokens.bin", "--out", "run", "--resume", "1",
                  "--steps", "6", "--batch-size", "2", "--seq-len", "4", "--val-every", "2", "--val-batches", "1",
                  "--sample-every", "3", "--sample-tokens", "3", "--save-every", "2", "--keep", "2",
                  "--patience", "3", "--optimizer-state", moments[options & 3],
                  "--optimizer", options & 16 ? "muon" : "adamw",
                  "--skip-loss-z", options & 4 ? "3" : "0", "--resume-from", options & 8 ? "4" : "1000000000"};
  command_train(FUZZ_ARGC(argv), argv);
}

/* Options; the folder's name after its length; bytes of metrics.jsonl; after its length the model, 24 ints of its header
 * first; the state, 64 ints of its header first. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  static const char metrics[] = "{\"step\":0,\"train_loss\":1}\n";
  struct Input input = {bytes, count};
  const uint8_t options = fuzz_byte(&input);
  char name[32], path[128];
  put_name(name, fuzz_piece(&input, fuzz_byte(&input) % 24u));
  const size_t told = fuzz_byte(&input) % sizeof metrics;
  const struct Input model = fuzz_counted(&input);
  fuzz_empty("run", true);
  mkdir("run", 0700), mkdir("run/checkpoints", 0700);
  snprintf(path, sizeof path, "run/checkpoints/%s", name);
  mkdir(path, 0700);
  snprintf(path, sizeof path, "run/checkpoints/%s/model.bin", name);
  fuzz_put_file(path, model, (struct FuzzFile){.ints = 24});
  snprintf(path, sizeof path, "run/checkpoints/%s/state.bin", name);
  fuzz_put_file(path, input, (struct FuzzFile){.ints = 64});
  fuzz_put("run/metrics.jsonl", metrics, told);
  fuzz_without_checksums = options & 64;
  FUZZ(resume(options));
  return 0;
}
