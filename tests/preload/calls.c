/*
 * The calls that programs use less: each does under the library what it does without, or what docs/INTERPOSITION.md says. One scenario a run:
 *   calls SCENARIO [PORT]      as a client of an echo server (life echo)
 *   calls serve_HOW            as a server that hands its connections on; prints its port
 * The last line of standard output is "ok"; status 0: good, 1: wrong, 3: stalled.
 */
#include "peer.h"

#include <linux/errqueue.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/pidfd.h>
#include <sys/sendfile.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC 4U
#endif
#ifndef SO_PEEK_OFF
#define SO_PEEK_OFF 42
#endif
#ifndef SYS_mmap /* some 32-bit systems; the offset, in pages, is 0 here */
#define SYS_mmap SYS_mmap2
#endif

extern char **environ;

static int port;
static int under; /* the library */
static const char *self;

/* ---- helpers -------------------------------------------------------------------------------------------------------------------------- */

static void echo_over(int out, int in, size_t n, uint32_t seed)
{
    uint8_t *p = malloc(n);
    make_stream(p, n, seed);
    put(out, p, n);
    get_exactly(in, p, n);
    free(p);
}

static void echo(int fd, uint32_t seed)
{
    echo_over(fd, fd, 2, seed);
    echo_over(fd, fd, 9000, seed + 1);
}

/* Not MQTT: the server echoes it. */
static void say_plain(int fd, const char *words)
{
    put(fd, words, strlen(words));
    get_exactly(fd, words, strlen(words));
}

/* Both ends of an encrypted (under the library) connection in this process. */
struct ends {
    int listener;
    int server;
};

static void *serve_end(void *arg)
{
    struct ends *e = arg;
    e->server = accept(e->listener, NULL, NULL);
    MUST(e->server >= 0);
    mqtt_accept_on(e->server);
    get_exactly(e->server, "go", 2); /* behind the handshake */
    return NULL;
}

static int both_ends(int *server)
{
    int own;
    struct ends e = {.listener = tcp_listen(&own)};
    pthread_t t;
    MUST(pthread_create(&t, NULL, serve_end, &e) == 0);
    int fd = mqtt_connect(own);
    put(fd, "go", 2);
    pthread_join(t, NULL);
    close(e.listener);
    *server = e.server;
    return fd;
}

/* ---- data ----------------------------------------------------------------------------------------------------------------------------- */

static void many_messages(void)
{
    int there, fd = both_ends(&there);
    char out[] = "one two three ", a[5] = {0}, b[5] = {0}, c[5] = {0};
    struct iovec v[] = {{out, 4}, {out + 4, 4}, {out + 8, 6}}, w[] = {{a, 4}, {b, 4}, {c, 4}};
    struct mmsghdr m[3] = {{.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = v + 1, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = v + 2, .msg_iovlen = 1}}};
    struct mmsghdr r[3] = {{.msg_hdr = {.msg_iov = w, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = w + 1, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = w + 2, .msg_iovlen = 1}}};
    struct linger reset = {1, 0};

    MUST(sendmmsg(fd, m, 3, 0) == 3 && m[0].msg_len == 4 && m[1].msg_len == 4 && m[2].msg_len == 6);
    nap_ms(20);
    MUST(recvmmsg(there, r, 3, 0, NULL) == 3);
    MUST(r[0].msg_len == 4 && r[2].msg_len == 4 && memcmp(a, "one ", 4) == 0 && memcmp(b, "two ", 4) == 0 && memcmp(c, "thre", 4) == 0);
    MUST(recvmmsg(there, r, 3, MSG_WAITFORONE, NULL) == 1 && r[0].msg_len == 2 && memcmp(a, "e ", 2) == 0);
    MUST(recvmmsg(there, r, 3, MSG_DONTWAIT, NULL) == -1 && errno == EAGAIN);
    /* an error behind a message is for the next call */
    MUST(sendmmsg(fd, m, 1, 0) == 1);
    nap_ms(20);
    MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
    MUST(recvmmsg(there, r, 1, 0, NULL) == 1);
    MUST(close(fd) == 0);
    nap_ms(20);
    MUST(recvmmsg(there, r, 3, 0, NULL) == -1 && errno == ECONNRESET);
    /* the end of the stream fills what is left, as ever */
    fd = both_ends(&there);
    put(fd, "ab", 2);
    MUST(shutdown(fd, SHUT_WR) == 0);
    nap_ms(20);
    MUST(recvmmsg(there, r, 3, 0, NULL) == 3 && r[0].msg_len == 2 && r[1].msg_len == 0 && r[2].msg_len == 0);
    r[0].msg_hdr.msg_iovlen = 2000;
    MUST(recvmmsg(there, r, 1, 0, NULL) == -1 && errno == EMSGSIZE);
}

static void positions(void)
{
    int fd = mqtt_connect(port);
    char p[] = "positions", q[20];
    struct iovec v[] = {{p, 3}, {p + 3, 6}}, w[] = {{q, 1}, {q + 1, 19}};

    MUST(preadv2(fd, w, 2, -1, RWF_NOWAIT) == -1 && errno == EAGAIN);
    MUST(pwritev2(fd, v, 2, -1, RWF_DSYNC) == 9);
    MUST(wait_for(fd, POLLIN, STALL_MS) == 1);
    MUST(preadv2(fd, w, 2, -1, 0) == 9 && memcmp(q, p, 9) == 0);
    MUST(pwritev64v2(fd, v, 2, -1, RWF_NOWAIT) == 9);
    get_exactly(fd, p, 9);
    MUST(preadv2(fd, w, 2, 0, 0) == -1 && errno == ESPIPE);
    MUST(pwritev2(fd, v, 2, 0, 0) == -1 && errno == ESPIPE);
    MUST(preadv2(fd, w, 2, -1, 0x40000000) == -1 && errno == EOPNOTSUPP);
    MUST(pwritev2(fd, v, 2, -1, 0x40000000) == -1 && errno == EOPNOTSUPP);
    MUST(pread(fd, q, 4, 0) == -1 && errno == ESPIPE && pwrite(fd, p, 4, 0) == -1 && errno == ESPIPE);
    MUST(preadv(fd, w, 2, 0) == -1 && errno == ESPIPE && pwritev(fd, v, 2, 0) == -1 && errno == ESPIPE);
    echo(fd, 1);
}

static void by_number(void)
{
    struct sockaddr_in to = loopback(port), from;
    socklen_t from_n = sizeof(from);
    uint8_t p[64];
    char words[] = "by number";
    struct iovec v[] = {{words, 4}, {words + 4, 5}}, w[] = {{p, 4}, {p + 4, 5}};
    struct msghdr out = {.msg_iov = v, .msg_iovlen = 2}, in = {.msg_iov = w, .msg_iovlen = 2};
    int n = 0, fd = (int)syscall(SYS_socket, AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    MUST(fd >= 0 && syscall(SYS_connect, fd, &to, sizeof(to)) == 0);
    MUST(syscall(SYS_write, fd, connect_packet, sizeof(connect_packet)) == (long)sizeof(connect_packet));
    MUST(syscall(SYS_recvfrom, fd, p, sizeof(connack_packet), MSG_WAITALL, NULL, NULL) == (long)sizeof(connack_packet));
    MUST(memcmp(p, connack_packet, sizeof(connack_packet)) == 0);
    for (int i = 0; i < 5; i++) {
        long r = i == 0   ? syscall(SYS_write, fd, words, 9)
                 : i == 1 ? syscall(SYS_writev, fd, v, 2)
                 : i == 2 ? syscall(SYS_sendto, fd, words, 9, MSG_NOSIGNAL, NULL, 0)
                 : i == 3 ? syscall(SYS_sendmsg, fd, &out, 0)
                          : syscall(SYS_pwritev2, fd, v, 2, -1L, -1L, 0);
        MUST(r == 9 && wait_for(fd, POLLIN, STALL_MS) == 1);
        nap_ms(5);
        MUST(syscall(SYS_ioctl, fd, FIONREAD, &n) == 0 && n == 9);
        memset(p, 0, 9);
        r = i == 0   ? syscall(SYS_read, fd, p, 9)
            : i == 1 ? syscall(SYS_readv, fd, w, 2)
            : i == 2 ? syscall(SYS_recvfrom, fd, p, 9, 0, &from, &from_n)
            : i == 3 ? syscall(SYS_recvmsg, fd, &in, 0)
                     : syscall(SYS_preadv2, fd, w, 2, -1L, -1L, 0);
        MUST(r == 9 && memcmp(p, words, 9) == 0);
    }
    MUST(syscall(SYS_read, fd, p, 0) == 0);
    int a = (int)syscall(SYS_dup, fd), b = (int)syscall(SYS_fcntl, fd, F_DUPFD_CLOEXEC, 90), c = (int)syscall(SYS_dup3, fd, 95, O_CLOEXEC);
    MUST(a > fd && b >= 90 && c == 95);
    echo_over(a, b, 100, 1);
    echo_over(c, fd, 100, 2);
    MUST(syscall(SYS_close, fd) == 0 && syscall(SYS_close, b) == 0 && syscall(SYS_close_range, 95, 95, 0) == 0);
    echo(a, 3);
    MUST(syscall(SYS_shutdown, a, SHUT_WR) == 0 && wait_for(a, POLLIN, STALL_MS) == 1 && syscall(SYS_read, a, p, 1) == 0);
    MUST(syscall(SYS_getpid) == getpid() && syscall(SYS_close, 4711) == -1 && errno == EBADF);
    MUST(syscall(100000) == -1 && errno == ENOSYS);
    void *map = (void *)syscall(SYS_mmap, NULL, 4096L, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0L); /* six arguments */
    MUST(map != MAP_FAILED && syscall(SYS_munmap, map, 4096L) == 0);
}

static void count(void)
{
    int there, fd = both_ends(&there), n = -1;
    static uint8_t data[50000];

    MUST(ioctl(there, FIONREAD, &n) == 0 && n == 0);
    make_stream(data, sizeof(data), 1);
    put(fd, data, 100);
    MUST(wait_for(there, POLLIN, STALL_MS) == 1);
    MUST(ioctl(there, FIONREAD, &n) == 0 && n == 100);
    get_exactly(there, data, 40);
    MUST(ioctl(there, FIONREAD, &n) == 0 && n == 60);
    MUST(wait_for(there, POLLIN, 0) == 1); /* counting took nothing out of the kernel's queue */
    get_exactly(there, data + 40, 60);
    MUST(ioctl(there, FIONREAD, &n) == 0 && n == 0 && wait_for(there, POLLIN, 0) == 0);
    put(fd, data, 100);
    MUST(wait_for(there, POLLIN, STALL_MS) == 1 && ioctl(there, FIONREAD, &n) == 0 && n == 100);
    put(fd, data + 100, sizeof(data) - 100); /* behind what has been opened */
    nap_ms(30);
    MUST(ioctl(there, FIONREAD, &n) == 0 && n == (int)sizeof(data));
    get_exactly(there, data, sizeof(data));
    MUST(shutdown(fd, SHUT_WR) == 0 && wait_for(there, POLLIN, STALL_MS) == 1);
    MUST(ioctl(there, FIONREAD, &n) == 0 && n == 0);
    MUST(ioctl(there, FIONREAD, NULL) == -1 && errno == EFAULT);
    n = 1;
    MUST(ioctl(there, FIONBIO, &n) == 0 && (fcntl(there, F_GETFL) & O_NONBLOCK) != 0);
    MUST(read(there, data, 1) == 0);
}

static void zero_copy(void)
{
    int fd = mqtt_connect(port), one = 1;

    if (!under)
        return; /* what the kernel does with it is its business; here it is that no program waits for a notification that never comes */
    MUST(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) == -1 && errno == EOPNOTSUPP);
    MUST(send(fd, "words", 5, MSG_ZEROCOPY) == -1 && errno == ENOBUFS);
    MUST(send(fd, "words", 5, 0) == 5);
    get_exactly(fd, "words", 5);
    /* what is not MQTT has it */
    fd = tcp_connect(port);
    MUST(setsockopt(fd, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one)) == 0);
    say_plain(fd, "GET");
    MUST(send(fd, "zero copies", 11, MSG_ZEROCOPY) == 11);
    get_exactly(fd, "zero copies", 11);
    char control[200];
    struct msghdr m = {.msg_control = control, .msg_controllen = sizeof(control)};
    MUST(wait_for(fd, 0, STALL_MS) == 1 && recvmsg(fd, &m, MSG_ERRQUEUE) == 0 && CMSG_FIRSTHDR(&m) != NULL);
}

static void fast_open(void)
{
    struct sockaddr_in to = loopback(port);
    int on = 1, fd = tcp_socket();
    struct iovec v = {(void *)(uintptr_t)connect_packet, sizeof(connect_packet)};
    struct msghdr m = {.msg_name = &to, .msg_namelen = sizeof(to), .msg_iov = &v, .msg_iovlen = 1};

    MUST(sendto(fd, connect_packet, sizeof(connect_packet), MSG_FASTOPEN, (struct sockaddr *)&to, sizeof(to)) == (ssize_t)sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    echo(fd, 1);
    MUST(sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&to, sizeof(to)) == -1 && errno == EISCONN);
    echo(fd, 2);
    fd = tcp_socket();
    MUST(sendmsg(fd, &m, MSG_FASTOPEN) == (ssize_t)sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    echo(fd, 3);
    fd = tcp_socket();
    set_nonblock(fd, 1);
    ssize_t r = sendto(fd, connect_packet, sizeof(connect_packet), MSG_FASTOPEN, (struct sockaddr *)&to, sizeof(to));
    MUST(r == (ssize_t)sizeof(connect_packet) || (r == -1 && errno == EINPROGRESS));
    MUST(wait_for(fd, POLLOUT, STALL_MS) == 1);
    if (r < 0)
        put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    echo(fd, 4);
    fd = tcp_socket();
    MUST(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on)) == 0);
    MUST(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    echo(fd, 5);
}

/* ---- options -------------------------------------------------------------------------------------------------------------------------- */

static int option(int fd, int level, int name)
{
    int value = -1;
    socklen_t n = sizeof(value);
    MUST(getsockopt(fd, level, name, &value, &n) == 0 && n == sizeof(value));
    return value;
}

static void set(int fd, int level, int name, int value)
{
    MUST(setsockopt(fd, level, name, &value, sizeof(value)) == 0);
}

static void options(void)
{
    struct sockaddr_in to = loopback(port);
    int fd = tcp_socket(), usual = option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT), zero = 0;
    char c;

    /* not MQTT: all as the application left it */
    set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 5000);
    set(fd, SOL_SOCKET, SO_RCVLOWAT, 3);
    MUST(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    MUST(option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 5000 && option(fd, SOL_SOCKET, SO_RCVLOWAT) == 3);
    say_plain(fd, "GET /");
    MUST(option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 5000 && option(fd, SOL_SOCKET, SO_RCVLOWAT) == 3);
    put(fd, "ab", 2);
    MUST(wait_for(fd, POLLIN, 200) == 0);
    put(fd, "c", 1);
    MUST(wait_for(fd, POLLIN, STALL_MS) == 1);
    get_exactly(fd, "abc", 3);
    close(fd);
    /* MQTT: the same to look at; under the library every byte wakes the reader */
    fd = tcp_connect(port);
    MUST(option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT) == usual);
    set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 6000);
    put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    MUST(option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 6000 && option(fd, SOL_SOCKET, SO_RCVLOWAT) == 1);
    set(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, 7000);
    set(fd, SOL_SOCKET, SO_RCVLOWAT, 500);
    MUST(option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT) == 7000 && option(fd, SOL_SOCKET, SO_RCVLOWAT) == 500);
    put(fd, "few", 3);
    MUST(wait_for(fd, POLLIN, under ? STALL_MS : 200) == under);
    get_exactly(fd, "few", under ? 3 : 0);
    set(fd, SOL_SOCKET, SO_RCVLOWAT, 0);
    MUST(option(fd, SOL_SOCKET, SO_RCVLOWAT) == 1);
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &c, NULL) == -1 && errno == EFAULT);
    if (under) {
        int level = 1;
        MUST(setsockopt(fd, SOL_SOCKET, SO_PEEK_OFF, &zero, sizeof(zero)) == -1 && errno == EOPNOTSUPP);
        MUST(setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", 3) == -1 && errno == ENOPROTOOPT);
        struct tcp_zerocopy_receive z = {0};
        socklen_t n = sizeof(z);
        MUST(getsockopt(fd, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &z, &n) == -1 && errno == ENOPROTOOPT);
        MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &level, sizeof(level)) == 0 && option(fd, IPPROTO_TCP, TCP_NODELAY) == 1);
        echo(fd, 1);
    }
}

/* ---- the kernel's copies ---------------------------------------------------------------------------------------------------------------- */

/* 1: it did, 0: it refused as it does descriptors that it cannot copy from or to. */
static int copied(ssize_t r, size_t n)
{
    if (under && r == -1 && errno == EINVAL)
        return 0;
    MUST(r == (ssize_t)n && !under);
    return 1;
}

static void kernel_copies(void)
{
    int fd = mqtt_connect(port), file = memfd_create("words", 0), two[2];
    off_t at = 0;
    char p[8];

    MUST(write(file, "payload", 7) == 7 && pipe(two) == 0);
    if (copied(sendfile(fd, file, &at, 7), 7))
        get_exactly(fd, "payload", 7);
    at = 0;
    if (copied(sendfile64(fd, file, (off64_t *)&at, 7), 7))
        get_exactly(fd, "payload", 7);
    MUST(write(two[1], "payload", 7) == 7);
    if (copied(splice(two[0], NULL, fd, NULL, 7, 0), 7))
        get_exactly(fd, "payload", 7);
    else
        MUST(read(two[0], p, 7) == 7);
    put(fd, "payload", 7);
    MUST(wait_for(fd, POLLIN, STALL_MS) == 1);
    nap_ms(10);
    if (copied(splice(fd, NULL, two[1], NULL, 7, 0), 7))
        MUST(read(two[0], p, 7) == 7 && memcmp(p, "payload", 7) == 0);
    else
        get_exactly(fd, "payload", 7);
    /* the kernel itself refuses these */
    struct iovec v = {p, 7};
    MUST(write(two[1], "payload", 7) == 7);
    MUST(tee(two[0], fd, 7, 0) == -1 && errno == EINVAL && tee(fd, two[1], 7, 0) == -1 && errno == EINVAL);
    MUST(vmsplice(fd, &v, 1, 0) == -1 && (errno == EBADF || errno == EINVAL));
    MUST(copy_file_range(file, &(off64_t){0}, fd, NULL, 7, 0) == -1 && (errno == EINVAL || errno == EXDEV));
    echo(fd, 1);
    /* where nothing was read or written yet they work, and what is not MQTT keeps them */
    int own, listener = tcp_listen(&own), there;
    fd = tcp_connect(own);
    there = accept(listener, NULL, NULL);
    at = 0;
    MUST(sendfile(fd, file, &at, 7) == 7);
    get_exactly(there, "payload", 7);
    /* ... but not to a broker that is known, nor behind the first byte of what may be a CONNECT */
    fd = tcp_connect(port);
    at = 0;
    MUST(copied(sendfile(fd, file, &at, 7), 7) == !under);
    fd = tcp_connect(own);
    put(fd, connect_packet, 1);
    MUST(copied(sendfile(fd, file, &at, 0), 0) == !under);
    MUST(read(two[0], p, 7) == 7);
    fd = tcp_connect(port);
    say_plain(fd, "GET");
    MUST(write(two[1], "payload", 7) == 7 && splice(two[0], NULL, fd, NULL, 7, 0) == 7);
    MUST(wait_for(fd, POLLIN, STALL_MS) == 1);
    nap_ms(10);
    MUST(splice(fd, NULL, two[1], NULL, 7, 0) == 7 && read(two[0], p, 7) == 7 && memcmp(p, "payload", 7) == 0);
}

/* ---- descriptors ------------------------------------------------------------------------------------------------------------------------ */

static void close_ranges(void)
{
    int a = mqtt_connect(port), b = mqtt_connect(port), c = mqtt_connect(port), high = fcntl(c, F_DUPFD, 3000), two[2];
    char p = 0;

    MUST(close_range((unsigned)a, (unsigned)c, CLOSE_RANGE_CLOEXEC) == 0 && (fcntl(b, F_GETFD) & FD_CLOEXEC) != 0);
    echo(a, 1);
    echo(b, 2);
    MUST(close_range(5, 4, 0) == -1 && errno == EINVAL && close_range((unsigned)a, ~0U, 0x4000) == -1 && errno == EINVAL);
    echo(a, 3);
    MUST(close_range((unsigned)b, (unsigned)c, 0) == 0);
    MUST(write(b, "x", 1) == -1 && errno == EBADF && read(c, &p, 1) == -1 && errno == EBADF);
    echo(a, 4);
    echo(high, 5);
    MUST(pipe(two) == 0 && write(two[1], "y", 1) == 1 && read(two[0], &p, 1) == 1 && p == 'y');
    closefrom(a + 1);
    MUST(write(high, "x", 1) == -1 && errno == EBADF);
    echo(a, 6);
    MUST(close_range(3, ~0U, 0) == 0 && write(a, "x", 1) == -1 && errno == EBADF);
    a = mqtt_connect(port);
    echo(a, 7);
}

/* The number of a connection that was closed behind the library's back, with what call makes on it. */
#define STALE(call)                                                                                                                        \
    do {                                                                                                                                   \
        int gone = mqtt_connect(port);                                                                                                     \
        raw_close(gone);                                                                                                                   \
        if ((call) != gone)                                                                                                                \
            die(1, "line %d: %s has another number", __LINE__, #call);                                                                     \
        fd = gone;                                                                                                                         \
    } while (0)

static void stale_numbers(void)
{
    int fd, two[2];
    char c = 0;
    uint64_t n = 1;
    sigset_t none;

    sigemptyset(&none);
    STALE(open("/dev/null", O_WRONLY));
    MUST(write(fd, "x", 1) == 1 && close(fd) == 0);
    STALE(openat(AT_FDCWD, "/dev/null", O_WRONLY | O_CREAT, 0600));
    MUST(write(fd, "x", 1) == 1 && close(fd) == 0);
    STALE(eventfd(0, 0));
    MUST(write(fd, &n, 8) == 8 && read(fd, &n, 8) == 8 && n == 1 && close(fd) == 0);
    STALE(memfd_create("m", 0));
    MUST(write(fd, "x", 1) == 1 && lseek(fd, 0, SEEK_SET) == 0 && read(fd, &c, 1) == 1 && close(fd) == 0);
    STALE((MUST(pipe(two) == 0), two[0]));
    MUST(write(two[1], "p", 1) == 1 && read(fd, &c, 1) == 1 && c == 'p' && close(fd) == 0 && close(two[1]) == 0);
    STALE((MUST(pipe2(two, O_CLOEXEC) == 0), two[0]));
    MUST(write(two[1], "q", 1) == 1 && read(fd, &c, 1) == 1 && c == 'q' && close(fd) == 0 && close(two[1]) == 0);
    STALE((MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0), two[0]));
    MUST(write(fd, "s", 1) == 1 && recv(two[1], &c, 1, 0) == 1 && c == 's' && close(fd) == 0 && close(two[1]) == 0);
    STALE(socket(AF_UNIX, SOCK_STREAM, 0));
    MUST(write(fd, "s", 1) == -1 && errno == ENOTCONN && close(fd) == 0);
    STALE(socket(AF_INET, SOCK_STREAM, 0));
    struct sockaddr_in to = loopback(port);
    MUST(connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    say_plain(fd, "other");
    close(fd);
    STALE(timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK));
    MUST(read(fd, &n, 8) == -1 && errno == EAGAIN && close(fd) == 0);
    STALE(signalfd(-1, &none, SFD_NONBLOCK));
    MUST(read(fd, &n, 8) == -1 && close(fd) == 0);
    STALE(inotify_init1(IN_NONBLOCK));
    MUST(read(fd, &n, 8) == -1 && close(fd) == 0);
    STALE(epoll_create1(0));
    MUST(close(fd) == 0);
    STALE((int)syscall(SYS_memfd_create, "m", 0));
    MUST(write(fd, "x", 1) == 1 && close(fd) == 0);
    STALE(dup(0));
    MUST(close(fd) == 0);
    /* one that no hook sees being made: a read or write finds out */
    STALE((MUST(tmpfile() != NULL), fcntl(0, F_DUPFD, 0) - 1));
    MUST(write(fd, "x", 1) == 1 && lseek(fd, 0, SEEK_SET) == 0 && read(fd, &c, 1) == 1 && c == 'x');
}

static void pidfd(void)
{
    int fd = mqtt_connect(port), own = pidfd_open(getpid(), 0);
    MUST(own >= 0);
    int copy = pidfd_getfd(own, fd, 0);
    if (copy < 0 && (errno == EPERM || errno == ENOSYS)) {
        printf("no pidfd_getfd here\n");
        return;
    }
    MUST(copy >= 0);
    echo_over(fd, copy, 3000, 1);
    MUST(close(fd) == 0);
    echo(copy, 2);
}

/* ---- stdio ------------------------------------------------------------------------------------------------------------------------------ */

static void stdio_plain(void)
{
    int fd = tcp_connect(port);
    char line[50];
    FILE *f = fdopen(fd, "r+");

    MUST(f != NULL && fputs("GET / HTTP/1.0\n", f) >= 0 && fflush(f) == 0 && fgets(line, sizeof(line), f) == line);
    MUST(strcmp(line, "GET / HTTP/1.0\n") == 0 && fclose(f) == 0 && write(fd, "x", 1) == -1 && errno == EBADF);
    fd = tcp_connect(port);
    MUST(dprintf(fd, "%s %d\n", "HELO", 1) == 7);
    get_exactly(fd, "HELO 1\n", 7);
    close(fd);
    /* the stream is there before the connection */
    struct sockaddr_in to = loopback(port);
    fd = tcp_socket();
    f = fdopen(fd, "r+");
    MUST(f != NULL && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
    MUST(fputs("EARLY\n", f) >= 0 && fflush(f) == 0 && fgets(line, sizeof(line), f) == line && strcmp(line, "EARLY\n") == 0);
    MUST(fclose(f) == 0);
    fd = mqtt_connect(port); /* its number has nothing to do with the stream any more */
    echo(fd, 1);
    close(fd);
    /* freopen is a close, too */
    fd = mqtt_connect(port);
    MUST(dup2(fd, 0) == 0);
    MUST(freopen("/dev/null", "r", stdin) != NULL);
    MUST(read(0, line, 1) == 0);
    echo(fd, 2);
}

/* A stream over an encrypted connection: never plaintext. */
static void stdio_poison(void)
{
    int there, fd = both_ends(&there);
    char p[20];

    signal(SIGPIPE, SIG_IGN);
    errno = 0;
    MUST(fdopen(fd, "r+") == NULL && errno == ECONNRESET);
    MUST(write(fd, "secret", 6) == -1 && errno == ECONNRESET && read(fd, p, 1) == -1 && errno == ECONNRESET);
    MUST(read(there, p, sizeof(p)) <= 0);
    close(fd);
    fd = both_ends(&there);
    MUST(dprintf(fd, "%s", "secret") == -1 && errno == ECONNRESET);
    MUST(read(there, p, sizeof(p)) <= 0);
    close(fd);
    fd = tcp_connect(port); /* said half a CONNECT: it may become MQTT */
    put(fd, connect_packet, 5);
    MUST(fdopen(fd, "w") == NULL && errno == ECONNRESET);
    fd = mqtt_connect(port);
    echo(fd, 1);
}

/* ---- plain connections ------------------------------------------------------------------------------------------------------------------- */

static void *read_one(void *arg)
{
    char c;
    ssize_t r = read(*(int *)arg, &c, 1);
    if (r != 1)
        die(1, "a reader that waited got %zd: %s", r, strerror(errno));
    return NULL;
}

/* A reader waits while the connection is found not to be MQTT, and goes on. */
static void reader_waits(void)
{
    pthread_t t;
    char p[64];
    int fd = tcp_connect(port);

    MUST(pthread_create(&t, NULL, read_one, &fd) == 0);
    nap_ms(50);
    put(fd, "G", 1);
    put(fd, "E", 1);
    pthread_join(t, NULL);
    get_exactly(fd, "E", 1);
    /* MSG_WAITALL from the first byte on, in pieces */
    int own, listener = tcp_listen(&own), out = tcp_connect(own), in = accept(listener, NULL, NULL);
    pid_t pid = fork();
    if (pid == 0) {
        for (int i = 0; i < 10; i++) {
            nap_ms(10);
            MUST(send(out, "0123", 4, 0) == 4);
        }
        _exit(0);
    }
    MUST(recv(in, p, 40, MSG_WAITALL) == 40 && memcmp(p, "0123012301230123", 16) == 0);
    MUST(waitpid(pid, NULL, 0) == pid);
}

/* ---- handed on --------------------------------------------------------------------------------------------------------------------------- */

static void send_fd(int over, int fd)
{
    char control[CMSG_SPACE(sizeof(int))] = {0};
    char byte = 'f';
    struct iovec v = {&byte, 1};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    *c = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
    memcpy(CMSG_DATA(c), &fd, sizeof(fd));
    MUST(sendmsg(over, &m, 0) == 1);
}

/* -1: nobody sends any more. */
static int receive_fd(int over, int many)
{
    char control[CMSG_SPACE(sizeof(int))] = {0}, byte;
    struct iovec v = {&byte, 1};
    struct mmsghdr m = {.msg_hdr = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)}};
    int fd = -1;
    ssize_t r = many ? recvmmsg(over, &m, 1, 0, NULL) == 1 ? (ssize_t)m.msg_len : -1 : recvmsg(over, &m.msg_hdr, 0);
    MUST(r >= 0);
    if (r == 0)
        return -1;
    memcpy(&fd, CMSG_DATA(CMSG_FIRSTHDR(&m.msg_hdr)), sizeof(fd));
    return fd;
}

static void rights_own(void)
{
    int two[2], fd = mqtt_connect(port);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0);
    send_fd(two[0], fd);
    int copy = receive_fd(two[1], 0);
    echo_over(fd, copy, 500, 1);
    MUST(close(fd) == 0);
    send_fd(two[0], copy);
    MUST(close(copy) == 0); /* on its way nobody here has it */
    copy = receive_fd(two[1], 1);
    if (!under)
        echo(copy, 2);
    else
        MUST(write(copy, "plain", 5) == -1 && errno == ECONNRESET);
    /* fresh and plain ones survive that */
    fd = tcp_connect(port);
    send_fd(two[0], fd);
    close(fd);
    fd = receive_fd(two[1], 0);
    put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    echo(fd, 3);
    fd = tcp_connect(port);
    say_plain(fd, "GET");
    send_fd(two[0], fd);
    close(fd);
    fd = receive_fd(two[1], 0);
    say_plain(fd, "more");
}

static void serve_on(int in, int out)
{
    uint8_t p[65536];
    ssize_t r;
    get_exactly(in, connect_packet, sizeof(connect_packet));
    put(out, connack_packet, sizeof(connack_packet));
    while ((r = read(in, p, sizeof(p))) > 0)
        put(out, p, (size_t)r);
}

static pid_t run_self(const char *what, int give, int to, int spawn)
{
    char *argv[] = {(char *)(uintptr_t)self, (char *)(uintptr_t)what, NULL};
    pid_t pid;
    if (spawn) {
        posix_spawn_file_actions_t a;
        posix_spawn_file_actions_init(&a);
        posix_spawn_file_actions_adddup2(&a, give, to);
        posix_spawn_file_actions_adddup2(&a, give, to + 1);
        MUST(posix_spawn(&pid, self, &a, NULL, argv, environ) == 0);
        posix_spawn_file_actions_destroy(&a);
        return pid;
    }
    pid = fork();
    if (pid == 0) {
        MUST(dup2(give, to) == to && dup2(give, to + 1) == to + 1);
        execv(self, argv);
        _exit(127);
    }
    return pid;
}

/* Super-servers: a worker that gets each connection by SCM_RIGHTS; a program for each connection, by fork and exec or by posix_spawn. */
static void serve(const char *how)
{
    int own, listener = tcp_listen(&own), two[2] = {-1, -1};

    signal(SIGCHLD, SIG_IGN);
    if (strcmp(how, "rights") == 0) {
        MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, two) == 0);
        run_self("worker", two[1], 10, 0);
        close(two[1]);
    }
    printf("%d\n", own);
    fflush(stdout);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        MUST(fd >= 0);
        if (two[0] >= 0)
            send_fd(two[0], fd);
        else
            run_self("handler", fd, 0, strcmp(how, "spawn") == 0);
        close(fd);
    }
}

static void worker(void)
{
    int fd;
    for (int i = 0; (fd = receive_fd(10, i & 1)) >= 0; i++) {
        serve_on(fd, fd);
        close(fd);
    }
}

/* The connection is encrypted by now, and goes to another program. */
static void hand_on_used(void)
{
    int fd = mqtt_connect(port), status;
    echo(fd, 1);
    for (int spawn = 0; spawn < 2; spawn++) {
        pid_t pid = run_self("use", fd, 20, spawn);
        MUST(waitpid(pid, &status, 0) == pid && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    if (under)
        echo(fd, 2); /* it is still ours */
}

static void use(void)
{
    char p[20];
    if (under) {
        MUST(write(20, "a marker", 8) == -1 && errno == ECONNRESET && read(21, p, 1) == -1 && errno == ECONNRESET);
        MUST(send(21, "a marker", 8, 0) == -1 && errno == ECONNRESET);
    } else {
        put(20, "a marker", 8);
        get_exactly(21, "a marker", 8);
    }
}

/* ------------------------------------------------------------------------------------------------------------------------------------------ */

static void serve_rights(void)
{
    serve("rights");
}

static void serve_exec(void)
{
    serve("exec");
}

static void serve_spawn(void)
{
    serve("spawn");
}

static void handler(void)
{
    serve_on(0, 1);
    _exit(0);
}

int main(int argc, char **argv)
{
    static const struct {
        const char *name;
        void (*run)(void);
    } scenarios[] = {
        {"many_messages", many_messages}, {"positions", positions},         {"by_number", by_number},       {"count", count},
        {"zero_copy", zero_copy},         {"fast_open", fast_open},         {"options", options},           {"kernel_copies", kernel_copies},
        {"close_ranges", close_ranges},   {"stale_numbers", stale_numbers}, {"pidfd", pidfd},               {"stdio_plain", stdio_plain},
        {"stdio_poison", stdio_poison},   {"reader_waits", reader_waits},   {"rights_own", rights_own},     {"serve_rights", serve_rights},
        {"serve_exec", serve_exec},       {"serve_spawn", serve_spawn},     {"worker", worker},             {"handler", handler},
        {"hand_on_used", hand_on_used},   {"use", use},
    };

    self = argv[0];
    under = getenv("LD_PRELOAD") != NULL;
    if (argc > 2)
        port = atoi(argv[2]);
    for (size_t i = 0; argc > 1 && i < sizeof(scenarios) / sizeof(scenarios[0]); i++)
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            printf("ok\n");
            return fflush(stdout) == 0 ? 0 : 1;
        }
    die(2, "no such scenario");
}
