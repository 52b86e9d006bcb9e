/* Checkpoints: `llmc-native sample` and `debug-state` with any file as the model. A file is refused, or its weights are
 * what its header says and nothing beyond the file is read. */
#include "fuzz.h"

static void fuzz_prepare(void) { fuzz_put_tokens(3); }

static void sample(uint8_t options) {
  static char *dtypes[] = {"fp32", "bf16", "int8", "fp32"};
  char *argv[] = {"--model", "model.bin", "--tokens", options & 4 ? "20" : "3", "--dtype", dtypes[options & 3], "--prompt",
                  options & 8 ? "0,0,0" : "", "--top-k", options & 16 ? "3" : "0", "--num-samples",
                  options & 32 ? "2" : "1"};
  command_sample(FUZZ_ARGC(argv), argv);
}

static void debug_state(uint8_t options) {
  char *argv[] = {"--model", "model.bin", "--data", "tokens.bin", "--out", "state.bin", "--batch-size", "2", "--seq-len",
                  options & 4 ? "4" : "1", "--dtype", options & 1 ? "bf16" : "fp32", "--recompute", options & 8 ? "1" : "0"};
  command_debug_state(FUZZ_ARGC(argv), argv);
}

/* A byte of options, the 24 ints of the header that mean something, the payload. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  struct Input input = {bytes, count};
  const uint8_t options = fuzz_byte(&input);
  fuzz_put_file("model.bin", input, (struct FuzzFile){.ints = 24});
  fuzz_without_checksums = options & 64;
  if (options & 128) FUZZ(debug_state(options));
  else FUZZ(sample(options));
  return 0;
}
