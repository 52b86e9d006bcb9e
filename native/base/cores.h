/* The machine's logical CPUs, called cores here. */
#ifndef LLMC_CORES_H
#define LLMC_CORES_H

#include <stdint.h>

/* Those of the machine, at least 1. */
int cores_there(void);

/* Those that this program may run on: a launcher or taskset may have bound it to a few. */
int cores_allowed(void);

/* The processor cores that those belong to: two threads of one core count once. */
int cores_physical(void);

/* A number that tells sets of allowed CPUs apart: programs of one machine with the same number share them. */
uint64_t cores_set(void);

#endif
