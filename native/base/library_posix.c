#define _POSIX_C_SOURCE 200809L  // setenv
#define _DARWIN_C_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/library.h"

void library_setting(const char *name, const char *value) { setenv(name, value, 1); }

void *library_open(const char *path, char *reason, size_t room) {
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
  if (library == NULL) {
    const char *why = dlerror();
    snprintf(reason, room, "%s", why != NULL ? why : path);
  }
  return library;
}

void *library_symbol(void *library, const char *name) { return dlsym(library, name); }
