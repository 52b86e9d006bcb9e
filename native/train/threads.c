#include "train/threads.h"

#include <math.h>

/* Each number of threads makes one step to warm up, and then at least so many steps that take at least so long together:
 * a process beside this one disturbs some of them. Longer steps have work for all threads. */
enum { LEAST_STEPS = 3, LEAST_MS = 20, LONG_STEP_MS = 100 };

/* A thread more has to save this much of the time. */
static const double PAYS = 1.03;

int threads_halved(int threads, int halvings) { return threads >> halvings > 0 ? threads >> halvings : 1; }

static void turn_to(struct ThreadTrial *trial, struct Pool *pool, int halvings) {
  trial->halvings = halvings, trial->steps = 0, trial->ms = 0;
  pool_resize(pool, threads_halved(trial->given, halvings));
}

/* The fewest threads, of those that were timed, whose steps are nearly as fast as the fastest. */
static int best_of(const struct ThreadTrial *trial, int timed) {
  double fastest = INFINITY;
  int best = 0;
  for (int i = 0; i <= timed; i++) fastest = fmin(fastest, trial->least[i]);
  for (int i = 0; i <= timed; i++) {
    if (trial->least[i] <= fastest * PAYS) best = i;
  }
  return best;
}

void threads_take(struct ThreadTrial *trial, struct Pool *pool, double step_ms) {
  if (trial->settled) return;
  if (trial->given == 0) trial->given = pool_threads(pool);
  trial->settled = trial->given == 1;
  if (trial->steps++ == 0) return;
  const int now = trial->halvings;
  double *least = &trial->least[now];
  *least = *least > 0 ? fmin(*least, step_ms) : step_ms;
  trial->ms += step_ms;
  if (trial->steps <= LEAST_STEPS || trial->ms < LEAST_MS) return;

  if (trial->again) {
    if (now == 0) {
      turn_to(trial, pool, trial->best);
      return;
    }
    trial->settled = true;
    if (*least > trial->least[0] * PAYS) turn_to(trial, pool, trial->best = 0);
    return;
  }
  trial->best = best_of(trial, now);
  const bool slower = trial->best < now, last = threads_halved(trial->given, now) == 1;
  const bool long_steps = now == 0 && *least > LONG_STEP_MS;
  if (!slower && !last && !long_steps) {
    turn_to(trial, pool, now + 1);
    return;
  }
  trial->settled = trial->best == 0;
  trial->again = !trial->settled;
  turn_to(trial, pool, 0);
}
