/* Preloaded into a process, writes down what the process does to the files of one folder, in order, and does harm there.
 *
 * Nothing happens before watch_disk() is called. What SQLite does to its shared index (-shm) is left out: it is mapped
 * memory, which no crash keeps. Each call and its line in the log are made under one lock, so the order is true.
 * Built by disk.py, which also reads the log; the numbers below are known there too.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

enum { MADE = 1, WRITTEN = 2, CUT = 3, SYNCED = 4, REMOVED = 5, RENAMED = 6, NOT_SYNCED = 7 };
enum { NO_HARM = 0, DIE_BEFORE = 1, DIE_TORN = 2, DIE_AFTER = 3, IO_ERROR = 4, NO_ROOM = 5, IO_ERROR_AT_SYNC = 6 };
enum { DEAD = 86 };

struct entry {
    uint32_t what;
    uint32_t name_bytes;
    uint64_t offset;
    uint64_t data_bytes;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char folder[PATH_MAX];
static int log_file = -1;
static int harm;
static long harm_at, harm_times, count;

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

void watch_disk(const char *where, const char *log, int kind, long at, long times)
{
    snprintf(folder, sizeof folder, "%s/", where);
    log_file = *log ? REAL(open64)(log, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
    harm = kind;
    harm_at = at;
    harm_times = times;
    count = 0;
}

long disk_calls(void)
{
    return count;
}

/* The name below the folder, where the process must be at home, or NULL for a file that is none of ours. */
static const char *name_of(const char *path)
{
    size_t length = strlen(folder), all = strlen(path);
    if (!length || (all > 4 && !strcmp(path + all - 4, "-shm")))
        return NULL;
    if (all > 10 && !strcmp(path + all - 10, " (deleted)"))
        return NULL;
    if (*path != '/')
        return path;
    return strncmp(path, folder, length) ? NULL : path + length;
}

static const char *name_of_fd(int fd, char *room)
{
    char link[64];
    ssize_t length;
    if (!*folder)
        return NULL;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    length = readlink(link, room, PATH_MAX - 1);
    if (length < 0)
        return NULL;
    room[length] = 0;
    return name_of(room);
}

static void note(uint32_t what, const char *name, uint64_t offset, const void *data, uint64_t bytes)
{
    struct entry entry = {what, strlen(name), offset, bytes};
    struct iovec parts[3] = {{&entry, sizeof entry}, {(void *)name, entry.name_bytes}, {(void *)data, data ? bytes : 0}};
    if (log_file >= 0 && writev(log_file, parts, 3) < 0)
        _exit(DEAD + 1);
}

/* Whether this call, to a file of the store, is one that is harmed; the lock is held. */
static int is_harmed(const char *name)
{
    if (!strstr(name, ".db"))
        return 0;
    count++;
    return harm && count >= harm_at && count < harm_at + harm_times;
}

static ssize_t write_at(int fd, const void *data, size_t bytes, off64_t offset, int at_end)
{
    char room[PATH_MAX];
    const char *name = name_of_fd(fd, room);
    ssize_t done;
    int reason, harmed;

    if (!name)
        return at_end ? REAL(write)(fd, data, bytes) : REAL(pwrite64)(fd, data, bytes, offset);
    pthread_mutex_lock(&lock);
    harmed = is_harmed(name);
    if (at_end)
        offset = lseek64(fd, 0, fcntl(fd, F_GETFL) & O_APPEND ? SEEK_END : SEEK_CUR);
    if (harmed && harm == DIE_BEFORE)
        _exit(DEAD);
    if (harmed && (harm == IO_ERROR || harm == NO_ROOM)) {
        pthread_mutex_unlock(&lock);
        errno = harm == IO_ERROR ? EIO : ENOSPC;
        return -1;
    }
    if (harmed && harm == DIE_TORN)
        bytes = (bytes + 1) / 2;
    done = at_end ? REAL(write)(fd, data, bytes) : REAL(pwrite64)(fd, data, bytes, offset);
    reason = errno;
    if (done > 0)
        note(WRITTEN, name, offset, data, done);
    if (harmed && (harm == DIE_TORN || harm == DIE_AFTER))
        _exit(DEAD);
    pthread_mutex_unlock(&lock);
    errno = reason;
    return done;
}

ssize_t write(int fd, const void *data, size_t bytes)
{
    return write_at(fd, data, bytes, 0, 1);
}

ssize_t pwrite64(int fd, const void *data, size_t bytes, off64_t offset)
{
    return write_at(fd, data, bytes, offset, 0);
}

ssize_t pwrite(int fd, const void *data, size_t bytes, off_t offset)
{
    return write_at(fd, data, bytes, offset, 0);
}

/* A call without data: what it does to its file is in the log when it has been done. */
#define WITHOUT_DATA(fd, what, size, call, fails)                                                                      \
    char room[PATH_MAX];                                                                                               \
    const char *name = name_of_fd(fd, room);                                                                           \
    int result, reason, harmed;                                                                                        \
    if (!name)                                                                                                         \
        return call;                                                                                                   \
    pthread_mutex_lock(&lock);                                                                                         \
    harmed = is_harmed(name);                                                                                          \
    if (harmed && (harm == DIE_BEFORE || harm == DIE_TORN))                                                            \
        _exit(DEAD);                                                                                                   \
    if (harmed && (fails)) {                                                                                           \
        if (what == SYNCED)                                                                                            \
            note(NOT_SYNCED, name, 0, NULL, 0);                                                                        \
        pthread_mutex_unlock(&lock);                                                                                   \
        errno = EIO;                                                                                                   \
        return -1;                                                                                                     \
    }                                                                                                                  \
    result = call;                                                                                                     \
    reason = errno;                                                                                                    \
    if (!result)                                                                                                       \
        note(what, name, size, NULL, 0);                                                                               \
    if (harmed && harm == DIE_AFTER)                                                                                   \
        _exit(DEAD);                                                                                                   \
    pthread_mutex_unlock(&lock);                                                                                       \
    errno = reason;                                                                                                    \
    return result;

int ftruncate64(int fd, off64_t size)
{
    WITHOUT_DATA(fd, CUT, size, REAL(ftruncate64)(fd, size), harm == IO_ERROR)
}

int fsync(int fd)
{
    WITHOUT_DATA(fd, SYNCED, 0, REAL(fsync)(fd), harm == IO_ERROR || harm == IO_ERROR_AT_SYNC)
}

int fdatasync(int fd)
{
    WITHOUT_DATA(fd, SYNCED, 0, REAL(fdatasync)(fd), harm == IO_ERROR || harm == IO_ERROR_AT_SYNC)
}

int unlink(const char *path)
{
    const char *name = name_of(path);
    int result, reason;
    if (!name)
        return REAL(unlink)(path);
    pthread_mutex_lock(&lock);
    result = REAL(unlink)(path);
    reason = errno;
    if (!result)
        note(REMOVED, name, 0, NULL, 0);
    pthread_mutex_unlock(&lock);
    errno = reason;
    return result;
}

int rename(const char *from, const char *to)
{
    const char *old = name_of(from), *new = name_of(to);
    int result, reason;
    if (!old || !new)
        return REAL(rename)(from, to);
    pthread_mutex_lock(&lock);
    result = REAL(rename)(from, to);
    reason = errno;
    if (!result)
        note(RENAMED, old, 0, new, strlen(new));
    pthread_mutex_unlock(&lock);
    errno = reason;
    return result;
}

static int open_it(const char *path, int flags, mode_t mode)
{
    const char *name = name_of(path);
    int result, reason;
    if (!name || !(flags & (O_CREAT | O_TRUNC)))
        return REAL(open64)(path, flags, mode);
    pthread_mutex_lock(&lock);
    result = REAL(open64)(path, flags, mode);
    reason = errno;
    if (result >= 0) {
        if (flags & O_CREAT)
            note(MADE, name, 0, NULL, 0);
        if (flags & O_TRUNC)
            note(CUT, name, 0, NULL, 0);
    }
    pthread_mutex_unlock(&lock);
    errno = reason;
    return result;
}

#define OPEN(name)                                                                                                     \
    int name(const char *path, int flags, ...)                                                                         \
    {                                                                                                                  \
        va_list rest;                                                                                                  \
        mode_t mode;                                                                                                   \
        va_start(rest, flags);                                                                                         \
        mode = flags & O_CREAT || (flags & O_TMPFILE) == O_TMPFILE ? va_arg(rest, mode_t) : 0;                                                             \
        va_end(rest);                                                                                                  \
        return open_it(path, flags, mode);                                                                             \
    }

OPEN(open)
OPEN(open64)
