#ifdef __linux__
#define _GNU_SOURCE  // sched_getaffinity
#include <sched.h>
#else
#define _DARWIN_C_SOURCE
#endif
#include "base/cores.h"

#include <stdio.h>
#include <unistd.h>

#include "base/util.h"

int cores_there(void) {
  const long online = sysconf(_SC_NPROCESSORS_ONLN);
  return online > 0 ? (int)online : 1;
}

#ifdef __linux__
enum { SETS = 8 };  // of 1024 CPUs each: one alone is refused by machines with more

static int is_allowed(cpu_set_t *sets, int cpu) { return CPU_ISSET_S(cpu, SETS * sizeof *sets, sets); }

static int read_allowed(cpu_set_t *sets) { return sched_getaffinity(0, SETS * sizeof *sets, sets) == 0; }

int cores_allowed(void) {
  cpu_set_t sets[SETS];
  return read_allowed(sets) ? CPU_COUNT_S(sizeof sets, sets) : cores_there();
}

/* The first of the CPUs that are threads of the same core. */
static int first_thread(int cpu) {
  char path[96];
  int first = cpu;
  snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/thread_siblings_list", cpu);
  FILE *file = fopen(path, "r");
  if (file == NULL) return cpu;
  if (fscanf(file, "%d", &first) != 1) first = cpu;
  fclose(file);
  return first;
}

int cores_physical(void) {
  cpu_set_t sets[SETS], cores[SETS];
  if (!read_allowed(sets)) return cores_there();
  CPU_ZERO_S(sizeof cores, cores);
  for (int cpu = 0; cpu < SETS * CPU_SETSIZE; cpu++) {
    if (is_allowed(sets, cpu)) CPU_SET_S(first_thread(cpu), sizeof cores, cores);
  }
  return CPU_COUNT_S(sizeof cores, cores);
}

uint64_t cores_set(void) {
  cpu_set_t sets[SETS];
  uint64_t set = 0;
  if (!read_allowed(sets)) return set;
  for (int cpu = 0; cpu < SETS * CPU_SETSIZE; cpu++) set = mix64(set + (is_allowed(sets, cpu) ? 1 : 0));
  return set;
}
#else
int cores_allowed(void) { return cores_there(); }

int cores_physical(void) { return cores_there(); }

uint64_t cores_set(void) { return 0; }
#endif
