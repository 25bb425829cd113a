/* Let one system call that writes under a folder fail: loaded with LD_PRELOAD by scripts/fault_study.py.

   faults_arm(folder, first, last, error) counts the calls that write below `folder` from 1; those from `first` to
   `last` fail with `error`. faults_count() returns how many there were, faults_name() the name of the first that
   failed. Calls that open a file to write, write, truncate, flush, rename, link, make and remove are counted. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static char folder[4096];
static long count, first_failing, last_failing;
static int armed, failure;
static char failed[64];

void faults_arm(const char *path, long first, long last, int error) {
    snprintf(folder, sizeof folder, "%s", path);
    first_failing = first, last_failing = last, failure = error, count = 0, armed = 1;
    failed[0] = 0;
}

long faults_count(void) { return count; }

const char *faults_name(void) { return failed; }

static int below(const char *path) {
    size_t n = strlen(folder);
    return strncmp(path, folder, n) == 0 && (path[n] == 0 || path[n] == '/');
}

/* Return whether this call must fail; errno is then set. Removing works on a full disk and is not counted there. */
static int hit(const char *name) {
    if (failure == ENOSPC && (strcmp(name, "unlink") == 0 || strcmp(name, "rmdir") == 0)) return 0;
    long n = __sync_add_and_fetch(&count, 1);
    if (n < first_failing || n > last_failing) return 0;
    if (!failed[0]) snprintf(failed, sizeof failed, "%s", name);
    errno = failure;
    return 1;
}

static int at_path(const char *name, int at, const char *path) {
    char whole[8192], start[4096], link[64];
    if (!armed || !path) return 0;
    if (path[0] == '/') return below(path) && hit(name);
    if (at == AT_FDCWD) {
        if (!getcwd(start, sizeof start)) return 0;
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", at);
        ssize_t n = readlink(link, start, sizeof start - 1);
        if (n < 0) return 0;
        start[n] = 0;
    }
    snprintf(whole, sizeof whole, "%s/%s", start, path);
    return below(whole) && hit(name);
}

static int at_handle(const char *name, int handle) { return armed ? at_path(name, handle, ".") : 0; }

#define NEXT(name) __typeof__(&name) next = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

#define OPEN(name)                                                                                                  \
    int name(const char *path, int flags, ...) {                                                                    \
        va_list more;                                                                                               \
        va_start(more, flags);                                                                                      \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;                                    \
        va_end(more);                                                                                               \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && at_path("open", AT_FDCWD, path)) return -1;                   \
        NEXT(name);                                                                                                 \
        return next(path, flags, mode);                                                                             \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                                                                \
    int name(int at, const char *path, int flags, ...) {                                                            \
        va_list more;                                                                                               \
        va_start(more, flags);                                                                                      \
        mode_t mode = (flags & (O_CREAT | O_TMPFILE)) ? va_arg(more, mode_t) : 0;                                    \
        va_end(more);                                                                                               \
        if ((flags & (O_WRONLY | O_RDWR | O_CREAT)) && at_path("open", at, path)) return -1;                         \
        NEXT(name);                                                                                                 \
        return next(at, path, flags, mode);                                                                         \
    }
OPENAT(openat)
OPENAT(openat64)

#define ON_HANDLE(type, name, shown, parameters, arguments)                                                          \
    type name parameters {                                                                                          \
        if (at_handle(shown, handle)) return -1;                                                                    \
        NEXT(name);                                                                                                 \
        return next arguments;                                                                                      \
    }
ON_HANDLE(ssize_t, write, "write", (int handle, const void *data, size_t n), (handle, data, n))
ON_HANDLE(ssize_t, writev, "write", (int handle, const struct iovec *data, int n), (handle, data, n))
ON_HANDLE(ssize_t, pwrite, "write", (int handle, const void *data, size_t n, off_t at), (handle, data, n, at))
ON_HANDLE(ssize_t, pwrite64, "write", (int handle, const void *data, size_t n, off64_t at), (handle, data, n, at))
ON_HANDLE(int, ftruncate, "truncate", (int handle, off_t n), (handle, n))
ON_HANDLE(int, ftruncate64, "truncate", (int handle, off64_t n), (handle, n))
ON_HANDLE(int, fsync, "fsync", (int handle), (handle))
ON_HANDLE(int, fdatasync, "fsync", (int handle), (handle))
ON_HANDLE(int, fchmod, "chmod", (int handle, mode_t mode), (handle, mode))

#define ON_PATH(name, shown, at, path, parameters, arguments)                                                        \
    int name parameters {                                                                                           \
        if (at_path(shown, at, path)) return -1;                                                                    \
        NEXT(name);                                                                                                 \
        return next arguments;                                                                                      \
    }
ON_PATH(rename, "rename", AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(renameat, "rename", b, to, (int a, const char *from, int b, const char *to), (a, from, b, to))
ON_PATH(link, "link", AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(symlink, "link", AT_FDCWD, to, (const char *from, const char *to), (from, to))
ON_PATH(mkdir, "mkdir", AT_FDCWD, path, (const char *path, mode_t mode), (path, mode))
ON_PATH(mkdirat, "mkdir", at, path, (int at, const char *path, mode_t mode), (at, path, mode))
ON_PATH(rmdir, "rmdir", AT_FDCWD, path, (const char *path), (path))
ON_PATH(unlink, "unlink", AT_FDCWD, path, (const char *path), (path))
ON_PATH(unlinkat, "unlink", at, path, (int at, const char *path, int flags), (at, path, flags))
