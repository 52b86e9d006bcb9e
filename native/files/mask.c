#include "files/mask.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/disk.h"
#include "base/util.h"
#include "files/file.h"
#include "files/format.h"

enum { MASK_PATH = 4096 };

static const char AGAIN[] = "make it again with 'llmc tokenize PATH'";

static void name_mask(char name[MASK_PATH], const char *path) {
  const char *end = strrchr(path, '.');
  const int stem = end != NULL && strcmp(end, ".bin") == 0 ? (int)(end - path) : (int)strlen(path);
  const int length = snprintf(name, MASK_PATH, "%.*s.mask", stem, path);
  if (length < 0 || length >= MASK_PATH) die(EXIT_USAGE, "the path %s is too long", path);
}

int mask_open(const char *path, uint64_t count) {
  char name[MASK_PATH];
  name_mask(name, path);
  const int there = disk_open(name);
  if (there < 0) {
    die(EXIT_BAD_DATA, "%s counts the loss only where its mask says, and %s cannot be read (%s); %s", path, name,
        strerror(errno), AGAIN);
  }
  disk_close(there);
  uint64_t size;
  const int mask = file_open(name, "llmc tokenize PATH", &size);
  int32_t header[HEADER_INTS] = {0};
  if (size >= HEADER_BYTES) file_read(mask, name, header, HEADER_BYTES, 0);
  const int32_t magic = header[MASK_MAGIC_AT], version = header[MASK_VERSION_AT];
  if (magic != MASK_MAGIC || version != MASK_VERSION) {
    die(EXIT_BAD_DATA, "%s counts the loss only where its mask says, and %s begins with %d, %d, not %d, %d; %s", path, name,
        magic, version, MASK_MAGIC, MASK_VERSION, AGAIN);
  }
  const uint64_t said = (uint32_t)header[MASK_COUNT_AT];
  if (said != count || size != HEADER_BYTES + count) {
    die(EXIT_BAD_DATA, "%s counts the loss only where its mask says, and %s is for %llu tokens and has %llu bytes, not %llu; "
        "%s", path, name, (unsigned long long)said, (unsigned long long)size,
        (unsigned long long)(HEADER_BYTES + count), AGAIN);
  }
  return mask;
}

void mask_check(int mask, const char *path, uint64_t count) {
  char name[MASK_PATH];
  unsigned char piece[1 << 14];  // on a stack whose pages are there
  int32_t header[HEADER_INTS];
  name_mask(name, path);
  file_read(mask, name, header, HEADER_BYTES, 0);
  uint32_t crc = 0;
  unsigned seen = 0;
  for (uint64_t at = 0; at < count; at += sizeof piece) {
    const size_t some = count - at < sizeof piece ? (size_t)(count - at) : sizeof piece;
    file_read(mask, name, piece, some, HEADER_BYTES + at);
    crc = crc32_update(crc, piece, some);
    for (size_t i = 0; i < some; i++) seen |= piece[i];
  }
  if (crc != (uint32_t)header[MASK_CRC_AT]) {
    die(EXIT_BAD_DATA, "%s counts the loss only where its mask says, and %s is damaged: its checksum is %08x, its header "
        "says %08x; %s", path, name, crc, (uint32_t)header[MASK_CRC_AT], AGAIN);
  }
  if ((seen & ~(unsigned)(MASK_COUNTS | MASK_CONVERSATION | MASK_TURN)) != 0) {
    die(EXIT_BAD_DATA, "%s counts the loss only where its mask says, and %s is damaged: it has unknown bits (%#x); %s", path,
        name, seen, AGAIN);
  }
}
