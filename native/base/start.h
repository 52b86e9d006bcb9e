/* The first thing that main() does, where systems differ. */
#ifndef LLMC_START_H
#define LLMC_START_H

/* Makes a closed pipe and a file that may not grow errors of writing, met where they happen. On Windows also: arguments
 * become UTF-8, and stdin, stdout and stderr carry bytes as they are; a console shows UTF-8 until the program ends. */
void start(int *argc, char ***argv);

#endif
