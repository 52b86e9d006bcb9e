/* The processes that train one model together, its ranks: which of them this is, and the messages between them.
 *
 * A launcher (mpirun, srun) starts them, and the MPI library that belongs to it carries the bytes. The library is opened
 * while the program runs: nothing of MPI is needed to build this program, and without a launcher nothing is looked for.
 * MPI moves bytes here and adds nothing up: its sums depend on the number of ranks and on the library. Only the thread
 * that called ranks_open may call the others. All die where a message fails.
 */
#ifndef LLMC_RANKS_H
#define LLMC_RANKS_H

#include <stdbool.h>
#include <stddef.h>

enum { RANKS_MOST = 256, RANKS_NAME = 64 };

struct Ranks {
  int rank, count;          // alone: 0 of 1
  int here;                 // of them, on this machine
  char machine[RANKS_NAME]; // this one's name
  const char *library;      // what carries the messages: "MPICH 5.0.2, /usr/lib/libmpi.so.12"; NULL alone
};

/* Joins the other ranks, if a launcher started several. Before any thread is made. Dies with EXIT_USAGE where there is no
 * MPI library, where it belongs to another MPI than the launcher, or where the ranks run different builds. */
void ranks_open(struct Ranks *ranks);

/* Waits for the others and leaves. A program that ends without it, by die() or exit(), ends all ranks with its exit code.
 * Of an error that all ranks meet only rank 0 speaks. The sentence of another one begins with its rank and machine. */
void ranks_close(struct Ranks *ranks);

/* Where rank 0 waits for the others longer than `seconds`, it says so, and again each time the wait has doubled: on stderr,
 * or where `json` as an event "note" on stdout. `advice` ends the sentence: what to do. It has no quotes and stays valid. */
void ranks_watch(const struct Ranks *ranks, double seconds, bool json, const char *advice);

/* Rank 0's bytes, to all. */
void ranks_broadcast(const struct Ranks *ranks, void *bytes, size_t count);

/* all (count, each): row r is rank r's, to all. Each has put its own row in its place. */
void ranks_gather(const struct Ranks *ranks, void *all, size_t each);

/* mine (each) = row `rank` of rank 0's all (count, each), which the others do not need. */
void ranks_scatter(const struct Ranks *ranks, void *mine, const void *all, size_t each);

/* Floats cuts[r] to cuts[r + 1] are rank r's, to all: each has its own in their place. */
void ranks_gather_floats(const struct Ranks *ranks, float *floats, const size_t *cuts);

/* Rank r gets, of every rank's `from`, at most `most` floats beginning at cuts[r] + first, and not beyond cuts[r + 1]: row q
 * of its to (count, most) is rank q's. Returns how many floats each of its rows has. */
size_t ranks_exchange(const struct Ranks *ranks, float *to, const float *from, const size_t *cuts, size_t first, size_t most);

/* From one rank to another, which calls the other one. */
void ranks_send(const struct Ranks *ranks, int to, const void *bytes, size_t count);
void ranks_receive(const struct Ranks *ranks, int from, void *bytes, size_t count);

#endif
