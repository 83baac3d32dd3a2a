/*
 * Exported names that begin connections and move data, and nothing else: each function converts its arguments for the funnel (io.h) or for track.h,
 * and what the funnel says to the libc way. On a descriptor that is not tracked each is a look at the table and a tail call.
 * hooks_fd.c has those that make and close descriptors, hooks_other.c the rest. docs/INTERPOSITION.md has the table of calls.
 */
#undef _FORTIFY_SOURCE /* its inline wrappers are what is defined here */
#include "hooks.h"

#include <errno.h>
#include <pthread.h>
#include <sys/socket.h>

#include "io.h"
#include "life.h"
#include "names.h"
#include "real.h"
#include "track.h"

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

/* A thread that lets itself be cancelled anywhere is not, while it has locks of ours: as far as the blocking calls, as everybody. */
static int defer_cancel(void)
{
    int type = PTHREAD_CANCEL_DEFERRED;
    (void)pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, &type);
    return type;
}

static void cancel_as(int type)
{
    if (type != PTHREAD_CANCEL_DEFERRED)
        (void)pthread_setcanceltype(type, NULL);
}

/* Reads through the funnel. OE_IO_PASS: the caller makes the real call. */
static ssize_t in(struct oe_sock *s, int fd, const struct iovec *iov, int n, int flags)
{
    int saved = errno, type = defer_cancel();
    test_cancel(s);
    ssize_t r = flags & NOT_DATA_IN ? OE_IO_PASS : oe_io_read(s, fd, (struct oe_vec){.iov = iov, .n = (size_t)n}, flags);
    oe_fdtab_unref(s);
    cancel_as(type);
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

/* The kernel would send from the application's memory and say so later. What it says when it cannot; programs then send without the flag. */
static ssize_t zerocopy(struct oe_sock *s)
{
    return oe_io_passes(s, OE_FROM_APP) ? OE_IO_PASS : -ENOBUFS;
}

static ssize_t out(struct oe_sock *s, int fd, const struct iovec *iov, int n, int flags)
{
    int saved = errno, type = defer_cancel();
    test_cancel(s);
    ssize_t r = flags & NOT_DATA_OUT   ? -EOPNOTSUPP
                : flags & MSG_ZEROCOPY ? zerocopy(s)
                                       : oe_io_write(s, fd, (struct oe_vec){.iov = iov, .n = (size_t)n}, flags);
    oe_fdtab_unref(s);
    cancel_as(type);
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

int oe_hook_connected(int r, int fd, const struct sockaddr *address, socklen_t n)
{
    if ((r == 0 || errno == EINPROGRESS || errno == EINTR) && address != NULL) /* interrupted, it goes on all the same */
        if (oe_track_connect(fd, address, n, r != 0 && errno == EINPROGRESS) != 0) {
            errno = EACCES;
            return -1;
        }
    return r;
}

EXPORT int connect(int fd, const struct sockaddr *address, socklen_t n)
{
    oe_track_before_connect(fd);
    return oe_hook_connected(oe_real.connect(fd, address, n), fd, address, n);
}

EXPORT int __connect(int fd, const struct sockaddr *address, socklen_t n) __attribute__((alias("connect")));

EXPORT int listen(int fd, int backlog)
{
    int r = oe_real.listen(fd, backlog);
    if (r == 0)
        oe_track_listen(fd);
    return r;
}

int oe_hook_accepted(int fd)
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
    return oe_hook_accepted(r);
}

EXPORT int accept4(int fd, struct sockaddr *restrict address, socklen_t *restrict n, int flags)
{
    int r = oe_real.accept4(fd, address, n, flags);
    return oe_hook_accepted(r);
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

static int too_many(size_t iov_n)
{
    if (iov_n <= IOV_MAX)
        return 0;
    errno = EMSGSIZE;
    return 1;
}

static ssize_t in_message(struct oe_sock *s, int fd, struct msghdr *m, int flags)
{
    if (too_many(m->msg_iovlen)) {
        oe_fdtab_unref(s);
        return -1;
    }
    ssize_t r = in(s, fd, m->msg_iov, (int)m->msg_iovlen, flags);
    if (r >= 0) {
        m->msg_namelen = 0;
        m->msg_controllen = 0;
        m->msg_flags = 0;
    }
    return r;
}

static ssize_t receive_message(int fd, struct msghdr *m, int flags, ssize_t (*real)(int, struct msghdr *, int))
{
    struct oe_sock *s = m != NULL ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : in_message(s, fd, m, flags);
    if (r != OE_IO_PASS)
        return r;
    r = real(fd, m, flags);
    if (r >= 0 && m != NULL && m->msg_controllen != 0)
        oe_track_rights(m);
    return r;
}

EXPORT ssize_t recvmsg(int fd, struct msghdr *m, int flags)
{
    return receive_message(fd, m, flags, oe_real.recvmsg);
}

/* errno came after done messages: it is for the next call. */
static int kept_for_next(int fd, int done)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    if (s != NULL) {
        oe_io_keep_error(s, errno);
        oe_fdtab_unref(s);
    }
    return done;
}

/* As the kernel does it: the first error is the call's, a later one the next call's. real gets what is left if the connection is let go. */
static int receive_messages(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout,
                            int (*real)(int, struct mmsghdr *, unsigned, int, struct timespec *))
{
    unsigned done = 0;
    struct oe_sock *s;

    n = n > IOV_MAX ? IOV_MAX : n;
    while (m != NULL && done < n && (s = oe_fdtab_get(fd)) != NULL) {
        ssize_t r = in_message(s, fd, &m[done].msg_hdr, flags & ~MSG_WAITFORONE);
        if (r == OE_IO_PASS)
            break;
        if (r < 0)
            return done != 0 ? kept_for_next(fd, (int)done) : -1;
        m[done++].msg_len = (unsigned)r;
        flags |= flags & MSG_WAITFORONE ? MSG_DONTWAIT : 0;
    }
    if (done == n && n != 0)
        return (int)done;
    int r = real(fd, m + done, n - done, flags, timeout);
    for (int i = 0; i < r; i++)
        if (m[done + (unsigned)i].msg_hdr.msg_controllen != 0)
            oe_track_rights(&m[done + (unsigned)i].msg_hdr);
    return r >= 0 ? r + (int)done : done != 0 ? (int)done : r;
}

EXPORT int recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout)
{
    return receive_messages(fd, m, n, flags, timeout, oe_real.recvmmsg);
}

/* A socket has no position; what else the flags could ask for means nothing on one. */
#define FLAGS_ON_SOCKETS (RWF_HIPRI | RWF_DSYNC | RWF_SYNC | RWF_NOWAIT | RWF_APPEND)

static ssize_t in_at(struct oe_sock *s, int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    if (offset == -1 && (flags & ~FLAGS_ON_SOCKETS) == 0)
        return in(s, fd, iov, n, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
    oe_fdtab_unref(s);
    errno = offset == -1 ? EOPNOTSUPP : ESPIPE;
    return -1;
}

EXPORT ssize_t preadv64v2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    struct oe_sock *s = n >= 0 && n <= IOV_MAX ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : in_at(s, fd, iov, n, offset, flags);
    return r == OE_IO_PASS ? oe_real.preadv2(fd, iov, n, offset, flags) : r;
}

EXPORT ssize_t preadv2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    return preadv64v2(fd, iov, n, offset, flags);
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

/* MSG_FASTOPEN: connect and send in one call. Here it is two; the first bytes wait for the handshake of TCP. 0: done, or -1. */
static int fast_open(int fd, const struct sockaddr *address, socklen_t n, int *flags)
{
    if (!(*flags & MSG_FASTOPEN) || !oe_track_is_tcp(fd))
        return 0;
    *flags &= ~MSG_FASTOPEN;
    return connect(fd, address, n);
}

EXPORT ssize_t sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *address, socklen_t address_n)
{
    if (fast_open(fd, address, address_n, &flags) != 0)
        return -1;
    struct oe_sock *s = oe_fdtab_get(fd);
    ssize_t r = s == NULL ? OE_IO_PASS : out_one(s, fd, p, n, flags);
    return r == OE_IO_PASS ? oe_real.sendto(fd, p, n, flags, address, address_n) : r;
}

static ssize_t out_message(struct oe_sock *s, int fd, const struct msghdr *m, int flags)
{
    if (too_many(m->msg_iovlen)) {
        oe_fdtab_unref(s);
        return -1;
    }
    return out(s, fd, m->msg_iov, (int)m->msg_iovlen, flags);
}

static ssize_t send_message(int fd, const struct msghdr *m, int flags, ssize_t (*real)(int, const struct msghdr *, int))
{
    if (m != NULL && fast_open(fd, m->msg_name, m->msg_namelen, &flags) != 0)
        return -1;
    struct oe_sock *s = m != NULL ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : out_message(s, fd, m, flags);
    return r == OE_IO_PASS ? real(fd, m, flags) : r;
}

EXPORT ssize_t sendmsg(int fd, const struct msghdr *m, int flags)
{
    return send_message(fd, m, flags, oe_real.sendmsg);
}

static size_t length(const struct msghdr *m)
{
    size_t n = 0;
    for (size_t i = 0; i < m->msg_iovlen; i++)
        n += m->msg_iov[i].iov_len;
    return n;
}

/* As the kernel does it: what went out counts, and the error that came after it comes again when it is tried again. */
static int send_messages(int fd, struct mmsghdr *m, unsigned n, int flags, int (*real)(int, struct mmsghdr *, unsigned, int))
{
    unsigned done = 0;
    struct oe_sock *s;

    n = n > IOV_MAX ? IOV_MAX : n;
    if (m != NULL && n != 0 && fast_open(fd, m->msg_hdr.msg_name, m->msg_hdr.msg_namelen, &flags) != 0)
        return -1;
    while (m != NULL && done < n && (s = oe_fdtab_get(fd)) != NULL) {
        ssize_t r = out_message(s, fd, &m[done].msg_hdr, flags);
        if (r == OE_IO_PASS)
            break;
        if (r < 0)
            return done != 0 ? (int)done : -1;
        m[done].msg_len = (unsigned)r;
        if ((size_t)r != length(&m[done++].msg_hdr))
            return (int)done;
    }
    if (done == n && n != 0)
        return (int)done;
    int r = real(fd, m + done, n - done, flags);
    return r >= 0 ? r + (int)done : done != 0 ? (int)done : r;
}

EXPORT int sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags)
{
    return send_messages(fd, m, n, flags, oe_real.sendmmsg);
}

static ssize_t out_at(struct oe_sock *s, int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    if (offset == -1 && (flags & ~FLAGS_ON_SOCKETS) == 0)
        return out(s, fd, iov, n, flags & RWF_NOWAIT ? MSG_DONTWAIT : 0);
    oe_fdtab_unref(s);
    errno = offset == -1 ? EOPNOTSUPP : ESPIPE;
    return -1;
}

EXPORT ssize_t pwritev64v2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    struct oe_sock *s = n >= 0 && n <= IOV_MAX ? oe_fdtab_get(fd) : NULL;
    ssize_t r = s == NULL ? OE_IO_PASS : out_at(s, fd, iov, n, offset, flags);
    return r == OE_IO_PASS ? oe_real.pwritev2(fd, iov, n, offset, flags) : r;
}

EXPORT ssize_t pwritev2(int fd, const struct iovec *iov, int n, off_t offset, int flags)
{
    return pwritev64v2(fd, iov, n, offset, flags);
}

#if __SIZEOF_LONG__ == 4
/* What programs with a 64-bit time_t call: control messages may have times in them. */
EXPORT ssize_t __recvmsg64(int fd, struct msghdr *m, int flags);
EXPORT int __recvmmsg64(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout);
EXPORT ssize_t __sendmsg64(int fd, const struct msghdr *m, int flags);
EXPORT int __sendmmsg64(int fd, struct mmsghdr *m, unsigned n, int flags);

EXPORT ssize_t __recvmsg64(int fd, struct msghdr *m, int flags)
{
    return receive_message(fd, m, flags, oe_real.recvmsg_time64);
}

EXPORT int __recvmmsg64(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout)
{
    return receive_messages(fd, m, n, flags, timeout, oe_real.recvmmsg_time64);
}

EXPORT ssize_t __sendmsg64(int fd, const struct msghdr *m, int flags)
{
    return send_message(fd, m, flags, oe_real.sendmsg_time64);
}

EXPORT int __sendmmsg64(int fd, struct mmsghdr *m, unsigned n, int flags)
{
    return send_messages(fd, m, n, flags, oe_real.sendmmsg_time64);
}
#endif
