/* What the test programs share: MQTT bytes, checkable content, time, complaints. */
#ifndef PEER_H
#define PEER_H

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#define STALL_MS 6000

static const uint8_t connect_packet[] = {0x10, 13, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 1, 'c'};
static const uint8_t connack_packet[] = {0x20, 2, 0, 0};
static const uint8_t subscribe_packet[] = {0x82, 6, 0, 1, 0, 1, 'a', 0};

__attribute__((noreturn, format(printf, 2, 3))) static inline void die(int status, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stdout, "FAILED: ");
    vfprintf(stdout, format, ap);
    fprintf(stdout, "\n");
    va_end(ap);
    fflush(stdout);
    _exit(status);
}

#define MUST(e) ((e) ? (void)0 : die(1, "%s:%d: %s (errno %d %s)", __FILE__, __LINE__, #e, errno, strerror(errno)))

static inline long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static inline void nap_ms(long ms)
{
    struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

static inline uint32_t next_random(uint32_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 17;
    *seed ^= *seed << 5;
    return *seed;
}

/* n bytes (at least 2) of whole packets of pseudo-random sizes. */
static inline void make_stream(uint8_t *out, size_t n, uint32_t seed)
{
    size_t at = 0;
    seed = seed * 2654435761U | 1;
    while (at < n) {
        uint32_t kind = next_random(&seed) % 16, size = next_random(&seed);
        size_t left = n - at, body = kind == 0 ? 20000 + size % 40000 : kind < 4 ? 300 + size % 3000 : 3 + size % 90;
        if (left < 130)
            body = left - 2; /* the last one */
        else if (body > left - 6)
            body = left - 6 > 16383 ? 16383 : left - 6; /* what is left has two bytes at least */
        out[at++] = body == 0 ? 0xC0 : 0x30;
        for (size_t rest = body;; rest >>= 7) {
            out[at++] = (uint8_t)((rest & 127) | (rest > 127 ? 128 : 0));
            if (rest <= 127)
                break;
        }
        for (size_t i = 0; i < body; i++)
            out[at++] = i == 0 ? 0 : i == 1 ? 1 : (uint8_t)(next_random(&seed) >> 9);
    }
}

static inline void set_nonblock(int fd, int on)
{
    int f = fcntl(fd, F_GETFL);
    fcntl(fd, F_SETFL, on ? f | O_NONBLOCK : f & ~O_NONBLOCK);
}

static inline int wait_for(int fd, short events, int ms)
{
    struct pollfd p = {.fd = fd, .events = events};
    for (long end = now_ms() + ms;;) {
        int r = poll(&p, 1, ms);
        if (r >= 0 || errno != EINTR)
            return r;
        ms = end > now_ms() ? (int)(end - now_ms()) : 0;
    }
}

/* A system call that is no call of libc's: behind the library's back. */
static inline void raw_close(int fd)
{
#if defined(__x86_64__)
    long r;
    __asm__ volatile("syscall" : "=a"(r) : "a"(SYS_close), "D"((long)fd) : "rcx", "r11", "memory");
#elif defined(__aarch64__)
    register long x8 __asm__("x8") = SYS_close;
    register long x0 __asm__("x0") = fd;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8) : "memory");
#else
    syscall(SYS_close, fd);
#endif
}

/* Whatever the blocking mode. */
static inline void put(int fd, const void *data, size_t n)
{
    const uint8_t *p = data;
    while (n != 0) {
        ssize_t r = write(fd, p, n);
        if (r < 0 && errno == EAGAIN) {
            if (wait_for(fd, POLLOUT, STALL_MS) != 1)
                die(3, "stall in put");
        } else if (r < 0) {
            die(1, "write: %s", strerror(errno));
        } else {
            p += r;
            n -= (size_t)r;
        }
    }
}

static inline void get(int fd, void *data, size_t n)
{
    uint8_t *p = data;
    while (n != 0) {
        if (wait_for(fd, POLLIN, STALL_MS) != 1)
            die(3, "stall in get, %zu bytes missing", n);
        ssize_t r = read(fd, p, n);
        if (r < 0 && errno == EAGAIN)
            continue;
        if (r <= 0)
            die(1, "read: %s", r == 0 ? "end of stream" : strerror(errno));
        p += r;
        n -= (size_t)r;
    }
}

static inline void get_exactly(int fd, const void *want, size_t n)
{
    uint8_t *p = malloc(n);
    get(fd, p, n);
    if (memcmp(p, want, n) != 0)
        die(1, "other bytes than expected");
    free(p);
}

static inline struct sockaddr_in loopback(int port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return a;
}

static inline int tcp_socket(void)
{
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
    MUST(fd >= 0);
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    return fd;
}

static inline int tcp_listen(int *port)
{
    struct sockaddr_in a = loopback(0);
    socklen_t n = sizeof(a);
    int fd = tcp_socket();
    MUST(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 128) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    *port = ntohs(a.sin_port);
    return fd;
}

static inline int tcp_connect(int port)
{
    struct sockaddr_in a = loopback(port);
    int fd = tcp_socket();
    MUST(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    return fd;
}

/* Client: up to where its stream begins; the connection is encrypted by then if both ends can. */
static inline int mqtt_connect(int port)
{
    int fd = tcp_connect(port);
    put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    return fd;
}

static inline void mqtt_accept_on(int fd)
{
    get_exactly(fd, connect_packet, sizeof(connect_packet));
    put(fd, connack_packet, sizeof(connack_packet));
}

#endif
