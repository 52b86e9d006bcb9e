/* What a run will take, found before it starts: memory from its layout, time from a few steps (a dry run). */
#ifndef LLMC_PLAN_H
#define LLMC_PLAN_H

#include "train/run.h"

/* Dies with EXIT_USAGE when the run needs more bytes than are available, naming what would fit:
 * --recompute, --optimizer-state, the largest batch or else the longest row. */
void plan_check(const struct Run *run, size_t needed, size_t available);

/* Dies with EXIT_USAGE when the disk has no room for the checkpoints that the run will hold at a time. The saver is open,
 * or the run is new. */
void plan_check_disk(const struct Run *run);

/* Bytes that --recompute saves, or would save. */
size_t plan_recompute_saves(const struct Run *run);

/* Dry run: times a few steps, a validation batch and a sample, and reports them. Writes no file. */
void plan_dry_run(struct Run *run);

#endif
