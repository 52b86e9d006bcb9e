/* The rows of a batch whose targets count, side by side: the head works on no others.
 *
 * A target that is -1 does not count (kernels.h, crossentropy). Its row of the head would cost as much as any other, and its
 * gradient is zero.
 */
#ifndef LLMC_COUNTED_H
#define LLMC_COUNTED_H

#include <stddef.h>

#include "base/dtype.h"

/* Moves the rows (N, C) whose targets (N) count to the front, in their order, and their targets to `packed` (N). Returns how
 * many there are: at least 1, a row that does not count where none does. */
size_t counted_pack(struct Array rows, size_t C, const int *targets, int *packed, size_t N);

/* Moves rows (N, C) back from the front to where their targets count; the others become 0. */
void counted_unpack(float *rows, size_t C, const int *targets, size_t N);

#endif
