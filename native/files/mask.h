/* The mask of a token file: a companion that says where the loss counts (format.h). */
#ifndef LLMC_MASK_H
#define LLMC_MASK_H

#include <stdint.h>

/* Opens the mask of the token file `path`, of `count` tokens; returns the file descriptor. Dies with EXIT_BAD_DATA where
 * it is missing, no mask, or of another length. */
int mask_open(const char *path, uint64_t count);

/* Reads all of an open mask. Dies with EXIT_BAD_DATA where its checksum is another, or it has unknown bits. */
void mask_check(int mask, const char *path, uint64_t count);

#endif
