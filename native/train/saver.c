#include "train/saver.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/disk.h"
#include "base/interrupts.h"
#include "base/util.h"
#include "files/format.h"

static const char FOLDER[] = "checkpoints", PART[] = ".part", OLD[] = ".old";

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
  if (!disk_make_folder(path)) {
    die(EXIT_BAD_DATA, "cannot make the folder %s: %s; choose another --out", path, strerror(errno));
  }
}

/* Removes a folder of `checkpoints` that is not a checkpoint: half of one, or what is left of one. */
static void remove_rest(const char *out, const char *name) {
  static const char *const files[] = {"model.bin", "state.bin", "model.bin.part", "state.bin.part"};
  char folder[64], path[SAVER_PATH];
  snprintf(folder, sizeof folder, "%s/%s", FOLDER, name);
  for (size_t i = 0; i < sizeof files / sizeof *files; i++) path_of(path, out, folder, files[i]), disk_remove(path);
  snprintf(path, sizeof path, "%s/%s", out, folder), disk_remove_folder(path);
}

/* Takes a checkpoint's name away first, on the disk too: half of one is never found under it. */
static void remove_checkpoint(const char *out, const char *name) {
  char from[SAVER_PATH], to[SAVER_PATH];
  remove_rest(out, OLD);
  snprintf(from, sizeof from, "%s/%s", out, name);
  path_of(to, out, FOLDER, OLD);
  if (!disk_rename(from, to)) return;
  snprintf(to, sizeof to, "%s/%s", out, FOLDER);
  disk_sync_folder(to);
  remove_rest(out, OLD);
}

/* Keeps why the newest checkpoint is not there, and removes what is there of it. */
static bool fail(struct Saver *saver, const char *path, int reason) {
  saver->fault.reason = reason != 0 ? reason : EIO;
  snprintf(saver->fault.path, sizeof saver->fault.path, "%s", path);
  remove_rest(saver->out, PART);
  return false;
}

/* ---- the thread ---------------------------------------------------------------------------------- */

/* An end to the checkpoints that are too many; the best one stays. */
static void prune(struct Saver *saver) {
  char name[64];
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

/* The newest checkpoint's other names, and an end to those that are too many. */
static bool settle(struct Saver *saver) {
  char name[64], from[SAVER_PATH], to[SAVER_PATH];
  name_of(name, newest(saver));
  path_of(from, saver->out, name, "model.bin");
  snprintf(to, sizeof to, "%s/model.bin", saver->out);
  if (saver->alone != SAVER_NO_STEP && saver->alone <= newest(saver) / 2) saver->alone = SAVER_NO_STEP;
  int reason = saver->alone == SAVER_NO_STEP ? file_link(from, to) : 0;  // the newest weights may have been saved alone
  if (reason == 0 && saver->is_best) {
    snprintf(to, sizeof to, "%s/best.bin", saver->out);
    reason = file_link(from, to);
    if (reason == 0) saver->best = newest(saver) / 2;
  }
  if (reason != 0) return fail(saver, to, reason);
  if (!disk_sync_folder(saver->out)) return fail(saver, saver->out, errno);
  prune(saver);
  return true;
}

static bool publish(struct Saver *saver) {
  char name[64], from[SAVER_PATH], to[SAVER_PATH];
  name_of(name, newest(saver));
  snprintf(to, sizeof to, "%s/metrics.jsonl", saver->out);
  if (saver->metrics >= 0 && !disk_sync(saver->metrics)) return fail(saver, to, errno);
  file_writer_commit(&saver->model);
  if (saver->model.fault != 0) file_writer_abandon(&saver->state);
  if (saver->model.fault != 0) return fail(saver, saver->model_path, saver->model.fault);
  file_writer_commit(&saver->state);
  if (saver->state.fault != 0) return fail(saver, saver->state_path, saver->state.fault);
  path_of(from, saver->out, FOLDER, PART);
  snprintf(to, sizeof to, "%s/%s", saver->out, name);
  if (!disk_sync_folder(from)) return fail(saver, from, errno);
  remove_checkpoint(saver->out, name);  // of an attempt before, which failed after this
  if (!disk_rename(from, to)) return fail(saver, to, errno);
  snprintf(to, sizeof to, "%s/%s", saver->out, FOLDER);
  if (!disk_sync_folder(to)) return fail(saver, to, errno);
  return settle(saver);
}

static void *work(void *argument) {
  struct Saver *saver = argument;
  stack_touch();
  pthread_mutex_lock(&saver->mutex);
  for (;;) {
    while (saver->phase != SAVER_WORKS && saver->phase != SAVER_STOPS) {
      pthread_cond_wait(&saver->changed, &saver->mutex);
    }
    if (saver->phase == SAVER_STOPS) break;
    pthread_mutex_unlock(&saver->mutex);
    const bool saved = publish(saver);
    pthread_mutex_lock(&saver->mutex);
    saver->news = saved ? SAVER_SAVED : SAVER_FAILED;
    if (!saved) saver->count--;
    saver->phase = SAVER_IDLE;
    pthread_cond_broadcast(&saver->changed);
  }
  pthread_mutex_unlock(&saver->mutex);
  return NULL;
}

/* ---- the end of the program ----------------------------------------------------------------------- */

static struct Saver *working;  // the saver of this program, if it has one

/* However the program ends, what the thread has taken comes to the disk first, and no half of a file stays. */
static void finish(void) {
  if (working == NULL || pthread_equal(pthread_self(), working->thread)) return;
  saver_wait(working);
  if (working->phase == SAVER_WRITES) remove_rest(working->out, PART);
}

/* The same from a signal's handler: only what may be called there. */
static void leave(void) {
  struct Saver *saver = working;
  int writes = SAVER_WRITES;
  if (saver == NULL) return;
  if (atomic_compare_exchange_strong(&saver->phase, &writes, SAVER_LEAVES)) {
    disk_remove(saver->model.partial), disk_remove(saver->state.partial), disk_remove_folder(saver->part_path);
  }
  while (saver->phase == SAVER_WORKS) clock_wait(10);
}

/* ---- the trainer's side --------------------------------------------------------------------------- */

static int by_number(const void *a, const void *b) {
  const size_t x = *(const size_t *)a, y = *(const size_t *)b;
  return (x > y) - (x < y);
}

static void find_checkpoint(void *context, const char *name) {
  struct Saver *saver = context;
  char *end;
  const uint64_t step = strtoull(name, &end, 10);
  if (end < name + 8 || (*end != '\0' && strcmp(end, "i") != 0)) return;
  if (saver->count > SAVER_MOST_KEPT) {
    die(EXIT_BAD_DATA, "%s/%s holds more than %d checkpoints; delete some", saver->out, FOLDER, SAVER_MOST_KEPT);
  }
  saver->keys[saver->count++] = key_of(step, *end == '\0');
}

static void find_checkpoints(struct Saver *saver) {
  char path[SAVER_PATH];
  snprintf(path, sizeof path, "%s/%s", saver->out, FOLDER);
  if (!disk_each(path, find_checkpoint, saver)) {
    if (errno == ENOENT) return;
    die(EXIT_BAD_DATA, "cannot read the folder %s: %s", path, strerror(errno));
  }
  qsort(saver->keys, saver->count, sizeof *saver->keys, by_number);
  remove_rest(saver->out, PART), remove_rest(saver->out, OLD);
}

/* The step in the header of best.bin or model.bin. A file that cannot be read is met where it is used. */
static size_t step_of(const struct Saver *saver, const char *name) {
  char path[SAVER_PATH];
  int32_t header[HEADER_INTS] = {0};
  snprintf(path, sizeof path, "%s/%s", saver->out, name);
  const int file = disk_open(path);
  if (file < 0) return SAVER_NO_STEP;
  const bool whole = disk_read(file, header, HEADER_BYTES, 0) == HEADER_BYTES && header[EXT_MAGIC_AT] == EXT_MAGIC;
  disk_close(file);
  return whole ? (uint32_t)header[EXT_STEP_AT] : SAVER_NO_STEP;
}

static void take_lock(struct Saver *saver) {
  saver->lock = disk_lock(saver->out, &saver->unlocked);
  if (saver->lock >= 0) return;
  if (errno == EWOULDBLOCK) die(EXIT_USAGE, "another llmc trains in %s; wait for it, or choose another --run", saver->out);
  die(EXIT_BAD_DATA, "cannot open the folder %s: %s; choose another --out", saver->out, strerror(errno));
}

/* Signals go to the trainer's threads: one that waits for this thread would wait for itself. */
static void start_thread(struct Saver *saver) {
  if (!interrupts_elsewhere(&saver->thread, work, saver)) die(EXIT_INTERNAL, "cannot start a thread");
  working = saver;
  interrupts_on_leave(leave);
  atexit(finish);
}

void saver_open(struct Saver *saver, const char *out, size_t keep, struct Team *team) {
  *saver = (struct Saver){.out = out, .keep = keep, .team = team, .best = SAVER_NO_STEP, .lock = -1, .metrics = -1};
  if (out == NULL) return;
  if (strlen(out) >= SAVER_PATH - 64) die(EXIT_USAGE, "the path %s is too long", out);
  make_folder(out);
  take_lock(saver);
  find_checkpoints(saver);
  saver->best = step_of(saver, "best.bin"), saver->alone = step_of(saver, "model.bin");
  pthread_mutex_init(&saver->mutex, NULL);
  pthread_cond_init(&saver->changed, NULL);
  path_of(saver->part_path, out, FOLDER, PART);
  start_thread(saver);
}

size_t saver_step(const struct Saver *saver) { return newest(saver) / 2; }

bool saver_go_back(struct Saver *saver, size_t step) {
  size_t count = saver->count;
  while (count > 0 && saver->keys[count - 1] / 2 != step) count--;
  if (count == 0) return false;
  saver->later = saver->count - count;
  saver->count = count;
  saver->alone = SAVER_NO_STEP;
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
    disk_remove(best);
    saver->best = SAVER_NO_STEP;
  }
  saver->is_best = is_best;
  if (!settle(saver)) {
    const int reason = saver->fault.reason;
    die(EXIT_BAD_DATA, "cannot write %s: %s; %s", saver->fault.path, strerror(reason), file_remedy(reason));
  }
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

/* Enters or leaves a phase of the trainer's own; never again when a signal ends the program. */
static void turn(struct Saver *saver, int from, int to) {
  if (atomic_compare_exchange_strong(&saver->phase, &from, to)) return;
  for (;;) clock_wait(1000);
}

static bool write_part(struct Saver *saver, const struct Checkpoint *checkpoint, const struct State *state,
                       const struct Gpt2 *model) {
  char folder[SAVER_PATH], part[64];
  snprintf(folder, sizeof folder, "%s/%s", saver->out, FOLDER);
  if (!disk_make_folder(saver->out)) return fail(saver, saver->out, errno);  // it may have been deleted or renamed
  if (!disk_make_folder(folder)) return fail(saver, folder, errno);
  if (!disk_make_folder(saver->part_path)) return fail(saver, saver->part_path, errno);
  snprintf(part, sizeof part, "%s/%s", FOLDER, PART);
  path_of(saver->model_path, saver->out, part, "model.bin");
  path_of(saver->state_path, saver->out, part, "state.bin");
  saver->model.survives = saver->state.survives = true;
  checkpoint_write(&saver->model, saver->model_path, checkpoint, model->params.first);
  if (saver->model.fault != 0) return fail(saver, saver->model_path, saver->model.fault);
  file_writer_open(&saver->state, saver->state_path);
  state_write(&saver->state, state, model, saver->team);
  if (saver->state.fault == 0) return true;
  file_writer_abandon(&saver->model);
  return fail(saver, saver->state_path, saver->state.fault);
}

bool saver_save(struct Saver *saver, const struct Checkpoint *checkpoint, const struct State *state,
                const struct Gpt2 *model, bool is_best) {
  const size_t key = key_of(state->step, state->told);
  saver_wait(saver);
  if (saver->count > 0 && newest(saver) == key) {
    saver->news = SAVER_SAVED;
    return true;
  }
  turn(saver, SAVER_IDLE, SAVER_WRITES);
  if (!write_part(saver, checkpoint, state, model)) {
    turn(saver, SAVER_WRITES, SAVER_IDLE);
    return false;
  }
  pthread_mutex_lock(&saver->mutex);
  saver->keys[saver->count++] = key;
  saver->is_best = is_best;
  turn(saver, SAVER_WRITES, SAVER_WORKS);
  pthread_cond_broadcast(&saver->changed);
  pthread_mutex_unlock(&saver->mutex);
  return true;
}

bool saver_weights(struct Saver *saver, const struct Checkpoint *checkpoint, const struct Gpt2 *model) {
  saver_wait(saver);
  turn(saver, SAVER_IDLE, SAVER_WRITES);
  snprintf(saver->model_path, SAVER_PATH, "%s/model.bin", saver->out);
  disk_make_folder(saver->out);
  saver->model.survives = true;
  checkpoint_write(&saver->model, saver->model_path, checkpoint, model->params.first);
  file_writer_commit(&saver->model);
  const bool saved = saver->model.fault == 0 && disk_sync_folder(saver->out);
  if (saved) saver->alone = checkpoint->step;
  turn(saver, SAVER_WRITES, SAVER_IDLE);
  return saved;
}

enum SaverNews saver_news(struct Saver *saver) {
  if (saver->out == NULL) return SAVER_NO_NEWS;
  pthread_mutex_lock(&saver->mutex);
  const enum SaverNews news = saver->news;
  saver->news = SAVER_NO_NEWS;
  pthread_mutex_unlock(&saver->mutex);
  return news;
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
  working = NULL;
  pthread_mutex_lock(&saver->mutex);
  saver->phase = SAVER_STOPS;
  pthread_cond_broadcast(&saver->changed);
  pthread_mutex_unlock(&saver->mutex);
  pthread_join(saver->thread, NULL);
  disk_close(saver->lock);
}
