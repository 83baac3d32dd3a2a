/* A preload of somebody else's that stands in front of, or behind, much of what we hook. OE_STACK=syscall: it makes its calls by libc's syscall(), as
 * some do, which is hooked, too. It counts, and says so at the end. */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

static _Atomic unsigned long calls;
static __thread unsigned depth, deepest;

static int by_number(void)
{
    static int yes = -1;
    if (yes < 0) {
        const char *how = getenv("OE_STACK");
        yes = how != NULL && strcmp(how, "syscall") == 0;
    }
    return yes;
}

static void in(void)
{
    calls++;
    if (++depth > deepest)
        deepest = depth;
    if (depth > 50) { /* each of us calls the other for ever */
        static const char text[] = "other preload: recursion\n";
        register long r __asm__("rax") = SYS_write;
        __asm__ volatile("syscall" : "+r"(r) : "D"(2), "S"(text), "d"(sizeof(text) - 1) : "rcx", "r11", "memory");
        _exit(99);
    }
}

#define NEXT(result, name, parameters)                                                                                                     \
    static result(*next) parameters;                                                                                                       \
    if (next == NULL)                                                                                                                      \
        next = (result(*) parameters)dlsym(RTLD_NEXT, #name)

#define CALL(result, name, parameters, arguments, number, ...)                                                                             \
    result name parameters                                                                                                                 \
    {                                                                                                                                      \
        NEXT(result, name, parameters);                                                                                                    \
        in();                                                                                                                              \
        result r = by_number() ? (result)syscall(number, __VA_ARGS__) : next arguments;                                                    \
        depth--;                                                                                                                           \
        return r;                                                                                                                          \
    }

CALL(ssize_t, read, (int fd, void *p, size_t n), (fd, p, n), SYS_read, fd, p, n)
CALL(ssize_t, write, (int fd, const void *p, size_t n), (fd, p, n), SYS_write, fd, p, n)
CALL(int, close, (int fd), (fd), SYS_close, fd)
CALL(int, connect, (int fd, const struct sockaddr *a, socklen_t n), (fd, a, n), SYS_connect, fd, a, n)
CALL(int, accept, (int fd, struct sockaddr *a, socklen_t *n), (fd, a, n), SYS_accept, fd, a, n)
CALL(ssize_t, recv, (int fd, void *p, size_t n, int flags), (fd, p, n, flags), SYS_recvfrom, fd, p, n, flags, NULL, NULL)
CALL(ssize_t, send, (int fd, const void *p, size_t n, int flags), (fd, p, n, flags), SYS_sendto, fd, p, n, flags, NULL, 0)
CALL(ssize_t, sendmsg, (int fd, const struct msghdr *m, int flags), (fd, m, flags), SYS_sendmsg, fd, m, flags)
CALL(int, dup, (int fd), (fd), SYS_dup, fd)
CALL(int, dup2, (int fd, int to), (fd, to), SYS_dup2, fd, to)
CALL(int, socket, (int d, int t, int p), (d, t, p), SYS_socket, d, t, p)

long syscall(long number, ...)
{
    __builtin_va_list ap;
    long a[6];
    NEXT(long, syscall, (long, ...));
    __builtin_va_start(ap, number);
    for (int i = 0; i < 6; i++)
        a[i] = __builtin_va_arg(ap, long);
    __builtin_va_end(ap);
    in();
    long r = next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
    depth--;
    return r;
}

__attribute__((destructor)) static void end(void)
{
    fprintf(stderr, "other preload: %s\n", calls > 1 ? "called" : "not called");
}
