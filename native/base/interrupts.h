/* Signals that ask the program to stop. They set a flag, which the program reads between one piece of work and the next. */
#ifndef LLMC_INTERRUPTS_H
#define LLMC_INTERRUPTS_H

#include <pthread.h>
#include <stdbool.h>

/* From now on these signals are requests to stop: Ctrl-C (SIGINT), SIGTERM, SIGHUP when a terminal closes, and SIGUSR1 and
 * SIGXCPU, with which batch systems announce the end of a job. All but Ctrl-C may come any number of times, because a shell
 * and the system both report a closed terminal. A second Ctrl-C ends the program at once with EXIT_INTERRUPTED. A signal
 * that the parent process ignores, as nohup does SIGHUP, stays ignored. Ctrl-Z (SIGTSTP) stops the program and its clock.
 * On Windows the requests are Ctrl-C, Ctrl-Break, a closed window and the end of the session; after the last two the system
 * gives the program some seconds. */
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

/* Records a request to stop that another process of the run has received. */
void interrupts_request(void);

/* Whether a stop was requested. */
bool interrupted(void);

/* Whether it was requested by Ctrl-C. */
bool interrupted_by_hand(void);

/* Whether the process that started this one has ended since. Windows does not tell: false. */
bool orphaned(void);

#endif
