/* Ctrl-C, kill and a terminal that closes: a wish, looked at between one piece of work and the next. */
#ifndef LLMC_INTERRUPTS_H
#define LLMC_INTERRUPTS_H

#include <stdbool.h>

/* From now on the first of them is a wish, and the second leaves at once with EXIT_INTERRUPTED. What nohup has
 * asked to outlive is outlived. */
void interrupts_catch(void);

/* Whether there was one. */
bool interrupted(void);

#endif
