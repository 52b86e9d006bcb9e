#define _DEFAULT_SOURCE  // flock
#define _DARWIN_C_SOURCE
#include "train/saver.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"
#include "files/format.h"

static const char FOLDER[] = "checkpoints", PART[] = ".part";

static void path_of(char path[SAVER_PATH], const char *out, const char *folder, const char *file) {
  const int length = snprintf(path, SAVER_PATH, "%s/%s/%s", out, folder, file);
  if (length < 0 || length >= SAVER_PATH) die(EXIT_USAGE, "the path %s is too long", out);
}

static size_t key_of(uint64_t step, bool told) { return 2 * (size_t)step + told; }

static void name_of(char name[64], size_t key) {
  snprintf(name, 64, "%s/%08zu%s", FOLDER, key / 2, key % 2 == 0 ? "i" : "");
}

static size_t newest(const struct Saver *saver) { return saver->keys[saver->count - 1]; }

static void make_folder(const char *path) {
  if (mkdir(path, 0777) != 0 && errno != EEXIST) {
    die(EXIT_BAD_DATA, "cannot make the folder %s: %s; choose another --out", path, strerror(errno));
  }
}

/* A folder's entries are on the disk; some systems cannot say so, and need not. */
static void sync_folder(const char *path) {
  const int folder = open(path, O_RDONLY | O_CLOEXEC);
  if (folder < 0) return;
  fsync(folder);
  close(folder);
}

static void remove_checkpoint(const char *out, const char *name) {
  char path[SAVER_PATH];
  path_of(path, out, name, "model.bin"), unlink(path);
  path_of(path, out, name, "state.bin"), unlink(path);
  path_of(path, out, name, "model.bin.part"), unlink(path);
  path_of(path, out, name, "state.bin.part"), unlink(path);
  snprintf(path, sizeof path, "%s/%s", out, name), rmdir(path);
}

/* What is half written, by a save that failed or a trainer that was killed. */
static void remove_part(void *saver) {
  char part[64];
  snprintf(part, sizeof part, "%s/%s", FOLDER, PART);
  remove_checkpoint(((const struct Saver *)saver)->out, part);
}

/* ---- the thread ---------------------------------------------------------------------------------- */

/* The newest checkpoint's other names, and an end to those that are too many; the best one stays. */
static void settle(struct Saver *saver) {
  char name[64], from[SAVER_PATH], to[SAVER_PATH];
  name_of(name, newest(saver));
  path_of(from, saver->out, name, "model.bin");
  snprintf(to, sizeof to, "%s/model.bin", saver->out);
  file_link(from, to);
  if (saver->is_best) {
    snprintf(to, sizeof to, "%s/best.bin", saver->out);
    file_link(from, to);
    saver->best = newest(saver) / 2;
  }
  sync_folder(saver->out);
  for (size_t i = 0; saver->count - i > saver->keep;) {
    /* A step can have two: of an interrupted run, and of the run that resumed it. The last one stays. */
    const bool again = i + 1 < saver->count && saver->keys[i + 1] / 2 == saver->keys[i] / 2;
    if (saver->keys[i] / 2 == saver->best && !again) {
      i++;
      continue;
    }
    name_of(name, saver->keys[i]);
    remove_checkpoint(saver->out, name);
    memmove(saver->keys + i, saver->keys + i + 1, (--saver->count - i) * sizeof *saver->keys);
  }
}

static void publish(struct Saver *saver) {
  char part[64], name[64], from[SAVER_PATH], to[SAVER_PATH];
  snprintf(part, sizeof part, "%s/%s", FOLDER, PART);
  name_of(name, newest(saver));
  if (saver->metrics >= 0) fsync(saver->metrics);
  file_writer_commit(&saver->model);
  file_writer_commit(&saver->state);
  snprintf(from, sizeof from, "%s/%s", saver->out, part);
  snprintf(to, sizeof to, "%s/%s", saver->out, name);
  sync_folder(from);
  if (rename(from, to) != 0) {
    const int reason = errno;
    remove_part(saver);
    die(EXIT_BAD_DATA, "cannot name the checkpoint %s: %s", to, strerror(reason));
  }
  snprintf(to, sizeof to, "%s/%s", saver->out, FOLDER);
  sync_folder(to);
  settle(saver);
}

static void *work(void *argument) {
  struct Saver *saver = argument;
  stack_touch();
  pthread_mutex_lock(&saver->mutex);
  for (;;) {
    while (saver->phase == SAVER_IDLE) pthread_cond_wait(&saver->changed, &saver->mutex);
    if (saver->phase == SAVER_STOPS) break;
    pthread_mutex_unlock(&saver->mutex);
    publish(saver);
    pthread_mutex_lock(&saver->mutex);
    saver->phase = SAVER_IDLE;
    pthread_cond_broadcast(&saver->changed);
  }
  pthread_mutex_unlock(&saver->mutex);
  return NULL;
}

/* ---- the trainer's side --------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b) {
  const size_t x = *(const size_t *)a, y = *(const size_t *)b;
  return (x > y) - (x < y);
}

static void find_checkpoints(struct Saver *saver) {
  char path[SAVER_PATH];
  snprintf(path, sizeof path, "%s/%s", saver->out, FOLDER);
  DIR *folder = opendir(path);
  if (folder == NULL && errno == ENOENT) return;
  if (folder == NULL) die(EXIT_BAD_DATA, "cannot read the folder %s: %s", path, strerror(errno));
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
    char *end;
    const uint64_t step = strtoull(entry->d_name, &end, 10);
    if (end < entry->d_name + 8 || (*end != '\0' && strcmp(end, "i") != 0)) continue;
    if (saver->count > SAVER_MOST_KEPT) die(EXIT_BAD_DATA, "%s holds more than %d checkpoints; delete some", path,
                                             SAVER_MOST_KEPT);
    saver->keys[saver->count++] = key_of(step, *end == '\0');
  }
  closedir(folder);
  qsort(saver->keys, saver->count, sizeof *saver->keys, by_number);
  remove_part(saver);
}

/* The step in the header of best.bin. A file that cannot be read is met where it is used. */
static size_t step_of_best(const struct Saver *saver) {
  char path[SAVER_PATH];
  int32_t header[HEADER_INTS] = {0};
  snprintf(path, sizeof path, "%s/best.bin", saver->out);
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return SAVER_NO_STEP;
  const bool whole = read(file, header, HEADER_BYTES) == HEADER_BYTES && header[EXT_MAGIC_AT] == EXT_MAGIC;
  close(file);
  return whole ? (uint32_t)header[EXT_STEP_AT] : SAVER_NO_STEP;
}

/* Who lists the runs holds the lock for an instant, to see whether it is free; a trainer holds it on. */
static void take_lock(const struct Saver *saver) {
  for (int tries = 0; flock(saver->lock, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK; tries++) {
    if (tries == 10) die(EXIT_USAGE, "another llmc trains in %s; wait for it, or choose another --run", saver->out);
    nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
  }
}

void saver_open(struct Saver *saver, const char *out, size_t keep) {
  *saver = (struct Saver){.out = out, .keep = keep, .best = SAVER_NO_STEP, .lock = -1, .metrics = -1};
  if (out == NULL) return;
  if (strlen(out) >= SAVER_PATH - 64) die(EXIT_USAGE, "the path %s is too long", out);
  make_folder(out);
  saver->lock = open(out, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (saver->lock < 0) {
    die(EXIT_BAD_DATA, "cannot open the folder %s: %s; choose another --out", out, strerror(errno));
  }
  take_lock(saver);
  find_checkpoints(saver);
  saver->best = step_of_best(saver);
  pthread_mutex_init(&saver->mutex, NULL);
  pthread_cond_init(&saver->changed, NULL);
  if (pthread_create(&saver->thread, NULL, work, saver) != 0) die(EXIT_INTERNAL, "cannot start a thread");
}

size_t saver_step(const struct Saver *saver) { return newest(saver) / 2; }

bool saver_go_back(struct Saver *saver, size_t step) {
  size_t count = saver->count;
  while (count > 0 && saver->keys[count - 1] / 2 != step) count--;
  if (count == 0) return false;
  saver->later = saver->count - count;
  saver->count = count;
  return true;
}

bool saver_finish(struct Saver *saver, bool is_best) {
  char name[64], best[SAVER_PATH];
  for (; saver->later > 0; saver->later--) {
    name_of(name, saver->keys[saver->count + saver->later - 1]);
    remove_checkpoint(saver->out, name);
  }
  const bool lost = saver->best != SAVER_NO_STEP && saver->best > newest(saver) / 2;
  if (lost) {
    snprintf(best, sizeof best, "%s/best.bin", saver->out);
    unlink(best);
    saver->best = SAVER_NO_STEP;
  }
  saver->is_best = is_best;
  settle(saver);
  return !lost || is_best;
}

bool saver_newest(const struct Saver *saver, char model[SAVER_PATH], char state[SAVER_PATH]) {
  if (saver->count == 0) return false;
  char name[64];
  name_of(name, newest(saver));
  path_of(model, saver->out, name, "model.bin");
  path_of(state, saver->out, name, "state.bin");
  return true;
}

void saver_save(struct Saver *saver, const struct Checkpoint *checkpoint, const struct State *state,
                const struct Gpt2 *model, bool is_best) {
  char part[64], folder[SAVER_PATH];
  const size_t key = key_of(state->step, state->told);
  saver_wait(saver);
  if (saver->count > 0 && newest(saver) == key) return;
  snprintf(folder, sizeof folder, "%s/%s", saver->out, FOLDER);
  make_folder(folder);
  snprintf(part, sizeof part, "%s/%s", FOLDER, PART);
  snprintf(folder, sizeof folder, "%s/%s", saver->out, part);
  make_folder(folder);
  path_of(saver->model_path, saver->out, part, "model.bin");
  path_of(saver->state_path, saver->out, part, "state.bin");
  saver->model.failing = saver->state.failing = remove_part;
  saver->model.context = saver->state.context = saver;
  checkpoint_write(&saver->model, saver->model_path, checkpoint, model->params.first);
  file_writer_open(&saver->state, saver->state_path);
  state_write(&saver->state, state, &model->moments, model->moments_bytes);

  pthread_mutex_lock(&saver->mutex);
  saver->keys[saver->count++] = key;
  saver->is_best = is_best;
  saver->phase = SAVER_WORKS;
  pthread_cond_broadcast(&saver->changed);
  pthread_mutex_unlock(&saver->mutex);
}

void saver_wait(struct Saver *saver) {
  if (saver->out == NULL) return;
  pthread_mutex_lock(&saver->mutex);
  while (saver->phase == SAVER_WORKS) pthread_cond_wait(&saver->changed, &saver->mutex);
  pthread_mutex_unlock(&saver->mutex);
}

void saver_close(struct Saver *saver) {
  if (saver->out == NULL) return;
  saver_wait(saver);
  pthread_mutex_lock(&saver->mutex);
  saver->phase = SAVER_STOPS;
  pthread_cond_broadcast(&saver->changed);
  pthread_mutex_unlock(&saver->mutex);
  pthread_join(saver->thread, NULL);
  close(saver->lock);
}
