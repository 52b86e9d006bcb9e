#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <windows.h>

#include "base/wide.h"

static const wchar_t ANY_LENGTH[] = L"\\\\?\\", ANY_LENGTH_SERVER[] = L"\\\\?\\UNC\\";

bool wide_path(wchar_t wide[WIDE_ROOM], const char *path) {
  enum { LONG = MAX_PATH - 13, PREFIX = 8 };  // a folder's name leaves room for a file's of the form 8.3
  const int length = MultiByteToWideChar(CP_UTF8, MB_ERR_INVALID_CHARS, path, -1, wide, WIDE_ROOM);
  if (length == 0) {
    errno = GetLastError() == ERROR_INSUFFICIENT_BUFFER ? ENAMETOOLONG : EILSEQ;
    return false;
  }
  if (length < LONG || wcsncmp(wide, ANY_LENGTH, 4) == 0) return true;
  wchar_t whole[WIDE_ROOM];
  const DWORD all = GetFullPathNameW(wide, WIDE_ROOM, whole, NULL);
  if (all == 0 || all > WIDE_ROOM - PREFIX) {
    errno = ENAMETOOLONG;
    return false;
  }
  const bool server = wcsncmp(whole, L"\\\\", 2) == 0;
  wcscpy(wide, server ? ANY_LENGTH_SERVER : ANY_LENGTH);
  wcscat(wide, server ? whole + 2 : whole);
  return true;
}

char *wide_to_utf8(const wchar_t *wide) {
  const int length = WideCharToMultiByte(CP_UTF8, 0, wide, -1, NULL, 0, NULL, NULL);
  char *text = length > 0 ? malloc((size_t)length) : NULL;
  if (text != NULL) WideCharToMultiByte(CP_UTF8, 0, wide, -1, text, length, NULL, NULL);
  else errno = ENOMEM;
  return text;
}

void wide_errno(void) {
  static const struct { DWORD error; int is; } known[] = {
      {ERROR_FILE_NOT_FOUND, ENOENT}, {ERROR_PATH_NOT_FOUND, ENOENT}, {ERROR_INVALID_NAME, ENOENT},
      {ERROR_MOD_NOT_FOUND, ENOENT}, {ERROR_BAD_EXE_FORMAT, ENOEXEC},
      {ERROR_BAD_PATHNAME, ENOENT}, {ERROR_BAD_NETPATH, ENOENT}, {ERROR_INVALID_DRIVE, ENOENT},
      {ERROR_DIRECTORY, ENOTDIR}, {ERROR_TOO_MANY_OPEN_FILES, EMFILE}, {ERROR_ACCESS_DENIED, EACCES},
      {ERROR_SHARING_VIOLATION, EACCES}, {ERROR_LOCK_VIOLATION, EACCES}, {ERROR_WRITE_PROTECT, EROFS},
      {ERROR_NOT_ENOUGH_MEMORY, ENOMEM}, {ERROR_OUTOFMEMORY, ENOMEM}, {ERROR_COMMITMENT_LIMIT, ENOMEM},
      {ERROR_FILE_EXISTS, EEXIST}, {ERROR_ALREADY_EXISTS, EEXIST}, {ERROR_DIR_NOT_EMPTY, ENOTEMPTY},
      {ERROR_BROKEN_PIPE, EPIPE}, {ERROR_NO_DATA, EPIPE}, {ERROR_PIPE_NOT_CONNECTED, EPIPE},
      {ERROR_DISK_FULL, ENOSPC}, {ERROR_HANDLE_DISK_FULL, ENOSPC}, {ERROR_DISK_QUOTA_EXCEEDED, ENOSPC},
      {ERROR_FILE_TOO_LARGE, EFBIG}, {ERROR_FILENAME_EXCED_RANGE, ENAMETOOLONG}, {ERROR_INVALID_HANDLE, EBADF},
      {ERROR_NOT_SUPPORTED, ENOTSUP}, {ERROR_INVALID_FUNCTION, ENOTSUP}, {ERROR_INVALID_PARAMETER, EINVAL},
  };
  const DWORD error = GetLastError();
  errno = EIO;
  for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
    if (known[i].error == error) errno = known[i].is;
  }
}
