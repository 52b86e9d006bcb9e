#ifdef __linux__
#define _GNU_SOURCE  // sched_getaffinity
#include <sched.h>
#else
#define _DARWIN_C_SOURCE
#endif
#include "base/cores.h"

#include <unistd.h>

int cores_there(void) {
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? (int)online : 1;
}

int cores_allowed(void) {
#ifdef __linux__
  cpu_set_t sets[8];  // of 1024 each: one alone is refused by machines with more
  if (sched_getaffinity(0, sizeof sets, sets) == 0) return CPU_COUNT_S(sizeof sets, sets);
#endif
  return cores_there();
}
