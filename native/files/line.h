/* A line of output that grows piece by piece in its caller's memory. */
#ifndef LLMC_LINE_H
#define LLMC_LINE_H

#include <stddef.h>

struct Line {
  char *text;  // (size)
  size_t size, length;
};

/* Appends what printf would print; dies with EXIT_INTERNAL where there is no room for it. */
void line_add(struct Line *line, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Appends a text as JSON has it, in quotes. */
void line_add_text(struct Line *line, const char *text);

/* Writes the line to stdout, and empties it. If the reader has closed the pipe, the program ends without an error.
 * Any other failure is EXIT_BAD_DATA. */
void line_say(struct Line *line);

#endif
