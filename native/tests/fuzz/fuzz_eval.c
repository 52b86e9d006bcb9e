/* `llmc-native eval` with any file of rows and any tokens: a row that is not a piece of the tokens is refused. */
#include "fuzz.h"

static void fuzz_prepare(void) { fuzz_put_model(); }

static void eval(uint8_t options) {
  static char *dtypes[] = {"fp32", "bf16", "int8", "fp32"};
  char *dtype = dtypes[options & 3], *events = options & 4 ? "json" : "text";
  char *rows[] = {"--model", "model.bin", "--data", "tokens.bin", "--dtype", dtype, "--events", events,
                  "--rows", "rows.bin", "--batch-size", options & 8 ? "2" : "0"};
  char *windows[] = {"--model", "model.bin", "--data", "tokens.bin", "--dtype", dtype, "--events", events,
                     "--max-tokens", options & 8 ? "7" : "0", "--seq-len", options & 64 ? "3" : "0"};
  if (options & 128) command_eval(FUZZ_ARGC(windows), windows);
  else command_eval(FUZZ_ARGC(rows), rows);
}

/* Options; the token file after its length, 3 ints of its header first; the file of rows, likewise. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  struct Input input = {bytes, count};
  const uint8_t options = fuzz_byte(&input);
  fuzz_put_shard("tokens.bin", fuzz_counted(&input), 3, options & 16);
  fuzz_put_file("rows.bin", input, (struct FuzzFile){3, options & 32, ROWS_COUNT_AT, 12});
  FUZZ(eval(options));
  return 0;
}
