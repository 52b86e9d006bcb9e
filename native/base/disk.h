/* Free space on a disk. */
#ifndef LLMC_DISK_H
#define LLMC_DISK_H

/* Bytes that may be written at a path, which need not exist yet; infinity where that is not known. */
double disk_available(const char *path);

#endif
