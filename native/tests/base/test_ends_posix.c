/* Ends of the program that have a code of their own; each is met in a child process. */
#define _DEFAULT_SOURCE
#include "base/arena.h"

#include <sys/wait.h>
#include <unistd.h>

#include "tests/check.h"
#include "base/pool.h"
#include "base/util.h"

static void product_overflows(void) { size_product(SIZE_MAX / 2, 3); }

static void arena_overflows(void) {
  struct Arena arena = {.used = SIZE_MAX - 100};
  arena_alloc(&arena, 1000, 1);
}

static void arena_is_too_small(void) {
  struct Arena arena = {0};
  arena_alloc(&arena, 100, 1);
  arena_take(&arena);
  arena_alloc(&arena, arena.size + 1, 1);
}

static void arena_is_refused(void) {
  struct Arena arena = {.used = (size_t)1 << 60};
  arena_take(&arena);
}

static void pool_of_none(void) { pool_create(0); }

/* The program ends with the code and one sentence on stderr. */
static void check_dies(void (*deed)(void), int code, const char *what) {
  int ends[2];
  fflush(stdout);
  if (pipe(ends) != 0) {
    check(false, "%s: no pipe", what);
    return;
  }
  const pid_t child = fork();
  if (child == 0) {
    dup2(ends[1], STDERR_FILENO);
    deed();
    _exit(0);
  }
  close(ends[1]);
  char said[1024];
  size_t length = 0;
  for (ssize_t got; length < sizeof said - 1 && (got = read(ends[0], said + length, sizeof said - 1 - length)) > 0;) {
    length += (size_t)got;
  }
  said[length] = '\0';
  close(ends[0]);
  int status = 0;
  waitpid(child, &status, 0);
  check(WIFEXITED(status) && WEXITSTATUS(status) == code, "%s: expected exit code %d, got status %x", what, code, status);
  check(strncmp(said, "error: ", 7) == 0 && strchr(said, '\n') == said + length - 1, "%s: expected one sentence, got %s",
        what, said);
}

int main(void) {
  check_dies(product_overflows, EXIT_BAD_DATA, "a product that overflows");
  check_dies(arena_overflows, EXIT_BAD_DATA, "an arena that overflows");
  check_dies(arena_is_too_small, EXIT_INTERNAL, "an arena that was measured too small");
  check_dies(arena_is_refused, EXIT_BAD_DATA, "an arena that the system does not have");
  check_dies(pool_of_none, EXIT_USAGE, "a pool of no threads");
  return check_done("test_ends");
}
