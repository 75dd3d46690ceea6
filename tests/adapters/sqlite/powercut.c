/* Preloaded into a process: records what it asks of the files below $CUT_DIR and what it sends, in one order.

   From the record every disk can be built that a power cut at any moment may leave: what was synced is
   there, what was not is there, torn or lost (powercut.py). $CUT_FAIL_SYNC=n lets the n-th sync fail with
   EIO, $CUT_READ_ONLY every opening for writing with EROFS.

   A record is a line "op inode offset length path\n" and `length` bytes. Operations: C created, W written,
   T truncated (to offset), S synced, D directory synced, R renamed (the bytes are the new path), U unlinked,
   M message sent. Files ending in -shm are left out: SQLite makes them anew. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))
#define FDS 4096

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static FILE *trace;
static const char *base;
static ino_t inode_of[FDS]; /* of what is open below base; 0: not ours */
static char is_directory[FDS];
static long syncs, failing;

__attribute__((constructor)) static void begin(void) {
    base = getenv("CUT_DIR");
    trace = base ? fopen(getenv("CUT_TRACE"), "we") : NULL;
    failing = getenv("CUT_FAIL_SYNC") ? atol(getenv("CUT_FAIL_SYNC")) : 0;
}

static int is_ours(const char *path) {
    size_t n = strlen(path);
    return trace && !strncmp(path, base, strlen(base)) && !(n > 4 && !strcmp(path + n - 4, "-shm"));
}

static void put(char op, ino_t inode, off_t offset, const char *path, const void *data, size_t length) {
    fprintf(trace, "%c %lu %lld %zu %s\n", op, (unsigned long)inode, (long long)offset, length, path);
    fwrite(data, 1, length, trace);
    fflush(trace);
}

static ino_t known(int fd) { return fd >= 0 && fd < FDS ? inode_of[fd] : 0; }

static int opened(int fd, const char *path, int was_there) {
    struct stat s;
    if (fd < 0 || fd >= FDS || fstat(fd, &s)) return fd;
    inode_of[fd] = s.st_ino;
    is_directory[fd] = S_ISDIR(s.st_mode);
    if (!was_there) put('C', s.st_ino, 0, path, "", 0);
    return fd;
}

#define OPEN(name)                                                                     \
    int name(const char *path, int flags, ...) {                                       \
        va_list rest;                                                                  \
        va_start(rest, flags);                                                         \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;                      \
        va_end(rest);                                                                  \
        if (!is_ours(path)) return REAL(name)(path, flags, mode);                      \
        if (getenv("CUT_READ_ONLY") && flags & (O_CREAT | O_WRONLY | O_RDWR))          \
            return errno = EROFS, -1;                                                  \
        pthread_mutex_lock(&lock);                                                     \
        int was_there = !access(path, F_OK);                                           \
        int fd = opened(REAL(name)(path, flags, mode), path, was_there);               \
        if (fd >= 0 && flags & O_TRUNC && was_there) put('T', known(fd), 0, "", "", 0); \
        pthread_mutex_unlock(&lock);                                                   \
        return fd;                                                                     \
    }
OPEN(open)
OPEN(open64)

int close(int fd) {
    if (fd >= 0 && fd < FDS) inode_of[fd] = 0;
    return REAL(close)(fd);
}

#define PWRITE(name)                                                        \
    ssize_t name(int fd, const void *data, size_t length, off_t offset) {   \
        if (!known(fd)) return REAL(name)(fd, data, length, offset);        \
        pthread_mutex_lock(&lock);                                          \
        ssize_t done = REAL(name)(fd, data, length, offset);                \
        if (done > 0) put('W', known(fd), offset, "", data, (size_t)done);  \
        pthread_mutex_unlock(&lock);                                        \
        return done;                                                        \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

ssize_t write(int fd, const void *data, size_t length) {
    if (!known(fd)) return REAL(write)(fd, data, length);
    pthread_mutex_lock(&lock);
    ssize_t done = REAL(write)(fd, data, length);
    if (done > 0) put('W', known(fd), lseek(fd, 0, SEEK_CUR) - done, "", data, (size_t)done);
    pthread_mutex_unlock(&lock);
    return done;
}

#define TRUNCATE(name)                                            \
    int name(int fd, off_t length) {                              \
        if (!known(fd)) return REAL(name)(fd, length);            \
        pthread_mutex_lock(&lock);                                \
        int rc = REAL(name)(fd, length);                          \
        if (!rc) put('T', known(fd), length, "", "", 0);          \
        pthread_mutex_unlock(&lock);                              \
        return rc;                                                \
    }
TRUNCATE(ftruncate)
TRUNCATE(ftruncate64)

/* Under the lock: what was written before is synced, what comes after is not. */
#define SYNC(name)                                                              \
    int name(int fd) {                                                          \
        if (!known(fd)) return REAL(name)(fd);                                  \
        pthread_mutex_lock(&lock);                                              \
        int rc = ++syncs == failing ? (errno = EIO, -1) : REAL(name)(fd);       \
        if (!rc) put(is_directory[fd] ? 'D' : 'S', known(fd), 0, "", "", 0);    \
        pthread_mutex_unlock(&lock);                                            \
        return rc;                                                              \
    }
SYNC(fsync)
SYNC(fdatasync)

int rename(const char *from, const char *to) {
    if (!is_ours(from)) return REAL(rename)(from, to);
    pthread_mutex_lock(&lock);
    int rc = REAL(rename)(from, to);
    if (!rc) put('R', 0, 0, from, to, strlen(to));
    pthread_mutex_unlock(&lock);
    return rc;
}

int unlink(const char *path) {
    if (!is_ours(path)) return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    int rc = REAL(unlink)(path);
    if (!rc) put('U', 0, 0, path, "", 0);
    pthread_mutex_unlock(&lock);
    return rc;
}

/* Messages before they leave; only what may be a part of a request: a POST, or a body of JSON. */
static void sending(const void *data, size_t length) {
    if (!trace || length < 5 || (memcmp(data, "POST ", 5) && *(const char *)data != '{')) return;
    pthread_mutex_lock(&lock);
    put('M', 0, 0, "", data, length);
    pthread_mutex_unlock(&lock);
}

ssize_t send(int fd, const void *data, size_t length, int flags) {
    sending(data, length);
    return REAL(send)(fd, data, length, flags);
}

ssize_t sendmsg(int fd, const struct msghdr *message, int flags) {
    for (size_t i = 0; i < message->msg_iovlen; i++)
        sending(message->msg_iov[i].iov_base, message->msg_iov[i].iov_len);
    return REAL(sendmsg)(fd, message, flags);
}
