/*
 * The exported names and nothing else: each function converts its arguments for the funnel (io.h) or for track.h, and what the funnel says to the
 * libc way. On a descriptor that is not tracked each is a look at the table and a tail call. docs/INTERPOSITION.md has the table of calls.
 */
#undef _FORTIFY_SOURCE /* its inline wrappers are what is defined here */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <sys/socket.h>

#include "fdtab.h"
#include "io.h"
#include "life.h"
#include "names.h"
#include "real.h"
#include "track.h"

#define EXPORT __attribute__((visibility("default")))

/* Flags whose meaning lies outside the stream of bytes: the kernel's business. */
#define NOT_DATA_IN (MSG_ERRQUEUE | MSG_OOB)
#define NOT_DATA_OUT (MSG_OOB)

/* What programs built with FORTIFY call; no header declares them without it. */
EXPORT ssize_t __read_chk(int fd, void *p, size_t n, size_t size);
EXPORT ssize_t __recv_chk(int fd, void *p, size_t n, size_t size, int flags);
EXPORT ssize_t __recvfrom_chk(int fd, void *p, size_t n, size_t size, int flags, struct sockaddr *address, socklen_t *address_n);

/* The funnel's result as a libc call's: the one place where errno is set. */
static ssize_t to_libc(ssize_t r, int saved)
{
    errno = r < 0 ? (int)-r : saved;
    return r < 0 ? -1 : r;
}

static void unref_on_cancel(void *s)
{
    oe_fdtab_unref(s);
}

/* The calls are cancellation points also when they need not wait. */
static void test_cancel(struct oe_sock *s)
{
    pthread_cleanup_push(unref_on_cancel, s);
    pthread_testcancel();
    pthread_cleanup_pop(0);
}

/* Reads through the funnel. OE_IO_PASS: the caller makes the real call. */
static ssize_t in(struct oe_sock *s, int fd, const struct iovec *iov, int n, int flags)
{
    int saved = errno;
    test_cancel(s);
    ssize_t r = flags & NOT_DATA_IN ? OE_IO_PASS : oe_io_read(s, fd, (struct oe_vec){.iov = iov, .n = (size_t)n}, flags);
    oe_fdtab_unref(s);
    if (r == OE_IO_PASS) {
        errno = saved;
        return r;
    }
    return to_libc(r, saved);
}

static ssize_t in_one(struct oe_sock *s, int fd, void *p, size_t n, int flags)
{
    return in(s, fd, &(struct iovec){.iov_base = p, .iov_len = n}, 1, flags);
}

static ssize_t out(struct oe_sock *s, int fd, const struct iovec *iov, int n, int flags)
{
    int saved = errno;
    test_cancel(s);
    ssize_t r = flags & NOT_DATA_OUT ? -EOPNOTSUPP : oe_io_write(s, fd, (struct oe_vec){.iov = iov, .n = (size_t)n}, flags);
    oe_fdtab_unref(s);
    if (r == OE_IO_PASS) {
        errno = saved;
        return r;
    }
    return to_libc(r, saved);
}

static ssize_t out_one(struct oe_sock *s, int fd, const void *p, size_t n, int flags)
{
    union {
        const void *in;
        void *base;
    } u = {.in = p}; /* an iovec has no const; nothing is written through it */
    return out(s, fd, &(struct iovec){.iov_base = u.base, .iov_len = n}, 1, flags);
}

/* ---- connections ---------------------------------------------------------------------------------------------------------------------- */

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t n)
{
    int r = oe_real.connect(fd, address, n);
    if ((r == 0 || errno == EINPROGRESS || errno == EINTR) && address != NULL) /* interrupted, it goes on all the same */
        if (oe_track_connect(fd, address, n, r != 0 && errno == EINPROGRESS) != 0) {
            errno = EACCES;
            return -1;
        }
    return r;
}

EXPORT int __connect(int fd, const struct sockaddr *address, socklen_t n) __attribute__((alias("connect")));

EXPORT int listen(int fd, int backlog)
{
    int r = oe_real.listen(fd, backlog);
    if (r == 0)
        oe_track_listen(fd);
    return r;
}

static int accepted(int fd)
{
    if (fd < 0 || oe_track_accept(fd) == 0)
        return fd;
    oe_real.close(fd);
    errno = ECONNABORTED; /* a connection that is gone before accept sees it: servers go on */
    return -1;
}

EXPORT int accept(int fd, struct sockaddr *restrict address, socklen_t *restrict n)
{
    int r = oe_real.accept(fd, address, n);
    return accepted(r);
}

EXPORT int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict n, int flags)
{
    int r = oe_real.accept4(fd, address, n, flags);
    return accepted(r);
}

EXPORT int getaddrinfo(const char *restrict node, const char *restrict service, const struct addrinfo *restrict hints,
                       struct addrinfo **restrict out_list)
{
    int r = oe_real.getaddrinfo(node, service, hints, out_list);
    int saved = errno;
    if (r == 0 && atomic_load(&oe_life.ready))
        oe_names_learn(node, *out_list);
    errno = saved;
    return r;
}

/* ---- data in -------------------------------------------------------------------------------------------------------------------------- */

EXPORT ssize_t read(int fd, void *p, size_t n)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    ssize_t r = s == NULL ? OE_IO_PASS : in_one(s, fd, p, n, 0);
    return r == OE_IO_PASS ? oe_real.read(fd, p, n) : r;
}

EXPORT ssize_t __read(int fd, void *p, size_t n) __attribute__((alias("read")));

EXPORT ssize_t __read_chk(int fd, void *p, size_t n, size_t size)
{
    struct oe_sock *s = n <= size ? oe_fdtab_get(fd) : NULL; /* libc's own ends the program that overflows */
    ssize_t r = s == NULL ? OE_IO_PASS : in_one(s, fd, p, n, 0);
    return r == OE_IO_PASS ? oe_real.read_chk(fd, p, n, size) : r;
}

EXPORT ssize_t readv(int fd, const struct iovec *iov, int n)
{
    struct oe_sock *s = n >= 0 && n <= IOV_MAX ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : in(s, fd, iov, n, 0);
    return r == OE_IO_PASS ? oe_real.readv(fd, iov, n) : r;
}

EXPORT ssize_t recv(int fd, void *p, size_t n, int flags)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    ssize_t r = s == NULL ? OE_IO_PASS : in_one(s, fd, p, n, flags);
    return r == OE_IO_PASS ? oe_real.recv(fd, p, n, flags) : r;
}

EXPORT ssize_t __recv(int fd, void *p, size_t n, int flags) __attribute__((alias("recv")));

EXPORT ssize_t __recv_chk(int fd, void *p, size_t n, size_t size, int flags)
{
    struct oe_sock *s = n <= size ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : in_one(s, fd, p, n, flags);
    return r == OE_IO_PASS ? oe_real.recv_chk(fd, p, n, size, flags) : r;
}

/* A TCP socket tells no address with its data. */
static ssize_t in_from(struct oe_sock *s, int fd, void *p, size_t n, int flags, socklen_t *address_n)
{
    ssize_t r = in_one(s, fd, p, n, flags);
    if (r >= 0 && address_n != NULL)
        *address_n = 0;
    return r;
}

EXPORT ssize_t recvfrom(int fd, void *restrict p, size_t n, int flags, struct sockaddr *restrict address, socklen_t *restrict address_n)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    ssize_t r = s == NULL ? OE_IO_PASS : in_from(s, fd, p, n, flags, address_n);
    return r == OE_IO_PASS ? oe_real.recvfrom(fd, p, n, flags, address, address_n) : r;
}

EXPORT ssize_t __recvfrom_chk(int fd, void *p, size_t n, size_t size, int flags, struct sockaddr *address, socklen_t *address_n)
{
    struct oe_sock *s = n <= size ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : in_from(s, fd, p, n, flags, address_n);
    return r == OE_IO_PASS ? oe_real.recvfrom_chk(fd, p, n, size, flags, address, address_n) : r;
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    struct oe_sock *s = m != NULL && m->msg_iovlen <= IOV_MAX ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : in(s, fd, m->msg_iov, (int)m->msg_iovlen, flags);
    if (r == OE_IO_PASS)
        return oe_real.recvmsg(fd, m, flags);
    if (r >= 0) {
        m->msg_namelen = 0;
        m->msg_controllen = 0;
        m->msg_flags = 0;
    }
    return r;
}

/* ---- data out ------------------------------------------------------------------------------------------------------------------------- */

EXPORT ssize_t write(int fd, const void *p, size_t n)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    ssize_t r = s == NULL ? OE_IO_PASS : out_one(s, fd, p, n, 0);
    return r == OE_IO_PASS ? oe_real.write(fd, p, n) : r;
}

EXPORT ssize_t __write(int fd, const void *p, size_t n) __attribute__((alias("write")));

EXPORT ssize_t writev(int fd, const struct iovec *iov, int n)
{
    struct oe_sock *s = n >= 0 && n <= IOV_MAX ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : out(s, fd, iov, n, 0);
    return r == OE_IO_PASS ? oe_real.writev(fd, iov, n) : r;
}

EXPORT ssize_t send(int fd, const void *p, size_t n, int flags)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    ssize_t r = s == NULL ? OE_IO_PASS : out_one(s, fd, p, n, flags);
    return r == OE_IO_PASS ? oe_real.send(fd, p, n, flags) : r;
}

EXPORT ssize_t __send(int fd, const void *p, size_t n, int flags) __attribute__((alias("send")));

EXPORT ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *address, socklen_t address_n)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    ssize_t r = s == NULL ? OE_IO_PASS : out_one(s, fd, p, n, flags);
    return r == OE_IO_PASS ? oe_real.sendto(fd, p, n, flags, address, address_n) : r;
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    struct oe_sock *s = m != NULL && m->msg_iovlen <= IOV_MAX ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : out(s, fd, m->msg_iov, (int)m->msg_iovlen, flags);
    return r == OE_IO_PASS ? oe_real.sendmsg(fd, m, flags) : r;
}

/* ---- descriptors ---------------------------------------------------------------------------------------------------------------------- */

static int tracked(int fd)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    if (s != NULL)
        oe_fdtab_unref(s);
    return s != NULL;
}

EXPORT int close(int fd)
{
    if (tracked(fd) || oe_fdtab_marked(fd))
        oe_track_close(fd);
    return oe_real.close(fd);
}

EXPORT int __close(int fd) __attribute__((alias("close")));

EXPORT int shutdown(int fd, int how)
{
    struct oe_sock *s = how == SHUT_WR || how == SHUT_RDWR ? oe_fdtab_get(fd) : NULL;
    if (s != NULL) {
        int saved = errno;
        oe_io_shutdown(s, fd);
        oe_fdtab_unref(s);
        errno = saved;
    }
    return oe_real.shutdown(fd, how);
}

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

EXPORT int fcntl(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    long arg = va_arg(ap, long); /* an int or a pointer; unused where the command takes none */
    va_end(ap);
    int r = oe_real.fcntl(fd, cmd, arg);
    if (r >= 0 && (cmd == F_DUPFD || cmd == F_DUPFD_CLOEXEC))
        oe_track_dup(fd, r);
    return r;
}

EXPORT int fcntl64(int fd, int cmd, ...) __attribute__((alias("fcntl")));
EXPORT int __fcntl(int fd, int cmd, ...) __attribute__((alias("fcntl")));
