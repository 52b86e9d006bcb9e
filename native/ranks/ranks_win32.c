/* Training by several processes is for Linux and macOS: on Windows each process is alone. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#include "base/util.h"
#include "ranks/ranks.h"
#include "ranks/watch.h"

/* What Microsoft's MPI, MPICH's and Intel's set, Open MPI's, and others by PMIx. */
static const char *const launchers[][2] = {
    {"PMI_SIZE", "PMI_RANK"}, {"OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"}, {"SLURM_STEP_NUM_TASKS", "PMIX_RANK"}};

void ranks_open(struct Ranks *ranks) {
  *ranks = (struct Ranks){.count = 1, .here = 1};
  DWORD room = sizeof ranks->machine;
  if (!GetComputerNameA(ranks->machine, &room)) ranks->machine[0] = '\0';
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    const char *count = getenv(launchers[i][0]), *rank = getenv(launchers[i][1]);
    if (rank == NULL || (count != NULL && strcmp(count, "1") == 0)) continue;
    if (strcmp(rank, "0") != 0) exit(EXIT_USAGE);  // the first rank speaks for all
    die(EXIT_USAGE, "several processes train one model on Linux and macOS alone, not on Windows; start one, without mpiexec");
  }
}

void ranks_close(struct Ranks *ranks) { (void)ranks; }

void ranks_watch(const struct Ranks *ranks, double seconds, bool json, const char *advice) {
  (void)ranks, (void)seconds, (void)json, (void)advice;
}

/* No message is ever waited for. */
void watch_begin(void) {}
void watch_end(void) {}
