/* Translates for *_win32.c: paths between the engine's UTF-8 and Windows' UTF-16, and Windows' errors into errno.
 *
 * The engine calls the functions that take UTF-16: they know every file name on every version of Windows, whatever code
 * page the machine has set. A manifest that asks for UTF-8 is heeded from Windows 10 1903 on only. */
#ifndef LLMC_WIDE_H
#define LLMC_WIDE_H

#include <stdbool.h>
#include <wchar.h>

enum { WIDE_ROOM = 2048 };

/* A path as Windows takes it, on the caller's stack. Long ones get the prefix without which 260 characters are the most.
 * False, with errno set, where it is not UTF-8 or too long. */
bool wide_path(wchar_t wide[WIDE_ROOM], const char *path);

/* UTF-8 of what Windows says, allocated; NULL, with errno set, where it fails. */
char *wide_to_utf8(const wchar_t *wide);

/* Sets errno from GetLastError(). */
void wide_errno(void);

#endif
