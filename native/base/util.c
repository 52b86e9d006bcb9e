#include "base/util.h"

#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum ExitCode exit_code;

static void (*name_speaker)(char *who, size_t room);

void die_names(void (*name)(char *who, size_t room)) { name_speaker = name; }

void die(enum ExitCode code, const char *format, ...) {
  char who[128] = "";
  if (name_speaker != NULL) name_speaker(who, sizeof who);
  va_list arguments;
  va_start(arguments, format);
  fflush(stdout);
  fprintf(stderr, "error: %s", who);
  vfprintf(stderr, format, arguments);
  fputc('\n', stderr);
  va_end(arguments);
  exit_code = code;
  exit((int)code);
}

size_t size_product(size_t a, size_t b) {
  size_t product;
  if (__builtin_mul_overflow(a, b, &product)) {
    die(EXIT_BAD_DATA, "a size of %zu x %zu does not fit in memory; the file is damaged", a, b);
  }
  return product;
}

/* The deepest calls, events and file names on their way to the disk, take less than half of this. */
__attribute__((noinline)) void stack_touch(void) {
  enum { REACH = 1 << 16, STRIDE = 1 << 10 };  // no page is smaller
  volatile char reach[REACH];
  for (size_t i = 0; i < REACH; i += STRIDE) reach[i] = 0;
  (void)reach[0];  // gcc 11 would call it unused
}

/* Slicing-by-8: table[k][b] is the CRC of byte b followed by k zero bytes, so eight bytes go in one step. */
static uint32_t crc_table[8][256];

static void crc_fill_table(void) {
  for (uint32_t byte = 0; byte < 256; byte++) {
    uint32_t crc = byte;
    for (int bit = 0; bit < 8; bit++) crc = (crc >> 1) ^ (crc & 1 ? 0xEDB88320u : 0);
    crc_table[0][byte] = crc;
  }
  for (int k = 1; k < 8; k++) {
    for (int byte = 0; byte < 256; byte++) {
      uint32_t before = crc_table[k - 1][byte];
      crc_table[k][byte] = (before >> 8) ^ crc_table[0][before & 255];
    }
  }
}

uint32_t crc32_update(uint32_t crc, const void *bytes, size_t count) {
  if (crc_table[0][1] == 0) crc_fill_table();
  const unsigned char *at = bytes;
  crc = ~crc;
  for (; count >= 8; count -= 8, at += 8) {
    uint32_t low, high;
    memcpy(&low, at, 4);
    memcpy(&high, at + 4, 4);
    low ^= crc;
    crc = crc_table[7][low & 255] ^ crc_table[6][(low >> 8) & 255] ^
          crc_table[5][(low >> 16) & 255] ^ crc_table[4][low >> 24] ^
          crc_table[3][high & 255] ^ crc_table[2][(high >> 8) & 255] ^
          crc_table[1][(high >> 16) & 255] ^ crc_table[0][high >> 24];
  }
  for (; count > 0; count--, at++) crc = (crc >> 8) ^ crc_table[0][(crc ^ *at) & 255];
  return ~crc;
}

double unsigned_nan(double x) { return isnan(x) ? fabs(x) : x; }

uint64_t mix64(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}
