/* Whole reads and writes on file descriptors: stdio would allocate. */
#ifndef LLMC_FILE_H
#define LLMC_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "files/format.h"

/* Opens for reading and tells the size; disk_close closes it. Dies with EXIT_MISSING when there is no such file, saying that
 * `maker` makes it, and with EXIT_BAD_DATA when it cannot be read. */
int file_open(const char *path, const char *maker, uint64_t *size);

/* Reads exactly count bytes at an offset; dies with EXIT_BAD_DATA. */
void file_read(int file, const char *path, void *bytes, size_t count, uint64_t offset);

/* Writes all of it; false, with errno set, when the system does not take it. */
bool file_write(int file, const void *bytes, size_t count);

/* The same, but false where a non-blocking file takes nothing for so many milliseconds; negative: it waits. */
bool file_write_within(int file, const void *bytes, size_t count, int patience_ms);

/* CRC-32 of a header, the int at `at`, where the checksum stands, taken as 0. */
uint32_t file_header_checksum(const int32_t header[HEADER_INTS], int at);

/* Whether an errno says that there is no more room. */
bool file_no_room(int reason);

/* What a person can do about an errno of writing, as words that end a sentence. */
const char *file_remedy(int reason);

/* A file that is written beside its place and renamed into it, so that a reader finds the old one or
 * the new one, never half of one. */
struct FileWriter {
  const char *path;
  char partial[1024];
  int file;
  bool survives;  // a failure does not end the program: it is kept in `fault`
  int fault;      // errno of the first failure; what follows it does nothing
};

void file_writer_open(struct FileWriter *writer, const char *path);
/* When the disk refuses, these remove the partial file, and die with EXIT_BAD_DATA unless the writer survives. */
void file_writer_write(struct FileWriter *writer, const void *bytes, size_t count);
/* Writes over the file's first bytes. */
void file_writer_write_front(struct FileWriter *writer, const void *bytes, size_t count);
void file_writer_commit(struct FileWriter *writer);
/* Removes the partial file. */
void file_writer_abandon(struct FileWriter *writer);

/* Makes `to` another name of the file `from`, in place of what it was; a copy where the system has no such
 * links. Returns 0, or an errno: `to` is what it was. */
int file_link(const char *from, const char *to);

#endif
