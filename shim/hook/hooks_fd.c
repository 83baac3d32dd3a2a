/*
 * Exported names that make, share, replace and close descriptors, and nothing else (see hooks.c). Those that make one only look whether its number is
 * still known: then what it stood for was closed in a way that is not hooked.
 */
#undef _FORTIFY_SOURCE
#include "hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/timerfd.h>

#include "io.h"
#include "life.h"
#include "real.h"
#include "sys.h"
#include "track.h"

/* No header declares them without FORTIFY. */
EXPORT int __open_2(const char *path, int flags);
EXPORT int __open64_2(const char *path, int flags);
EXPORT int __openat_2(int dir, const char *path, int flags);
EXPORT int __openat64_2(int dir, const char *path, int flags);
EXPORT int __close(int fd);
EXPORT int _IO_fclose(FILE *f);

/* ---- closed --------------------------------------------------------------------------------------------------------------------------- */

EXPORT int close(int fd)
{
    if (oe_hook_known(fd))
        oe_track_close(fd);
    return oe_real.close(fd);
}

EXPORT int __close(int fd) __attribute__((alias("close")));

/* An unshared table of descriptors is another one than that of the program's other threads, whose connections go on. */
int oe_hook_closes_range(unsigned first, unsigned last, int flags)
{
    return flags == 0 && first <= last && oe_fdtab_next(first > INT_MAX ? INT_MAX : (int)first) >= 0 &&
           OE_SYS3(SYS_close_range, ~0U, ~0U, 0) == 0; /* the kernel has it (Linux 5.9) */
}

EXPORT int close_range(unsigned first, unsigned last, int flags)
{
    if (oe_hook_closes_range(first, last, flags))
        oe_track_close_range(first, last);
    return oe_real.close_range(first, last, flags);
}

EXPORT void closefrom(int low)
{
    oe_track_close_range(low < 0 ? 0 : (unsigned)low, ~0U);
    oe_real.closefrom(low);
}

static void stream_closes(FILE *f)
{
    int fd = f != NULL ? fileno(f) : -1;
    if (fd >= 0 && oe_hook_known(fd))
        oe_track_close(fd);
}

EXPORT int fclose(FILE *f)
{
    int saved = errno;
    stream_closes(f);
    errno = saved;
    return oe_real.fclose(f);
}

EXPORT int _IO_fclose(FILE *f) __attribute__((alias("fclose")));

EXPORT FILE *freopen(const char *restrict path, const char *restrict mode, FILE *restrict f)
{
    stream_closes(f);
    return oe_real.freopen(path, mode, f);
}

EXPORT FILE *freopen64(const char *restrict path, const char *restrict mode, FILE *restrict f)
{
    stream_closes(f);
    return oe_real.freopen64(path, mode, f);
}

EXPORT int shutdown(int fd, int how)
{
    struct oe_sock *s = how == SHUT_WR || how == SHUT_RDWR ? oe_fdtab_get(fd) : NULL;
    if (s != NULL) {
        int saved = errno, cancel = oe_life_no_cancel();
        oe_io_shutdown(s, fd);
        oe_fdtab_unref(s);
        oe_life_cancel(cancel);
        errno = saved;
    }
    return oe_real.shutdown(fd, how);
}

/* ---- shared --------------------------------------------------------------------------------------------------------------------------- */

EXPORT int dup(int fd)
{
    int r = oe_real.dup(fd);
    if (r >= 0)
        oe_track_dup(fd, r);
    return r;
}

/* dup2 onto a tracked descriptor is a close of it; if it then fails, the descriptor is still what it was. */
static int dup_onto(int fd, int to, int (*call)(int fd, int to, int flags), int flags)
{
    struct oe_sock *replaced = fd != to ? oe_track_replace(to) : NULL;
    int r = call(fd, to, flags);
    if (replaced != NULL)
        oe_track_replaced(to, replaced, r < 0);
    if (r >= 0)
        oe_track_dup(fd, r);
    return r;
}

static int call_dup2(int fd, int to, int flags)
{
    (void)flags;
    return oe_real.dup2(fd, to);
}

EXPORT int dup2(int fd, int to)
{
    return dup_onto(fd, to, call_dup2, 0);
}

EXPORT int __dup2(int fd, int to) __attribute__((alias("dup2"), nothrow, leaf));

EXPORT int dup3(int fd, int to, int flags)
{
    return dup_onto(fd, to, oe_real.dup3, flags);
}

static int control(int fd, int cmd, long arg, int (*real)(int, int, ...))
{
    int r = real(fd, cmd, arg);
    if (r >= 0 && (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC))
        oe_track_dup(fd, r);
    return r;
}

EXPORT int fcntl(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    long arg = va_arg(ap, long); /* an int or a pointer; unused where the command takes none */
    va_end(ap);
    return control(fd, cmd, arg, oe_real.fcntl);
}

EXPORT int fcntl64(int fd, int cmd, ...) __attribute__((alias("fcntl")));
EXPORT int __fcntl(int fd, int cmd, ...) __attribute__((alias("fcntl")));

#if __SIZEOF_LONG__ == 4
EXPORT int __fcntl_time64(int fd, int cmd, ...);
EXPORT int __fcntl_time64(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    long arg = va_arg(ap, long);
    va_end(ap);
    return control(fd, cmd, arg, oe_real.fcntl_time64);
}
#endif

EXPORT int pidfd_getfd(int pidfd, int fd, unsigned flags)
{
    int r = oe_real.pidfd_getfd(pidfd, fd, flags);
    if (r >= 0)
        oe_track_received(r);
    return r;
}

/* ---- made ----------------------------------------------------------------------------------------------------------------------------- */

static int made(int fd)
{
    if (fd >= 0 && oe_hook_known(fd))
        oe_track_new(fd);
    return fd;
}

static int made_two(int r, const int *fds)
{
    if (r == 0) {
        made(fds[0]);
        made(fds[1]);
    }
    return r;
}

EXPORT int socket(int domain, int type, int protocol)
{
    return made(oe_real.socket(domain, type, protocol));
}

EXPORT int socketpair(int domain, int type, int protocol, int fds[2])
{
    return made_two(oe_real.socketpair(domain, type, protocol, fds), fds);
}

EXPORT int pipe(int fds[2])
{
    return made_two(oe_real.pipe(fds), fds);
}

EXPORT int pipe2(int fds[2], int flags)
{
    return made_two(oe_real.pipe2(fds, flags), fds);
}

/* The mode is there where a file may be made, and else not looked at. */
#define MODE(last)                                                                                                                         \
    va_list ap;                                                                                                                            \
    va_start(ap, last);                                                                                                                    \
    mode_t mode = va_arg(ap, mode_t);                                                                                                      \
    va_end(ap)

EXPORT int open(const char *path, int flags, ...)
{
    MODE(flags);
    return made(oe_real.open(path, flags, mode));
}

EXPORT int open64(const char *path, int flags, ...)
{
    MODE(flags);
    return made(oe_real.open64(path, flags, mode));
}

EXPORT int openat(int dir, const char *path, int flags, ...)
{
    MODE(flags);
    return made(oe_real.openat(dir, path, flags, mode));
}

EXPORT int openat64(int dir, const char *path, int flags, ...)
{
    MODE(flags);
    return made(oe_real.openat64(dir, path, flags, mode));
}

/* libc's own end a program that forgot the mode. */
EXPORT int __open_2(const char *path, int flags)
{
    return made(oe_real.open_2(path, flags));
}

EXPORT int __open64_2(const char *path, int flags)
{
    return made(oe_real.open64_2(path, flags));
}

EXPORT int __openat_2(int dir, const char *path, int flags)
{
    return made(oe_real.openat_2(dir, path, flags));
}

EXPORT int __openat64_2(int dir, const char *path, int flags)
{
    return made(oe_real.openat64_2(dir, path, flags));
}

EXPORT int creat(const char *path, mode_t mode)
{
    return made(oe_real.creat(path, mode));
}

EXPORT int creat64(const char *path, mode_t mode)
{
    return made(oe_real.creat64(path, mode));
}

EXPORT int eventfd(unsigned initial, int flags)
{
    return made(oe_real.eventfd(initial, flags));
}

EXPORT int epoll_create(int size)
{
    return made(oe_real.epoll_create(size));
}

EXPORT int epoll_create1(int flags)
{
    return made(oe_real.epoll_create1(flags));
}

EXPORT int timerfd_create(int clock, int flags)
{
    return made(oe_real.timerfd_create(clock, flags));
}

EXPORT int signalfd(int fd, const sigset_t *mask, int flags)
{
    int r = oe_real.signalfd(fd, mask, flags);
    return fd == -1 ? made(r) : r;
}

EXPORT int inotify_init(void)
{
    return made(oe_real.inotify_init());
}

EXPORT int inotify_init1(int flags)
{
    return made(oe_real.inotify_init1(flags));
}

EXPORT int memfd_create(const char *name, unsigned flags)
{
    return made(oe_real.memfd_create(name, flags));
}
