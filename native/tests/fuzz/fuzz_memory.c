/* Linux's own files about memory, which a container may fill in any way: the answer is a number, or that there is none. */
#include "fuzz.h"

#include <sys/stat.h>

#include "base/memory.h"

static const char *const NAMES[] = {
    "proc/meminfo", "proc/self/cgroup", "sys/fs/cgroup/memory.max", "sys/fs/cgroup/a/b/memory.max",
    "sys/fs/cgroup/a/memory.current", "sys/fs/cgroup/a/memory.stat", "sys/fs/cgroup/memory/a/memory.limit_in_bytes",
};
enum { FILES = sizeof NAMES / sizeof *NAMES };

static void fuzz_prepare(void) {
  for (size_t i = 0; i < FILES; i++) {
    char path[64];
    for (const char *slash = NAMES[i]; (slash = strchr(slash, '/')) != NULL; slash++) {
      snprintf(path, sizeof path, "%.*s", (int)(slash - NAMES[i]), NAMES[i]);
      mkdir(path, 0700);
    }
  }
}

/* The files one after the other, with a byte 255 between them. */
int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count) {
  struct Input input = {bytes, count};
  for (size_t i = 0; i < FILES; i++) {
    const uint8_t *end = input.left > 0 ? memchr(input.at, 0xff, input.left) : NULL;
    const struct Input file = fuzz_piece(&input, end != NULL ? (size_t)(end - input.at) : input.left);
    fuzz_put(NAMES[i], file.at, file.left);
    fuzz_byte(&input);
  }
  FUZZ((void)memory_available_linux("."));
  return 0;
}
