/* The learning rate of every step. */
#ifndef LLMC_SCHEDULE_H
#define LLMC_SCHEDULE_H

#include <stddef.h>

enum ScheduleShape { CONSTANT, COSINE, LINEAR, WSD };
extern const char *const SCHEDULE_NAMES[];  // in this order, NULL after the last

/* Up to `warmup`, the rate rises in equal parts and is lr at the last of these steps. From there on,
 * with x the part of the way to step `steps`, it is `least` + (lr - least) times
 *   constant  1
 *   cosine    (1 + cos(pi x)) / 2               Loshchilov, Hutter 2017
 *   linear    1 - x
 *   wsd       1, and over the last `decay` of all steps 1 - sqrt(x), x being the part of these:
 *             warmup, stable, decay             Hägele et al. 2024
 * as llm.c's schedulers have it. */
struct Schedule {
  enum ScheduleShape shape;
  double lr, least;   // learning rates
  double decay;       // part of all steps, of wsd
  size_t warmup, steps;
};

/* The updates after the warmup that its shape needs: wsd's decay, one of the others, none if constant. */
size_t schedule_least_decay(const struct Schedule *schedule);

/* The first step at which the rate may sink. */
size_t schedule_decay_begins(const struct Schedule *schedule);

/* The number of steps with which wsd's decay begins at `step`, which is above 0; `decay` below 1. */
size_t schedule_wsd_steps(double decay, size_t step);

/* Of a step, counted from 0. Past the last step it stays what it was there. */
double schedule_lr(const struct Schedule *schedule, size_t step);

#endif
