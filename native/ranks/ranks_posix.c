#define _XOPEN_SOURCE 700  // gethostname
#define _DARWIN_C_SOURCE
#include "ranks/ranks.h"

#include <fcntl.h>
#include <fenv.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"
#include "ranks/launcher.h"
#include "ranks/messages.h"
#include "ranks/watch.h"

/* Of the files that this program was compiled from. The build gives it. */
#ifndef LLMC_SOURCES
#error "define LLMC_SOURCES, as llmc/engine/toolchain.py does"
#endif

#if defined(__x86_64__)
static const char FAMILY[] = "x86_64";
#elif defined(__aarch64__)
static const char FAMILY[] = "aarch64";
#else
static const char FAMILY[] = "other";
#endif

/* A rank that is not the first speaks of an error only after this, if it is still there then: what all ranks meet, such
 * as a bad flag, the first one has reported, and MPI_Abort has ended the others. */
enum { SECONDS_TO_SPEAK = 2, SECONDS_TO_ANSWER = 60 };

/* What ranks tell each other first. Every version of this program sends the same bytes, in this order. */
struct Hello {
  char machine[RANKS_NAME];
  char family[16];
  uint64_t sources;
  char spare[40];
};
_Static_assert(sizeof(struct Hello) == 128, "the first message has a fixed size");

static struct {
  int rank;
  char machine[RANKS_NAME];
  char library[512];
  bool joined;       // MPI has begun and is to end
  bool apart;        // nothing is left to end
  pthread_t thread;  // that called ranks_open
} self;

static void name_rank(char *who, size_t room) {
  if (self.rank == 0) return;
  sleep(SECONDS_TO_SPEAK);
  snprintf(who, room, "rank %d on %s: ", self.rank, self.machine);
}

/* Ends all ranks with this one's exit code, where the program ends without ranks_close. */
static void end_all(void) {
  if (self.apart) return;
  fflush(stdout);
  launcher_hear();
  if (!self.joined) {
    launcher_abort(exit_code);
    return;
  }
  /* Another thread must not call MPI. It leaves at once, and the launcher ends the others. */
  if (!pthread_equal(pthread_self(), self.thread)) _exit(exit_code);
  const int nowhere = open("/dev/null", O_WRONLY);
  if (nowhere >= 0) dup2(nowhere, STDERR_FILENO);  // die() has said why; the library would add lines of its own
  ranks_mpi.Abort(ranks_mpi.world, exit_code);
}

/* Calls MPI_Init_thread, which may change how floats are rounded: see mpi_open. */
static void init(void) {
  fenv_t floats;
  fegetenv(&floats);
  int provided = 0;
  watch_begin();
  const int error = ranks_mpi.Init_thread(NULL, NULL, ranks_mpi.funneled, &provided);
  watch_end();
  fesetenv(&floats);
  messages_check(error, "Init_thread");
}

/* "MPICH 5.0.2, /usr/lib/libmpi.so.12": the beginning of what the library tells about itself, and where it is. */
static void describe(const char *path) {
  static char version[MPI_VERSION_ROOM];
  int length = 0;
  ranks_mpi.Get_library_version(version, &length);
  version[strcspn(version, ",\r\n")] = '\0';
  char *word = strstr(version, "Version");
  if (word != NULL) memset(word, ' ', strlen("Version"));
  char words[80];
  size_t at = 0;
  for (const char *c = version; *c != '\0' && at + 1 < sizeof words; c++) {
    const bool blank = *c == ' ' || *c == '\t' || *c == ':';
    if (!blank) words[at++] = *c;
    else if (at > 0 && words[at - 1] != ' ') words[at++] = ' ';
  }
  words[at] = '\0';
  snprintf(self.library, sizeof self.library, "%s, %s", words, path);
}

/* All ranks compare all of them with the first. */
static void greet(struct Ranks *ranks) {
  static struct Hello hellos[RANKS_MOST];
  struct Hello *own = &hellos[ranks->rank];
  *own = (struct Hello){.sources = LLMC_SOURCES};
  memcpy(own->machine, self.machine, sizeof own->machine);
  memcpy(own->family, FAMILY, sizeof FAMILY);
  ranks_gather(ranks, hellos, sizeof *hellos);
  ranks->here = 0;
  for (int r = 0; r < ranks->count; r++) {
    const struct Hello *other = &hellos[r];
    ranks->here += strcmp(other->machine, self.machine) == 0;
    if (strcmp(other->family, hellos[0].family) != 0) {
      die(EXIT_USAGE, "rank %d on %s has a processor of the family %s and rank 0 one of %s; all ranks must be of one family",
          r, other->machine, other->family, hellos[0].family);
    }
    if (other->sources != hellos[0].sources) {
      die(EXIT_USAGE, "rank %d on %s runs another llmc-native than rank 0; install the same version on every machine", r,
          other->machine);
    }
  }
}

void ranks_open(struct Ranks *ranks) {
  *ranks = (struct Ranks){.count = 1, .here = 1};
  gethostname(self.machine, sizeof self.machine - 1);
  memcpy(ranks->machine, self.machine, sizeof ranks->machine);
  size_t told;
  const struct Launcher *launcher = launcher_find(&told, &self.rank);
  if (launcher == NULL) return;
  die_names(name_rank);
  atexit(end_all);
  if (self.rank == 0) watch_set(SECONDS_TO_ANSWER, false, "Ctrl-C ends all");
  if (told > RANKS_MOST) die(EXIT_USAGE, "%zu ranks are too many: at most %d can train together", told, RANKS_MOST);
  char path[400];
  launcher_library(launcher, &ranks_mpi, path, sizeof path);
  init();
  ranks_mpi.Comm_size(ranks_mpi.world, &ranks->count);
  if (told > 1 && ranks->count == 1) {
    die(EXIT_USAGE, "%s started %zu processes, but to %s each of them is alone: the library belongs to another MPI; name the "
        "launcher's own: LLMC_MPI=/path/to/%s", launcher->name, told, path, launcher->libraries[0]);
  }
  ranks_mpi.Comm_rank(ranks_mpi.world, &self.rank);
  ranks->rank = self.rank;
  self.joined = true, self.thread = pthread_self();
  if (ranks->count > RANKS_MOST) {
    die(EXIT_USAGE, "%d ranks are too many: at most %d can train together", ranks->count, RANKS_MOST);
  }
  describe(path);
  ranks->library = self.library;
  greet(ranks);
}

void ranks_watch(const struct Ranks *ranks, double seconds, bool json, const char *advice) {
  if (ranks->rank == 0 && ranks->count > 1) watch_set(seconds, json, advice);
}

void ranks_close(struct Ranks *ranks) {
  if (!self.joined) return;
  watch_begin();
  ranks_mpi.Finalize();
  watch_end();
  self.joined = false, self.apart = true;
  ranks->library = NULL;
}
