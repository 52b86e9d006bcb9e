#include "kernels/blas.h"

#include <stdint.h>
#include <stdlib.h>

#include "base/library.h"
#include "base/util.h"

/* cblas_sgemm, with integers of 32 bits or of 64. */
enum { ROW_MAJOR = 101, AS_IS = 111, TRANSPOSED = 112 };
typedef void Multiply32(int order, int a_as, int b_as, int M, int N, int K, float alpha, const float *a, int a_stride,
                        const float *b, int b_stride, float beta, float *out, int stride);
typedef void Multiply64(int order, int a_as, int b_as, int64_t M, int64_t N, int64_t K, float alpha, const float *a,
                        int64_t a_stride, const float *b, int64_t b_stride, float beta, float *out, int64_t stride);
typedef void SetThreads(int threads);

/* The names of numpy's OpenBLAS begin with scipy_; 64_ says how wide its integers are. */
static const char *const names32[] = {"cblas_sgemm", "scipy_cblas_sgemm", NULL};
static const char *const names64[] = {"cblas_sgemm64_", "scipy_cblas_sgemm64_", NULL};
/* Each turns the library's own threads off when it gets a 1: Accelerate (macOS 15 and later), OpenBLAS, MKL. */
static const char *const threads_names[] = {"BLASSetThreading", "openblas_set_num_threads", "openblas_set_num_threads64_",
                                            "scipy_openblas_set_num_threads", "scipy_openblas_set_num_threads64_",
                                            "MKL_Set_Num_Threads", NULL};

static struct {
  bool tried;
  Multiply32 *multiply32;
  Multiply64 *multiply64;
} blas;

static void *symbol(void *library, const char *const *names) {
  void *found = NULL;
  for (; *names != NULL && found == NULL; names++) found = library_symbol(library, *names);
  return found;
}

bool blas_open(void) {
  if (blas.tried) return blas.multiply32 != NULL || blas.multiply64 != NULL;
  blas.tried = true;
  const char *named = getenv("LLMC_BLAS"), *path = named;
#if defined(__APPLE__)
  if (named == NULL || *named == '\0') path = "/System/Library/Frameworks/Accelerate.framework/Accelerate";
#endif
  if (path == NULL || *path == '\0') return false;
  /* Read when the libraries are loaded; older versions of Accelerate know no other way. */
  library_setting("VECLIB_MAXIMUM_THREADS", "1"), library_setting("OPENBLAS_NUM_THREADS", "1");
  char reason[512];
  void *library = library_open(path, reason, sizeof reason);
  if (library == NULL) {
    if (path != named) return false;
    die(EXIT_USAGE, "LLMC_BLAS=%s cannot be opened: %s", path, reason);
  }
  *(void **)&blas.multiply32 = symbol(library, names32);
  *(void **)&blas.multiply64 = symbol(library, names64);
  SetThreads *set_threads;
  *(void **)&set_threads = symbol(library, threads_names);
  if (set_threads != NULL) set_threads(1);
  if (blas.multiply32 == NULL && blas.multiply64 == NULL && path == named) {
    die(EXIT_USAGE, "LLMC_BLAS=%s has no cblas_sgemm; name the library of a BLAS, or unset LLMC_BLAS", path);
  }
  if (blas.multiply32 == NULL && blas.multiply64 == NULL) return false;
  /* The first product takes its time to find out about the CPU and to take memory: not while somebody measures. */
  static float first[64 * 64], zeros[64 * 64];
  blas_multiply(first, 64, (struct BlasMatrix){zeros, 64, false}, (struct BlasMatrix){zeros, 64, false}, 64, 64, 64, false);
  return true;
}

void blas_multiply(float *out, size_t stride, struct BlasMatrix a, struct BlasMatrix b, size_t M, size_t N, size_t K,
                   bool add) {
  const int a_as = a.transposed ? TRANSPOSED : AS_IS, b_as = b.transposed ? TRANSPOSED : AS_IS;
  const float beta = add ? 1 : 0;
  if (blas.multiply64 != NULL) {
    blas.multiply64(ROW_MAJOR, a_as, b_as, (int64_t)M, (int64_t)N, (int64_t)K, 1, a.data, (int64_t)a.stride, b.data,
                    (int64_t)b.stride, beta, out, (int64_t)stride);
  } else {
    blas.multiply32(ROW_MAJOR, a_as, b_as, (int)M, (int)N, (int)K, 1, a.data, (int)a.stride, b.data, (int)b.stride, beta,
                    out, (int)stride);
  }
}
