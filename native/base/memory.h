/* How much memory the machine can give, and taking no more. */
#ifndef LLMC_MEMORY_H
#define LLMC_MEMORY_H

#include <stddef.h>

#include "base/arena.h"

/* Bytes that this program may take without swapping: LLMC_MEMORY if it is set, else
 * what the system has free or can free, and no more than the control group allows. SIZE_MAX where that
 * cannot be known. Dies with EXIT_USAGE when LLMC_MEMORY is not a number of bytes. */
size_t memory_available(void);

/* The same without LLMC_MEMORY. */
size_t memory_of_system(void);

/* The same, read from Linux's /proc and /sys, which lie under `root` ("" for those of this machine). */
size_t memory_available_linux(const char *root);

/* Takes an arena's block as arena_take does, or refuses where there is less. `who` says what needs it,
 * as a format with a verb: "the model needs"; `advice` is what to change. */
void memory_take(struct Arena *arena, const char *advice, const char *who, ...) __attribute__((format(printf, 3, 4)));

/* Writes both numbers of bytes for a message, with enough digits to show which one is larger. */
void memory_shown(char needs[32], size_t needed, char has[32], size_t available);

/* Dies with EXIT_USAGE: who needs how much, how much there is, and what to change. */
_Noreturn void memory_refuse(const char *who, size_t needed, size_t available, const char *advice);

#endif
