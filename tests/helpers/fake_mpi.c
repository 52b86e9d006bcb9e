/* An MPI library for one process, with MPICH's binary interface: the other ranks of FAKE_SIZE are made up.
 *
 * Their first message, which tells who they are, is rank 0's with another machine. FAKE_OTHER=sources or family changes
 * that too. The other messages arrive as they were sent by rank 0. FAKE_FAILS names a function that returns an error;
 * FAKE_SLEEPS is how many seconds the gathers after the first message take.
 * Floats are rounded toward zero from the moment when this is opened, and again when it is initialized.
 */
#include <fenv.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static int size(void) {
  const char *text = getenv("FAKE_SIZE");
  return text != NULL ? atoi(text) : 1;
}

static int result(const char *function) {
  const char *fails = getenv("FAKE_FAILS");
  return fails != NULL && strcmp(fails, function) == 0 ? 13 : 0;
}

__attribute__((constructor)) static void opened(void) { fesetround(FE_TOWARDZERO); }

int MPI_Init_thread(int *argc, char ***argv, int required, int *provided) {
  (void)argc, (void)argv;
  fesetround(FE_TOWARDZERO);
  *provided = required;
  return result("Init_thread");
}

int MPI_Comm_rank(int world, int *rank) { return (void)world, *rank = 0, 0; }
int MPI_Comm_size(int world, int *count) { return (void)world, *count = size(), 0; }
int MPI_Finalize(void) { return 0; }
int MPI_Bcast(void *bytes, int n, int type, int root, int world) {
  return (void)bytes, (void)n, (void)type, (void)root, (void)world, result("Bcast");
}

int MPI_Get_library_version(char *text, int *length) {
  *length = sprintf(text, "Fake MPI Version:\t1.0\nand more");
  return 0;
}

int MPI_Abort(int world, int code) {
  (void)world;
  printf("aborted with %d\n", code);
  fflush(stdout);
  _Exit(code);
}

int MPI_Allgather(const void *in_place, int none, int no_type, void *all, int each, int type, int world) {
  static int first = 1;
  const char *other = getenv("FAKE_OTHER");
  (void)in_place, (void)none, (void)no_type, (void)type, (void)world;
  for (int r = 1; r < size(); r++) {
    char *row = (char *)all + r * each;
    memcpy(row, all, (size_t)each);
    if (!first) continue;
    strcpy(row, "node7");
    if (other != NULL && strcmp(other, "family") == 0) strcpy(row + 64, "abacus");
    if (other != NULL && strcmp(other, "sources") == 0) row[80] ^= 1;
  }
  const char *seconds = getenv("FAKE_SLEEPS");
  struct timespec now, end;
  clock_gettime(CLOCK_MONOTONIC, &end);
  end.tv_sec += !first && seconds != NULL ? atoi(seconds) : 0;
  do clock_gettime(CLOCK_MONOTONIC, &now);  // MPI's waits do not end when a signal has come
  while (now.tv_sec < end.tv_sec || (now.tv_sec == end.tv_sec && now.tv_nsec < end.tv_nsec));
  first = 0;
  return result("Allgather");
}

int MPI_Allgatherv(const void *a, int b, int c, void *d, const int *e, const int *f, int g, int h) {
  return (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)g, (void)h, result("Allgatherv");
}

int MPI_Alltoallv(const void *from, const int *counts, const int *at, int type, void *to, const int *own, const int *rows,
                  int same, int world) {
  (void)counts, (void)type, (void)same, (void)world;
  for (int r = 0; r < size(); r++) memcpy((float *)to + rows[r], (const float *)from + at[0], sizeof(float) * (size_t)own[r]);
  return result("Alltoallv");
}

int MPI_Scatter(const void *a, int b, int c, void *d, int e, int f, int root, int world) {
  return (void)a, (void)b, (void)c, (void)d, (void)e, (void)f, (void)root, (void)world, result("Scatter");
}
int MPI_Send(const void *a, int b, int c, int to, int tag, int world) {
  return (void)a, (void)b, (void)c, (void)to, (void)tag, (void)world, result("Send");
}
int MPI_Recv(void *a, int b, int c, int from, int tag, int world, void *status) {
  return (void)a, (void)b, (void)c, (void)from, (void)tag, (void)world, (void)status, result("Recv");
}
