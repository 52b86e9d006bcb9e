/* Signals that ask the program to end: wishes, looked at between one piece of work and the next. */
#ifndef LLMC_INTERRUPTS_H
#define LLMC_INTERRUPTS_H

#include <pthread.h>
#include <stdbool.h>

/* From now on a signal is a wish: Ctrl-C (SIGINT), SIGTERM, the SIGHUP of a terminal that closes, and SIGUSR1 and SIGXCPU,
 * with which batch systems announce the end of a job. All but Ctrl-C may come any number of times, since a shell and the
 * system both tell of a closed terminal; a second Ctrl-C leaves with EXIT_INTERRUPTED, without another step. What the starter ignores,
 * as nohup does SIGHUP, stays ignored. Ctrl-Z (SIGTSTP) stops the program and its clock. On Windows Ctrl-C is the same, and the others are
 * Ctrl-Break, a window that closes and the end of a session; of those last two the system waits some seconds. */
void interrupts_catch(void);

/* Starts a thread on which no signal is handled, as pthread_create does; false where the system refuses. */
bool interrupts_elsewhere(pthread_t *thread, void *(*work)(void *), void *argument);

/* From now on Ctrl-C does nothing: it is for the parent process. */
void interrupts_ignore(void);

/* Whether a person at a terminal can press Ctrl-C. */
bool interrupts_at_terminal(void);

/* A second Ctrl-C calls this before it leaves, in its handler (on Windows in a thread of its own); a third one does not
 * wait for it. */
void interrupts_on_leave(void (*leave)(void));

/* Another process that works on the run has such a wish. */
void interrupts_wish(void);

/* Whether there was one. */
bool interrupted(void);

/* Whether it was Ctrl-C. */
bool interrupted_by_hand(void);

/* Whether the process that started this one has ended since. Windows does not tell: false. */
bool orphaned(void);

#endif
