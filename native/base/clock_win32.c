#include <stdatomic.h>
#include <windows.h>

#include "base/util.h"

typedef void UnbiasedTime(ULONGLONG *time);

/* Units of 100 ns; stands still while the machine sleeps. Windows 10 has it to the last digit, 8 and older do not. */
static UnbiasedTime *find_unbiased(void) {
  const HMODULE library = GetModuleHandleW(L"kernelbase.dll");
  const FARPROC found = library != NULL ? GetProcAddress(library, "QueryUnbiasedInterruptTimePrecise") : NULL;
  return (UnbiasedTime *)(void (*)(void))found;
}

static double performance_seconds(void) {
  LARGE_INTEGER count, per_second;
  QueryPerformanceFrequency(&per_second);
  QueryPerformanceCounter(&count);
  return (double)count.QuadPart / (double)per_second.QuadPart;
}

double clock_seconds(void) {
  static _Atomic(UnbiasedTime *) unbiased;
  static atomic_bool looked;
  if (!looked) unbiased = find_unbiased(), looked = true;
  UnbiasedTime *const query = unbiased;
  if (query == NULL) return performance_seconds();
  ULONGLONG time;
  query(&time);
  return 1e-7 * (double)time;
}

void clock_wait(int ms) { Sleep((DWORD)ms); }
