#include <fcntl.h>
#include <io.h>
#include <stdlib.h>
#include <windows.h>
#include <shellapi.h>

#include "base/start.h"
#include "base/util.h"
#include "base/wide.h"

static UINT code_page;

static void give_console_back(void) { SetConsoleOutputCP(code_page); }

/* The words of the command line: those that main() gets are in the machine's code page, and patterns in them expanded. */
static void take_arguments(int *argc, char ***argv) {
  int count = 0;
  wchar_t **wide = CommandLineToArgvW(GetCommandLineW(), &count);
  char **words = wide != NULL ? calloc((size_t)count + 1, sizeof *words) : NULL;
  for (int i = 0; words != NULL && i < count; i++) {
    if ((words[i] = wide_to_utf8(wide[i])) == NULL) words = NULL;
  }
  if (words == NULL) die(EXIT_BAD_DATA, "no memory left for the arguments");
  LocalFree(wide);
  *argc = count, *argv = words;
}

void start(int *argc, char ***argv) {
  for (int file = 0; file <= 2; file++) _setmode(file, _O_BINARY);
  code_page = GetConsoleOutputCP();
  if (code_page != 0 && code_page != CP_UTF8 && SetConsoleOutputCP(CP_UTF8)) atexit(give_console_back);
  take_arguments(argc, argv);
}
