/* System calls without libc: no errno, no cancellation point, usable before anything is initialised. Each returns the result or -errno. */
#ifndef OE_HOOK_SYS_H
#define OE_HOOK_SYS_H

#include <errno.h>
#include <sys/syscall.h>
#include <unistd.h>

static inline long oe_sys(long n, long a, long b, long c, long d, long e, long f)
{
#if defined(__x86_64__) && !defined(__ILP32__)
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9) : "rcx", "r11", "memory");
    return r;
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5) : "memory");
    return x0;
#else
    int saved = errno;
    long r = syscall(n, a, b, c, d, e, f);
    if (r == -1)
        r = -errno;
    errno = saved;
    return r;
#endif
}

#define OE_SYS3(n, a, b, c) oe_sys((n), (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define OE_SYS6(n, a, b, c, d, e, f) oe_sys((n), (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline long oe_sys_recv(int fd, void *p, size_t n, int flags)
{
    return OE_SYS6(SYS_recvfrom, fd, p, n, flags, 0, 0);
}

static inline long oe_sys_send(int fd, const void *p, size_t n, int flags)
{
    return OE_SYS6(SYS_sendto, fd, p, n, flags, 0, 0);
}

#endif
