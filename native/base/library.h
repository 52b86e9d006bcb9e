/* Libraries that are opened while the program runs. */
#ifndef LLMC_LIBRARY_H
#define LLMC_LIBRARY_H

#include <stddef.h>

/* Sets an environment variable, which a library reads when it is opened. */
void library_setting(const char *name, const char *value);

/* Opens a library by its path or name. NULL, with the reason in words, where that fails. */
void *library_open(const char *path, char *reason, size_t room);

/* The address of a function or a variable; NULL where the library has none of that name. */
void *library_symbol(void *library, const char *name);

#endif
