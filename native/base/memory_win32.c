#include <stdint.h>
#include <windows.h>

#include "base/memory.h"
#include "base/util.h"

/* What is free or can be freed, and no more than the system still promises: pages are paid for when they are taken. */
size_t memory_of_system(void) {
  MEMORYSTATUSEX status = {.dwLength = sizeof status};
  if (!GlobalMemoryStatusEx(&status)) return SIZE_MAX;
  return size_min((size_t)status.ullAvailPhys, (size_t)status.ullAvailPageFile);
}
