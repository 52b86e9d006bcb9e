#define _POSIX_C_SOURCE 200809L
#include "base/disk.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/statvfs.h>

double disk_available(const char *path) {
  char place[1024];
  struct statvfs disk;
  snprintf(place, sizeof place, "%s", path);
  while (statvfs(place, &disk) != 0) {
    char *slash = strrchr(place, '/');
    if (strcmp(place, "/") == 0 || strcmp(place, ".") == 0) return INFINITY;
    if (slash == NULL) strcpy(place, ".");
    else slash[slash == place] = '\0';
  }
  if (disk.f_blocks == 0) return INFINITY;  // a file system that has no such number
  return (double)disk.f_bavail * (double)disk.f_frsize;
}
