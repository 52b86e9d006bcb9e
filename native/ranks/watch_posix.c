#define _XOPEN_SOURCE 700  // setitimer
#define _DARWIN_C_SOURCE
#include "ranks/watch.h"

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/util.h"

/* The handler of SIGALRM reads these, on any thread. */
static struct {
  volatile double every, began, next;  // seconds; of the next report
  volatile bool waits, json;
  const char *volatile advice;
} watch;

static char *put(char *at, const char *text) {
  while (*text != '\0') *at++ = *text++;
  return at;
}

static char *put_time(char *at, double seconds) {
  const bool minutes = seconds >= 120;
  unsigned long number = (unsigned long)(minutes ? seconds / 60 : seconds);
  char digits[24], *first = digits + sizeof digits;
  *--first = '\0';
  do *--first = (char)('0' + number % 10);
  while ((number /= 10) > 0);
  return put(put(at, first), minutes ? " minutes" : " seconds");
}

/* A signal's handler may call write() and little else. */
static void report(double waited) {
  char text[1024], *at = text;
  if (watch.json) at = put(at, "{\"event\":\"note\",\"text\":\"");
  at = put_time(put(at, "no answer from the other ranks for "), waited);
  at = put(put(at, ": a machine or the network may be down; "), watch.advice);
  at = put(at, watch.json ? "\"}\n" : "\n");
  const ssize_t written = write(watch.json ? STDOUT_FILENO : STDERR_FILENO, text, (size_t)(at - text));
  (void)written;  // nobody may be listening
}

static void on_alarm(int signal) {
  (void)signal;
  const int before = errno;
  const double waited = clock_seconds() - watch.began;  // stands still while the program is stopped, the timer does not
  if (watch.waits && waited >= 0.99 * watch.next) {  // two clocks never agree to the last digit
    report(waited);
    watch.next = 2 * watch.next;
  }
  errno = before;
}

static void set_timer(double seconds) {
  const struct timeval every = {.tv_sec = (time_t)seconds, .tv_usec = (suseconds_t)(1e6 * (seconds - (double)(time_t)seconds))};
  setitimer(ITIMER_REAL, &(struct itimerval){.it_interval = every, .it_value = every}, NULL);
}

void watch_set(double seconds, bool json, const char *advice) {
  enum { MOST_ADVICE = 800 };
  if (watch.every <= 0) sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm, .sa_flags = SA_RESTART}, NULL);
  if (strlen(advice) > MOST_ADVICE) die(EXIT_INTERNAL, "the advice of a watch is too long");
  watch.every = seconds, watch.json = json, watch.advice = advice;
}

void watch_begin(void) {
  if (watch.every <= 0) return;
  watch.began = clock_seconds();
  watch.next = watch.every;
  watch.waits = true;
  set_timer(watch.every);
}

void watch_end(void) {
  if (!watch.waits) return;
  watch.waits = false;
  set_timer(0);
}
