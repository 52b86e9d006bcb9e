#include "base/memory.h"

#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/util.h"

enum { WORDS_ROOM = 1024 };

size_t memory_available(void) {
  const char *limit = getenv("LLMC_MEMORY");
  if (limit == NULL || *limit == '\0') return memory_of_system();
  char *end;
  const unsigned long long bytes = strtoull(limit, &end, 10);
  if (*limit < '0' || *limit > '9' || *end != '\0') {
    die(EXIT_USAGE, "LLMC_MEMORY is the number of bytes that a run may take, such as 8000000000, not '%s'", limit);
  }
  return (size_t)bytes;
}

/* Bytes as a person reads them. What is needed is rounded up and what is available down, so that the
 * larger of two reads as the larger. */
static const char *shown(char text[32], size_t bytes, double (*rounded)(double)) {
  const bool giga = bytes >= 100000000;
  snprintf(text, 32, "%.2f %s", rounded((double)bytes / (giga ? 1e7 : 1e4)) / 100, giga ? "GB" : "MB");
  return text;
}

void memory_shown(char needs[32], size_t needed, char has[32], size_t available) {
  shown(needs, needed, ceil), shown(has, available, floor);
}

void memory_refuse(const char *who, size_t needed, size_t available, const char *advice) {
  char needs[32], has[32];
  memory_shown(needs, needed, has, available);
  die(EXIT_USAGE, "%s %s of memory, but only %s are available; %s", who, needs, has, advice);
}

void memory_take(struct Arena *arena, const char *advice, const char *who, ...) {
  const size_t needed = arena_footprint(arena), available = memory_available();
  if (needed > available) {
    char words[WORDS_ROOM];
    va_list arguments;
    va_start(arguments, who);
    vsnprintf(words, sizeof words, who, arguments);
    va_end(arguments);
    memory_refuse(words, needed, available, advice);
  }
  arena_take(arena);
}
