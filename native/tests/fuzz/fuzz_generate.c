/* `llmc-native generate` with any stdin: it ends at the end of its input, whatever that was. */
#include "fuzz.h"

#include <sys/mman.h>

static void fuzz_prepare(void) { fuzz_put_model(); }

/* Long texts take long, and show nothing new: of the digits after "tokens " two stay. */
static void shorten(char *text, size_t count) {
  static const char key[] = "tokens ";
  for (size_t i = 0; i + sizeof key < count; i++) {
    if (memcmp(text + i, key, sizeof key - 1) != 0) continue;
    size_t digits = 0;
    for (size_t at = i + sizeof key - 1; at < count && text[at] >= '0' && text[at] <= '9'; at++) {
      if (digits++ >= 2) text[at] = 'x';
    }
  }
}

/* A byte of options, what comes on stdin. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  static char *dtypes[] = {"fp32", "bf16", "int8", "fp32"}, *positions[] = {"8", "5", "1", "0"};
  static char *slots[] = {"1", "2", "3", "4"};
  struct Input input = {bytes, count};
  const uint8_t options = fuzz_byte(&input);
  char *text = malloc(input.left + 1);
  memcpy(text, input.at, input.left);
  shorten(text, input.left);
  const int file = memfd_create("stdin", 0);
  if (write(file, text, input.left) != (ssize_t)input.left || lseek(file, 0, SEEK_SET) != 0) abort();
  free(text);
  dup2(file, STDIN_FILENO);
  close(file);
  char *argv[] = {"--model", "model.bin", "--dtype", dtypes[options & 3], "--positions", positions[options >> 2 & 3],
                  "--slots", slots[options >> 4 & 3], "--unused-ids", options & 64 ? "3-5,19-19" : "7-7"};
  FUZZ(command_generate(FUZZ_ARGC(argv), argv));
  return 0;
}
