#ifdef __APPLE__
#define _DARWIN_C_SOURCE
#include <mach/mach.h>
#include <sys/sysctl.h>
#else
#define _POSIX_C_SOURCE 200809L
#endif
#include "base/memory.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/util.h"

enum { PATH_ROOM = 1024, TEXT_ROOM = 1 << 14 };

/* The beginning of a small text file; empty where there is none. */
static void read_text(const char *path, char text[TEXT_ROOM]) {
  ssize_t length = 0, got = 0;
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file >= 0) {
    while ((got = read(file, text + length, (size_t)(TEXT_ROOM - 1 - length))) > 0) length += got;
    close(file);
  }
  text[length] = '\0';
}

/* The number behind `name` where a line of the file folder/file begins with it; `otherwise` where none
 * does, or what follows is a word. */
static size_t number_in(const char *folder, const char *file, const char *name, size_t otherwise) {
  char path[PATH_ROOM + 64], text[TEXT_ROOM];
  snprintf(path, sizeof path, "%s/%s", folder, file);
  read_text(path, text);
  for (const char *line = text; line != NULL; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (strncmp(line, name, strlen(name)) != 0) continue;
    char *end;
    const unsigned long long number = strtoull(line + strlen(name), &end, 10);
    return end == line + strlen(name) ? otherwise : (size_t)number;
  }
  return otherwise;
}

/* What control groups call things; both generations can be there at once. */
struct GroupFiles {
  const char *root, *limit, *used, *active, *inactive;
};

static const struct GroupFiles VERSION1 = {
    .root = "/sys/fs/cgroup/memory", .limit = "memory.limit_in_bytes", .used = "memory.usage_in_bytes",
    .active = "total_active_file ", .inactive = "total_inactive_file ",
};
static const struct GroupFiles VERSION2 = {
    .root = "/sys/fs/cgroup", .limit = "memory.max", .used = "memory.current",
    .active = "active_file ", .inactive = "inactive_file ",
};

/* What a group and every group around it leave to be taken. Cached files count as used there, but give
 * way. A container may see its own group as the root: then only the root is found, which is right. */
static size_t group_available(const char *root, const struct GroupFiles *files, const char *group) {
  char folder[PATH_ROOM];
  size_t least = SIZE_MAX;
  const int length = snprintf(folder, sizeof folder, "%s%s%s", root, files->root, group);
  if (length < 0 || (size_t)length >= sizeof folder) return SIZE_MAX;
  for (;;) {
    const size_t limit = number_in(folder, files->limit, "", SIZE_MAX);
    const size_t used = number_in(folder, files->used, "", 0);
    const size_t cached = number_in(folder, "memory.stat", files->active, 0) +
                          number_in(folder, "memory.stat", files->inactive, 0);
    const size_t taken = used - size_min(used, cached);
    if (limit != SIZE_MAX) least = size_min(least, limit - size_min(limit, taken));
    if (strlen(folder) <= strlen(root) + strlen(files->root)) return least;
    *strrchr(folder, '/') = '\0';
  }
}

size_t memory_available_linux(const char *root) {
  char path[PATH_ROOM], text[TEXT_ROOM];
  snprintf(path, sizeof path, "%s/proc", root);
  const size_t kilobytes = number_in(path, "meminfo", "MemAvailable:", SIZE_MAX);
  size_t available = kilobytes == SIZE_MAX ? SIZE_MAX : size_product(kilobytes, 1024);

  /* Lines of number:controllers:group; version 2 is the one without controllers. */
  snprintf(path, sizeof path, "%s/proc/self/cgroup", root);
  read_text(path, text);
  for (char *line = text, *next; *line != '\0'; line = next) {
    char *end = strchr(line, '\n');
    next = end != NULL ? end + 1 : line + strlen(line);
    if (end != NULL) *end = '\0';
    char *controllers = strchr(line, ':'), *group = controllers != NULL ? strchr(controllers + 1, ':') : NULL;
    if (group == NULL) continue;
    *group++ = '\0';
    const bool version2 = controllers[1] == '\0';
    if (!version2 && strstr(controllers, "memory") == NULL) continue;
    available = size_min(available, group_available(root, version2 ? &VERSION2 : &VERSION1, group));
  }
  return available;
}

#ifdef __APPLE__
/* All but what is wired down: macOS compresses the rest out of the way. */
size_t memory_of_system(void) {
  uint64_t total = 0;
  size_t size = sizeof total;
  if (sysctlbyname("hw.memsize", &total, &size, NULL, 0) != 0) return SIZE_MAX;
  vm_statistics64_data_t pages;
  mach_msg_type_number_t count = HOST_VM_INFO64_COUNT;
  if (host_statistics64(mach_host_self(), HOST_VM_INFO64, (host_info64_t)&pages, &count) != KERN_SUCCESS) {
    return total;
  }
  return total - size_min(total, (size_t)pages.wire_count * (size_t)sysconf(_SC_PAGESIZE));
}
#else
size_t memory_of_system(void) { return memory_available_linux(""); }
#endif
