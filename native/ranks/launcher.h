/* The program that started the ranks, such as mpirun or srun, and the MPI library that belongs to it. */
#ifndef LLMC_LAUNCHER_H
#define LLMC_LAUNCHER_H

#include <stddef.h>

#include "base/util.h"
#include "ranks/mpi.h"

struct Launcher {
  const char *name;          // as a message calls it
  const char *count, *rank;  // the environment variables that it sets: how many processes there are, which one this is
  const char *libraries[4];  // file names of the MPI libraries that may belong to it, the likeliest first
};

/* The launcher that started this process as one of several, by its variables in the environment; NULL where none did.
 * `count`: the number of processes, 0 where the launcher does not tell; `rank`: this one's. Ends the program with
 * EXIT_USAGE where srun started several without MPI, as each would be a run of its own. */
const struct Launcher *launcher_find(size_t *count, int *rank);

/* Opens the MPI library that LLMC_MPI names, or else the launcher's: the one that lies beside the mpirun of PATH, or that
 * the system finds. `path`: where it is, or the name that the system found it by. Dies with EXIT_USAGE where there is
 * none. */
void launcher_library(const struct Launcher *launcher, struct Mpi *mpi, char *path, size_t room);

/* Waits until the launcher has read what this process has written: it drops the rest when it ends the processes. */
void launcher_hear(void);

/* Asks the launcher to end all processes with this exit code, before MPI has begun. Only MPICH's and Intel MPI's have to be
 * asked, as they let the others wait in MPI_Init for a process that has ended. */
void launcher_abort(enum ExitCode code);

#endif
