#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <windows.h>

#include "base/library.h"
#include "base/wide.h"

/* Not by _putenv_s: what getenv has returned before would be freed. OpenBLAS asks the system. */
void library_setting(const char *name, const char *value) { SetEnvironmentVariableA(name, value); }

/* What it needs itself is looked for beside it first. */
void *library_open(const char *path, char *reason, size_t room) {
  wchar_t wide[WIDE_ROOM];
  HMODULE library = NULL;
  const DWORD flags = strpbrk(path, "/\\") != NULL ? LOAD_WITH_ALTERED_SEARCH_PATH : 0;
  if (wide_path(wide, path)) {
    library = LoadLibraryExW(wide, NULL, flags);
    if (library == NULL) wide_errno();
  }
  if (library == NULL) snprintf(reason, room, "%s", strerror(errno));
  return library;
}

void *library_symbol(void *library, const char *name) {
  void *symbol;
  const FARPROC found = GetProcAddress(library, name);
  memcpy(&symbol, &found, sizeof symbol);
  return symbol;
}
