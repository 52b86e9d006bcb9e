#include <windows.h>
#include <psapi.h>

#include "base/pages.h"

void *pages_take(size_t bytes) { return VirtualAlloc(NULL, bytes, MEM_RESERVE | MEM_COMMIT, PAGE_READWRITE); }

void pages_free(void *pages, size_t bytes) {
  (void)bytes;  // the system knows
  VirtualFree(pages, 0, MEM_RELEASE);
}

bool pages_guard(void *pages, size_t bytes) {
  DWORD before;
  return VirtualProtect(pages, bytes, PAGE_NOACCESS, &before);
}

size_t pages_size(void) {
  SYSTEM_INFO system;
  GetSystemInfo(&system);
  return system.dwPageSize;
}

size_t pages_peak(void) {
  PROCESS_MEMORY_COUNTERS counters = {.cb = sizeof counters};
  return K32GetProcessMemoryInfo(GetCurrentProcess(), &counters, sizeof counters) ? counters.PeakWorkingSetSize : 0;
}
