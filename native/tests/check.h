/* Checks for the engine's test programs. A failed one says what was looked at, what was expected and
 * what came; the program goes on, so that one run shows all of it, and ends with a code that is not 0. */
#ifndef LLMC_CHECK_H
#define LLMC_CHECK_H

#include <math.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { CHECK_MOST_FAILURES = 20 };  // further ones are echoes

static size_t check_count, check_failures;

static inline void check(bool ok, const char *format, ...) __attribute__((format(printf, 2, 3)));
static inline void check(bool ok, const char *format, ...) {
  check_count++;
  if (ok) return;
  va_list arguments;
  va_start(arguments, format);
  fputs("failed: ", stderr);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  if (++check_failures == CHECK_MOST_FAILURES) {
    fputs("too many failures; the rest is not run\n", stderr);
    exit(1);
  }
}

static inline void check_number(double got, double expected, const char *what) {
  check(got == expected, "%s: expected %.17g, got %.17g", what, expected, got);
}

/* For a failed check further down to say where it was. */
static inline void check_near(double got, double expected, double most, const char *what) {
  check(fabs(got - expected) <= most, "%s: expected %.9g within %g, got %.9g", what, expected, most, got);
}

/* What main returns. */
static inline int check_done(const char *program) {
  printf("%s: %zu checks, %zu failed\n", program, check_count, check_failures);
  return check_failures > 0;
}

#endif
