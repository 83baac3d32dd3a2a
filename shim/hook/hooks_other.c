/*
 * Exported names for what is neither data nor a descriptor's life (see hooks.c): options and counts that the library makes different, and ways to move bytes
 * that it cannot follow: the kernel's copies, stdio.
 */
#undef _FORTIFY_SOURCE
#include "hooks.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>

#include "io.h"
#include "life.h"
#include "real.h"
#include "tag.h"
#include "track.h"

EXPORT int __dprintf_chk(int fd, int flag, const char *format, ...);
EXPORT int __vdprintf_chk(int fd, int flag, const char *format, va_list ap);
EXPORT FILE *_IO_fdopen(int fd, const char *mode);

/* The socket of fd, if it really is that one. */
static struct oe_sock *followed(int fd)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    if (s == NULL || !oe_io_is_stale(s, fd))
        return s;
    oe_fdtab_unref(s);
    return NULL;
}

/* ---- ioctl, socket options -------------------------------------------------------------------------------------------------------------- */

static int count(int fd, int *n)
{
    struct oe_sock *s = followed(fd);
    if (s == NULL)
        return -1;
    int saved = errno;
    ssize_t r = oe_io_count(s, fd);
    oe_fdtab_unref(s);
    errno = saved;
    if (r == OE_IO_PASS)
        return -1;
    *n = (int)r;
    return 0;
}

static int device_control(int fd, unsigned long request, long arg, int (*real)(int, unsigned long, ...))
{
    int *n = (int *)arg;
    if (request == FIONREAD && n != NULL && count(fd, n) == 0)
        return 0;
    return real(fd, request, arg);
}

EXPORT int ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    long arg = va_arg(ap, long);
    va_end(ap);
    return device_control(fd, request, arg, oe_real.ioctl);
}

/* What would move bytes past the library, or what it does itself: as a kernel answers that does not have it. 0: not such an option. */
static int unknown_option(struct oe_sock *s, int fd, int level, int name)
{
    int moves = level == IPPROTO_TCP && (name == TCP_ULP || name == TCP_ZEROCOPY_RECEIVE);
    int once = level == SOL_SOCKET && name == SO_ZEROCOPY;

    if (moves)
        return oe_io_leave(s, fd, OE_FROM_PEER, OE_REASON_KERNEL_COPY) ? 0 : ENOPROTOOPT;
    /* before CONNECT it is allowed: most connections are no business of ours */
    return once && s->conn.phase == OE_PHASE_RECORDS ? EOPNOTSUPP : 0;
}

static int get_option(int fd, int level, int name, void *value, socklen_t *n, int (*real)(int, int, int, void *, socklen_t *))
{
    struct oe_sock *s = followed(fd);
    int r = 0, e = 0, kept;

    if (s == NULL)
        return real(fd, level, name, value, n);
    if (level == IPPROTO_TCP && name == TCP_ZEROCOPY_RECEIVE)
        e = unknown_option(s, fd, level, name);
    if (e == 0)
        r = real(fd, level, name, value, n); /* says what is wrong with the arguments, too */
    if (e == 0 && r == 0 && oe_tag_get_option(s, level, name, &kept))
        memcpy(value, &kept, *n < sizeof(kept) ? *n : sizeof(kept));
    oe_fdtab_unref(s);
    if (e != 0)
        errno = e;
    return e != 0 ? -1 : r;
}

EXPORT int getsockopt(int fd, int level, int name, void *restrict value, socklen_t *restrict n)
{
    return get_option(fd, level, name, value, n, oe_real.getsockopt);
}

static int set_option(int fd, int level, int name, const void *value, socklen_t n, int (*real)(int, int, int, const void *, socklen_t))
{
    /* The kernel's position of a peek would be moved by the library's own. TCP has none before Linux 6.9. */
    if (level == SOL_SOCKET && name == SO_PEEK_OFF && oe_track_is_tcp(fd)) {
        errno = EOPNOTSUPP;
        return -1;
    }
    struct oe_sock *s = followed(fd);
    int r = 0, e, number;

    if (s == NULL)
        return real(fd, level, name, value, n);
    e = unknown_option(s, fd, level, name);
    if (e == 0 && value != NULL && n >= sizeof(number)) {
        memcpy(&number, value, sizeof(number));
        r = oe_tag_set_option(s, level, name, number) ? 0 : real(fd, level, name, value, n);
    } else if (e == 0) {
        r = real(fd, level, name, value, n);
    }
    oe_fdtab_unref(s);
    if (e != 0)
        errno = e;
    return e != 0 ? -1 : r;
}

EXPORT int setsockopt(int fd, int level, int name, const void *value, socklen_t n)
{
    return set_option(fd, level, name, value, n, oe_real.setsockopt);
}

#if __SIZEOF_LONG__ == 4
EXPORT int __ioctl_time64(int fd, unsigned long request, ...);
EXPORT int __getsockopt64(int fd, int level, int name, void *value, socklen_t *n);
EXPORT int __setsockopt64(int fd, int level, int name, const void *value, socklen_t n);

EXPORT int __ioctl_time64(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    long arg = va_arg(ap, long);
    va_end(ap);
    return device_control(fd, request, arg, oe_real.ioctl_time64);
}

EXPORT int __getsockopt64(int fd, int level, int name, void *value, socklen_t *n)
{
    return get_option(fd, level, name, value, n, oe_real.getsockopt_time64);
}

EXPORT int __setsockopt64(int fd, int level, int name, const void *value, socklen_t n)
{
    return set_option(fd, level, name, value, n, oe_real.setsockopt_time64);
}
#endif

/* ---- the kernel's copies ----------------------------------------------------------------------------------------------------------------- */

/* 1: the kernel may move bytes from or to fd. 0, and EINVAL: what it says of descriptors that it cannot do it with; programs then copy themselves. */
static int may_copy(int fd, enum oe_dir dir)
{
    struct oe_sock *s = followed(fd);
    if (s == NULL)
        return 1;
    int saved = errno;
    int may = oe_io_leave(s, fd, dir, OE_REASON_KERNEL_COPY);
    oe_fdtab_unref(s);
    errno = may ? saved : EINVAL;
    return may;
}

EXPORT ssize_t sendfile(int out, int in, off_t *offset, size_t n)
{
    return may_copy(out, OE_FROM_APP) && may_copy(in, OE_FROM_PEER) ? oe_real.sendfile(out, in, offset, n) : -1;
}

EXPORT ssize_t sendfile64(int out, int in, off64_t *offset, size_t n)
{
    return may_copy(out, OE_FROM_APP) && may_copy(in, OE_FROM_PEER) ? oe_real.sendfile64(out, in, offset, n) : -1;
}

EXPORT ssize_t splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags)
{
    return may_copy(in, OE_FROM_PEER) && may_copy(out, OE_FROM_APP) ? oe_real.splice(in, in_at, out, out_at, n, flags) : -1;
}

/* ---- stdio ------------------------------------------------------------------------------------------------------------------------------- */

/* libc's streams read and write without our hooks. 1: fd may have one; 0, and ECONNRESET: what is written there would be plain where it must not be. */
static int may_stream(int fd)
{
    struct oe_sock *s = followed(fd);
    if (s == NULL)
        return 1;
    int saved = errno;
    int may = oe_io_leave(s, fd, OE_FROM_PEER, OE_REASON_STDIO);
    if (!may)
        oe_io_poison(s, fd, OE_REASON_STDIO);
    oe_fdtab_unref(s);
    errno = may ? saved : ECONNRESET;
    return may;
}

/* A stream over a socket that will be connected later. */
static void remember_stream(int fd)
{
    int saved = errno;
    if (!oe_fdtab_marked(fd) && oe_track_is_tcp(fd) && !oe_life_foreign())
        oe_fdtab_mark_stdio(fd);
    errno = saved;
}

EXPORT FILE *fdopen(int fd, const char *mode)
{
    if (!may_stream(fd))
        return NULL;
    FILE *f = oe_real.fdopen(fd, mode);
    if (f != NULL)
        remember_stream(fd);
    return f;
}

EXPORT FILE *_IO_fdopen(int fd, const char *mode)
{
    return fdopen(fd, mode);
}

EXPORT int vdprintf(int fd, const char *restrict format, va_list ap)
{
    return may_stream(fd) ? oe_real.vdprintf(fd, format, ap) : -1;
}

EXPORT int __vdprintf_chk(int fd, int flag, const char *format, va_list ap)
{
    return may_stream(fd) ? oe_real.vdprintf_chk(fd, flag, format, ap) : -1;
}

EXPORT int dprintf(int fd, const char *restrict format, ...)
{
    va_list ap;
    va_start(ap, format);
    int r = vdprintf(fd, format, ap);
    va_end(ap);
    return r;
}

EXPORT int __dprintf_chk(int fd, int flag, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    int r = __vdprintf_chk(fd, flag, format, ap);
    va_end(ap);
    return r;
}
