#define _POSIX_C_SOURCE 200809L
#include "base/input.h"

#include <errno.h>
#include <poll.h>
#include <unistd.h>

bool input_wait(int ms) { return poll(&(struct pollfd){.fd = STDIN_FILENO, .events = POLLIN}, 1, ms) > 0; }

ptrdiff_t input_read(void *bytes, size_t count) {
  const ssize_t got = read(STDIN_FILENO, bytes, count);
  if (got < 0 && errno == EINTR) errno = EAGAIN;
  return got;
}
