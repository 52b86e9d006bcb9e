#define _XOPEN_SOURCE 700  // realpath, dprintf
#define _DARWIN_C_SOURCE  // S_ISSOCK
#include "ranks/launcher.h"

#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"

#ifdef __APPLE__
#define OPEN_MPI "libmpi.40.dylib"
#define MPICH "libmpi.12.dylib", "libmpich.12.dylib", "libmpi_abi.1.dylib"
#else
#define OPEN_MPI "libmpi.so.40"
#define MPICH "libmpi.so.12", "libmpich.so.12", "libmpi_abi.so.1"
#endif

enum { PATH_ROOM = 4096, REASON_ROOM = 512 };

/* How long a launcher gets to read a pipe and to pass on what it has read: at most, and at least. */
enum { MS_TO_READ = 2000, MS_TO_PASS_ON = 200 };

/* Intel MPI and others have MPICH's variables and names. srun --mpi=pmix sets PMIX_RANK and no number of processes. */
static const struct Launcher launchers[] = {
    {"mpirun", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK", {OPEN_MPI}},
    {"mpirun or srun", "PMI_SIZE", "PMI_RANK", {MPICH}},
    {"srun or a PMIx launcher", "SLURM_STEP_NUM_TASKS", "PMIX_RANK", {OPEN_MPI, MPICH}},
};

static size_t number_in(const char *variable) {
  const char *value = getenv(variable);
  return value != NULL ? (size_t)strtoull(value, NULL, 10) : 0;
}

const struct Launcher *launcher_find(size_t *count, int *rank) {
  for (size_t i = 0; i < sizeof launchers / sizeof *launchers; i++) {
    if (getenv(launchers[i].rank) == NULL) continue;
    *count = number_in(launchers[i].count);
    *rank = (int)number_in(launchers[i].rank);
    return *count == 1 ? NULL : &launchers[i];
  }
  const size_t tasks = number_in("SLURM_STEP_NUM_TASKS");
  if (tasks < 2) return NULL;
  if (number_in("SLURM_PROCID") > 0) exit(EXIT_USAGE);  // the first task speaks for all
  die(EXIT_USAGE, "srun started %zu tasks without MPI, and each would be a run of its own; use srun --mpi=pmix or "
      "--mpi=pmi2 ('srun --mpi=list' shows which there are), or srun -n 1", tasks);
}

/* The library in the folder lib beside that of the first mpirun in PATH: virtual environments, Homebrew and the modules of
 * clusters have it there. */
static bool beside_mpirun(const char *name, char path[PATH_ROOM]) {
  char tried[PATH_ROOM];
  for (const char *folder = getenv("PATH"), *end; folder != NULL; folder = *end == ':' ? end + 1 : NULL) {
    end = folder + strcspn(folder, ":");
    const int length = (int)(end - folder);
    if (length > PATH_ROOM / 2) continue;
    snprintf(tried, sizeof tried, "%.*s/mpirun", length, folder);
    if (realpath(tried, path) == NULL) continue;
    snprintf(tried, sizeof tried, "%.*s/../lib/%s", length, folder, name);
    return realpath(tried, path) != NULL;
  }
  return false;
}

void launcher_library(const struct Launcher *launcher, struct Mpi *mpi, char *path, size_t room) {
  char found[PATH_ROOM], reason[REASON_ROOM], first[REASON_ROOM] = "";
  const char *chosen = getenv("LLMC_MPI");
  if (chosen != NULL && *chosen != '\0') {
    snprintf(path, room, "%s", chosen);
    if (mpi_open(mpi, chosen, reason, sizeof reason)) return;
    die(EXIT_USAGE, "LLMC_MPI=%s cannot be used: %s; name the MPI library of the launcher", chosen, reason);
  }
  for (int i = 0; i < 4 && launcher->libraries[i] != NULL; i++) {
    const char *name = launcher->libraries[i];
    const bool beside = beside_mpirun(name, found);
    snprintf(path, room, "%s", beside ? found : name);
    if (mpi_open(mpi, path, reason, sizeof reason)) return;
    if (beside && mpi_open(mpi, name, found, sizeof found)) {
      snprintf(path, room, "%s", name);
      return;
    }
    if (*first == '\0') memcpy(first, reason, sizeof first);
  }
  die(EXIT_USAGE, "%s started several processes, and its MPI library cannot be opened (%s); name it: "
      "LLMC_MPI=/path/to/%s", launcher->name, first, launcher->libraries[0]);
}

/* Whether there is output in a pipe that its reader has not read. */
static bool unread(int output) {
  struct stat is;
  int count = 0;
  return fstat(output, &is) == 0 && S_ISFIFO(is.st_mode) && ioctl(output, FIONREAD, &count) == 0 && count > 0;
}

void launcher_hear(void) {
  for (int ms = 0; ms < MS_TO_READ; ms++) {
    if (ms >= MS_TO_PASS_ON && !unread(STDERR_FILENO) && !unread(STDOUT_FILENO)) return;
    poll(NULL, 0, 1);
  }
}

void launcher_abort(enum ExitCode code) {
  const char *descriptor = getenv("PMI_FD");
  if (descriptor == NULL || getenv("MPI_LOCALNRANKS") == NULL) return;  // srun has the one and not the other
  const int file = atoi(descriptor);
  struct stat is;
  if (fstat(file, &is) == 0 && S_ISSOCK(is.st_mode)) dprintf(file, "cmd=abort exitcode=%d\n", (int)code);
}
