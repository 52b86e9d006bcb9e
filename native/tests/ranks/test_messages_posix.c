/* How messages are cut into the pieces that MPI is given: a library that carries nothing notes what it was asked for. */
#define _XOPEN_SOURCE 700  // fork
#include <sys/wait.h>
#include <unistd.h>

#include "base/util.h"
#include "ranks/messages.h"
#include "ranks/ranks.h"
#include "tests/check.h"

enum { RANKS = 3, MOST = 1 << 20 };

/* Of each rank's run: where the next piece has to begin, and what the last call moved of it. */
static struct {
  size_t calls, next[RANKS];
  int counts[RANKS];
  const char *bytes;
} seen;

static const struct Ranks MIDDLE = {.rank = 1, .count = RANKS, .here = RANKS}, ALONE = {.count = 1, .here = 1};

static void see(const int *counts, const int *at) {
  seen.calls++;
  for (int r = 0; r < RANKS; r++) {
    seen.counts[r] = counts[r];
    if (counts[r] == 0) continue;
    check((size_t)at[r] == seen.next[r], "rank %d: expected a piece at %zu, got one at %d", r, seen.next[r], at[r]);
    seen.next[r] += (size_t)counts[r];
  }
}

static int bcast(void *bytes, int count, MpiHandle type, int root, MpiHandle world) {
  check(bytes == seen.bytes, "expected the piece that follows the last one");
  check(type == ranks_mpi.byte && world == ranks_mpi.world && root == 0, "expected bytes of rank 0");
  seen.calls++, seen.bytes += count;
  return 0;
}

static int gather(const void *from, int none, MpiHandle same, void *to, const int *counts, const int *at, MpiHandle type,
                  MpiHandle world) {
  check(from == ranks_mpi.in_place && to != NULL && none == 0, "expected the floats to be gathered in their place");
  check(same == type && type == ranks_mpi.float32 && world == ranks_mpi.world, "expected floats");
  see(counts, at);
  return 0;
}

static int exchange(const void *from, const int *counts, const int *at, MpiHandle type, void *to, const int *own,
                    const int *rows, MpiHandle same, MpiHandle world) {
  check(from != to && type == same && type == ranks_mpi.float32 && world == ranks_mpi.world, "expected floats");
  see(counts, at);
  for (int r = 0; r < RANKS; r++) {
    check(own[r] == counts[MIDDLE.rank], "rank %d: expected %d floats, got %d", r, counts[MIDDLE.rank], own[r]);
    check(rows[r] == r * MOST, "rank %d: expected row %d, got one at %d", r, r, rows[r]);
  }
  return 0;
}

static void begin(const size_t *cuts) {
  memset(&seen, 0, sizeof seen);
  for (int r = 0; r < RANKS && cuts != NULL; r++) seen.next[r] = cuts[r];
}

static void check_runs(const size_t *cuts, const char *what) {
  for (int r = 0; r < RANKS; r++) {
    check(seen.next[r] == cuts[r + 1], "%s, rank %d: expected all floats up to %zu, got those up to %zu", what, r, cuts[r + 1],
          seen.next[r]);
  }
}

static void check_pieces(const size_t *cuts) {
  static float from[1], to[1];  // nothing is read
  begin(cuts);
  ranks_gather_floats(&MIDDLE, to, cuts);
  check_runs(cuts, "gather");
  begin(cuts);
  size_t first = 0, own = 0;
  for (; first < cuts[RANKS]; first += MOST) {
    const size_t row = ranks_exchange(&MIDDLE, to, from, cuts, first, MOST);
    check(row == (size_t)seen.counts[MIDDLE.rank], "expected rows of %d floats, got %zu", seen.counts[MIDDLE.rank], row);
    own += row;
  }
  check_runs(cuts, "exchange");
  check(own == cuts[2] - cuts[1], "expected %zu own floats, got %zu", cuts[2] - cuts[1], own);
}

/* Where a process with these cuts ends. */
static int code_of(const size_t *cuts) {
  fflush(NULL);
  const pid_t child = fork();
  if (child == 0) {
    static float to[1];
    if (freopen("/dev/null", "w", stderr) == NULL) _exit(99);
    begin(cuts);
    ranks_gather_floats(&MIDDLE, to, cuts);
    _exit(EXIT_OK);
  }
  int status = 0;
  waitpid(child, &status, 0);
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

static void check_alone(void) {
  float from[] = {1, 2, 3, 4, 5}, to[5] = {0};
  const size_t cuts[] = {0, 5};
  ranks_mpi = (struct Mpi){0};  // a call of any of its functions would crash
  ranks_broadcast(&ALONE, from, sizeof from), ranks_gather(&ALONE, from, sizeof from);
  ranks_gather_floats(&ALONE, from, cuts);
  ranks_send(&ALONE, 0, from, sizeof from), ranks_receive(&ALONE, 0, to, sizeof to);
  check_number((double)ranks_exchange(&ALONE, to, from, cuts, 3, 4), 2, "floats of the only rank, from its fourth on");
  check(to[0] == 4 && to[1] == 5 && to[2] == 0, "expected 4, 5, 0, got %g, %g, %g", to[0], to[1], to[2]);
  ranks_scatter(&ALONE, to, from, sizeof from);
  check(memcmp(from, to, sizeof from) == 0, "expected the only row");
}

int main(void) {
  check_alone();
  ranks_mpi = (struct Mpi){.Bcast = bcast, .Allgatherv = gather, .Alltoallv = exchange, .world = 7, .byte = 8, .float32 = 9,
                           .in_place = &seen};
  const size_t gigabyte = (size_t)1 << 30;
  begin(NULL);
  char *const far = (char *)gigabyte;  // nothing is read
  seen.bytes = far;
  ranks_broadcast(&MIDDLE, far, 2 * gigabyte + 5);
  check(seen.calls == 3 && seen.bytes == far + 2 * gigabyte + 5, "expected all bytes in 3 pieces, got %zu pieces", seen.calls);

  check_pieces((size_t[]){0, 1, 2, 3});
  check_pieces((size_t[]){0, 0, 7, 7});  // a rank may own nothing
  check_pieces((size_t[]){0, 5000000, 5000000, 13000003});
  check_pieces((size_t[]){0, 1 << 22, 1 << 23, (1 << 23) + 1});
  check_pieces((size_t[]){0, 700000000, 1400000000, 2147483647});  // the last that an int can number
  check_number(code_of((size_t[]){0, 700000000, 1400000000, 2147483647}), EXIT_OK, "floats that an int can number");
  check_number(code_of((size_t[]){0, 1500000000, 3000000000, 4500000000}), EXIT_USAGE, "floats beyond an int");
  return check_done("test_messages");
}
