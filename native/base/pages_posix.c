#define _DEFAULT_SOURCE  // MAP_ANONYMOUS, madvise
#define _DARWIN_C_SOURCE
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/pages.h"

void *pages_take(size_t bytes) {
  void *pages = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (pages == MAP_FAILED) return NULL;
#ifdef MADV_HUGEPAGE
  madvise(pages, bytes, MADV_HUGEPAGE);  // a wish: the run is right without it, only slower
#endif
  return pages;
}

void pages_free(void *pages, size_t bytes) { munmap(pages, bytes); }

bool pages_guard(void *pages, size_t bytes) { return mprotect(pages, bytes, PROT_NONE) == 0; }

size_t pages_size(void) { return (size_t)sysconf(_SC_PAGESIZE); }

size_t pages_peak(void) {
  struct rusage usage;
  getrusage(RUSAGE_SELF, &usage);
#ifdef __APPLE__
  return (size_t)usage.ru_maxrss;
#else
  return (size_t)usage.ru_maxrss * 1024;
#endif
}
