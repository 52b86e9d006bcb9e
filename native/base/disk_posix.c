#define _DEFAULT_SOURCE  // flock
#define _DARWIN_C_SOURCE
#define _FILE_OFFSET_BITS 64
#include "base/disk.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <math.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

#include "base/util.h"

enum { MOST_AT_ONCE = 1 << 30 };  // Linux and macOS move at most 2 GB in one call

int disk_open(const char *path) { return open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); }

int disk_create(const char *path) { return open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666); }

int disk_open_to_change(const char *path) { return open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0666); }

bool disk_close(int file) { return close(file) == 0; }

bool disk_is_file(int file) {
  struct stat status;
  return fstat(file, &status) == 0 && S_ISREG(status.st_mode);
}

int64_t disk_size(int file) {
  struct stat status;
  return fstat(file, &status) == 0 ? (int64_t)status.st_size : -1;
}

ptrdiff_t disk_read(int file, void *bytes, size_t count, int64_t offset) {
  for (;;) {
    const ssize_t got = pread(file, bytes, size_min(count, MOST_AT_ONCE), (off_t)offset);
    if (got >= 0 || errno != EINTR) return got;
  }
}

ptrdiff_t disk_write(int file, const void *bytes, size_t count, int patience_ms) {
  for (;;) {
    const ssize_t put = write(file, bytes, size_min(count, MOST_AT_ONCE));
    if (put >= 0 || (errno != EINTR && errno != EAGAIN)) return put;
    if (errno == EINTR) continue;
    /* A pipe that its other end, or its starter, has made non-blocking. */
    if (poll(&(struct pollfd){.fd = file, .events = POLLOUT}, 1, patience_ms) != 0) continue;
    errno = EAGAIN;
    return -1;
  }
}

int64_t disk_at(int file) { return lseek(file, 0, SEEK_CUR); }

bool disk_go(int file, int64_t at) { return lseek(file, (off_t)at, SEEK_SET) == at; }

bool disk_cut(int file, int64_t at) { return ftruncate(file, (off_t)at) == 0 && disk_go(file, at); }

bool disk_sync(int file) {
  while (fsync(file) != 0) {
    if (errno == EINVAL || errno == ENOTSUP) return true;  // it cannot say so, and need not
    if (errno != EINTR) return false;
  }
  return true;
}

bool disk_sync_folder(const char *path) {
  const int folder = open(path, O_RDONLY | O_CLOEXEC);
  if (folder < 0) return false;
  const bool synced = disk_sync(folder);
  const int reason = errno;
  close(folder);
  errno = reason;
  return synced;
}

bool disk_remove(const char *path) { return unlink(path) == 0; }

bool disk_remove_folder(const char *path) { return rmdir(path) == 0; }

bool disk_rename(const char *from, const char *to) { return rename(from, to) == 0; }

bool disk_link(const char *from, const char *to) { return link(from, to) == 0; }

bool disk_make_folder(const char *path) { return mkdir(path, 0777) == 0 || errno == EEXIST; }

bool disk_there(const char *path) {
  struct stat status;
  return stat(path, &status) == 0;
}

bool disk_is_device(const char *path) {
  struct stat status;
  return stat(path, &status) == 0 && !S_ISREG(status.st_mode) && !S_ISDIR(status.st_mode);
}

bool disk_each(const char *path, void (*visit)(void *context, const char *name), void *context) {
  DIR *folder = opendir(path);
  if (folder == NULL) return false;
  for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) visit(context, entry->d_name);
  closedir(folder);
  return true;
}

bool disk_match(const char *pattern, struct DiskPaths *paths) {
  glob_t found = {0};
  *paths = (struct DiskPaths){0};
  const int failure = glob(pattern, 0, NULL, &found);  // sorted by the bytes of the names
  if (failure == GLOB_NOMATCH) return true;
  if (failure != 0) errno = ENOMEM;
  if (failure != 0) return false;
  paths->items = calloc(found.gl_pathc, sizeof *paths->items);
  for (; paths->items != NULL && paths->count < found.gl_pathc; paths->count++) {
    paths->items[paths->count] = strdup(found.gl_pathv[paths->count]);
    if (paths->items[paths->count] == NULL) break;
  }
  const bool whole = paths->count == found.gl_pathc;
  globfree(&found);
  if (!whole) disk_paths_free(paths);
  return whole;
}

void disk_paths_free(struct DiskPaths *paths) {
  for (size_t i = 0; i < paths->count; i++) free(paths->items[i]);
  free(paths->items);
  *paths = (struct DiskPaths){0};
}

/* Who lists the runs holds the lock for an instant, to see whether it is free; a trainer holds it on. */
int disk_lock(const char *folder, int *unlocked) {
  const int file = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  *unlocked = 0;
  for (int tries = 0; file >= 0 && flock(file, LOCK_EX | LOCK_NB) != 0; tries++) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      *unlocked = errno;
      return file;
    }
    if (tries == 10) {
      close(file);
      errno = EWOULDBLOCK;
      return -1;
    }
    clock_wait(20);
  }
  return file;
}

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
