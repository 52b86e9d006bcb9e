/* The number of threads that a run keeps, on simulated machines with known step times. */
#include "train/threads.h"

#include <math.h>

#include "tests/check.h"

enum { MOST = 16, MOST_STEPS_OF_A_TRIAL = 1000 };

/* Milliseconds of a step: work that the threads share, and what each thread more costs at every meeting. */
struct Machine {
  double work, meeting;
};

static double step_ms(const struct Machine *machine, int threads) {
  return machine->work / threads + machine->meeting * (threads - 1);
}

/* Runs a trial to its end; the steps from `from` to `to` take ten times as long, as beside another process. */
static struct ThreadTrial settle(const struct Machine *machine, struct Pool *pool, size_t from, size_t to) {
  struct ThreadTrial trial = {0};
  size_t step = 0;
  for (; !trial.settled && step < MOST_STEPS_OF_A_TRIAL; step++) {
    threads_take(&trial, pool, step_ms(machine, pool_threads(pool)) * (step >= from && step < to ? 10 : 1));
  }
  check(trial.settled, "work %g, meeting %g: expected the trial to end, got %zu steps", machine->work, machine->meeting, step);
  return trial;
}

static void check_trial(struct Machine machine, int threads, size_t from, size_t to, int expected) {
  struct Pool *pool = pool_create(threads);
  const struct ThreadTrial trial = settle(&machine, pool, from, to);
  check(pool_threads(pool) == expected && threads_halved(trial.given, trial.best) == expected,
        "work %g, meeting %g, %d threads, disturbed from %zu to %zu: expected %d, got %d and halved %d times",
        machine.work, machine.meeting, threads, from, to, expected, pool_threads(pool), trial.best);
  pool_destroy(pool);
}

int main(void) {
  check_trial((struct Machine){80, 0}, 16, 0, 0, 16);    // all pay
  check_trial((struct Machine){16, 1}, 16, 0, 0, 4);     // 16: 16 ms, 8: 9, 4: 7, 2: 9
  check_trial((struct Machine){1, 0.5}, 16, 0, 0, 1);    // each costs more than it saves
  check_trial((struct Machine){1, 0.5}, 2, 0, 0, 1);
  check_trial((struct Machine){1, 0.4}, 2, 0, 0, 2);     // 1 ms or 0.9
  check_trial((struct Machine){2, 0.985}, 2, 0, 0, 1);   // 2 ms or 1.985: the second hardly pays
  check_trial((struct Machine){1, 0.5}, 1, 0, 0, 1);     // nothing to choose
  check_trial((struct Machine){12, 3.5}, 12, 0, 0, 3);   // 12: 39.5 ms, 6: 19.5, 3: 11, 1: 12
  check_trial((struct Machine){4000, 0}, 16, 0, 0, 16);  // long steps are not tried with fewer
  for (size_t from = 0; from < 60; from += 4) {          // other processes do not mislead it
    check_trial((struct Machine){16, 0}, 16, from, from + 4, 16);
    check_trial((struct Machine){16, 1}, 16, from, from + 2, 4);
  }
  return check_done("test_threads");
}
