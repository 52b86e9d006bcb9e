/* Strict --key value pairs: an unknown key, a key given twice, a value that is not a number and a
 * number out of its range are all refused with EXIT_USAGE. */
#ifndef LLMC_ARGS_H
#define LLMC_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What value points to: const char *, struct ArgList, size_t, double, double, bool, struct Choice, struct ArgEvery. A time is a
 * number of seconds, typed as 45s, 90m, 1h30m, 2d or without a unit; what is due every so often is due after a number of
 * steps, or after a time with its unit. Only a list may be given several times. */
enum ArgKind { ARG_TEXT, ARG_LIST, ARG_COUNT, ARG_NUMBER, ARG_TIME, ARG_SWITCH, ARG_CHOICE, ARG_EVERY };

/* As a number's most: 1 itself is too much. */
#define ARG_BELOW_1 (1 - 0x1p-53)

struct Arg {
  const char *key;    // without the dashes
  enum ArgKind kind;
  void *value;        // the default is what it holds
  double least, most; // both allowed; for numbers
  const char *help;
};

enum { ARG_MOST_ITEMS = 64 };

struct ArgList {
  size_t count;
  const char *items[ARG_MOST_ITEMS];
};

struct Choice {
  void *chosen;              // an enum whose numbers count through the names
  const char *const *names;  // NULL after the last
};

/* 0: never. One of them at most is more. */
struct ArgEvery {
  size_t steps;
  double seconds;
};

/* Reads argv into the values. `--help` prints them all with their defaults on stdout and exits. */
void args_parse(const char *subcommand, const struct Arg *args, size_t count, int argc, char **argv);

/* Whether a key is among them. */
bool args_given(const char *key, int argc, char **argv);

#endif
