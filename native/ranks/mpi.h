/* An MPI library, opened while the program runs, and what is called of it.
 *
 * The functions of all libraries are called alike. Their constants differ, as MPICH, Open MPI and the MPI 5.0 standard
 * (chapter 20, the application binary interface) each have their own: five of them are needed here.
 */
#ifndef LLMC_MPI_H
#define LLMC_MPI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A communicator or a type. MPICH's are ints, the others' are pointers. Where the low half of a register or of a stack
 * slot comes first, an int is read from this all the same. */
typedef uintptr_t MpiHandle;

struct Mpi {
  int (*Init_thread)(int *, char ***, int required, int *provided);
  int (*Comm_rank)(MpiHandle, int *);
  int (*Comm_size)(MpiHandle, int *);
  int (*Get_library_version)(char *, int *);
  int (*Finalize)(void);
  int (*Abort)(MpiHandle, int);
  int (*Bcast)(void *, int, MpiHandle, int root, MpiHandle);
  int (*Allgather)(const void *, int, MpiHandle, void *, int, MpiHandle, MpiHandle);
  int (*Scatter)(const void *, int, MpiHandle, void *, int, MpiHandle, int root, MpiHandle);
  int (*Allgatherv)(const void *, int, MpiHandle, void *, const int *, const int *, MpiHandle, MpiHandle);
  int (*Alltoallv)(const void *, const int *, const int *, MpiHandle, void *, const int *, const int *, MpiHandle,
                   MpiHandle);
  int (*Send)(const void *, int, MpiHandle, int to, int tag, MpiHandle);
  int (*Recv)(void *, int, MpiHandle, int from, int tag, MpiHandle, void *status);
  MpiHandle world, byte, float32;  // MPI_COMM_WORLD, MPI_BYTE, MPI_FLOAT
  void *in_place;                  // MPI_IN_PLACE
  int funneled;                    // MPI_THREAD_FUNNELED
};

enum {
  MPI_STATUS_ROOM = 256,    // bytes: a status takes 20 to 32
  MPI_VERSION_ROOM = 8192,  // the largest MPI_MAX_LIBRARY_VERSION_STRING
};

/* Opens a library by its path or name. False where it cannot be opened or is not an MPI library, with the reason. */
bool mpi_open(struct Mpi *mpi, const char *path, char *reason, size_t room);

#endif
