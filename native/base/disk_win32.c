#include "base/disk.h"

#include <errno.h>
#include <fcntl.h>
#include <io.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#include "base/util.h"
#include "base/wide.h"

enum { MOST_AT_ONCE = 1 << 30 };

static HANDLE handle_of(int file) { return (HANDLE)_get_osfhandle(file); }

/* Whether a call went well; else its reason is in errno. */
static bool done(BOOL ok) {
  if (!ok) wide_errno();
  return ok;
}

/* Others may read, replace and delete the file meanwhile, as elsewhere. Its handle is not inherited. */
static int opened(const char *path, DWORD access, DWORD share, DWORD how, DWORD flags) {
  wchar_t wide[WIDE_ROOM];
  if (!wide_path(wide, path)) return -1;
  const HANDLE handle = CreateFileW(wide, access, share, NULL, how, FILE_ATTRIBUTE_NORMAL | flags, NULL);
  if (!done(handle != INVALID_HANDLE_VALUE)) return -1;
  const int file = _open_osfhandle((intptr_t)handle, _O_BINARY | _O_NOINHERIT);
  if (file < 0) CloseHandle(handle);
  return file;
}

static const DWORD SHARED = FILE_SHARE_READ | FILE_SHARE_WRITE | FILE_SHARE_DELETE;

/* Folders, too, so that disk_is_file tells them apart. */
int disk_open(const char *path) { return opened(path, GENERIC_READ, SHARED, OPEN_EXISTING, FILE_FLAG_BACKUP_SEMANTICS); }

int disk_create(const char *path) { return opened(path, GENERIC_WRITE, SHARED, CREATE_ALWAYS, 0); }

int disk_open_to_change(const char *path) { return opened(path, GENERIC_READ | GENERIC_WRITE, SHARED, OPEN_ALWAYS, 0); }

bool disk_close(int file) { return _close(file) == 0; }

bool disk_is_file(int file) {
  BY_HANDLE_FILE_INFORMATION about;
  const HANDLE handle = handle_of(file);
  return GetFileType(handle) == FILE_TYPE_DISK && GetFileInformationByHandle(handle, &about) &&
         !(about.dwFileAttributes & FILE_ATTRIBUTE_DIRECTORY);
}

int64_t disk_size(int file) {
  LARGE_INTEGER size;
  return done(GetFileSizeEx(handle_of(file), &size)) ? size.QuadPart : -1;
}

ptrdiff_t disk_read(int file, void *bytes, size_t count, int64_t offset) {
  OVERLAPPED where = {.Offset = (DWORD)offset, .OffsetHigh = (DWORD)(offset >> 32)};
  DWORD got = 0;
  if (ReadFile(handle_of(file), bytes, (DWORD)size_min(count, MOST_AT_ONCE), &got, &where)) return got;
  if (GetLastError() == ERROR_HANDLE_EOF) return 0;
  wide_errno();
  return -1;
}

ptrdiff_t disk_write(int file, const void *bytes, size_t count, int patience_ms) {
  (void)patience_ms;  // a write waits here, however long
  DWORD put = 0;
  return done(WriteFile(handle_of(file), bytes, (DWORD)size_min(count, MOST_AT_ONCE), &put, NULL)) ? (ptrdiff_t)put : -1;
}

int64_t disk_at(int file) {
  LARGE_INTEGER at;
  return done(SetFilePointerEx(handle_of(file), (LARGE_INTEGER){.QuadPart = 0}, &at, FILE_CURRENT)) ? at.QuadPart : -1;
}

bool disk_go(int file, int64_t at) {
  return done(SetFilePointerEx(handle_of(file), (LARGE_INTEGER){.QuadPart = at}, NULL, FILE_BEGIN));
}

bool disk_cut(int file, int64_t at) { return disk_go(file, at) && done(SetEndOfFile(handle_of(file))); }

bool disk_sync(int file) {
  const HANDLE handle = handle_of(file);
  return GetFileType(handle) != FILE_TYPE_DISK || done(FlushFileBuffers(handle));
}

/* Names have no such call here: NTFS keeps a journal of them, and a rename waits for the disk (MOVEFILE_WRITE_THROUGH). */
bool disk_sync_folder(const char *path) { return disk_there(path) || done(FALSE); }

/* Calls something of two paths, or of one; a virus scanner or an indexer may hold a new file for a moment. */
static bool with_paths(const char *from, const char *to, BOOL (*call)(const wchar_t *from, const wchar_t *to)) {
  enum { TRIES = 20, MS = 25 };
  wchar_t wide_from[WIDE_ROOM], wide_to[WIDE_ROOM];
  if (!wide_path(wide_from, from) || (to != NULL && !wide_path(wide_to, to))) return false;
  for (int tries = 1;; tries++) {
    if (call(wide_from, wide_to)) return true;
    const DWORD error = GetLastError();
    wide_errno();
    if ((error != ERROR_SHARING_VIOLATION && error != ERROR_ACCESS_DENIED) || tries == TRIES) return false;
    clock_wait(MS);
  }
}

static BOOL call_remove(const wchar_t *path, const wchar_t *unused) {
  (void)unused;
  return DeleteFileW(path);
}

static BOOL call_remove_folder(const wchar_t *path, const wchar_t *unused) {
  (void)unused;
  return RemoveDirectoryW(path);
}

static BOOL call_rename(const wchar_t *from, const wchar_t *to) {
  return MoveFileExW(from, to, MOVEFILE_REPLACE_EXISTING | MOVEFILE_WRITE_THROUGH);
}

static BOOL call_link(const wchar_t *from, const wchar_t *to) { return CreateHardLinkW(to, from, NULL); }

bool disk_remove(const char *path) { return with_paths(path, NULL, call_remove); }

bool disk_remove_folder(const char *path) { return with_paths(path, NULL, call_remove_folder); }

bool disk_rename(const char *from, const char *to) { return with_paths(from, to, call_rename); }

bool disk_link(const char *from, const char *to) { return with_paths(from, to, call_link); }

bool disk_make_folder(const char *path) {
  wchar_t wide[WIDE_ROOM];
  return wide_path(wide, path) && (done(CreateDirectoryW(wide, NULL)) || errno == EEXIST);
}

bool disk_there(const char *path) {
  wchar_t wide[WIDE_ROOM];
  return wide_path(wide, path) && GetFileAttributesW(wide) != INVALID_FILE_ATTRIBUTES;
}

bool disk_is_device(const char *path) {
  (void)path;  // a device is no file of a folder here: renaming to one fails
  return false;
}

bool disk_each(const char *path, void (*visit)(void *context, const char *name), void *context) {
  char all[WIDE_ROOM];
  wchar_t wide[WIDE_ROOM];
  const int length = snprintf(all, sizeof all, "%s/*", path);
  if (length >= (int)sizeof all) errno = ENAMETOOLONG;
  if (length >= (int)sizeof all || !wide_path(wide, all)) return false;
  WIN32_FIND_DATAW found;
  const HANDLE search = FindFirstFileW(wide, &found);
  if (!done(search != INVALID_HANDLE_VALUE)) return false;
  do {
    char name[sizeof found.cFileName / sizeof *found.cFileName * 3];  // a unit of UTF-16 is at most 3 bytes of UTF-8
    if (WideCharToMultiByte(CP_UTF8, 0, found.cFileName, -1, name, sizeof name, NULL, NULL) > 0) visit(context, name);
  } while (FindNextFileW(search, &found));
  FindClose(search);
  return true;
}

/* ---- patterns ----------------------------------------------------------------------------------- */

struct Match {
  struct DiskPaths *paths;
  const char *folder, *pattern;  // the folder with its slash; the pattern of a name in it
  int folder_length;
  bool failed;
};

static char lower(char c) { return c >= 'A' && c <= 'Z' ? (char)(c - 'A' + 'a') : c; }

/* Large and small letters are the same to Windows. FindFirstFileW would also match the short names of old programs. */
static bool matches(const char *name, const char *pattern) {
  const char *star = NULL, *from = NULL;
  while (*name != '\0') {
    if (*pattern == '*') {
      star = pattern++, from = name;
    } else if (*pattern == '?' || lower(*pattern) == lower(*name)) {
      pattern++, name++;
    } else if (star != NULL) {
      pattern = star + 1, name = ++from;
    } else {
      return false;
    }
  }
  while (*pattern == '*') pattern++;
  return *pattern == '\0';
}

static void take_match(void *context, const char *name) {
  struct Match *m = context;
  struct DiskPaths *paths = m->paths;
  if (m->failed || *name == '.' || !matches(name, m->pattern)) return;
  char **items = realloc(paths->items, (paths->count + 1) * sizeof *items);
  if (items != NULL) paths->items = items;
  const size_t room = (size_t)m->folder_length + strlen(name) + 1;
  char *path = items != NULL ? malloc(room) : NULL;
  if (path != NULL) snprintf(path, room, "%.*s%s", m->folder_length, m->folder, name), items[paths->count++] = path;
  m->failed = path == NULL;
}

static int by_bytes(const void *a, const void *b) { return strcmp(*(char *const *)a, *(char *const *)b); }

bool disk_match(const char *pattern, struct DiskPaths *paths) {
  const char *name = pattern;
  for (const char *c = pattern; *c != '\0'; c++) {
    if (*c == '/' || *c == '\\' || *c == ':') name = c + 1;
  }
  *paths = (struct DiskPaths){0};
  char folder[WIDE_ROOM];
  struct Match m = {.paths = paths, .folder = pattern, .pattern = name, .folder_length = (int)(name - pattern)};
  snprintf(folder, sizeof folder, "%.*s", m.folder_length, pattern);
  if (strpbrk(folder, "*?") != NULL) {
    errno = EINVAL;
    return false;
  }
  if (!disk_each(m.folder_length > 0 ? folder : ".", take_match, &m)) return errno == ENOENT;
  if (m.failed) disk_paths_free(paths), errno = ENOMEM;
  if (paths->count > 0) qsort(paths->items, paths->count, sizeof *paths->items, by_bytes);
  return !m.failed;
}

void disk_paths_free(struct DiskPaths *paths) {
  for (size_t i = 0; i < paths->count; i++) free(paths->items[i]);
  free(paths->items);
  *paths = (struct DiskPaths){0};
}

/* ---- locks and room ------------------------------------------------------------------------------ */

/* Folders have no locks here: a file in it stands for it, which one process alone may open, and which is gone with it. */
int disk_lock(const char *folder, int *unlocked) {
  char path[WIDE_ROOM];
  *unlocked = 0;
  if (snprintf(path, sizeof path, "%s/trainer.lock", folder) >= (int)sizeof path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  for (int tries = 0;; tries++) {
    const int file = opened(path, GENERIC_WRITE | DELETE, 0, OPEN_ALWAYS, FILE_FLAG_DELETE_ON_CLOSE);
    if (file >= 0 || errno != EACCES) return file;
    const bool held = GetLastError() == ERROR_SHARING_VIOLATION;
    if (tries == 10 && held) errno = EWOULDBLOCK;
    if (tries == 10) return -1;
    clock_wait(20);  // who asks whether it is free, or has just ended, holds it for an instant
  }
}

double disk_available(const char *path) {
  char place[WIDE_ROOM];
  wchar_t wide[WIDE_ROOM];
  ULARGE_INTEGER bytes;
  snprintf(place, sizeof place, "%s", path);
  while (!wide_path(wide, place) || !GetDiskFreeSpaceExW(wide, &bytes, NULL, NULL)) {
    char *slash = strrchr(place, '/'), *other = strrchr(place, '\\');
    if (strcmp(place, ".") == 0) return INFINITY;
    if (other > slash) slash = other;
    if (slash == NULL || slash == place) strcpy(place, ".");
    else *slash = '\0';
  }
  return (double)bytes.QuadPart;
}
