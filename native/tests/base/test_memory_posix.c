/* What Linux says of its memory, from /proc and /sys as they look in and out of containers. */
#define _XOPEN_SOURCE 700
#define _DARWIN_C_SOURCE  // mkdtemp
#include "base/memory.h"

#include <ftw.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/check.h"

static char root[] = "/tmp/llmc-test-memory-XXXXXX";

/* Writes root/path, with its folders. */
static void write_file(const char *path, const char *text) {
  char whole[512];
  snprintf(whole, sizeof whole, "%s/%s", root, path);
  for (char *at = whole + sizeof root; (at = strchr(at, '/')) != NULL; *at++ = '/') {
    *at = '\0';
    mkdir(whole, 0777);
  }
  FILE *file = fopen(whole, "w");
  if (file != NULL) fputs(text, file), fclose(file);
  check(file != NULL, "cannot write %s", whole);
}

static int remove_entry(const char *path, const struct stat *status, int kind, struct FTW *walk) {
  (void)status, (void)kind, (void)walk;
  return remove(path);
}

static void empty_root(void) {
  nftw(root, remove_entry, 8, FTW_DEPTH | FTW_PHYS);
  mkdir(root, 0777);
}

static void check_available(size_t expected, const char *what) {
  const size_t got = memory_available_linux(root);
  check(got == expected, "%s: expected %zu bytes, got %zu", what, expected, got);
}

static void check_system(void) {
  check_available(SIZE_MAX, "no /proc");
  write_file("proc/meminfo", "MemTotal:       900 kB\nMemFree:    5 kB\nBuffers: 1 kB\n");
  check_available(SIZE_MAX, "a kernel without MemAvailable");
  write_file("proc/meminfo", "MemTotal:       900 kB\nMemFree:    5 kB\nMemAvailable:     800 kB\nCached: 7 kB\n");
  check_available(800 * 1024, "no control groups");
  write_file("proc/self/cgroup", "0::/user/shell\n");
  check_available(800 * 1024, "a group without files");
}

static void check_version2(void) {
  write_file("sys/fs/cgroup/user/shell/memory.max", "max\n");
  write_file("sys/fs/cgroup/user/shell/memory.current", "5000\n");
  check_available(800 * 1024, "a group without a limit");
  write_file("sys/fs/cgroup/user/memory.max", "700000\n");
  write_file("sys/fs/cgroup/user/memory.current", "500000\n");
  check_available(200000, "a limit on the group around it");
  write_file("sys/fs/cgroup/user/memory.stat", "anon 99\nfile 4\ninactive_file 30000\nactive_file 2000\nslab 9\n");
  check_available(232000, "cached files give way");
  write_file("sys/fs/cgroup/user/shell/memory.max", "100000\n");
  check_available(95000, "a closer limit");
  write_file("sys/fs/cgroup/user/memory.current", "800000\n");
  check_available(0, "a limit that is exceeded");
  write_file("proc/self/cgroup", "0::/\n");
  check_available(800 * 1024, "the root group of a machine");
  write_file("sys/fs/cgroup/memory.max", "4096\n");
  check_available(4096, "the root group of a container");
}

static void check_version1(void) {
  write_file("proc/self/cgroup", "11:cpu,cpuacct:/elsewhere\n4:memory:/docker/abc\n0::/\n");
  write_file("proc/meminfo", "MemAvailable: 800 kB\n");
  write_file("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
  write_file("sys/fs/cgroup/memory/memory.usage_in_bytes", "5000\n");
  check_available(800 * 1024, "a limit that is none");
  write_file("sys/fs/cgroup/memory/memory.limit_in_bytes", "60000\n");
  check_available(55000, "a container's group, seen as the root");
  write_file("sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "50000\n");
  write_file("sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "20000\n");
  write_file("sys/fs/cgroup/memory/docker/abc/memory.stat",
             "active_file 1\ninactive_file 2\ntotal_active_file 300\ntotal_inactive_file 4000\n");
  check_available(34300, "the group itself");
  write_file("proc/self/cgroup", "nonsense\n7\n:\n\n4:memory");
  check_available(800 * 1024, "lines that are none");
}

int main(void) {
  check(mkdtemp(root) != NULL, "cannot make a folder like %s", root);
  check_system(), empty_root();
  check_system(), check_version2(), empty_root();
  check_version1(), empty_root();
  rmdir(root);
  return check_done("test_memory");
}
