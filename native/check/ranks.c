/* llmc-native ranks: who the ranks are that a launcher started, and how fast messages between them are. */
#include "ranks/ranks.h"

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/args.h"
#include "base/cores.h"
#include "base/memory.h"
#include "base/util.h"
#include "commands.h"
#include "kernels/kernels.h"

enum { ISA_ROOM = 16, MOST_EACH = 1 << 20, MOST_IN_ALL = 1 << 24 };

/* What each rank tells about itself. */
struct Report {
  char machine[RANKS_NAME], isa[ISA_ROOM];
  int32_t process, cores, cores_there, here;
  uint64_t memory;  // SIZE_MAX: not known
};

struct Rates {
  double exchange, gather;  // bytes a second that a rank sends
};

struct Options {
  bool json;
  size_t floats, repeats;
  double patience;
};

static struct Report *reports_gather(const struct Ranks *ranks) {
  struct Report *reports = calloc(RANKS_MOST, sizeof *reports), *own = &reports[ranks->rank];
  if (reports == NULL) die(EXIT_BAD_DATA, "out of memory");
  memcpy(own->machine, ranks->machine, sizeof own->machine);
  snprintf(own->isa, sizeof own->isa, "%s", kernels_choose(FP32, NULL)->name);
  own->process = (int32_t)getpid(), own->here = ranks->here;
  own->cores = cores_allowed(), own->cores_there = cores_there();
  own->memory = memory_available();
  ranks_gather(ranks, reports, sizeof *reports);
  return reports;
}

/* ---- messages ------------------------------------------------------------------------------------ */

/* Another float for every rank and place, exact. */
static float float_of(int rank, size_t at) { return (float)((at * 31 + (size_t)rank * 7919) & 0xffffff); }

static void must_be(float is, int rank, size_t at) {
  if (is == float_of(rank, at)) return;
  die(EXIT_INTERNAL, "float %zu of rank %d arrived as %g and was sent as %g: the MPI library or the network is at fault", at,
      rank, is, float_of(rank, at));
}

/* The longest of all ranks' times; also, no rank goes on from here before all have come. */
static double longest(const struct Ranks *ranks, double seconds) {
  double all[RANKS_MOST];
  all[ranks->rank] = seconds;
  ranks_gather(ranks, all, sizeof *all);
  for (int r = 0; r < ranks->count; r++) seconds = fmax(seconds, all[r]);
  return seconds;
}

/* Each rank gets its run of every rank's floats, as gradients travel; the seconds that it took. */
static double exchange(const struct Ranks *ranks, float *to, const float *from, const size_t *cuts, size_t most) {
  const size_t begin = cuts[ranks->rank];
  double seconds = longest(ranks, 0);
  for (size_t first = 0; first < cuts[1] + 1; first += most) {  // no run is longer than the first one and 1
    const double start = clock_seconds();
    const size_t row = ranks_exchange(ranks, to, from, cuts, first, most);
    seconds += clock_seconds() - start;
    for (int q = 0; q < ranks->count; q++) {
      for (size_t i = 0; i < row; i++) must_be(to[(size_t)q * most + i], q, begin + first + i);
    }
  }
  return longest(ranks, seconds);
}

/* All ranks get the run of each, as weights travel. */
static double gather(const struct Ranks *ranks, float *floats, const size_t *cuts) {
  longest(ranks, 0);
  const double start = clock_seconds();
  ranks_gather_floats(ranks, floats, cuts);
  const double seconds = longest(ranks, clock_seconds() - start);
  for (int r = 0; r < ranks->count; r++) {
    for (size_t i = cuts[r]; i < cuts[r + 1]; i++) must_be(floats[i], r, i);
  }
  return seconds;
}

static struct Rates measure(const struct Ranks *ranks, const struct Options *options) {
  const size_t count = (size_t)ranks->count, most = size_min(MOST_EACH, MOST_IN_ALL / count);
  size_t cuts[RANKS_MOST + 1];
  for (size_t r = 0; r <= count; r++) cuts[r] = options->floats * r / count;
  float *floats = malloc(sizeof *floats * options->floats), *to = malloc(sizeof *to * most * count);
  if (floats == NULL || to == NULL) die(EXIT_USAGE, "out of memory; use a smaller --floats");
  double exchanged = INFINITY, gathered = INFINITY;
  for (size_t k = 0; k < options->repeats; k++) {
    for (size_t i = 0; i < options->floats; i++) floats[i] = float_of(ranks->rank, i);
    exchanged = fmin(exchanged, exchange(ranks, to, floats, cuts, most));
    gathered = fmin(gathered, gather(ranks, floats, cuts));
  }
  free(floats), free(to);
  const double bytes = (double)sizeof *floats * (double)options->floats * (double)(count - 1) / (double)count;
  return (struct Rates){.exchange = bytes / exchanged, .gather = bytes / gathered};
}

/* ---- telling ------------------------------------------------------------------------------------- */

static void print_text(const char *text) {
  putchar('"');
  for (; *text != '\0'; text++) {
    if (*text == '"' || *text == '\\') putchar('\\');
    if ((unsigned char)*text >= ' ') putchar(*text);
  }
  putchar('"');
}

static void tell_json(const struct Ranks *ranks, const struct Report *reports, const struct Rates *rates) {
  printf("{\"event\":\"ranks\",\"library\":");
  if (ranks->library != NULL) print_text(ranks->library);
  else printf("null");
  printf(",\"ranks\":[");
  for (int r = 0; r < ranks->count; r++) {
    const struct Report *report = &reports[r];
    printf("%s{\"rank\":%d,\"machine\":", r > 0 ? "," : "", r);
    print_text(report->machine);
    printf(",\"process\":%d,\"cores\":%d,\"cores_there\":%d,\"isa\":\"%s\",\"memory\":", report->process, report->cores,
           report->cores_there, report->isa);
    if (report->memory == SIZE_MAX) printf("null}");
    else printf("%llu}", (unsigned long long)report->memory);
  }
  printf("]");
  if (rates != NULL) {
    printf(",\"exchange_bytes_per_second\":%.4g,\"gather_bytes_per_second\":%.4g", rates->exchange, rates->gather);
  }
  printf("}\n");
}

static void tell_reports(const struct Ranks *ranks, const struct Report *reports) {
  const struct Report *bound = NULL;
  for (int r = 0; r < ranks->count; r++) {
    const struct Report *report = &reports[r];
    printf("rank %d of %d on %s, process %d: may use %d of %d cores, %s", r, ranks->count, report->machine, report->process,
           report->cores, report->cores_there, report->isa);
    if (report->memory != SIZE_MAX) printf(", %.1f GB of memory available", 1e-9 * (double)report->memory);
    printf("\n");
    if (report->cores == 1 && report->cores_there >= 2 * report->here) bound = report;
  }
  if (ranks->library != NULL) printf("MPI: %s\n", ranks->library);
  else printf("alone: no launcher started several ranks, as 'mpirun -n 2 llmc-native ranks' does\n");
  if (bound != NULL && ranks->library != NULL) {
    printf("note: each rank may use 1 of %d cores: mpirun bound it; --bind-to none lets it use all\n", bound->cores_there);
  }
  fflush(stdout);
}

static void tell_rates(const struct Rates *rates, size_t floats) {
  const double megabytes = 1e-6 * sizeof(float) * (double)floats;
  printf("exchange of %.4g MB: each rank sends %.2f GB/s\n", megabytes, 1e-9 * rates->exchange);
  printf("gather of %.4g MB: each rank sends %.2f GB/s\n", megabytes, 1e-9 * rates->gather);
}

int command_ranks(int argc, char **argv) {
  static const char *const forms[] = {"text", "json", NULL};
  struct Options options = {.floats = 1 << 24, .repeats = 3, .patience = 60};
  unsigned form = 0;
  const struct Arg args[] = {
      {"floats", ARG_COUNT, &options.floats, 1, 1 << 30, "how many the timed messages have"},
      {"repeats", ARG_COUNT, &options.repeats, 0, 1 << 30, "how often they are sent; the fastest counts; 0: never"},
      {"patience", ARG_TIME, &options.patience, 0.1, 1e9, "report a wait for other ranks that is longer than this"},
      {"events", ARG_CHOICE, &(struct Choice){&form, forms}, 0, 0, "how it is told: text or json, one object"},
  };
  struct Ranks ranks;
  ranks_open(&ranks);
  if (ranks.rank == 0) args_parse("ranks", args, sizeof args / sizeof *args, argc, argv);
  options.json = form == 1;
  ranks_broadcast(&ranks, &options, sizeof options);
  ranks_watch(&ranks, options.patience, options.json, "Ctrl-C ends all");
  struct Report *reports = reports_gather(&ranks);
  if (ranks.rank == 0 && !options.json) tell_reports(&ranks, reports);
  const bool timed = ranks.count > 1 && options.repeats > 0;
  struct Rates rates;
  if (timed) rates = measure(&ranks, &options);
  if (ranks.rank == 0 && options.json) tell_json(&ranks, reports, timed ? &rates : NULL);
  else if (ranks.rank == 0 && timed) tell_rates(&rates, options.floats);
  free(reports);
  fflush(stdout);
  ranks_close(&ranks);
  return EXIT_OK;
}
