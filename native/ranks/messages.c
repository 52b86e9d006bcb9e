/* The messages of ranks.h. MPI counts in ints: larger messages are sent in pieces. */
#include <limits.h>
#include <stdint.h>
#include <string.h>

#include "base/util.h"
#include "ranks/messages.h"
#include "ranks/ranks.h"
#include "ranks/watch.h"

enum {
  PIECE_BYTES = 1 << 30,
  PIECE_FLOATS = 1 << 22,  // of each rank, in one call: a library may take as much memory again
};

struct Mpi ranks_mpi;

void messages_check(int error, const char *function) {
  if (error != 0) die(EXIT_BAD_DATA, "MPI_%s failed with code %d: a machine or the network may be down", function, error);
}

/* After watch_begin. */
static void sent(int error, const char *function) {
  watch_end();
  messages_check(error, function);
}

static int int_of(size_t number) {
  if (number > INT_MAX) {
    die(EXIT_USAGE, "messages between ranks reach no further than float %d, and the model has more (%zu); train it in one "
        "process", INT_MAX, number);
  }
  return (int)number;
}

void ranks_broadcast(const struct Ranks *ranks, void *bytes, size_t count) {
  char *at = bytes;
  for (size_t piece; ranks->count > 1 && count > 0; at += piece, count -= piece) {
    piece = size_min(count, PIECE_BYTES);
    watch_begin();
    sent(ranks_mpi.Bcast(at, (int)piece, ranks_mpi.byte, 0, ranks_mpi.world), "Bcast");
  }
}

void ranks_gather(const struct Ranks *ranks, void *all, size_t each) {
  const struct Mpi *mpi = &ranks_mpi;
  if (ranks->count == 1) return;
  watch_begin();
  sent(mpi->Allgather(mpi->in_place, 0, mpi->byte, all, int_of(each), mpi->byte, mpi->world), "Allgather");
}

void ranks_scatter(const struct Ranks *ranks, void *mine, const void *all, size_t each) {
  const struct Mpi *mpi = &ranks_mpi;
  if (ranks->count == 1) {
    memcpy(mine, all, each);
    return;
  }
  watch_begin();
  sent(mpi->Scatter(all, int_of(each), mpi->byte, mine, int_of(each), mpi->byte, 0, mpi->world), "Scatter");
}

/* How many of rank r's floats there are from its `first` on, at most `most`. */
static int piece_of(const size_t *cuts, int r, size_t first, size_t most) {
  const size_t own = cuts[r + 1] - cuts[r];
  return first < own ? int_of(size_min(most, own - first)) : 0;
}

/* Those pieces of all ranks, as MPI takes them. */
struct Pieces {
  int counts[RANKS_MOST], at[RANKS_MOST];
};

static void cut(struct Pieces *pieces, const struct Ranks *ranks, const size_t *cuts, size_t first, size_t most) {
  for (int r = 0; r < ranks->count; r++) {
    pieces->counts[r] = piece_of(cuts, r, first, most);
    pieces->at[r] = pieces->counts[r] > 0 ? int_of(cuts[r] + first) : 0;
  }
}

void ranks_gather_floats(const struct Ranks *ranks, float *floats, const size_t *cuts) {
  const struct Mpi *mpi = &ranks_mpi;
  size_t longest = 0;
  for (int r = 0; r < ranks->count; r++) longest = size_max(longest, cuts[r + 1] - cuts[r]);
  for (size_t first = 0; ranks->count > 1 && first < longest; first += PIECE_FLOATS) {
    struct Pieces pieces;
    cut(&pieces, ranks, cuts, first, PIECE_FLOATS);
    watch_begin();
    sent(mpi->Allgatherv(mpi->in_place, 0, mpi->float32, floats, pieces.counts, pieces.at, mpi->float32, mpi->world),
         "Allgatherv");
  }
}

size_t ranks_exchange(const struct Ranks *ranks, float *to, const float *from, const size_t *cuts, size_t first, size_t most) {
  const struct Mpi *mpi = &ranks_mpi;
  const int mine = piece_of(cuts, ranks->rank, first, most);
  if (ranks->count == 1) {
    memcpy(to, from + cuts[0] + first, (size_t)mine * sizeof *to);
    return (size_t)mine;
  }
  struct Pieces out, in;
  cut(&out, ranks, cuts, first, most);
  for (int r = 0; r < ranks->count; r++) in.counts[r] = mine, in.at[r] = int_of((size_t)r * most);
  watch_begin();
  sent(mpi->Alltoallv(from, out.counts, out.at, mpi->float32, to, in.counts, in.at, mpi->float32, mpi->world), "Alltoallv");
  return (size_t)mine;
}

void ranks_send(const struct Ranks *ranks, int to, const void *bytes, size_t count) {
  const char *at = bytes;
  for (size_t piece; to != ranks->rank && count > 0; at += piece, count -= piece) {
    piece = size_min(count, PIECE_BYTES);
    watch_begin();
    sent(ranks_mpi.Send(at, (int)piece, ranks_mpi.byte, to, 0, ranks_mpi.world), "Send");
  }
}

void ranks_receive(const struct Ranks *ranks, int from, void *bytes, size_t count) {
  uint64_t status[MPI_STATUS_ROOM / sizeof(uint64_t)];
  char *at = bytes;
  for (size_t piece; from != ranks->rank && count > 0; at += piece, count -= piece) {
    piece = size_min(count, PIECE_BYTES);
    watch_begin();
    sent(ranks_mpi.Recv(at, (int)piece, ranks_mpi.byte, from, 0, ranks_mpi.world, status), "Recv");
  }
}
