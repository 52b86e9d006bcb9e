#define _POSIX_C_SOURCE 200809L
#define _FILE_OFFSET_BITS 64
#include "files/file.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/util.h"
#include "files/format.h"

enum { MOST_AT_ONCE = 1 << 30 };  // Linux and macOS move at most 2 GB in one call

int file_open(const char *path, const char *maker, uint64_t *size) {
  int file = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);  // a pipe is refused below, not waited for
  if (file < 0 && errno == ENOENT) die(EXIT_MISSING, "there is no file %s; run '%s' first", path, maker);
  struct stat status;
  if (file < 0 || fstat(file, &status) != 0) {
    die(EXIT_BAD_DATA, "cannot open %s: %s", path, strerror(errno));
  }
  if (!S_ISREG(status.st_mode)) die(EXIT_BAD_DATA, "%s is not a file; name a file", path);
  *size = (uint64_t)status.st_size;
  return file;
}

void file_read(int file, const char *path, void *bytes, size_t count, uint64_t offset) {
  char *at = bytes;
  while (count > 0) {
    ssize_t got = pread(file, at, size_min(count, MOST_AT_ONCE), (off_t)offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) die(EXIT_BAD_DATA, "cannot read %s: %s", path, strerror(errno));
    if (got == 0) die(EXIT_BAD_DATA, "%s became shorter while it was read; make it again", path);
    at += got, count -= (size_t)got, offset += (uint64_t)got;
  }
}

bool file_write(int file, const void *bytes, size_t count) { return file_write_within(file, bytes, count, -1); }

bool file_write_within(int file, const void *bytes, size_t count, int patience_ms) {
  const char *at = bytes;
  while (count > 0) {
    ssize_t put = write(file, at, size_min(count, MOST_AT_ONCE));
    if (put < 0 && errno == EINTR) continue;
    if (put < 0 && errno == EAGAIN) {  // a pipe that its other end, or its starter, has made non-blocking
      if (poll(&(struct pollfd){.fd = file, .events = POLLOUT}, 1, patience_ms) != 0) continue;
      errno = EAGAIN;
    }
    if (put < 0) return false;
    at += put, count -= (size_t)put;
  }
  return true;
}

bool file_sync(int file) {
  while (fsync(file) != 0) {
    if (errno == EINVAL || errno == ENOTSUP || errno == EROFS) return true;  // it cannot say so, and need not
    if (errno != EINTR) return false;
  }
  return true;
}

uint32_t file_header_checksum(const int32_t header[HEADER_INTS], int at) {
  int32_t bare[HEADER_INTS];
  memcpy(bare, header, sizeof bare);
  bare[at] = 0;
  return crc32_update(0, bare, sizeof bare);
}

bool file_no_room(int reason) { return reason == ENOSPC || reason == EDQUOT || reason == EFBIG; }

void file_writer_abandon(struct FileWriter *writer) {
  if (writer->file >= 0) close(writer->file);
  writer->file = -1;
  unlink(writer->partial);
}

static void writer_fail(struct FileWriter *writer) {
  writer->fault = errno != 0 ? errno : EIO;
  file_writer_abandon(writer);
  if (writer->survives) return;
  if (file_no_room(writer->fault)) {
    die(EXIT_BAD_DATA, "the disk has no room for %s, which was not written; free some space and run it again",
        writer->path);
  }
  die(EXIT_BAD_DATA, "cannot write %s: %s; choose another place", writer->path, strerror(writer->fault));
}

static void name_partial(struct FileWriter *writer, const char *path) {
  writer->path = path;
  writer->fault = 0;
  const int length = snprintf(writer->partial, sizeof writer->partial, "%s.part", path);
  if (length < 0 || (size_t)length >= sizeof writer->partial) die(EXIT_USAGE, "the path %s is too long", path);
}

void file_writer_open(struct FileWriter *writer, const char *path) {
  name_partial(writer, path);
  writer->file = open(writer->partial, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
  if (writer->file < 0) writer_fail(writer);
}

void file_writer_write(struct FileWriter *writer, const void *bytes, size_t count) {
  if (writer->fault == 0 && !file_write(writer->file, bytes, count)) writer_fail(writer);
}

void file_writer_write_front(struct FileWriter *writer, const void *bytes, size_t count) {
  if (writer->fault != 0) return;
  if (lseek(writer->file, 0, SEEK_SET) != 0 || !file_write(writer->file, bytes, count)) writer_fail(writer);
}

void file_writer_commit(struct FileWriter *writer) {
  if (writer->fault != 0) return;
  const bool synced = file_sync(writer->file);
  const int reason = errno, file = writer->file;
  writer->file = -1;
  const bool closed = close(file) == 0;
  if (!synced) errno = reason;
  if (!synced || !closed || rename(writer->partial, writer->path) != 0) writer_fail(writer);
}

int file_link(const char *from, const char *to) {
  struct FileWriter writer = {.survives = true};
  name_partial(&writer, to);
  unlink(writer.partial);
  if (link(from, writer.partial) == 0) {
    const int reason = rename(writer.partial, to) == 0 ? 0 : errno;
    unlink(writer.partial);  // still there where both were the same file
    return reason;
  }
  char piece[1 << 14];  // on a stack whose pages are there
  uint64_t size;
  const int file = file_open(from, "llmc train", &size);
  file_writer_open(&writer, to);
  for (uint64_t at = 0; at < size && writer.fault == 0; at += sizeof piece) {
    const size_t count = size - at < sizeof piece ? (size_t)(size - at) : sizeof piece;
    file_read(file, from, piece, count, at);
    file_writer_write(&writer, piece, count);
  }
  close(file);
  file_writer_commit(&writer);
  return writer.fault;
}
