/* Chooses the number of threads of a run. Threads wait for each other after every operation, so a small model on a large
 * machine is faster with fewer. The first steps of the run are timed with several numbers; results do not depend on them. */
#ifndef LLMC_THREADS_H
#define LLMC_THREADS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/pool.h"

enum { THREADS_HALVINGS = 9 };  // of POOL_MAX_THREADS, down to 1

/* The times of steps with the given number of threads, with half of it, with a quarter, and so on. All zero at the
 * start, but for `settled` where the number is not to change. */
struct ThreadTrial {
  bool settled;
  int given;                          // threads; 0 before the first step
  int halvings, best;                 // of `given`: now; with which steps are fastest
  bool again;                         // the best of fewer and `given` are timed once more
  size_t steps;                       // made with this number
  double ms;                          // of those that were timed
  double least[THREADS_HALVINGS];     // of one of them, by halvings
};

/* Takes the time of a step and sets the threads of the next one. */
void threads_take(struct ThreadTrial *trial, struct Pool *pool, double step_ms);

/* The number of threads after so many halvings. */
int threads_halved(int threads, int halvings);

#endif
