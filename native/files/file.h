/* Whole reads and writes on file descriptors: stdio would allocate. */
#ifndef LLMC_FILE_H
#define LLMC_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Opens for reading and tells the size. Dies with EXIT_MISSING when there is no such file, saying that
 * `maker` makes it, and with EXIT_BAD_DATA when it cannot be read. */
int file_open(const char *path, const char *maker, uint64_t *size);

/* Reads exactly count bytes at an offset; dies with EXIT_BAD_DATA. */
void file_read(int file, const char *path, void *bytes, size_t count, uint64_t offset);

/* Writes all of it; false, with errno set, when the system does not take it. */
bool file_write(int file, const void *bytes, size_t count);

/* A file that is written beside its place and renamed into it, so that a reader finds the old one or
 * the new one, never half of one. */
struct FileWriter {
  const char *path;
  char partial[1024];
  int file;
  void (*failing)(void *context);  // what else is to be removed when the disk refuses; NULL: nothing
  void *context;
};

void file_writer_open(struct FileWriter *writer, const char *path);
/* These die with EXIT_BAD_DATA, after removing the partial file, when the disk refuses. */
void file_writer_write(struct FileWriter *writer, const void *bytes, size_t count);
void file_writer_commit(struct FileWriter *writer);

/* Makes `to` another name of the file `from`, in place of what it was; a copy where the system has no such
 * links. Dies with EXIT_BAD_DATA. */
void file_link(const char *from, const char *to);

#endif
