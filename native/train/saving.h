/* When a run saves, and what it does where the disk refuses.
 *
 * It saves every so many steps, or at least every so many seconds (struct Pace): an update is early rather than late. When
 * it saved changes no bit of what it computes; only saves that are due by steps or by a new best can become best.bin.
 *
 * Where a checkpoint cannot be written, the weights alone are saved if they fit, as model.bin. On the way, training goes
 * on and tries again. At its end a run waits for room, and says so, until it is told to stop: it never ends with the only
 * copy of its weights without a word.
 */
#ifndef LLMC_SAVING_H
#define LLMC_SAVING_H

#include <stdbool.h>
#include <stddef.h>

struct Run;

struct Pace {
  double last;     // when the run saved, or began
  double asked;    // when saving_due was last called
  double longest;  // seconds between two of its calls, at most
  double again;    // when to try a save again that failed; 0: none failed
  bool now;        // its time has come
  bool announced, timed;
};

/* The training begins. */
void saving_begin(struct Run *run);

/* Whether to save before update number `step` + 1, apart from a new best. Tells once, when it is known that the run is
 * long, how often it will save and what that takes. */
bool saving_due(struct Run *run, size_t step);

/* Saves on the way. `told`: after the step's validation and sample. `may_be_best`: as best.bin, if it is. Weights whose
 * loss is not finite replace nothing: it dies with EXIT_NOT_FINITE. */
void saving_save(struct Run *run, size_t step, bool told, bool may_be_best);

/* The run ends: returns when its checkpoint is on the disk. False where only its weights are. Dies with EXIT_BAD_DATA
 * when it is told to stop and nothing can be saved. */
bool saving_last(struct Run *run, size_t step, bool told);

/* Tells what has become of the checkpoint that was saved last. */
void saving_report(struct Run *run, size_t step);

/* Ends a run whose weights are saved alone. */
_Noreturn void saving_die(struct Run *run, size_t step);

/* Bytes of one checkpoint; of all that the run holds at a time, for certain. */
size_t saving_bytes(const struct Run *run);
size_t saving_least(const struct Run *run);

#endif
