#define _POSIX_C_SOURCE 200809L
#include "base/interrupts.h"

#include <signal.h>
#include <stddef.h>
#include <unistd.h>

#include "base/util.h"

static volatile sig_atomic_t interrupts;

static void on_interrupt(int signal) {
  (void)signal;
  if (++interrupts > 1) _exit(EXIT_INTERRUPTED);
}

void interrupts_catch(void) {
  const struct sigaction stop = {.sa_handler = on_interrupt, .sa_flags = SA_RESTART};
  struct sigaction now;
  sigaction(SIGINT, &stop, NULL);
  sigaction(SIGTERM, &stop, NULL);
  if (sigaction(SIGHUP, NULL, &now) == 0 && now.sa_handler != SIG_IGN) sigaction(SIGHUP, &stop, NULL);
}

bool interrupted(void) { return interrupts > 0; }
