#include "base/interrupts.h"

#include <stdatomic.h>
#include <stddef.h>
#include <stdlib.h>
#include <windows.h>

#include "base/util.h"

static atomic_int requested, typed;
static _Atomic(void (*)(void)) leaving;

static void on_interrupt(void) {
  void (*const leave)(void) = leaving;
  const int before = atomic_fetch_add(&typed, 1);
  requested = 1;
  if (before == 1 && leave != NULL) leave();
  if (before > 0) _Exit(EXIT_INTERRUPTED);
}

/* Runs in a thread of its own. The system ends the process when this returns from the last ones, or after some seconds. */
static BOOL WINAPI on_event(DWORD event) {
  if (event == CTRL_C_EVENT) on_interrupt();
  requested = 1;
  if (event != CTRL_C_EVENT && event != CTRL_BREAK_EVENT) Sleep(INFINITE);
  return TRUE;
}

void interrupts_catch(void) { SetConsoleCtrlHandler(on_event, TRUE); }

bool interrupts_elsewhere(pthread_t *thread, void *(*work)(void *), void *argument) {
  return pthread_create(thread, NULL, work, argument) == 0;
}

void interrupts_ignore(void) { SetConsoleCtrlHandler(NULL, TRUE); }

bool interrupts_at_terminal(void) { return GetConsoleWindow() != NULL; }

void interrupts_on_leave(void (*leave)(void)) { leaving = leave; }

bool interrupted_by_hand(void) { return typed > 0; }

void interrupts_request(void) { requested = 1; }

bool interrupted(void) { return requested != 0; }

bool orphaned(void) { return false; }
