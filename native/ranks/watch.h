/* A word to the person at the terminal while the other ranks do not answer. A network that is down ends no process: MPI
 * waits on, and nobody would know why. */
#ifndef LLMC_WATCH_H
#define LLMC_WATCH_H

#include <stdbool.h>

/* Waits longer than `seconds` are reported, and again each time they have doubled: on stderr, or as an event on stdout
 * where `json`. `advice` ends the sentence; it has no quotes, and is not copied. */
void watch_set(double seconds, bool json, const char *advice);

/* Around a call that waits for the other ranks. Nothing is reported before watch_set. */
void watch_begin(void);
void watch_end(void);

#endif
