/* Preloaded into the daemon: the C library lies about its disk and about the time of day.
 *
 * LD_TROUBLE names a folder. What its files hold decides, at each call anew; without them all is as it is.
 *   clock   seconds to add to the time of day (CLOCK_REALTIME only: durations are measured by another clock)
 *   disk    lines "CALL ERRNO PART": a CALL (write, sync or open, which is one for writing) on a file whose
 *           path has PART in it fails with ERRNO, a number. EROFS, 30, in any of them: the disks of all files
 *           say they are mounted read-only
 * A file of the folder itself is never in trouble. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* By system call: the functions of the C library are the ones we stand in for. */
static int contents(const char *name, char *text, size_t size)
{
    char path[4096];
    const char *folder = getenv("LD_TROUBLE");
    int file, kept = errno;
    long got = -1;
    if (folder && snprintf(path, sizeof path, "%s/%s", folder, name) < (int)sizeof path
        && (file = syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC)) >= 0) {
        got = syscall(SYS_read, file, text, size - 1);
        syscall(SYS_close, file);
    }
    text[got > 0 ? got : 0] = 0;
    errno = kept;
    return got > 0;
}

static int trouble(const char *call, const char *path)
{
    char text[1024], name[16], part[256], *line, *rest = text;
    int number;
    if (!contents("disk", text, sizeof text))
        return 0;
    while ((line = strsep(&rest, "\n")))
        if (sscanf(line, "%15s %d %255s", name, &number, part) == 3
            && !strcmp(name, call) && strstr(path, part)) {
            errno = number;
            return 1;
        }
    return 0;
}

static int trouble_of(const char *call, int file)
{
    char link[64], path[4096], text[8];
    if (!contents("disk", text, sizeof text))
        return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", file);
    long size = syscall(SYS_readlinkat, AT_FDCWD, link, path, sizeof path - 1);
    if (size < 0)
        return 0;
    path[size] = 0;
    return trouble(call, path);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int file, const void *data, size_t size)
{
    return trouble_of("write", file) ? -1 : syscall(SYS_write, file, data, size);
}

ssize_t pwrite(int file, const void *data, size_t size, off_t at)
{
    return trouble_of("write", file) ? -1 : syscall(SYS_pwrite64, file, data, size, at);
}

ssize_t pwrite64(int file, const void *data, size_t size, off64_t at)
{
    return trouble_of("write", file) ? -1 : syscall(SYS_pwrite64, file, data, size, at);
}

int fsync(int file)
{
    return trouble_of("sync", file) ? -1 : (int)syscall(SYS_fsync, file);
}

int fdatasync(int file)
{
    return trouble_of("sync", file) ? -1 : (int)syscall(SYS_fdatasync, file);
}

static int opened(int folder, const char *path, int flags, mode_t mode)
{
    if ((flags & (O_WRONLY | O_RDWR)) && trouble("open", path))
        return -1;
    return syscall(SYS_openat, folder, path, flags, mode);
}

#define MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; \
        va_start(rest, flags); \
        mode = va_arg(rest, mode_t); \
        va_end(rest); \
    }

int open(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE(flags) return opened(AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }
int openat64(int folder, const char *path, int flags, ...) { MODE(flags) return opened(folder, path, flags, mode); }

static unsigned long read_only(void)
{
    char text[1024];
    return contents("disk", text, sizeof text) && strstr(text, " 30 ") ? ST_RDONLY : 0;
}

#define STATVFS(name, kind, what, stat) \
    int name(what, struct stat *found) \
    { \
        int status = REAL(name)(kind, found); \
        if (status == 0) \
            found->f_flag |= read_only(); \
        return status; \
    }

STATVFS(statvfs, path, const char *path, statvfs)
STATVFS(statvfs64, path, const char *path, statvfs64)
STATVFS(fstatvfs, file, int file, statvfs)
STATVFS(fstatvfs64, file, int file, statvfs64)

static double ahead(void)
{
    char text[64];
    return contents("clock", text, sizeof text) ? atof(text) : 0.0;
}

int clock_gettime(clockid_t clock, struct timespec *now)
{
    int status = REAL(clock_gettime)(clock, now);
    if (status == 0 && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += (time_t)ahead();
    return status;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone)
{
    int status = REAL(gettimeofday)(now, zone);
    if (status == 0)
        now->tv_sec += (time_t)ahead();
    return status;
}

time_t time(time_t *at)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (at)
        *at = now.tv_sec;
    return now.tv_sec;
}
