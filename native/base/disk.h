/* What the engine asks of the file system, one call each; files/file.h reads and writes whole files with them.
 *
 * Paths are UTF-8. A file is a number from 0 on, opened for this process alone: no child inherits it. What fails sets
 * errno, and allocates nothing; offsets are of 64 bits. */
#ifndef LLMC_DISK_H
#define LLMC_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { DISK_STDOUT = 1, DISK_STDERR = 2 };

/* Opens for reading, without blocking on a pipe. -1 where that fails. */
int disk_open(const char *path);

/* Opens for writing, empty (disk_create) or as it is (disk_open_to_change); makes the file where there is none. -1 where
 * that fails. */
int disk_create(const char *path);
int disk_open_to_change(const char *path);

bool disk_close(int file);

/* Whether it is a file, and no folder, pipe or device. */
bool disk_is_file(int file);

/* Its bytes; -1 where that fails. */
int64_t disk_size(int file);

/* Reads at most `count` bytes at an offset, at least one before the end of the file; 0 there, -1 where that fails. A file
 * is read this way or written in order, not both. */
ptrdiff_t disk_read(int file, void *bytes, size_t count, int64_t offset);

/* Writes at most `count` bytes where the file is, at least one. -1 where that fails; also, with EAGAIN, where a
 * non-blocking file takes nothing for so many milliseconds (negative: it waits). */
ptrdiff_t disk_write(int file, const void *bytes, size_t count, int patience_ms);

/* Where the next bytes are written; -1 where that fails. */
int64_t disk_at(int file);

/* The next bytes are written at an offset, with everything behind it cut off (disk_cut) or left (disk_go). */
bool disk_go(int file, int64_t at);
bool disk_cut(int file, int64_t at);

/* Waits until a file's data, or a folder's entries, are on the disk (fsync); false where they may not be. */
bool disk_sync(int file);
bool disk_sync_folder(const char *path);

/* These may be called in a signal's handler. */
bool disk_remove(const char *path);
bool disk_remove_folder(const char *path);

/* Renames `from` to `to` in one step, and replaces a file that is there. */
bool disk_rename(const char *from, const char *to);

/* Makes `to` another name of the file `from`; false where there is a file `to`, or the system has no such links. */
bool disk_link(const char *from, const char *to);

/* Makes a folder; true, too, where there is one. */
bool disk_make_folder(const char *path);

/* Whether a file or a folder exists. */
bool disk_there(const char *path);

/* Whether a path names a device or a pipe: something that a file must not take the place of. */
bool disk_is_device(const char *path);

/* Calls `visit` with the name of every entry of a folder, in any order. */
bool disk_each(const char *path, void (*visit)(void *context, const char *name), void *context);

/* The files whose paths match a pattern, sorted by their bytes; allocated. A pattern has *, ? and [ ]; on Windows * and ?
 * in the name of a file alone, and false with EINVAL where a folder has them. */
struct DiskPaths {
  char **items;
  size_t count;
};
bool disk_match(const char *pattern, struct DiskPaths *paths);
void disk_paths_free(struct DiskPaths *paths);

/* Locks a folder for this process, until it closes the file that this returns, or ends. Returns -1 with EWOULDBLOCK where
 * another process holds the lock. `unlocked` becomes the errno of a file system without locks, else 0. */
int disk_lock(const char *folder, int *unlocked);

/* Bytes that may be written at a path, which need not exist yet; infinity where that is not known. */
double disk_available(const char *path);

#endif
