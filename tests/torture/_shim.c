/* Lets the Nth call of the system that touches a directory fail, beneath Python.
 *
 * Preloaded (LD_PRELOAD), and armed from within the process by ctypes. A call counts where its path
 * lies in the directory that was armed, or its descriptor was opened there, and its kind is one of
 * the mask. Linux, glibc.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

/* In the order of `KINDS` in _syscalls.py. */
enum {
    OPEN, READ, PREAD, STAT, FSTAT, SCANDIR, FLOCK, WRITE, WRITEV, PWRITE, FSYNC, FDATASYNC,
    RENAME, UNLINK, MKDIR, FTRUNCATE, COPY, CREATE
};

enum { PASS, FAIL, SHORT };

/* How the chosen call fails, and those behind it. */
enum { ONCE, ALWAYS, HALF, DEAD_BEFORE, DEAD_AFTER };

#define MOST_DESCRIPTORS 4096
#define MOST_CALLS 100000

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char prefix[PATH_MAX];
static unsigned long mask;
static int is_armed, mode, code;
static long at, seen, failed;
static unsigned char is_ours[MOST_DESCRIPTORS];
static unsigned char kinds[MOST_CALLS];

/* Count calls of `kinds_mask` on what lies in `directory`; from the `number`th on some fail. */
void shim_arm(const char *directory, unsigned long kinds_mask, long number, int how, int error) {
    pthread_mutex_lock(&lock);
    strncpy(prefix, directory, sizeof prefix - 1);
    mask = kinds_mask, at = number, mode = how, code = error, seen = failed = 0, is_armed = 1;
    pthread_mutex_unlock(&lock);
}

void shim_disarm(void) {
    pthread_mutex_lock(&lock);
    is_armed = 0;
    pthread_mutex_unlock(&lock);
}

/* Descriptors opened in `directory` count from now on. */
void shim_watch(const char *directory) {
    pthread_mutex_lock(&lock);
    strncpy(prefix, directory, sizeof prefix - 1);
    pthread_mutex_unlock(&lock);
}

long shim_seen(void) { return seen; }
long shim_failed(void) { return failed; }
int shim_kind(long number) { return number < MOST_CALLS ? kinds[number] : -1; }

static int is_inside(const char *path) {
    size_t length = strlen(prefix);
    return path && length && !strncmp(path, prefix, length);
}

static int is_ours_fd(int fd) { return fd >= 0 && fd < MOST_DESCRIPTORS && is_ours[fd]; }

/* What becomes of a call that counts. `after` is set where it is the last that is done. */
static int decide(int kind, int counts, int *after) {
    int verdict = PASS;
    *after = 0;
    if (!counts || !is_armed) return PASS;
    pthread_mutex_lock(&lock);
    if (is_armed && (mask >> kind & 1)) {
        long number = seen++;
        if (number < MOST_CALLS) kinds[number] = (unsigned char)kind;
        if (at >= 0 && number >= at) {
            if (mode == ONCE || mode == HALF) verdict = number == at ? FAIL : PASS;
            else if (mode == DEAD_AFTER && number == at) *after = 1;
            else verdict = FAIL;
            if (verdict == FAIL && mode == HALF) verdict = SHORT;
            failed += verdict != PASS || *after;
        }
    }
    pthread_mutex_unlock(&lock);
    if (verdict == FAIL) errno = code;
    return verdict;
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type (*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define TRY(kind, counts) \
    int after, verdict = decide(kind, counts, &after); \
    if (verdict == FAIL) return -1

static int opened(int fd, const char *path) {
    if (fd >= 0 && fd < MOST_DESCRIPTORS) is_ours[fd] = is_inside(path);
    return fd;
}

#define OPENING(name) \
    int name(const char *path, int flags, ...) { \
        REAL(int, #name, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        TRY(flags & O_CREAT ? CREATE : OPEN, is_inside(path)); \
        (void)verdict; \
        return opened(real(path, flags, rights), path); \
    }
OPENING(open)
OPENING(open64)

#define OPENING_AT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        REAL(int, #name, int, const char *, int, ...); \
        va_list list; \
        va_start(list, flags); \
        mode_t rights = flags & (O_CREAT | O_TMPFILE) ? va_arg(list, mode_t) : 0; \
        va_end(list); \
        TRY(flags & O_CREAT ? CREATE : OPEN, is_inside(path)); \
        (void)verdict; \
        return opened(real(folder, path, flags, rights), path); \
    }
OPENING_AT(openat)
OPENING_AT(openat64)

int close(int fd) {
    REAL(int, "close", int);
    if (fd >= 0 && fd < MOST_DESCRIPTORS) is_ours[fd] = 0;
    return real(fd);
}

/* Short means half: less than was asked for, and more than nothing. */
#define HALF_OF(size) (verdict == SHORT && (size) > 1 ? (size) / 2 : (size))

ssize_t read(int fd, void *data, size_t size) {
    REAL(ssize_t, "read", int, void *, size_t);
    TRY(READ, is_ours_fd(fd));
    return real(fd, data, HALF_OF(size));
}

#define PREADING(name, offset_type) \
    ssize_t name(int fd, void *data, size_t size, offset_type offset) { \
        REAL(ssize_t, #name, int, void *, size_t, offset_type); \
        TRY(PREAD, is_ours_fd(fd)); \
        return real(fd, data, HALF_OF(size), offset); \
    }
PREADING(pread, off_t)
PREADING(pread64, off64_t)

ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    TRY(WRITE, is_ours_fd(fd));
    return real(fd, data, HALF_OF(size));
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    TRY(WRITEV, is_ours_fd(fd));
    if (verdict == SHORT) {
        struct iovec first = parts[0];
        first.iov_len = HALF_OF(first.iov_len);
        return real(fd, &first, 1);
    }
    return real(fd, parts, count);
}

#define PWRITING(name, offset_type) \
    ssize_t name(int fd, const void *data, size_t size, offset_type offset) { \
        REAL(ssize_t, #name, int, const void *, size_t, offset_type); \
        TRY(PWRITE, is_ours_fd(fd)); \
        return real(fd, data, HALF_OF(size), offset); \
    }
PWRITING(pwrite, off_t)
PWRITING(pwrite64, off64_t)

ssize_t copy_file_range(int from, off64_t *from_at, int to, off64_t *to_at, size_t size,
                        unsigned flags) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    TRY(COPY, is_ours_fd(from) || is_ours_fd(to));
    return real(from, from_at, to, to_at, HALF_OF(size), flags);
}

#define ONE(kind, type, name, counts, parameters, arguments, ...) \
    type name parameters { \
        REAL(type, #name, __VA_ARGS__); \
        TRY(kind, counts); \
        (void)verdict; \
        return real arguments; \
    }
ONE(STAT, int, stat, is_inside(path), (const char *path, struct stat *out), (path, out),
    const char *, struct stat *)
ONE(STAT, int, stat64, is_inside(path), (const char *path, struct stat64 *out), (path, out),
    const char *, struct stat64 *)
ONE(STAT, int, lstat, is_inside(path), (const char *path, struct stat *out), (path, out),
    const char *, struct stat *)
ONE(STAT, int, lstat64, is_inside(path), (const char *path, struct stat64 *out), (path, out),
    const char *, struct stat64 *)
ONE(STAT, int, fstatat64, is_inside(path),
    (int folder, const char *path, struct stat64 *out, int flags), (folder, path, out, flags),
    int, const char *, struct stat64 *, int)
ONE(STAT, int, statx, is_inside(path),
    (int folder, const char *path, int flags, unsigned which, struct statx *out),
    (folder, path, flags, which, out), int, const char *, int, unsigned, struct statx *)
ONE(FSTAT, int, fstat, is_ours_fd(fd), (int fd, struct stat *out), (fd, out), int, struct stat *)
ONE(FSTAT, int, fstat64, is_ours_fd(fd), (int fd, struct stat64 *out), (fd, out), int,
    struct stat64 *)
ONE(FLOCK, int, flock, is_ours_fd(fd), (int fd, int operation), (fd, operation), int, int)
ONE(FSYNC, int, fsync, is_ours_fd(fd), (int fd), (fd), int)
ONE(FDATASYNC, int, fdatasync, is_ours_fd(fd), (int fd), (fd), int)
ONE(RENAME, int, rename, is_inside(from) || is_inside(to), (const char *from, const char *to),
    (from, to), const char *, const char *)
ONE(UNLINK, int, unlink, is_inside(path), (const char *path), (path), const char *)
ONE(UNLINK, int, unlinkat, is_inside(path), (int folder, const char *path, int flags),
    (folder, path, flags), int, const char *, int)
ONE(MKDIR, int, mkdir, is_inside(path), (const char *path, mode_t rights), (path, rights),
    const char *, mode_t)
ONE(FTRUNCATE, int, ftruncate, is_ours_fd(fd), (int fd, off_t size), (fd, size), int, off_t)
ONE(FTRUNCATE, int, ftruncate64, is_ours_fd(fd), (int fd, off64_t size), (fd, size), int, off64_t)

DIR *opendir(const char *path) {
    REAL(DIR *, "opendir", const char *);
    int after;
    if (decide(SCANDIR, is_inside(path), &after) == FAIL) return NULL;
    return real(path);
}

DIR *fdopendir(int fd) {
    REAL(DIR *, "fdopendir", int);
    int after;
    if (decide(SCANDIR, is_ours_fd(fd), &after) == FAIL) return NULL;
    return real(fd);
}
