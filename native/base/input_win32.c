#include "base/input.h"

#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <windows.h>

#include "base/util.h"
#include "base/wide.h"

/* Windows has no call that waits for a pipe, a file and a console alike. A thread reads, and waits while nobody takes. */
static struct {
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  bool begun, ended;
  int fault;  // errno of what ended it; 0: the input's end
  size_t held, taken;
  char bytes[1 << 16];
} input = {.mutex = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};

static void *work(void *unused) {
  (void)unused;
  const HANDLE handle = GetStdHandle(STD_INPUT_HANDLE);
  for (DWORD got;;) {
    const BOOL read = ReadFile(handle, input.bytes, sizeof input.bytes, &got, NULL);
    if (!read) wide_errno();
    pthread_mutex_lock(&input.mutex);
    input.ended = !read || got == 0;
    input.fault = !read && errno != EPIPE ? errno : 0;  // a pipe whose other end has closed
    input.held = read ? got : 0, input.taken = 0;
    pthread_cond_broadcast(&input.changed);
    while (input.taken < input.held) pthread_cond_wait(&input.changed, &input.mutex);
    const bool ended = input.ended;
    pthread_mutex_unlock(&input.mutex);
    if (ended) return NULL;
  }
}

static void begin(void) {
  pthread_t thread;
  input.begun = true;
  if (pthread_create(&thread, NULL, work, NULL) != 0) die(EXIT_INTERNAL, "cannot start a thread");
  pthread_detach(thread);
}

static bool there(void) { return input.ended || input.taken < input.held; }

bool input_wait(int ms) {
  struct timespec until;
  clock_gettime(CLOCK_REALTIME, &until);
  const int64_t ns = until.tv_nsec + (int64_t)ms % 1000 * 1000000;
  until.tv_sec += ms / 1000 + ns / 1000000000, until.tv_nsec = (long)(ns % 1000000000);
  pthread_mutex_lock(&input.mutex);
  if (!input.begun) begin();
  for (int late = 0; !there() && late == 0;) {
    late = ms < 0 ? pthread_cond_wait(&input.changed, &input.mutex)
                  : pthread_cond_timedwait(&input.changed, &input.mutex, &until);
  }
  const bool found = there();
  pthread_mutex_unlock(&input.mutex);
  return found;
}

ptrdiff_t input_read(void *bytes, size_t count) {
  pthread_mutex_lock(&input.mutex);
  const size_t got = size_min(count, input.held - input.taken);
  const bool nothing = got == 0 && (!input.ended || input.fault != 0);
  const int fault = input.ended ? input.fault : EAGAIN;
  memcpy(bytes, input.bytes + input.taken, got);
  input.taken += got;
  pthread_cond_broadcast(&input.changed);
  pthread_mutex_unlock(&input.mutex);
  if (!nothing) return (ptrdiff_t)got;
  errno = fault;
  return -1;
}
