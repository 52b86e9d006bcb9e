/* What the messages of ranks.h share: the library that carries them, and what is done where it fails. */
#ifndef LLMC_MESSAGES_H
#define LLMC_MESSAGES_H

#include "ranks/mpi.h"

/* Set by ranks_open. */
extern struct Mpi ranks_mpi;

/* Dies where a function of MPI returned an error. Most libraries end the program themselves then. */
void messages_check(int error, const char *function);

#endif
