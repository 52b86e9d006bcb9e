/* Reports on the terminal when the other ranks do not answer: if the network is down, MPI waits without a message. */
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
