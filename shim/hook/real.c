#include "real.h"

#include <dlfcn.h>
#include <poll.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include "sys.h"

/* The libc way to report a raw result. */
static long to_libc(long r)
{
    if (r >= 0)
        return r;
    errno = (int)-r;
    return -1;
}

/* ---- before initialisation: raw system calls ------------------------------------------------------------------------------------------ */

static int raw_connect(int fd, const struct sockaddr *a, socklen_t n)
{
    return (int)to_libc(OE_SYS3(SYS_connect, fd, a, n));
}

static int raw_listen(int fd, int backlog)
{
    return (int)to_libc(OE_SYS3(SYS_listen, fd, backlog, 0));
}

static int raw_accept4(int fd, struct sockaddr *a, socklen_t *n, int flags)
{
    return (int)to_libc(OE_SYS6(SYS_accept4, fd, a, n, flags, 0, 0));
}

static int raw_accept(int fd, struct sockaddr *a, socklen_t *n)
{
    return raw_accept4(fd, a, n, 0);
}

static ssize_t raw_read(int fd, void *p, size_t n)
{
    return to_libc(OE_SYS3(SYS_read, fd, p, n));
}

static ssize_t raw_read_chk(int fd, void *p, size_t n, size_t size)
{
    (void)size;
    return raw_read(fd, p, n);
}

static ssize_t raw_readv(int fd, const struct iovec *iov, int n)
{
    return to_libc(OE_SYS3(SYS_readv, fd, iov, n));
}

static ssize_t raw_recvfrom(int fd, void *p, size_t n, int flags, struct sockaddr *a, socklen_t *a_n)
{
    return to_libc(OE_SYS6(SYS_recvfrom, fd, p, n, flags, a, a_n));
}

static ssize_t raw_recv(int fd, void *p, size_t n, int flags)
{
    return raw_recvfrom(fd, p, n, flags, NULL, NULL);
}

static ssize_t raw_recv_chk(int fd, void *p, size_t n, size_t size, int flags)
{
    (void)size;
    return raw_recv(fd, p, n, flags);
}

static ssize_t raw_recvfrom_chk(int fd, void *p, size_t n, size_t size, int flags, struct sockaddr *a, socklen_t *a_n)
{
    (void)size;
    return raw_recvfrom(fd, p, n, flags, a, a_n);
}

static ssize_t raw_recvmsg(int fd, struct msghdr *m, int flags)
{
    return to_libc(OE_SYS3(SYS_recvmsg, fd, m, flags));
}

static ssize_t raw_write(int fd, const void *p, size_t n)
{
    return to_libc(OE_SYS3(SYS_write, fd, p, n));
}

static ssize_t raw_writev(int fd, const struct iovec *iov, int n)
{
    return to_libc(OE_SYS3(SYS_writev, fd, iov, n));
}

static ssize_t raw_sendto(int fd, const void *p, size_t n, int flags, const struct sockaddr *a, socklen_t a_n)
{
    return to_libc(OE_SYS6(SYS_sendto, fd, p, n, flags, a, a_n));
}

static ssize_t raw_send(int fd, const void *p, size_t n, int flags)
{
    return raw_sendto(fd, p, n, flags, NULL, 0);
}

static ssize_t raw_sendmsg(int fd, const struct msghdr *m, int flags)
{
    return to_libc(OE_SYS3(SYS_sendmsg, fd, m, flags));
}

static int raw_close(int fd)
{
    return (int)to_libc(OE_SYS3(SYS_close, fd, 0, 0));
}

static int raw_shutdown(int fd, int how)
{
    return (int)to_libc(OE_SYS3(SYS_shutdown, fd, how, 0));
}

static int raw_dup(int fd)
{
    return (int)to_libc(OE_SYS3(SYS_dup, fd, 0, 0));
}

static int raw_dup3(int fd, int to, int flags)
{
    return (int)to_libc(OE_SYS3(SYS_dup3, fd, to, flags));
}

static int raw_fcntl(int fd, int cmd, ...)
{
    va_list ap;
    va_start(ap, cmd);
    long arg = va_arg(ap, long);
    va_end(ap);
#ifdef SYS_fcntl64
    return (int)to_libc(OE_SYS3(SYS_fcntl64, fd, cmd, arg));
#else
    return (int)to_libc(OE_SYS3(SYS_fcntl, fd, cmd, arg));
#endif
}

/* dup2 onto itself is no error, dup3 is. */
static int raw_dup2(int fd, int to)
{
    if (fd == to)
        return raw_fcntl(fd, 1 /* F_GETFD */, 0) < 0 ? -1 : to;
    return raw_dup3(fd, to, 0);
}

static int raw_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **out)
{
    /* There is no such system call; a constructor that asks for names gets libc's. */
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = NULL;
    void *p = dlsym(RTLD_NEXT, "getaddrinfo");
    memcpy(&real, &p, sizeof(p));
    return real != NULL ? real(node, service, hints, out) : EAI_FAIL;
}

struct oe_real oe_real = {
    .connect = raw_connect,
    .listen = raw_listen,
    .accept = raw_accept,
    .accept4 = raw_accept4,
    .read = raw_read,
    .read_chk = raw_read_chk,
    .readv = raw_readv,
    .recv = raw_recv,
    .recv_chk = raw_recv_chk,
    .recvfrom = raw_recvfrom,
    .recvfrom_chk = raw_recvfrom_chk,
    .recvmsg = raw_recvmsg,
    .write = raw_write,
    .writev = raw_writev,
    .send = raw_send,
    .sendto = raw_sendto,
    .sendmsg = raw_sendmsg,
    .close = raw_close,
    .shutdown = raw_shutdown,
    .dup = raw_dup,
    .dup2 = raw_dup2,
    .dup3 = raw_dup3,
    .fcntl = raw_fcntl,
    .getaddrinfo = raw_getaddrinfo,
};

/* ---- initialised ---------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    size_t at;
} table[] = {
    {"connect", offsetof(struct oe_real, connect)},
    {"listen", offsetof(struct oe_real, listen)},
    {"accept", offsetof(struct oe_real, accept)},
    {"accept4", offsetof(struct oe_real, accept4)},
    {"read", offsetof(struct oe_real, read)},
    {"__read_chk", offsetof(struct oe_real, read_chk)},
    {"readv", offsetof(struct oe_real, readv)},
    {"recv", offsetof(struct oe_real, recv)},
    {"__recv_chk", offsetof(struct oe_real, recv_chk)},
    {"recvfrom", offsetof(struct oe_real, recvfrom)},
    {"__recvfrom_chk", offsetof(struct oe_real, recvfrom_chk)},
    {"recvmsg", offsetof(struct oe_real, recvmsg)},
    {"write", offsetof(struct oe_real, write)},
    {"writev", offsetof(struct oe_real, writev)},
    {"send", offsetof(struct oe_real, send)},
    {"sendto", offsetof(struct oe_real, sendto)},
    {"sendmsg", offsetof(struct oe_real, sendmsg)},
    {"close", offsetof(struct oe_real, close)},
    {"shutdown", offsetof(struct oe_real, shutdown)},
    {"dup", offsetof(struct oe_real, dup)},
    {"dup2", offsetof(struct oe_real, dup2)},
    {"dup3", offsetof(struct oe_real, dup3)},
    {"fcntl64", offsetof(struct oe_real, fcntl)},
    {"getaddrinfo", offsetof(struct oe_real, getaddrinfo)},
};

void oe_real_init(void)
{
    for (size_t i = 0; i < sizeof(table) / sizeof(table[0]); i++) {
        void *p = dlsym(RTLD_NEXT, table[i].name);
        if (p != NULL)
            memcpy((char *)&oe_real + table[i].at, &p, sizeof(p));
    }
}
