/* The functions that the hooks stand in front of: libc's, or another preload's (RTLD_NEXT). Before oe_real_init they are raw system calls. */
#ifndef OE_HOOK_REAL_H
#define OE_HOOK_REAL_H

#include <fcntl.h>
#include <netdb.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>

/* X(member, symbol, result, parameters) */
#define OE_REAL_CALLS(X)                                                                                                                   \
    X(connect, "connect", int, (int, const struct sockaddr *, socklen_t))                                                                  \
    X(listen, "listen", int, (int, int))                                                                                                   \
    X(accept, "accept", int, (int, struct sockaddr *, socklen_t *))                                                                        \
    X(accept4, "accept4", int, (int, struct sockaddr *, socklen_t *, int))                                                                 \
    X(read, "read", ssize_t, (int, void *, size_t))                                                                                        \
    X(read_chk, "__read_chk", ssize_t, (int, void *, size_t, size_t))                                                                      \
    X(readv, "readv", ssize_t, (int, const struct iovec *, int))                                                                           \
    X(preadv2, "preadv64v2", ssize_t, (int, const struct iovec *, int, off64_t, int))                                                      \
    X(recv, "recv", ssize_t, (int, void *, size_t, int))                                                                                   \
    X(recv_chk, "__recv_chk", ssize_t, (int, void *, size_t, size_t, int))                                                                 \
    X(recvfrom, "recvfrom", ssize_t, (int, void *, size_t, int, struct sockaddr *, socklen_t *))                                           \
    X(recvfrom_chk, "__recvfrom_chk", ssize_t, (int, void *, size_t, size_t, int, struct sockaddr *, socklen_t *))                         \
    X(recvmsg, "recvmsg", ssize_t, (int, struct msghdr *, int))                                                                            \
    X(recvmmsg, "recvmmsg", int, (int, struct mmsghdr *, unsigned, int, struct timespec *))                                                \
    X(write, "write", ssize_t, (int, const void *, size_t))                                                                                \
    X(writev, "writev", ssize_t, (int, const struct iovec *, int))                                                                         \
    X(pwritev2, "pwritev64v2", ssize_t, (int, const struct iovec *, int, off64_t, int))                                                    \
    X(send, "send", ssize_t, (int, const void *, size_t, int))                                                                             \
    X(sendto, "sendto", ssize_t, (int, const void *, size_t, int, const struct sockaddr *, socklen_t))                                     \
    X(sendmsg, "sendmsg", ssize_t, (int, const struct msghdr *, int))                                                                      \
    X(sendmmsg, "sendmmsg", int, (int, struct mmsghdr *, unsigned, int))                                                                   \
    X(sendfile, "sendfile", ssize_t, (int, int, off_t *, size_t))                                                                          \
    X(sendfile64, "sendfile64", ssize_t, (int, int, off64_t *, size_t))                                                                    \
    X(splice, "splice", ssize_t, (int, off64_t *, int, off64_t *, size_t, unsigned))                                                       \
    X(close, "close", int, (int))                                                                                                          \
    X(close_range, "close_range", int, (unsigned, unsigned, int))                                                                          \
    X(closefrom, "closefrom", void, (int))                                                                                                 \
    X(shutdown, "shutdown", int, (int, int))                                                                                               \
    X(dup, "dup", int, (int))                                                                                                              \
    X(dup2, "dup2", int, (int, int))                                                                                                       \
    X(dup3, "dup3", int, (int, int, int))                                                                                                  \
    X(fcntl, "fcntl64", int, (int, int, ...))                                                                                              \
    X(ioctl, "ioctl", int, (int, unsigned long, ...))                                                                                      \
    X(getsockopt, "getsockopt", int, (int, int, int, void *, socklen_t *))                                                                 \
    X(setsockopt, "setsockopt", int, (int, int, int, const void *, socklen_t))                                                             \
    X(pidfd_getfd, "pidfd_getfd", int, (int, int, unsigned))                                                                               \
    X(socket, "socket", int, (int, int, int))                                                                                              \
    X(socketpair, "socketpair", int, (int, int, int, int *))                                                                               \
    X(pipe, "pipe", int, (int *))                                                                                                          \
    X(pipe2, "pipe2", int, (int *, int))                                                                                                   \
    X(open, "open", int, (const char *, int, ...))                                                                                         \
    X(open64, "open64", int, (const char *, int, ...))                                                                                     \
    X(openat, "openat", int, (int, const char *, int, ...))                                                                                \
    X(openat64, "openat64", int, (int, const char *, int, ...))                                                                            \
    X(open_2, "__open_2", int, (const char *, int))                                                                                        \
    X(open64_2, "__open64_2", int, (const char *, int))                                                                                    \
    X(openat_2, "__openat_2", int, (int, const char *, int))                                                                               \
    X(openat64_2, "__openat64_2", int, (int, const char *, int))                                                                           \
    X(creat, "creat", int, (const char *, mode_t))                                                                                         \
    X(creat64, "creat64", int, (const char *, mode_t))                                                                                     \
    X(eventfd, "eventfd", int, (unsigned, int))                                                                                            \
    X(epoll_create1, "epoll_create1", int, (int))                                                                                          \
    X(epoll_create, "epoll_create", int, (int))                                                                                            \
    X(timerfd_create, "timerfd_create", int, (int, int))                                                                                   \
    X(signalfd, "signalfd", int, (int, const sigset_t *, int))                                                                             \
    X(inotify_init1, "inotify_init1", int, (int))                                                                                          \
    X(inotify_init, "inotify_init", int, (void))                                                                                           \
    X(memfd_create, "memfd_create", int, (const char *, unsigned))                                                                         \
    X(fdopen, "fdopen", FILE *, (int, const char *))                                                                                       \
    X(fclose, "fclose", int, (FILE *))                                                                                                     \
    X(freopen, "freopen", FILE *, (const char *, const char *, FILE *))                                                                    \
    X(freopen64, "freopen64", FILE *, (const char *, const char *, FILE *))                                                                \
    X(vdprintf, "vdprintf", int, (int, const char *, va_list))                                                                             \
    X(vdprintf_chk, "__vdprintf_chk", int, (int, int, const char *, va_list))                                                              \
    X(syscall, "syscall", long, (long, ...))                                                                                               \
    X(getaddrinfo, "getaddrinfo", int, (const char *, const char *, const struct addrinfo *, struct addrinfo **))

#if __SIZEOF_LONG__ == 4
/* what programs with a 64-bit time_t call where long has 32 bits */
#define OE_REAL_TIME64_CALLS(X)                                                                                                            \
    X(recvmsg_time64, "__recvmsg64", ssize_t, (int, struct msghdr *, int))                                                                 \
    X(recvmmsg_time64, "__recvmmsg64", int, (int, struct mmsghdr *, unsigned, int, struct timespec *))                                     \
    X(sendmsg_time64, "__sendmsg64", ssize_t, (int, const struct msghdr *, int))                                                           \
    X(sendmmsg_time64, "__sendmmsg64", int, (int, struct mmsghdr *, unsigned, int))                                                        \
    X(fcntl_time64, "__fcntl_time64", int, (int, int, ...))                                                                                \
    X(ioctl_time64, "__ioctl_time64", int, (int, unsigned long, ...))                                                                      \
    X(getsockopt_time64, "__getsockopt64", int, (int, int, int, void *, socklen_t *))                                                      \
    X(setsockopt_time64, "__setsockopt64", int, (int, int, int, const void *, socklen_t))
#else
#define OE_REAL_TIME64_CALLS(X)
#endif

struct oe_real {
#define OE_REAL_MEMBER(member, symbol, result, parameters) result(*member) parameters;
    OE_REAL_CALLS(OE_REAL_MEMBER)
    OE_REAL_TIME64_CALLS(OE_REAL_MEMBER)
#undef OE_REAL_MEMBER
};

extern struct oe_real oe_real;

/* Looks all of them up. Called once, by the constructor. */
void oe_real_init(void);

#endif
