/* The machine's logical CPUs, called cores here. */
#ifndef LLMC_CORES_H
#define LLMC_CORES_H

/* Those of the machine, at least 1. */
int cores_there(void);

/* Those that this program may run on: a launcher or taskset may have bound it to a few. */
int cores_allowed(void);

#endif
