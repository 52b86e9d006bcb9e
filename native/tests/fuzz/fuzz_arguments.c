/* Command lines: a table of every kind of argument, and the tables of the commands, which all end where their model is
 * looked for. What is accepted lies in its range. */
#include "fuzz.h"

#include <math.h>

#include "base/args.h"

enum { MOST_WORDS = 100 };

static void fuzz_prepare(void) {}

static void every_kind(int argc, char **argv) {
  static const char *const names[] = {"red", "green", "blue", NULL};
  const char *text = NULL;
  struct ArgList list = {0};
  size_t count = 5;
  double number = 0.5, time = 0;
  bool truth = false;
  unsigned choice = 0;
  const struct Arg args[] = {
      {"text", ARG_TEXT, &text, 0, 0, ""},
      {"list", ARG_LIST, &list, 0, 0, ""},
      {"count", ARG_COUNT, &count, 1, 0x1p53, ""},
      {"number", ARG_NUMBER, &number, 0, ARG_BELOW_1, ""},
      {"time", ARG_TIME, &time, 0, 1e9, ""},
      {"switch", ARG_SWITCH, &truth, 0, 1, ""},
      {"choice", ARG_CHOICE, &(struct Choice){&choice, names}, 0, 0, ""},
  };
  args_parse("every-kind", args, sizeof args / sizeof *args, argc, argv);
  if (count < 1 || count > (size_t)1 << 53 || !(number >= 0 && number < 1) || !(time >= 0 && time <= 1e9)) abort();
  if (choice > 2 || list.count > ARG_MOST_ITEMS || (argc > 0 && argc % 2 != 0)) abort();
}

static void run(uint8_t options, int argc, char **argv) {
  switch (options % 6) {
    case 0: every_kind(argc, argv); return;
    case 1: command_sample(argc, argv); return;
    case 2: command_generate(argc, argv); return;
    case 3: command_eval(argc, argv); return;
    case 4: command_debug_state(argc, argv); return;
    default:
      if (!args_given("resume", argc, argv)) command_train(argc, argv);  // that would make a folder first
  }
}

/* A byte that chooses the command, then its words, a line each. No word can lead out of this folder. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  struct Input input = {bytes, count};
  const uint8_t options = fuzz_byte(&input);
  char *text = calloc(input.left + 1, 1), *words[MOST_WORDS + 1] = {NULL};
  memcpy(text, input.at, input.left);
  int argc = 0;
  for (char *at = text; at < text + input.left && argc < MOST_WORDS; at += strlen(at) + 1) {
    at[strcspn(at, "\n")] = '\0';
    for (char *slash; (slash = strchr(at, '/')) != NULL;) *slash = '_';
    words[argc++] = at;
  }
  FUZZ(run(options, argc, words));
  free(text);
  return 0;
}
