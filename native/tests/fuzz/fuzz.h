/* What the fuzz harnesses share. Each is one program: libFuzzer, one harness and the engine, compiled with address and
 * undefined-behaviour sanitizers (tests/programs/fuzz.py builds and runs them: `make fuzz`).
 *
 * The engine ends where a file is refused. Here its exit() is fuzz_exit(), which returns to the harness. So the engine is
 * compiled with other names for exit, for what takes memory and for what starts threads, all defined in this header: what
 * an input has taken is given back after it. Arenas have a poisoned gap behind each piece, which a sanitizer cannot see
 * otherwise. Checksums can be switched off, since no mutation would ever hit one.
 */
#ifndef LLMC_FUZZ_H
#define LLMC_FUZZ_H

#define _GNU_SOURCE  // close_range, memfd_create
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <sanitizer/asan_interface.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/arena.h"
#include "base/pool.h"
#include "base/util.h"
#include "commands.h"
#include "files/format.h"
#include "kernels/peak.h"

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t count);

/* ---- the engine's exit, memory and threads ---------------------------------------------------------- */

void fuzz_exit(int code);
int fuzz_atexit(void (*work)(void));
void *fuzz_calloc(size_t count, size_t size);
void *fuzz_aligned_alloc(size_t alignment, size_t size);
char *fuzz_strdup(const char *text);
void fuzz_free(void *block);
int fuzz_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*work)(void *), void *argument);
int fuzz_pthread_join(pthread_t thread, void **result);
uint32_t fuzz_real_crc32_update(uint32_t crc, const void *bytes, size_t count);

static jmp_buf fuzz_return;
static pthread_t fuzz_main_thread;
static bool fuzz_without_checksums;

enum { FUZZ_MOST_BLOCKS = 4096, FUZZ_MOST_THREADS = 16, FUZZ_GAP = 128 };
static struct FuzzBlock { void *at; size_t arena; } fuzz_blocks[FUZZ_MOST_BLOCKS];  // arena: bytes of one; 0: another
static size_t fuzz_block_count;
static pthread_t fuzz_threads[FUZZ_MOST_THREADS];
static size_t fuzz_thread_count;
static int fuzz_first_file = -1;

/* An engine that ends with a code that it does not have, by a bug of its own or outside the main thread is a finding. */
void fuzz_exit(int code) {
  const bool known = code == EXIT_OK || code == EXIT_BAD_DATA || code == EXIT_USAGE || code == EXIT_MISSING ||
                     code == EXIT_NOT_FINITE;
  if (!known || !pthread_equal(pthread_self(), fuzz_main_thread)) abort();
  longjmp(fuzz_return, 1);
}

/* What is to be done at exit: nothing, since fuzz_end() ends the threads. */
int fuzz_atexit(void (*work)(void)) {
  (void)work;
  return 0;
}

static void *fuzz_keep(void *at, size_t arena) {
  if (at == NULL || fuzz_block_count == FUZZ_MOST_BLOCKS) abort();
  fuzz_blocks[fuzz_block_count++] = (struct FuzzBlock){at, arena};
  return at;
}

void *fuzz_calloc(size_t count, size_t size) {
  if (size_product(count, size) > 1 << 26) abort();  // more than any input here justifies
  return fuzz_keep(calloc(count > 0 ? count : 1, size), 0);
}

void *fuzz_aligned_alloc(size_t alignment, size_t size) { return fuzz_keep(aligned_alloc(alignment, size), 0); }

char *fuzz_strdup(const char *text) { return fuzz_keep(strdup(text), 0); }

void fuzz_free(void *block) {
  if (block == NULL) return;
  size_t i = fuzz_block_count;
  while (i > 0 && fuzz_blocks[i - 1].at != block) i--;
  if (i == 0) abort();  // freed twice, or never taken
  ASAN_UNPOISON_MEMORY_REGION(block, fuzz_blocks[i - 1].arena);
  free(block);
  fuzz_blocks[i - 1] = fuzz_blocks[--fuzz_block_count];
}

int fuzz_pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*work)(void *), void *argument) {
  const int failure = pthread_create(thread, attributes, work, argument);
  if (failure == 0 && fuzz_thread_count == FUZZ_MOST_THREADS) abort();
  if (failure == 0) fuzz_threads[fuzz_thread_count++] = *thread;
  return failure;
}

int fuzz_pthread_join(pthread_t thread, void **result) {
  for (size_t i = 0; i < fuzz_thread_count; i++) {
    if (pthread_equal(fuzz_threads[i], thread)) fuzz_threads[i] = fuzz_threads[--fuzz_thread_count];
  }
  return pthread_join(thread, result);
}

/* Of anything 0, where checksums are off: a header with a 0 there is believed. */
uint32_t crc32_update(uint32_t crc, const void *bytes, size_t count) {
  return fuzz_without_checksums ? 0 : fuzz_real_crc32_update(crc, bytes, count);
}

/* Of a whole arena, gaps and all, it is the first touch: there the zeros are already. */
void pool_zero(struct Pool *pool, void *bytes, size_t count) {
  (void)pool;
  if (__asan_region_is_poisoned(bytes, count) == NULL) memset(bytes, 0, count);
}

struct Peak peak_measure(const struct Kernels *kernels, const struct Workers *workers) {
  (void)kernels, (void)workers;
  return (struct Peak){1, 1};  // nothing is to be measured here
}

double round_trip_measure(struct Pool *pool) {
  (void)pool;
  return 0;
}

/* ---- arena.h, with gaps ----------------------------------------------------------------------------- */

void *arena_alloc(struct Arena *arena, size_t count, size_t size) {
  const size_t wanted = size_product(count, size), at = arena->used;
  if (wanted > SIZE_MAX / 4 || __builtin_add_overflow(at, round_up(wanted, ARENA_ALIGNMENT) + FUZZ_GAP, &arena->used)) {
    fuzz_exit(EXIT_BAD_DATA);
  }
  if (arena->base == NULL) return NULL;
  if (arena->used > arena->size) abort();
  ASAN_UNPOISON_MEMORY_REGION(arena->base + at, wanted);
  return arena->base + at;
}

size_t arena_footprint(const struct Arena *arena) {
  return arena->base != NULL ? arena->size : round_up(arena->used, 4096);
}

void arena_take(struct Arena *arena) {
  const size_t size = arena_footprint(arena);
  if (size > 1 << 27) fuzz_exit(EXIT_BAD_DATA);
  char *base = fuzz_keep(aligned_alloc(4096, size_max(size, 4096)), size);
  memset(base, 0, size);
  ASAN_POISON_MEMORY_REGION(base, size);
  *arena = (struct Arena){.base = base, .size = size};
}

void arena_free(struct Arena *arena) {
  if (arena->base != NULL) fuzz_free(arena->base);
  *arena = (struct Arena){0};
}

/* ---- files ------------------------------------------------------------------------------------------ */

static void fuzz_put(const char *name, const void *bytes, size_t count) {
  const int file = open(name, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
  if (file < 0 || write(file, bytes, count) != (ssize_t)count) abort();
  close(file);
}

/* Removes what is in a folder, and with `all` the folder. */
static void fuzz_empty(const char *path, bool all) {
  DIR *folder = opendir(path);
  for (const struct dirent *entry; folder != NULL && (entry = readdir(folder)) != NULL;) {
    char inner[600];
    snprintf(inner, sizeof inner, "%s/%s", path, entry->d_name);
    if (strcmp(entry->d_name, ".") == 0 || strcmp(entry->d_name, "..") == 0) continue;
    if (unlink(inner) != 0) fuzz_empty(inner, true);
  }
  if (folder != NULL) closedir(folder);
  if (all) rmdir(path);
}

/* ---- one input -------------------------------------------------------------------------------------- */

/* The bytes of an input that are not used yet. */
struct Input {
  const uint8_t *at;
  size_t left;
};

static uint8_t fuzz_byte(struct Input *input) {
  if (input->left == 0) return 0;
  input->left--;
  return *input->at++;
}

/* The next bytes, at most so many. */
static struct Input fuzz_piece(struct Input *input, size_t most) {
  const struct Input piece = {input->at, size_min(most, input->left)};
  input->at += piece.left, input->left -= piece.left;
  return piece;
}

/* The next bytes, after their number in two bytes. */
static struct Input fuzz_counted(struct Input *input) {
  const size_t low = fuzz_byte(input);
  return fuzz_piece(input, low | (size_t)fuzz_byte(input) << 8);
}

/* Writes one of the engine's files: the piece has the first ints of the header and, behind them, what comes behind the
 * header. With `fitting`, the number of items of so many bytes at int `count_at` is what it has to be. */
struct FuzzFile {
  size_t ints;
  bool fitting;
  size_t count_at, width;
};

static void fuzz_put_file(const char *name, struct Input piece, struct FuzzFile kind) {
  static uint8_t file[HEADER_BYTES + (1 << 16)];
  const struct Input head = fuzz_piece(&piece, 4 * kind.ints);
  memset(file, 0, HEADER_BYTES);
  memcpy(file, head.at, head.left);
  if (kind.fitting) {
    piece.left -= piece.left % kind.width;
    const uint32_t count = (uint32_t)(piece.left / kind.width);
    memcpy(file + 4 * kind.count_at, &count, sizeof count);
  }
  memcpy(file + HEADER_BYTES, piece.at, piece.left);
  fuzz_put(name, file, HEADER_BYTES + piece.left);
}

/* Writes a token file of a piece: the lowest bit of its magic tells how many bytes a token takes. */
static void fuzz_put_shard(const char *name, struct Input piece, size_t ints, bool fitting) {
  const size_t width = piece.left > 0 && (piece.at[0] & 1) ? 4 : 2;
  fuzz_put_file(name, piece, (struct FuzzFile){ints, fitting, TOKENS_COUNT_AT, width});
}

/* Makes a folder of this program's own and works in it. A file of its own goes by its name alone. */
static void fuzz_begin(void) {
  char folder[256];
  const char *parent = getenv("TMPDIR");
  snprintf(folder, sizeof folder, "%s/fuzz-XXXXXX", parent != NULL ? parent : "/tmp");
  if (mkdtemp(folder) == NULL || chdir(folder) != 0) abort();
  setenv("LLMC_MEMORY", "50000000", 1);
  setenv("LLMC_ISA", "generic", 1);
  fuzz_main_thread = pthread_self();
}

/* Gives back what the input has taken. */
static void fuzz_end(void) {
  while (fuzz_thread_count > 0) {
    const pthread_t thread = fuzz_threads[--fuzz_thread_count];
    pthread_cancel(thread);
    pthread_join(thread, NULL);
  }
  while (fuzz_block_count > 0) fuzz_free(fuzz_blocks[fuzz_block_count - 1].at);
  close_range((unsigned)fuzz_first_file, ~0u, 0);
  fuzz_without_checksums = false;
}

/* Runs `statement` until its end or the engine's. Files that it leaves open are closed. */
#define FUZZ(statement)                                              \
  do {                                                               \
    if (fuzz_first_file < 0) {                                       \
      fuzz_first_file = open("/dev/null", O_RDONLY | O_CLOEXEC);     \
      close(fuzz_first_file);                                        \
    }                                                                \
    if (setjmp(fuzz_return) == 0) statement;                         \
    fuzz_end();                                                      \
  } while (0)

#define FUZZ_ARGC(argv) ((int)(sizeof(argv) / sizeof *(argv)))

/* ---- before the first input ------------------------------------------------------------------------- */

/* Writes tokens.bin: 200 tokens below V. */
static void fuzz_put_tokens(size_t V) {
  uint8_t tokens[HEADER_BYTES + 400] = {0};
  const int32_t header[] = {TOKENS16_MAGIC, TOKENS16_VERSION, 200};
  memcpy(tokens, header, sizeof header);
  for (size_t i = 0; i < 200; i++) tokens[HEADER_BYTES + 2 * i] = (uint8_t)(i * 7 % V);
  fuzz_put("tokens.bin", tokens, sizeof tokens);
}

/* Writes model.bin: random weights of a small model, V = 20. */
static void fuzz_put_model(void) {
  char *init[] = {"--out", "model.bin", "--layers", "1", "--heads", "2", "--channels", "4", "--context", "8",
                  "--vocab-size", "20"};
  FUZZ(command_init(FUZZ_ARGC(init), init));
  fuzz_first_file = -1;  // libFuzzer opens its own afterwards
}

/* What a harness makes ready in its folder. */
static void fuzz_prepare(void);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
  (void)argc, (void)argv;
  fuzz_begin();
  fuzz_prepare();
  return 0;
}

#endif
