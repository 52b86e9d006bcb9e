/* How much memory the machine can give. */
#ifndef LLMC_MEMORY_H
#define LLMC_MEMORY_H

#include <stddef.h>

/* Bytes that this program may take without driving anything to the disk: LLMC_MEMORY if it is set, else
 * what the system has free or can free, and no more than the control group allows. SIZE_MAX where that
 * cannot be known. Dies with EXIT_USAGE when LLMC_MEMORY is no number of bytes. */
size_t memory_available(void);

/* The same without LLMC_MEMORY, read from Linux's /proc and /sys, which lie under `root` ("" for those
 * of this machine). */
size_t memory_available_linux(const char *root);

#endif
