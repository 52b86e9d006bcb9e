/* The loss on the validation tokens: a property of the weights, so its windows depend neither on B nor on T.
 *
 * They have the length of the model's context, or of all tokens where there are fewer, and are spread over the
 * split: files/windows.h. llmc eval measures the same ones. With --val-batches it is the first batches of
 * (B, T), as runs of older versions go on measuring.
 *
 * Of a text with a mask they are cut windows (files/cuts.h), as many as read so many tokens, and the loss is the mean of
 * the tokens that count.
 *
 * Of a mixture, each part is measured on its share of the tokens, or on all that it has, and the loss is the mean of the
 * parts' losses by weight: it does not depend on how many tokens a part has.
 */
#ifndef LLMC_VALIDATION_H
#define LLMC_VALIDATION_H

#include "train/run.h"

/* Chooses the windows, the data being open and the model's context known. Dies with EXIT_USAGE on a mixture that is to
 * be measured in batches. */
void validation_choose(struct Run *run);

/* Turns in which a validation is measured: a batch of windows for each rank. */
size_t validation_turns(const struct Run *run);

/* Measures batch `first` of one part's windows, and those that follow, and adds them to the run's validation. Returns how
 * many. */
size_t validation_turn(struct Run *run, size_t part, size_t first);

/* The loss of the weights. False when asked to stop before the last batch. */
bool validation_loss(struct Run *run, struct ValLosses *losses);

#endif
