/* Strict --key value pairs: an unknown key, a key given twice, a value that is not a number and a
 * number out of its range are all refused with EXIT_USAGE. */
#ifndef LLMC_ARGS_H
#define LLMC_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* What a value may be, and the type that `value` points to. */
enum ArgKind {
  ARG_TEXT,    // const char *
  ARG_LIST,    // struct ArgList; the only kind that may be given several times
  ARG_COUNT,   // size_t
  ARG_NUMBER,  // double
  ARG_TIME,    // double, in seconds; typed as 45s, 90m, 1h30m or 2d, or as seconds without a unit
  ARG_SWITCH,  // bool, typed as 0 or 1
  ARG_CHOICE,  // struct Choice
  ARG_EVERY,   // struct ArgEvery; typed as a number of steps, or as a time with its unit
};

/* The largest double below 1, as the `most` of a number that must be below 1. */
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

/* An interval: in steps or in seconds, the other being 0. Both are 0 for never. */
struct ArgEvery {
  size_t steps;
  double seconds;
};

/* Reads argv into the values. `--help` prints them all with their defaults on stdout and exits. */
void args_parse(const char *subcommand, const struct Arg *args, size_t count, int argc, char **argv);

/* Whether argv has the key. */
bool args_given(const char *key, int argc, char **argv);

#endif
