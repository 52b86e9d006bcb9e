/* Standard input, for a program that has other work while nothing comes. */
#ifndef LLMC_INPUT_H
#define LLMC_INPUT_H

#include <stdbool.h>
#include <stddef.h>

/* Waits for input or its end at most so many milliseconds; negative: until it comes. False: none yet, or a signal came. */
bool input_wait(int ms);

/* After input_wait: reads at most `count` bytes, those that are there; 0 at the end. -1 with errno set where that fails;
 * with EAGAIN there was nothing. */
ptrdiff_t input_read(void *bytes, size_t count);

#endif
