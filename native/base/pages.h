/* Whole pages of memory, as the system gives them: zero, and resident once they are touched. */
#ifndef LLMC_PAGES_H
#define LLMC_PAGES_H

#include <stdbool.h>
#include <stddef.h>

/* Takes `bytes`; NULL where the system has none to give. */
void *pages_take(size_t bytes);

/* Gives back what pages_take returned, all of it. */
void pages_free(void *pages, size_t bytes);

/* Makes pages inaccessible: a read or write ends the process. For tests. */
bool pages_guard(void *pages, size_t bytes);

/* Bytes in a page. */
size_t pages_size(void);

/* The most bytes of memory that this process has had resident. */
size_t pages_peak(void);

#endif
