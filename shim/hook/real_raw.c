/* What stands in for libc's functions before oe_real_init: raw system calls, since neither dlsym nor malloc may be called yet. */
#include "real.h"

#include <dlfcn.h>
#include <stdarg.h>
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

/* ---- data, the newer calls ------------------------------------------------------------------------------------------------------------- */

/* Where long has 32 bits an offset takes two. */
#define HIGH(offset) (sizeof(long) == 8 ? 0 : (long)((offset) >> 32))

static ssize_t raw_preadv2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    return to_libc(OE_SYS6(SYS_preadv2, fd, iov, n, offset, HIGH(offset), flags));
}

static ssize_t raw_pwritev2(int fd, const struct iovec *iov, int n, off64_t offset, int flags)
{
    return to_libc(OE_SYS6(SYS_pwritev2, fd, iov, n, offset, HIGH(offset), flags));
}

static int raw_recvmmsg(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout)
{
    return (int)to_libc(OE_SYS6(SYS_recvmmsg, fd, m, n, flags, timeout, 0));
}

static int raw_sendmmsg(int fd, struct mmsghdr *m, unsigned n, int flags)
{
    return (int)to_libc(OE_SYS6(SYS_sendmmsg, fd, m, n, flags, 0, 0));
}

static ssize_t raw_sendfile(int out, int in, off_t *offset, size_t n)
{
    return to_libc(OE_SYS6(SYS_sendfile, out, in, offset, n, 0, 0));
}

static ssize_t raw_sendfile64(int out, int in, off64_t *offset, size_t n)
{
#ifdef SYS_sendfile64
    return to_libc(OE_SYS6(SYS_sendfile64, out, in, offset, n, 0, 0));
#else
    return to_libc(OE_SYS6(SYS_sendfile, out, in, offset, n, 0, 0));
#endif
}

static ssize_t raw_splice(int in, off64_t *in_at, int out, off64_t *out_at, size_t n, unsigned flags)
{
    return to_libc(OE_SYS6(SYS_splice, in, in_at, out, out_at, n, flags));
}

/* ---- descriptors ----------------------------------------------------------------------------------------------------------------------- */

static int raw_close_range(unsigned first, unsigned last, int flags)
{
    return (int)to_libc(OE_SYS3(SYS_close_range, first, last, flags));
}

static void raw_closefrom(int low)
{
    (void)raw_close_range((unsigned)(low < 0 ? 0 : low), ~0U, 0);
}

static int raw_ioctl(int fd, unsigned long request, ...)
{
    va_list ap;
    va_start(ap, request);
    long arg = va_arg(ap, long);
    va_end(ap);
    return (int)to_libc(OE_SYS3(SYS_ioctl, fd, request, arg));
}

static int raw_getsockopt(int fd, int level, int name, void *value, socklen_t *n)
{
    return (int)to_libc(OE_SYS6(SYS_getsockopt, fd, level, name, value, n, 0));
}

static int raw_setsockopt(int fd, int level, int name, const void *value, socklen_t n)
{
    return (int)to_libc(OE_SYS6(SYS_setsockopt, fd, level, name, value, n, 0));
}

static int raw_pidfd_getfd(int pidfd, int fd, unsigned flags)
{
    return (int)to_libc(OE_SYS3(SYS_pidfd_getfd, pidfd, fd, flags));
}

static int raw_socket(int domain, int type, int protocol)
{
    return (int)to_libc(OE_SYS3(SYS_socket, domain, type, protocol));
}

static int raw_socketpair(int domain, int type, int protocol, int *fds)
{
    return (int)to_libc(OE_SYS6(SYS_socketpair, domain, type, protocol, fds, 0, 0));
}

static int raw_pipe2(int *fds, int flags)
{
    return (int)to_libc(OE_SYS3(SYS_pipe2, fds, flags, 0));
}

static int raw_pipe(int *fds)
{
    return raw_pipe2(fds, 0);
}

static int raw_openat(int dir, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    long mode = va_arg(ap, long); /* unused by the kernel where nothing is made */
    va_end(ap);
    return (int)to_libc(OE_SYS6(SYS_openat, dir, path, flags, mode, 0, 0));
}

static int raw_open(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    long mode = va_arg(ap, long);
    va_end(ap);
    return raw_openat(AT_FDCWD, path, flags, mode);
}

static int raw_open64(const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    long mode = va_arg(ap, long);
    va_end(ap);
    return raw_openat(AT_FDCWD, path, flags | O_LARGEFILE, mode);
}

static int raw_openat64(int dir, const char *path, int flags, ...)
{
    va_list ap;
    va_start(ap, flags);
    long mode = va_arg(ap, long);
    va_end(ap);
    return raw_openat(dir, path, flags | O_LARGEFILE, mode);
}

static int raw_open_2(const char *path, int flags)
{
    return raw_openat(AT_FDCWD, path, flags, 0L);
}

static int raw_open64_2(const char *path, int flags)
{
    return raw_openat(AT_FDCWD, path, flags | O_LARGEFILE, 0L);
}

static int raw_openat_2(int dir, const char *path, int flags)
{
    return raw_openat(dir, path, flags, 0L);
}

static int raw_openat64_2(int dir, const char *path, int flags)
{
    return raw_openat(dir, path, flags | O_LARGEFILE, 0L);
}

static int raw_creat(const char *path, mode_t mode)
{
    return raw_openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, (long)mode);
}

static int raw_creat64(const char *path, mode_t mode)
{
    return raw_openat(AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC | O_LARGEFILE, (long)mode);
}

static int raw_eventfd(unsigned initial, int flags)
{
    return (int)to_libc(OE_SYS3(SYS_eventfd2, initial, flags, 0));
}

static int raw_epoll_create1(int flags)
{
    return (int)to_libc(OE_SYS3(SYS_epoll_create1, flags, 0, 0));
}

static int raw_epoll_create(int size)
{
    return size > 0 ? raw_epoll_create1(0) : (int)to_libc(-EINVAL);
}

static int raw_timerfd_create(int clock, int flags)
{
    return (int)to_libc(OE_SYS3(SYS_timerfd_create, clock, flags, 0));
}

static int raw_signalfd(int fd, const sigset_t *mask, int flags)
{
    return (int)to_libc(OE_SYS6(SYS_signalfd4, fd, mask, 8, flags, 0, 0));
}

static int raw_inotify_init1(int flags)
{
    return (int)to_libc(OE_SYS3(SYS_inotify_init1, flags, 0, 0));
}

static int raw_inotify_init(void)
{
    return raw_inotify_init1(0);
}

static int raw_memfd_create(const char *name, unsigned flags)
{
    return (int)to_libc(OE_SYS3(SYS_memfd_create, name, flags, 0));
}

static long raw_syscall(long number, ...)
{
    va_list ap;
    long a[6];
    va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = va_arg(ap, long);
    va_end(ap);
    return to_libc(OE_SYS6(number, a[0], a[1], a[2], a[3], a[4], a[5]));
}

/* ---- what no system call does: libc's own, looked up each time, for constructors that ask for it before ours ---------------------------- */

static void *late(const char *name)
{
    return dlsym(RTLD_NEXT, name);
}

static FILE *raw_fdopen(int fd, const char *mode)
{
    FILE *(*real)(int, const char *) = NULL;
    void *p = late("fdopen");
    memcpy(&real, &p, sizeof(p));
    return real(fd, mode);
}

static int raw_fclose(FILE *f)
{
    int (*real)(FILE *) = NULL;
    void *p = late("fclose");
    memcpy(&real, &p, sizeof(p));
    return real(f);
}

static FILE *raw_freopen(const char *path, const char *mode, FILE *f)
{
    FILE *(*real)(const char *, const char *, FILE *) = NULL;
    void *p = late("freopen");
    memcpy(&real, &p, sizeof(p));
    return real(path, mode, f);
}

static FILE *raw_freopen64(const char *path, const char *mode, FILE *f)
{
    FILE *(*real)(const char *, const char *, FILE *) = NULL;
    void *p = late("freopen64");
    memcpy(&real, &p, sizeof(p));
    return real(path, mode, f);
}

static int raw_vdprintf(int fd, const char *format, va_list ap)
{
    int (*real)(int, const char *, va_list) = NULL;
    void *p = late("vdprintf");
    memcpy(&real, &p, sizeof(p));
    return real(fd, format, ap);
}

static int raw_vdprintf_chk(int fd, int flag, const char *format, va_list ap)
{
    int (*real)(int, int, const char *, va_list) = NULL;
    void *p = late("__vdprintf_chk");
    memcpy(&real, &p, sizeof(p));
    return real(fd, flag, format, ap);
}

static int raw_getaddrinfo(const char *node, const char *service, const struct addrinfo *hints, struct addrinfo **list)
{
    int (*real)(const char *, const char *, const struct addrinfo *, struct addrinfo **) = NULL;
    void *p = late("getaddrinfo");
    memcpy(&real, &p, sizeof(p));
    return real(node, service, hints, list);
}

#if __SIZEOF_LONG__ == 4
#define raw_recvmsg_time64 raw_recvmsg
#ifdef SYS_recvmmsg_time64
static int raw_recvmmsg_time64(int fd, struct mmsghdr *m, unsigned n, int flags, struct timespec *timeout)
{
    return (int)to_libc(OE_SYS6(SYS_recvmmsg_time64, fd, m, n, flags, timeout, 0));
}
#else
#define raw_recvmmsg_time64 raw_recvmmsg
#endif
#define raw_sendmsg_time64 raw_sendmsg
#define raw_sendmmsg_time64 raw_sendmmsg
#define raw_fcntl_time64 raw_fcntl
#define raw_ioctl_time64 raw_ioctl
#define raw_getsockopt_time64 raw_getsockopt
#define raw_setsockopt_time64 raw_setsockopt
#endif

struct oe_real oe_real = {
#define OE_REAL_RAW(member, symbol, result, parameters) .member = raw_##member,
    OE_REAL_CALLS(OE_REAL_RAW) OE_REAL_TIME64_CALLS(OE_REAL_RAW)
#undef OE_REAL_RAW
};
