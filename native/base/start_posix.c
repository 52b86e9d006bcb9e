#define _XOPEN_SOURCE 700  // SIGXFSZ
#include <signal.h>

#include "base/start.h"

void start(int *argc, char ***argv) {
  (void)argc, (void)argv;
  signal(SIGPIPE, SIG_IGN);
  signal(SIGXFSZ, SIG_IGN);
}
