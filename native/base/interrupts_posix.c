#define _XOPEN_SOURCE 700  // SIGXCPU
#include "base/interrupts.h"

#include <fcntl.h>
#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "base/util.h"

static volatile sig_atomic_t requested, typed;
static pid_t parent;
static void (*leaving)(void);

static void on_request(int signal) {
  (void)signal;
  requested = 1;
}

static void on_interrupt(int signal) {
  (void)signal;
  requested = 1;
  if (++typed == 2 && leaving != NULL) leaving();
  if (typed > 1) _exit(EXIT_INTERRUPTED);
}

/* Ctrl-Z: the time until SIGCONT is not training time. */
static void on_stop(int signal) {
  (void)signal;
  clock_stand_still();
}

static void catch_signal(int signal, void (*handler)(int)) {
  const struct sigaction action = {.sa_handler = handler, .sa_flags = SA_RESTART};
  struct sigaction now;
  if (sigaction(signal, NULL, &now) == 0 && now.sa_handler != SIG_IGN) sigaction(signal, &action, NULL);
}

void interrupts_catch(void) {
  static const int requests[] = {SIGTERM, SIGHUP, SIGUSR1, SIGXCPU};
  const struct sigaction stop = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART | SA_NODEFER};
  parent = getppid();
  sigaction(SIGINT, &stop, NULL);
  for (size_t i = 0; i < sizeof requests / sizeof *requests; i++) catch_signal(requests[i], on_request);
  catch_signal(SIGTSTP, on_stop);
}

bool interrupts_elsewhere(pthread_t *thread, void *(*work)(void *), void *argument) {
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const int failed = pthread_create(thread, NULL, work, argument);
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return !failed;
}

void interrupts_ignore(void) { signal(SIGINT, SIG_IGN); }

bool interrupts_at_terminal(void) {
  const int terminal = open("/dev/tty", O_RDWR | O_NOCTTY | O_CLOEXEC);
  if (terminal >= 0) close(terminal);
  return terminal >= 0;
}

void interrupts_on_leave(void (*leave)(void)) { leaving = leave; }

bool interrupted_by_hand(void) { return typed > 0; }

void interrupts_request(void) { requested = 1; }

bool interrupted(void) { return requested != 0; }

bool orphaned(void) { return getppid() != parent; }
