/* The few things every file needs: exit codes, one way to fail, a clock, a checksum, random bits. */
#ifndef LLMC_UTIL_H
#define LLMC_UTIL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes; llmc/errors.py has the same, and 4 for a compiler that failed. */
enum ExitCode {
  EXIT_OK = 0,           // done
  EXIT_BAD_DATA = 1,     // a file or a disk is not what it has to be
  EXIT_USAGE = 2,        // a flag makes no sense
  EXIT_MISSING = 3,      // an earlier stage's output is not there
  EXIT_NOT_FINITE = 5,   // the loss is NaN or infinite
  EXIT_INTERNAL = 70,    // a bug
  EXIT_INTERRUPTED = 130,
  EXIT_KILLED = 137,     // what a shell makes of SIGKILL: most likely, memory ran out
};

/* Says "error: …" on stderr, one sentence, and ends the program. */
_Noreturn void die(enum ExitCode code, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* die() first calls `name`, which may block; what it writes into `who` follows "error: ". */
void die_names(void (*name)(char *who, size_t room));

/* What die() ends the program with, for functions that exit() calls. */
extern enum ExitCode exit_code;

/* a * b; dies with EXIT_BAD_DATA when the product does not fit. */
size_t size_product(size_t a, size_t b);

/* Seconds on a clock that never goes back, and stands still while the machine sleeps or the program does. */
double clock_seconds(void);

/* Stops the program until it is sent SIGCONT; may be called in a signal's handler. Windows has nothing like it. */
void clock_stand_still(void);

/* Returns after so many milliseconds, or earlier where a signal came. May be called in its handler. */
void clock_wait(int ms);

/* Makes the pages resident that the calling thread's stack will need, so that no later call takes new ones. */
void stack_touch(void);

/* CRC-32 with zlib's polynomial; start with 0 and feed the pieces in order. */
uint32_t crc32_update(uint32_t crc, const void *bytes, size_t count);

/* x; a NaN loses its sign, which means nothing and would be printed. */
double unsigned_nan(double x);

/* One well-mixed 64-bit number from another (SplitMix64's finaliser, Steele et al. 2014). */
uint64_t mix64(uint64_t x);

static inline size_t size_min(size_t a, size_t b) { return a < b ? a : b; }
static inline size_t size_max(size_t a, size_t b) { return a > b ? a : b; }
static inline size_t ceil_div(size_t a, size_t b) { return (a + b - 1) / b; }
static inline size_t round_up(size_t a, size_t multiple) { return ceil_div(a, multiple) * multiple; }

#endif
