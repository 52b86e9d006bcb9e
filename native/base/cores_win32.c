#include <stdlib.h>
#include <windows.h>

#include "base/cores.h"
#include "base/util.h"

int cores_there(void) {
  const DWORD count = GetActiveProcessorCount(ALL_PROCESSOR_GROUPS);
  return count > 0 ? (int)count : 1;
}

/* Those of the process's group of at most 64; 0 where it runs in several groups, and so on all. */
static DWORD_PTR allowed(void) {
  DWORD_PTR mine = 0, all = 0;
  return GetProcessAffinityMask(GetCurrentProcess(), &mine, &all) ? mine : 0;
}

int cores_allowed(void) {
  const DWORD_PTR mine = allowed();
  return mine != 0 ? __builtin_popcountll(mine) : cores_there();
}

int cores_physical(void) {
  const DWORD_PTR mine = allowed();
  SYSTEM_LOGICAL_PROCESSOR_INFORMATION *parts = NULL;
  DWORD bytes = 0;
  int cores = 0;
  GetLogicalProcessorInformation(NULL, &bytes);
  if (bytes > 0) parts = malloc(bytes);
  if (mine != 0 && parts != NULL && GetLogicalProcessorInformation(parts, &bytes)) {
    for (size_t i = 0; i < bytes / sizeof *parts; i++) {
      cores += parts[i].Relationship == RelationProcessorCore && (parts[i].ProcessorMask & mine) != 0;
    }
  }
  free(parts);
  return cores > 0 ? cores : cores_allowed();
}

uint64_t cores_set(void) { return mix64(allowed()); }
