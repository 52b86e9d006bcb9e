#include "base/args.h"

#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/util.h"

static void print_default(const struct Arg *arg) {
  switch (arg->kind) {
    case ARG_TEXT: {
      const char *text = *(const char **)arg->value;
      printf("%s", text != NULL ? text : "none");
      break;
    }
    case ARG_LIST: printf("none"); break;
    case ARG_COUNT: printf("%zu", *(size_t *)arg->value); break;
    case ARG_NUMBER:
    case ARG_TIME: printf("%g", *(double *)arg->value); break;
    case ARG_SWITCH: printf("%d", *(bool *)arg->value); break;
    case ARG_EVERY: {
      const struct ArgEvery *every = arg->value;
      printf(every->seconds > 0 ? "%gs" : "%.0f", every->seconds > 0 ? every->seconds : (double)every->steps);
      break;
    }
    case ARG_CHOICE: {
      const struct Choice *choice = arg->value;
      printf("%s", choice->names[*(unsigned *)choice->chosen]);
      break;
    }
  }
}

static void print_help(const char *subcommand, const struct Arg *args, size_t count) {
  printf("usage: llmc-native %s [--key value …]\n", subcommand);
  for (size_t i = 0; i < count; i++) {
    printf("  --%-14s %s [", args[i].key, args[i].help);
    print_default(&args[i]);
    printf("]\n");
  }
}

static void choose(const struct Arg *arg, const char *text) {
  const struct Choice *choice = arg->value;
  char known[256] = "";
  for (unsigned i = 0; choice->names[i] != NULL; i++) {
    if (strcmp(text, choice->names[i]) == 0) {
      *(unsigned *)choice->chosen = i;
      return;
    }
    const char *comma = i == 0 ? "" : choice->names[i + 1] == NULL ? " or " : ", ";
    const size_t length = strlen(known);
    snprintf(known + length, sizeof known - length, "%s%s", comma, choice->names[i]);
  }
  die(EXIT_USAGE, "--%s takes %s, not '%s'", arg->key, known, text);
}

/* Seconds in a time such as 1h30m: each unit once, the largest first. -1 where it is none. */
static double seconds_of(const char *text) {
  static const struct { char sign; double seconds; } units[] = {{'d', 86400}, {'h', 3600}, {'m', 60}, {'s', 1}};
  double seconds = 0;
  size_t next = 0;
  do {
    char *end;
    const double number = *text >= '0' && *text <= '9' ? strtod(text, &end) : -1;
    if (number < 0 || !isfinite(number)) return -1;
    if (next == 0 && *end == '\0') return number;
    while (next < 4 && units[next].sign != *end) next++;
    if (next == 4) return -1;
    seconds += number * units[next++].seconds;
    text = end + 1;
  } while (*text != '\0');
  return seconds;
}

static void set_time(const struct Arg *arg, const char *text) {
  const double seconds = seconds_of(text);
  if (seconds < arg->least || seconds > arg->most) {
    die(EXIT_USAGE, "--%s takes a time such as 2h, 1h30m, 90m or 45s, not '%s'", arg->key, text);
  }
  *(double *)arg->value = seconds;
}

/* A number as it can be typed: a whole one with all of its digits. */
static const char *typed(char text[32], double number) {
  const bool whole = fabs(number) < 1e16 && floor(number) == number;
  snprintf(text, 32, whole ? "%.0f" : "%g", number);
  return text;
}

static _Noreturn void refuse(const struct Arg *arg, const char *text) {
  char least[32], most[32];
  typed(least, arg->least), typed(most, arg->most);
  if (arg->most == ARG_BELOW_1) {
    die(EXIT_USAGE, "--%s must be at least %s and below 1, not %s", arg->key, least, text);
  }
  die(EXIT_USAGE, "--%s must be between %s and %s, not %s", arg->key, least, most, text);
}

/* Digits alone are steps. */
static void set_every(const struct Arg *arg, const char *text) {
  struct ArgEvery *every = arg->value;
  const double number = seconds_of(text);
  if (text[strspn(text, "0123456789")] == '\0' && *text != '\0') {
    if (number > arg->most) refuse(arg, text);
    *every = (struct ArgEvery){.steps = (size_t)number};
    return;
  }
  const bool has_unit = *text != '\0' && strchr("dhms", text[strlen(text) - 1]) != NULL;
  if (number <= 0 || number > arg->most || !has_unit) {
    die(EXIT_USAGE, "--%s takes a number of steps, or a time such as 10m or 1h30m, not '%s'", arg->key, text);
  }
  *every = (struct ArgEvery){.seconds = number};
}

static void add_item(const struct Arg *arg, const char *text) {
  struct ArgList *list = arg->value;
  if (list->count == ARG_MOST_ITEMS) die(EXIT_USAGE, "--%s is given more than %d times", arg->key, ARG_MOST_ITEMS);
  list->items[list->count++] = text;
}

static void set(const struct Arg *arg, const char *text) {
  if (arg->kind == ARG_LIST) {
    add_item(arg, text);
    return;
  }
  if (arg->kind == ARG_TEXT) {
    *(const char **)arg->value = text;
    return;
  }
  if (arg->kind == ARG_CHOICE) {
    choose(arg, text);
    return;
  }
  if (arg->kind == ARG_TIME) {
    set_time(arg, text);
    return;
  }
  if (arg->kind == ARG_EVERY) {
    set_every(arg, text);
    return;
  }
  char *end;
  errno = 0;
  double number = strtod(text, &end);
  if (end == text || *end != '\0' || errno == ERANGE || !isfinite(number)) {
    die(EXIT_USAGE, "--%s takes a number, not '%s'", arg->key, text);
  }
  if (number < arg->least || number > arg->most) refuse(arg, text);
  if (arg->kind == ARG_NUMBER) {
    *(double *)arg->value = number;
    return;
  }
  unsigned long long whole = strtoull(text, &end, 10);
  if (*end != '\0') die(EXIT_USAGE, "--%s takes a whole number, not '%s'", arg->key, text);
  if (arg->kind == ARG_COUNT) *(size_t *)arg->value = whole;
  if (arg->kind == ARG_SWITCH) *(bool *)arg->value = whole == 1;
}

void args_parse(const char *subcommand, const struct Arg *args, size_t count, int argc, char **argv) {
  enum { MOST_ARGS = 64 };
  bool seen[MOST_ARGS] = {false};
  for (int i = 0; i < argc; i += 2) {
    if (strcmp(argv[i], "--help") == 0) {
      print_help(subcommand, args, count);
      exit(EXIT_OK);
    }
    size_t at = 0;
    while (at < count && (strncmp(argv[i], "--", 2) != 0 || strcmp(argv[i] + 2, args[at].key) != 0)) at++;
    if (at == count) {
      die(EXIT_USAGE, "%s does not know '%s'; 'llmc-native %s --help' lists what it knows", subcommand,
          argv[i], subcommand);
    }
    if (i + 1 == argc) die(EXIT_USAGE, "%s needs a value", argv[i]);
    if (seen[at] && args[at].kind != ARG_LIST) die(EXIT_USAGE, "%s is given twice", argv[i]);
    seen[at] = true;
    set(&args[at], argv[i + 1]);
  }
}

bool args_given(const char *key, int argc, char **argv) {
  for (int i = 0; i < argc; i += 2) {
    if (strncmp(argv[i], "--", 2) == 0 && strcmp(argv[i] + 2, key) == 0) return true;
  }
  return false;
}
