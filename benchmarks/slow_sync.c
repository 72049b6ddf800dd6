/* Preloaded into a server, makes every fsync and fdatasync take at least SLOW_SYNC_US microseconds, as on a slower disk.
 *
 * The real call is made first and what is left of the time is slept, so a slow real disk is not made slower still.
 * Built by slow_sync.py.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

static long least_ns(void)
{
    static long known = -1;
    if (known < 0) {
        const char *told = getenv("SLOW_SYNC_US");
        known = told ? atol(told) * 1000 : 0;
    }
    return known;
}

static int slowly(const char *name, int fd)
{
    int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, name);
    struct timespec until;
    int result, reason;

    clock_gettime(CLOCK_MONOTONIC, &until);
    result = real(fd);
    reason = errno;
    until.tv_nsec += least_ns();
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
    errno = reason;
    return result;
}

int fsync(int fd)
{
    return slowly("fsync", fd);
}

int fdatasync(int fd)
{
    return slowly("fdatasync", fd);
}
