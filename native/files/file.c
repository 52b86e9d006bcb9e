#include "files/file.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/disk.h"
#include "base/util.h"
#include "files/format.h"

int file_open(const char *path, const char *maker, uint64_t *size) {
  const int file = disk_open(path);  // a pipe is refused below, not waited for
  if (file < 0 && errno == ENOENT) die(EXIT_MISSING, "there is no file %s; run '%s' first", path, maker);
  if (file < 0) die(EXIT_BAD_DATA, "cannot open %s: %s", path, strerror(errno));
  if (!disk_is_file(file)) die(EXIT_BAD_DATA, "%s is not a file; name a file", path);
  const int64_t bytes = disk_size(file);
  if (bytes < 0) die(EXIT_BAD_DATA, "cannot open %s: %s", path, strerror(errno));
  *size = (uint64_t)bytes;
  return file;
}

void file_read(int file, const char *path, void *bytes, size_t count, uint64_t offset) {
  char *at = bytes;
  while (count > 0) {
    const ptrdiff_t got = disk_read(file, at, count, (int64_t)offset);
    if (got < 0) die(EXIT_BAD_DATA, "cannot read %s: %s", path, strerror(errno));
    if (got == 0) die(EXIT_BAD_DATA, "%s became shorter while it was read; make it again", path);
    at += got, count -= (size_t)got, offset += (uint64_t)got;
  }
}

bool file_write(int file, const void *bytes, size_t count) { return file_write_within(file, bytes, count, -1); }

bool file_write_within(int file, const void *bytes, size_t count, int patience_ms) {
  const char *at = bytes;
  while (count > 0) {
    const ptrdiff_t put = disk_write(file, at, count, patience_ms);
    if (put < 0) return false;
    at += put, count -= (size_t)put;
  }
  return true;
}

uint32_t file_header_checksum(const int32_t header[HEADER_INTS], int at) {
  int32_t bare[HEADER_INTS];
  memcpy(bare, header, sizeof bare);
  bare[at] = 0;
  return crc32_update(0, bare, sizeof bare);
}

bool file_no_room(int reason) {
#ifdef EDQUOT
  if (reason == EDQUOT) return true;
#endif
  return reason == ENOSPC;
}

const char *file_remedy(int reason) {
  if (file_no_room(reason)) return "free some space";
  if (reason == EFBIG) return "allow larger files (ulimit -f)";
  if (reason == EROFS) return "make the disk writable again";
  if (reason == ENOENT || reason == ENOTDIR) return "make its folder again";
  if (reason == EACCES || reason == EPERM) return "allow writing there";
  if (reason == EISDIR || reason == EEXIST || reason == ENOTEMPTY) return "move away what is there";
  return "check the disk";
}

void file_writer_abandon(struct FileWriter *writer) {
  if (writer->file >= 0) disk_close(writer->file);
  writer->file = -1;
  disk_remove(writer->partial);
}

static void writer_fail(struct FileWriter *writer) {
  writer->fault = errno != 0 ? errno : EIO;
  file_writer_abandon(writer);
  if (writer->survives) return;
  if (file_no_room(writer->fault)) {
    die(EXIT_BAD_DATA, "the disk has no room for %s, which was not written; free some space and run it again",
        writer->path);
  }
  die(EXIT_BAD_DATA, "cannot write %s: %s; %s", writer->path, strerror(writer->fault),
      writer->fault == EFBIG ? file_remedy(EFBIG) : "choose another place");
}

static void name_partial(struct FileWriter *writer, const char *path) {
  writer->path = path;
  writer->fault = 0;
  const int length = snprintf(writer->partial, sizeof writer->partial, "%s.part", path);
  if (length < 0 || (size_t)length >= sizeof writer->partial) die(EXIT_USAGE, "the path %s is too long", path);
}

void file_writer_open(struct FileWriter *writer, const char *path) {
  name_partial(writer, path);
  const bool device = disk_is_device(path);
  writer->file = device ? -1 : disk_create(writer->partial);
  if (device) errno = EEXIST;
  if (writer->file < 0) writer_fail(writer);
}

void file_writer_write(struct FileWriter *writer, const void *bytes, size_t count) {
  if (writer->fault == 0 && !file_write(writer->file, bytes, count)) writer_fail(writer);
}

void file_writer_write_front(struct FileWriter *writer, const void *bytes, size_t count) {
  if (writer->fault != 0) return;
  if (!disk_go(writer->file, 0) || !file_write(writer->file, bytes, count)) writer_fail(writer);
}

void file_writer_commit(struct FileWriter *writer) {
  if (writer->fault != 0) return;
  const bool synced = disk_sync(writer->file);
  const int reason = errno, file = writer->file;
  writer->file = -1;
  const bool closed = disk_close(file);
  if (!synced) errno = reason;
  if (!synced || !closed || !disk_rename(writer->partial, writer->path)) writer_fail(writer);
}

int file_link(const char *from, const char *to) {
  struct FileWriter writer = {.survives = true};
  name_partial(&writer, to);
  disk_remove(writer.partial);
  if (disk_link(from, writer.partial)) {
    const int reason = disk_rename(writer.partial, to) ? 0 : errno;
    disk_remove(writer.partial);  // still there where both were the same file
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
  disk_close(file);
  file_writer_commit(&writer);
  return writer.fault;
}
