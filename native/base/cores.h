/* The machine's logical CPUs, called cores here. */
#ifndef LLMC_CORES_H
#define LLMC_CORES_H

#include <stdint.h>

/* How many the machine has, at least 1. */
int cores_there(void);

/* How many this process may run on: a launcher or taskset may have bound it to a few. */
int cores_allowed(void);

/* How many processor cores the allowed ones belong to: two hardware threads of one core count once. */
int cores_physical(void);

/* Identifies the set of allowed CPUs: processes of one machine that return the same number share their CPUs. */
uint64_t cores_set(void);

#endif
