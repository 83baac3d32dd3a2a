/* System calls without libc: no errno, no cancellation point, usable before anything is initialised. Each returns the result or -errno. */
#ifndef OE_HOOK_SYS_H
#define OE_HOOK_SYS_H

#include <errno.h>
#include <limits.h>
#include <poll.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>
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
#elif defined(__arm__) && defined(__ARM_EABI__)
    /* The number goes in r7, which is the frame pointer of Thumb code and cannot be asked for: it is kept in another register meanwhile. */
    register long r0 __asm__("r0") = a;
    register long r1 __asm__("r1") = b;
    register long r2 __asm__("r2") = c;
    register long r3 __asm__("r3") = d;
    register long r4 __asm__("r4") = e;
    register long r5 __asm__("r5") = f;
    long kept;
    __asm__ volatile("mov %1, r7\n\tmov r7, %2\n\tsvc 0\n\tmov r7, %1"
                     : "+r"(r0), "=&r"(kept)
                     : "r"(n), "r"(r1), "r"(r2), "r"(r3), "r"(r4), "r"(r5)
                     : "memory");
    return r0;
#else
#error "add this architecture's system call: libc's syscall() is one of the hooks, and sets errno"
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

/* Memory of zeros, or NULL. Some 32-bit systems have only the call that counts the offset in pages; here it is 0. */
static inline void *oe_sys_mmap(size_t n, int prot, int flags)
{
#ifdef SYS_mmap2
    long p = OE_SYS6(SYS_mmap2, 0, n, prot, flags | MAP_ANONYMOUS, -1, 0);
#else
    long p = OE_SYS6(SYS_mmap, 0, n, prot, flags | MAP_ANONYMOUS, -1, 0);
#endif
    return p < 0 && p > -4096 ? NULL : (void *)p;
}

/* SO_RCVTIMEO and SO_SNDTIMEO by the numbers that every kernel knows: they have two longs, whatever time_t is. */
#ifdef SO_RCVTIMEO_OLD
#define OE_SYS_RCVTIMEO SO_RCVTIMEO_OLD
#define OE_SYS_SNDTIMEO SO_SNDTIMEO_OLD
#else
#define OE_SYS_RCVTIMEO SO_RCVTIMEO
#define OE_SYS_SNDTIMEO SO_SNDTIMEO
#endif

/* A time-out in ms, rounded up; 0: none. */
static inline int64_t oe_sys_timeout_ms(int fd, int option)
{
    struct {
        long s;
        long us;
    } t = {0, 0};
    socklen_t n = sizeof(t);
    if (OE_SYS6(SYS_getsockopt, fd, SOL_SOCKET, option, &t, &n, 0) != 0)
        return 0;
    return (int64_t)t.s * 1000 + (t.us + 999) / 1000;
}

/* Waits up to ms, for ever if that is negative. The kernel's struct timespec of this call has two longs, whatever time_t is. */
static inline long oe_sys_poll(struct pollfd *p, unsigned n, int64_t ms)
{
    const int64_t most = LONG_MAX / 2;
    struct {
        long s;
        long ns;
    } t = {(long)(ms / 1000 < most ? ms / 1000 : most), (long)(ms % 1000 * 1000000)};
    return OE_SYS6(SYS_ppoll, p, n, ms < 0 ? NULL : &t, NULL, 0, 0);
}

#endif
