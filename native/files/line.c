#include "files/line.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/disk.h"
#include "base/util.h"
#include "files/file.h"

void line_add(struct Line *line, const char *format, ...) {
  const size_t room = line->size - line->length;
  va_list arguments;
  va_start(arguments, format);
  const int length = vsnprintf(line->text + line->length, room, format, arguments);
  va_end(arguments);
  if (length < 0 || (size_t)length >= room) die(EXIT_INTERNAL, "a line of %zu bytes is too short", line->size);
  line->length += (size_t)length;
}

void line_add_text(struct Line *line, const char *text) {
  line_add(line, "\"");
  for (const unsigned char *at = (const unsigned char *)text; *at != '\0'; at++) {
    if (*at == '"' || *at == '\\') line_add(line, "\\%c", *at);
    else if (*at < ' ') line_add(line, "\\u%04x", *at);
    else line_add(line, "%c", *at);
  }
  line_add(line, "\"");
}

void line_say(struct Line *line) {
  const bool said = file_write(DISK_STDOUT, line->text, line->length);
  line->length = 0;
  if (said) return;
  if (errno == EPIPE) _Exit(EXIT_OK);
  die(EXIT_BAD_DATA, "cannot write to stdout: %s", strerror(errno));
}
