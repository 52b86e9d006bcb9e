/* A run's checkpoints: folders named after their step, each whole or not there.
 *
 *   checkpoints/00000120/model.bin, state.bin    all that resuming needs; the newest `keep` of them stay, and the
 *                 one whose weights are best.bin
 *                 00000120i: saved on an interrupt, before the step's validation and sample
 *   model.bin     the newest weights: the same file as there, linked; where the disk had no room for more, newer ones
 *   best.bin      the weights with the lowest validation loss of those that were saved
 *
 * While a trainer works on the run it holds the folder's lock (disk_lock), where the file system has locks.
 *
 * Training waits until the system has taken the bytes. A thread of the saver's own waits for the disk, and
 * then gives the folder its name: who finds a checkpoint under its name finds all of it, on the disk. Only then is it
 * told of. A checkpoint that is one too many is renamed to .old before anything of it is removed. However the program
 * ends by itself, no .part stays; what a killed trainer left, the next one removes.
 */
#ifndef LLMC_SAVER_H
#define LLMC_SAVER_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "files/checkpoint.h"
#include "train/state.h"

enum { SAVER_MOST_KEPT = 1000, SAVER_PATH = 1024 };
static const size_t SAVER_NO_STEP = SIZE_MAX;

enum SaverNews { SAVER_NO_NEWS, SAVER_SAVED, SAVER_FAILED };

/* The trainer writes; the thread works, waiting for the disk. A signal that ends the program turns WRITES to LEAVES. */
enum SaverPhase { SAVER_IDLE, SAVER_WRITES, SAVER_WORKS, SAVER_STOPS, SAVER_LEAVES };

/* Why a checkpoint is not there. */
struct SaverFault {
  int reason;  // errno
  char path[SAVER_PATH];
};

struct Saver {
  const char *out;                  // the run's folder; NULL: nothing is saved
  size_t keep;                      // checkpoints to keep
  struct Team *team;                // of the run
  int lock, metrics;                // file descriptors; metrics.jsonl is on the disk before a checkpoint is
  int unlocked;                     // errno where the file system has no locks
  size_t keys[SAVER_MOST_KEPT + 2], count;  // twice the step, + 1 if told: those that are there, in order
  size_t alone;                     // the step of model.bin where its weights are newer than the newest checkpoint
  size_t later;                     // keys behind these: of checkpoints that the run has been taken back from
  size_t best;                      // the step of best.bin; SAVER_NO_STEP: there is none
  bool is_best;                     // the newest has the lowest validation loss
  struct FileWriter model, state;
  char model_path[SAVER_PATH], state_path[SAVER_PATH], part_path[SAVER_PATH];  // where these two write
  atomic_int phase;                 // an enum SaverPhase
  enum SaverNews news;
  struct SaverFault fault;          // of the last save that failed
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
};

/* Makes the run's folder, takes its lock, finds the checkpoints that are there and starts the thread. Dies
 * with EXIT_USAGE when another trainer holds the lock, with EXIT_BAD_DATA when the folder cannot be made. */
void saver_open(struct Saver *saver, const char *out, size_t keep, struct Team *team);

/* The paths of the newest checkpoint's two files. False where there is none. */
bool saver_newest(const struct Saver *saver, char model[SAVER_PATH], char state[SAVER_PATH]);

/* Takes the run back to the checkpoint of a step: it is the newest from now on. False where it is not there. */
bool saver_go_back(struct Saver *saver, size_t step);

/* The newest checkpoint's step. */
size_t saver_step(const struct Saver *saver);

/* Does after the newest checkpoint what a trainer that was killed could not do any more, and removes what was saved
 * after it. False where the best weights were among that: there is no best.bin then. */
bool saver_finish(struct Saver *saver, bool is_best);

/* Takes a checkpoint, unless it is there; waits for the one before. False, with `fault` set, when the disk refuses:
 * those that are there stay, and nothing of this one. */
bool saver_save(struct Saver *saver, const struct Checkpoint *checkpoint, const struct State *state,
                const struct Gpt2 *model, bool is_best);

/* Puts the weights alone in the place of model.bin; they are on the disk when this returns true. */
bool saver_weights(struct Saver *saver, const struct Checkpoint *checkpoint, const struct Gpt2 *model);

/* What has become of the checkpoint that was taken last, once: it is on the disk, or `fault` says why not. */
enum SaverNews saver_news(struct Saver *saver);

/* Returns when what was taken is on the disk. */
void saver_wait(struct Saver *saver);

/* Waits, ends the thread and gives the lock back. */
void saver_close(struct Saver *saver);

#endif
