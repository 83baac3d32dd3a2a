/*
 * syscall(): what has a number here goes the way of its function, everything else the way it came, with six arguments. Unlike the functions it is no
 * cancellation point (Node.js closes by it for that reason).
 */
#undef _FORTIFY_SOURCE
#include "hooks.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdarg.h>
#include <sys/ioctl.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "io.h"
#include "life.h"
#include "real.h"
#include "track.h"

struct call {
    long number;
    long a[6];
};

/* Only with a 64-bit long is one argument one register for offsets, too. */
#define OFFSETS_FIT (sizeof(long) == 8)

static void *pointer(long a)
{
    return (void *)a;
}

static long forward(const struct call *c)
{
    return oe_real.syscall(c->number, c->a[0], c->a[1], c->a[2], c->a[3], c->a[4], c->a[5]);
}

/* Calls that move data, on a tracked descriptor. 1: done, *r is the result. */
static int data(const struct call *c, long *r)
{
    const long *a = c->a;
    int fd = (int)a[0];

    switch (c->number) {
    case SYS_read:
        *r = read(fd, pointer(a[1]), (size_t)a[2]);
        break;
    case SYS_readv:
        *r = readv(fd, pointer(a[1]), (int)a[2]);
        break;
    case SYS_recvfrom:
        if (oe_io_is_look(pointer(a[1]), (size_t)a[2], (int)a[3]))
            return 0;
        *r = recvfrom(fd, pointer(a[1]), (size_t)a[2], (int)a[3], pointer(a[4]), pointer(a[5]));
        break;
    case SYS_preadv2:
        *r = preadv64v2(fd, pointer(a[1]), (int)a[2], OFFSETS_FIT || a[4] != -1 ? a[3] : -1, (int)a[5]);
        break;
    case SYS_write:
        *r = write(fd, pointer(a[1]), (size_t)a[2]);
        break;
    case SYS_writev:
        *r = writev(fd, pointer(a[1]), (int)a[2]);
        break;
    case SYS_pwritev2:
        *r = pwritev64v2(fd, pointer(a[1]), (int)a[2], OFFSETS_FIT || a[4] != -1 ? a[3] : -1, (int)a[5]);
        break;
    case SYS_ioctl:
        *r = ioctl(fd, (unsigned long)a[1], a[2]);
        break;
    case SYS_getsockopt:
        *r = getsockopt(fd, (int)a[1], (int)a[2], pointer(a[3]), pointer(a[4]));
        break;
    case SYS_setsockopt:
        *r = setsockopt(fd, (int)a[1], (int)a[2], pointer(a[3]), (socklen_t)a[4]);
        break;
    case SYS_shutdown:
        *r = shutdown(fd, (int)a[1]);
        break;
#ifdef SYS_recv
    case SYS_recv:
        *r = recv(fd, pointer(a[1]), (size_t)a[2], (int)a[3]);
        break;
    case SYS_send:
        *r = send(fd, pointer(a[1]), (size_t)a[2], (int)a[3]);
        break;
#endif
    default:
        return 0;
    }
    return 1;
}

/* Not: known. A connection that was let go passes, and would come back here from a preload that makes its calls by syscall(). */
static int tracked(int fd)
{
    struct oe_sock *s = oe_fdtab_get(fd);
    if (s != NULL)
        oe_fdtab_unref(s);
    return s != NULL;
}

static int tracked_with_message(int fd, const struct msghdr *m, int flags)
{
    return m != NULL && (tracked(fd) || (flags & MSG_FASTOPEN));
}

/* Calls that go the way of their function where one of their descriptors is tracked, or will be. 1: done. */
static int moves(const struct call *c, long *r)
{
    const long *a = c->a;
    int fd = (int)a[0];

    switch (c->number) {
    case SYS_sendto:
        if (!tracked(fd) && !(a[3] & MSG_FASTOPEN))
            return 0;
        *r = sendto(fd, pointer(a[1]), (size_t)a[2], (int)a[3], pointer(a[4]), (socklen_t)a[5]);
        break;
    case SYS_sendmsg:
        if (!tracked_with_message(fd, pointer(a[1]), (int)a[2]))
            return 0;
        *r = sendmsg(fd, pointer(a[1]), (int)a[2]);
        break;
    case SYS_sendmmsg:
        if (!tracked_with_message(fd, pointer(a[1]), (int)a[3]))
            return 0;
        *r = sendmmsg(fd, pointer(a[1]), (unsigned)a[2], (int)a[3]);
        break;
    case SYS_sendfile:
        if (!tracked(fd) && !tracked((int)a[1]))
            return 0;
        *r = sendfile(fd, (int)a[1], pointer(a[2]), (size_t)a[3]);
        break;
#ifdef SYS_sendfile64
    case SYS_sendfile64:
        if (!tracked(fd) && !tracked((int)a[1]))
            return 0;
        *r = sendfile64(fd, (int)a[1], pointer(a[2]), (size_t)a[3]);
        break;
#endif
    case SYS_splice:
        if (!tracked(fd) && !tracked((int)a[2]))
            return 0;
        *r = splice(fd, pointer(a[1]), (int)a[2], pointer(a[3]), (size_t)a[4], (unsigned)a[5]);
        break;
    case SYS_recvmsg:
        if (!tracked(fd))
            return 0;
        *r = recvmsg(fd, pointer(a[1]), (int)a[2]);
        break;
    case SYS_recvmmsg:
#ifdef SYS_recvmmsg_time64
    case SYS_recvmmsg_time64:
#endif
        if (!tracked(fd))
            return 0;
        *r = recvmmsg(fd, pointer(a[1]), (unsigned)a[2], (int)a[3], pointer(a[4]));
        break;
    default:
        return 0;
    }
    return 1;
}

static void rights_of_all(const struct call *c, long r)
{
    struct mmsghdr *m = pointer(c->a[1]);
    for (long i = 0; i < r; i++)
        if (m[i].msg_hdr.msg_controllen != 0)
            oe_track_rights(&m[i].msg_hdr);
}

static long replaces(const struct call *c)
{
    int fd = (int)c->a[0], to = (int)c->a[1];
    struct oe_sock *replaced = fd != to ? oe_track_replace(to) : NULL;
    long r = forward(c);
    if (replaced != NULL)
        oe_track_replaced(to, replaced, r < 0);
    if (r >= 0)
        oe_track_dup(fd, (int)r);
    return r;
}

/* Calls that begin, share, replace and close: the number itself is forwarded, and what the function does besides is done here. Not by the function:
 * it goes on to another preload's, which may well make its calls by syscall(), and so for ever. */
static int descriptors(const struct call *c, long *r)
{
    const long *a = c->a;
    int fd = (int)a[0];

    switch (c->number) {
    case SYS_close:
        if (oe_hook_known(fd))
            oe_track_close(fd);
        *r = forward(c);
        break;
#ifdef SYS_close_range
    case SYS_close_range:
        if (oe_hook_closes_range((unsigned)a[0], (unsigned)a[1], (int)a[2]))
            oe_track_close_range((unsigned)a[0], (unsigned)a[1]);
        *r = forward(c);
        break;
#endif
#ifdef SYS_dup2
    case SYS_dup2:
#endif
    case SYS_dup3:
        *r = replaces(c);
        break;
    case SYS_dup:
    case SYS_fcntl:
#ifdef SYS_fcntl64
    case SYS_fcntl64:
#endif
        *r = forward(c);
        if (*r >= 0 && (c->number == SYS_dup || a[1] == F_DUPFD || a[1] == F_DUPFD_CLOEXEC))
            oe_track_dup(fd, (int)*r);
        break;
#ifdef SYS_pidfd_getfd
    case SYS_pidfd_getfd:
        *r = forward(c);
        if (*r >= 0)
            oe_track_received((int)*r);
        break;
#endif
    default:
        return 0;
    }
    return 1;
}

static int begins(const struct call *c, long *r)
{
    const long *a = c->a;
    int fd = (int)a[0];

    switch (c->number) {
    case SYS_connect:
        oe_track_before_connect(fd);
        *r = oe_hook_connected((int)forward(c), fd, pointer(a[1]), (socklen_t)a[2]);
        break;
    case SYS_listen:
        if ((*r = forward(c)) == 0)
            oe_track_listen(fd);
        break;
#ifdef SYS_accept
    case SYS_accept:
#endif
    case SYS_accept4:
        *r = oe_hook_accepted((int)forward(c));
        break;
    case SYS_recvmsg:
        *r = forward(c);
        if (*r >= 0 && ((struct msghdr *)pointer(a[1]))->msg_controllen != 0)
            oe_track_rights(pointer(a[1]));
        break;
    case SYS_recvmmsg:
#ifdef SYS_recvmmsg_time64
    case SYS_recvmmsg_time64:
#endif
        *r = forward(c);
        rights_of_all(c, *r);
        break;
    default:
        return 0;
    }
    return 1;
}

/* Calls that make descriptors: where their result is one, what its number stood for is gone. */
static int makes(long number)
{
    switch (number) {
    case SYS_socket:
    case SYS_openat:
    case SYS_openat2:
    case SYS_eventfd2:
    case SYS_epoll_create1:
    case SYS_timerfd_create:
    case SYS_inotify_init1:
    case SYS_memfd_create:
    case SYS_pidfd_open:
    case SYS_io_uring_setup:
#ifdef SYS_open
    case SYS_open:
    case SYS_creat:
    case SYS_eventfd:
    case SYS_epoll_create:
    case SYS_inotify_init:
#endif
        return 1;
    default:
        return 0;
    }
}

static long dispatch(const struct call *c)
{
    int before = oe_life_no_cancel();
    long r;

    if (!descriptors(c, &r) && !moves(c, &r) && !begins(c, &r) && (!tracked((int)c->a[0]) || !data(c, &r))) {
        r = forward(c);
        if (r >= 0 && r <= INT_MAX && makes(c->number) && oe_hook_known((int)r))
            oe_track_new((int)r);
    }
    oe_life_cancel(before);
    return r;
}

EXPORT long syscall(long number, ...)
{
    struct call c = {.number = number};
    va_list ap;

    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        c.a[i] = va_arg(ap, long);
    va_end(ap);
    if (!atomic_load_explicit(&oe_life.ready, memory_order_acquire))
        return forward(&c);
    return dispatch(&c);
}
