#include "kernels/peak.h"

#include <math.h>
#include <stdatomic.h>

#include "base/pool.h"
#include "base/util.h"

enum Ball { HERE, THERE, AWAY };  // with the first thread, with the second, with none any more

struct RoundTrips {
  _Alignas(128) atomic_int ball;
  double seconds;
};

/* A thousand of them, or as many as a millisecond allows where threads outnumber the cores. */
static void round_trips_task(void *argument, int thread, int threads) {
  struct RoundTrips *trips = argument;
  if (threads < 2 || thread > 1) return;
  int ball = HERE;
  while (thread == 1 && ball != AWAY) {
    while ((ball = atomic_load(&trips->ball)) == HERE) {}
    if (ball == THERE) atomic_store(&trips->ball, HERE);
  }
  if (thread == 1) return;
  const double started = clock_seconds();
  int count = 0;
  double passed = 0;
  for (; count < 1000 && passed < 1e-3; count++, passed = clock_seconds() - started) {
    atomic_store(&trips->ball, THERE);
    while (atomic_load(&trips->ball) == THERE) {}
  }
  trips->seconds = passed / count;
  atomic_store(&trips->ball, AWAY);
}

double round_trip_measure(struct Pool *pool) {
  struct RoundTrips trips = {0};
  pool_run(pool, "round trips", round_trips_task, &trips);
  return trips.seconds;
}

struct Peak peak_measure(const struct Kernels *kernels, const struct Workers *workers) {
  const double enough = 0.012, started = clock_seconds();  // seconds
  double all = 0, best = 0, now = started;
  while (now - started < enough) {
    const double before = now, flops = kernels->peak_flops(workers);
    now = clock_seconds();
    all += flops;
    best = fmax(best, flops / (now - before));
  }
  return (struct Peak){all / (now - started), best};
}
