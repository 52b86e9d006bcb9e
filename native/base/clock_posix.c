#define _POSIX_C_SOURCE 200809L  // clock_gettime
#define _DARWIN_C_SOURCE
#include <poll.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

#include "base/util.h"

#ifdef CLOCK_UPTIME_RAW
static const clockid_t AWAKE = CLOCK_UPTIME_RAW;  // macOS's other clock goes on while the machine sleeps
#else
static const clockid_t AWAKE = CLOCK_MONOTONIC;
#endif

static _Atomic int64_t stood_still;  // nanoseconds

static int64_t awake_ns(void) {
  struct timespec now;
  clock_gettime(AWAKE, &now);
  return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

double clock_seconds(void) { return 1e-9 * (double)(awake_ns() - stood_still); }

void clock_stand_still(void) {
  const int64_t stopped = awake_ns();
  raise(SIGSTOP);
  stood_still += awake_ns() - stopped;
}

void clock_wait(int ms) { poll(NULL, 0, ms); }
