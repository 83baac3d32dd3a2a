/*
 * Readiness torture. One end sends a stream of PUBLISH packets, the other receives it in a given style and checks every byte.
 *   torture server|client send|recv STYLE end=open|fin|rst bytes=N seed=N [port=N] [probed]
 *   torture relay port=N seed=N
 * A server or relay prints its port on its first line. The last line is "ok key=value ..."; status 0: good, 1: wrong, 3: stalled, 4: spinning.
 */
#include "peer.h"

#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/select.h>
#include <sys/syscall.h>

struct end {
    int fd;
    int is_server;
    int probed; /* a server without the library, that answers a probe as any broker does */
    const char *style;
    const char *ending;
    uint8_t *stream;
    size_t total; /* of stream */
    size_t at;    /* bytes done */
    size_t prefix;    /* receiver: bytes of the peer's CONNECT or CONNACK in front */
    int replied;
    int over;         /* 1: end of stream, 2: reset */
    unsigned long calls, wakes, empty_wakes;
    uint8_t buf[1 << 20];
};

static struct end e;

/* Sizes the compiler cannot bound: with FORTIFY these calls go through __read_chk and __recv_chk. */
static volatile size_t no_bound = SIZE_MAX, select_bytes = 4096;

static int style(const char *name)
{
    return strcmp(e.style, name) == 0;
}

/* ---- receiving ------------------------------------------------------------------------------------------------------------------------ */

static void reply_if_due(void)
{
    if (e.replied || e.at < e.prefix)
        return;
    e.replied = 1;
    if (e.is_server)
        put(e.fd, connack_packet, sizeof(connack_packet));
    else
        put(e.fd, subscribe_packet, sizeof(subscribe_packet));
}

/* Books r bytes of p, as a read call gave them. Returns r > 0. */
static int book(const uint8_t *p, ssize_t r)
{
    e.calls++;
    if (r == 0) {
        e.over = 1;
        return 0;
    }
    if (r < 0) {
        if (errno == EAGAIN || errno == EINTR)
            return 0;
        if (errno != ECONNRESET && errno != EPIPE)
            die(1, "read: %s", strerror(errno));
        e.over = 2;
        return 0;
    }
    if (e.at + (size_t)r > e.total)
        die(1, "%zd bytes more than were sent", r);
    if (memcmp(e.stream + e.at, p, (size_t)r) != 0)
        die(1, "altered data between %zu and %zu", e.at, e.at + (size_t)r);
    e.at += (size_t)r;
    reply_if_due();
    return 1;
}

/* With end=open a receiver stops at the last byte, else it goes on until the stream ends. */
static int receiving(void)
{
    if (e.over)
        return 0;
    return e.at < e.total || strcmp(e.ending, "open") != 0;
}

static void woke(size_t before)
{
    e.wakes++;
    if (e.at == before && !e.over && ++e.empty_wakes > 4000)
        die(4, "spin: %lu of %lu wake-ups led to no byte, %zu of %zu bytes", e.empty_wakes, e.wakes, e.at, e.total);
}

static void must_wake(int r)
{
    if (r == 0)
        die(3, "stall at byte %zu of %zu", e.at, e.total);
    if (r < 0 && errno != EINTR)
        die(1, "wait: %s", strerror(errno));
}

static void recv_poll(size_t ask)
{
    set_nonblock(e.fd, 1);
    while (receiving()) {
        size_t before = e.at;
        must_wake(wait_for(e.fd, POLLIN, STALL_MS));
        book(e.buf, read(e.fd, e.buf, ask & no_bound));
        woke(before);
    }
}

/* One packet of MQTT a wake-up, 1 + 1 + N bytes, like libmosquitto and mosquitto. */
static void recv_mosquitto(int ep)
{
    static uint8_t head[5];
    static size_t head_n, left;
    struct epoll_event ev;

    while (receiving()) {
        size_t before = e.at;
        must_wake(epoll_wait(ep, &ev, 1, STALL_MS));
        for (;;) {
            if (head_n == 0 || (left == 0 && head[head_n - 1] & 128 && head_n > 1) || head_n == 1) {
                if (!book(e.buf, read(e.fd, e.buf, 1)))
                    break;
                head[head_n++] = e.buf[0];
                if (head_n > 1 && !(e.buf[0] & 128)) {
                    for (size_t i = head_n - 1; i > 0; i--)
                        left = left << 7 | (head[i] & 127);
                    if (left == 0) {
                        head_n = 0;
                        break;
                    }
                }
            } else {
                size_t had = e.at;
                if (!book(e.buf, read(e.fd, e.buf, left)))
                    break;
                left -= e.at - had;
                if (left == 0) {
                    head_n = 0;
                    break;
                }
            }
        }
        woke(before);
    }
}

static void recv_epoll(void)
{
    int edge = style("epoll-et") || style("epoll-et-short"), oneshot = style("oneshot");
    struct epoll_event ev = {.events = EPOLLIN | EPOLLRDHUP | (edge ? EPOLLET : 0) | (oneshot ? EPOLLONESHOT : 0)};
    int ep = epoll_create1(EPOLL_CLOEXEC);
    size_t ask = 3000;

    set_nonblock(e.fd, 1);
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, e.fd, &ev) == 0);
    if (style("mosquitto")) {
        recv_mosquitto(ep);
        return;
    }
    while (receiving()) {
        size_t before = e.at;
        struct epoll_event got;
        must_wake(epoll_wait(ep, &got, 1, STALL_MS));
        if (!edge) {
            book(e.buf, read(e.fd, e.buf, ask));
        } else {
            for (size_t had = e.at; book(e.buf, read(e.fd, e.buf, ask)); had = e.at)
                if (style("epoll-et-short") && e.at - had < ask && !(got.events & (EPOLLRDHUP | EPOLLHUP)))
                    break;
        }
        woke(before);
        if (oneshot)
            MUST(epoll_ctl(ep, EPOLL_CTL_MOD, e.fd, &ev) == 0);
    }
}

static void recv_select(void)
{
    while (receiving()) {
        size_t before = e.at;
        struct timeval limit = {STALL_MS / 1000, 0};
        fd_set set;
        FD_ZERO(&set);
        FD_SET(e.fd, &set);
        must_wake(select(e.fd + 1, &set, NULL, NULL, &limit));
        book(e.buf, recv(e.fd, e.buf, select_bytes, 0));
        woke(before);
    }
}

static void recv_blocking(void)
{
    uint32_t seed = 77;
    struct timeval limit = {STALL_MS / 1000, 0};

    setsockopt(e.fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    while (receiving()) {
        size_t before = e.at, ask = 1 + next_random(&seed) % 9000;
        if (style("blocking")) {
            book(e.buf, read(e.fd, e.buf, ask));
        } else if (style("blocking-large")) {
            book(e.buf, read(e.fd, e.buf, sizeof(e.buf)));
        } else if (style("one-byte")) {
            book(e.buf, read(e.fd, e.buf, 1));
        } else if (style("waitall")) {
            size_t left = (e.at < e.prefix ? e.prefix : e.total) - e.at;
            if (left != 0 && ask > left)
                ask = left;
            ssize_t r = recv(e.fd, e.buf, ask, MSG_WAITALL);
            if (r > 0 && (size_t)r < ask && strcmp(e.ending, "rst") != 0)
                die(1, "MSG_WAITALL: %zd of %zu bytes", r, ask);
            book(e.buf, r);
        } else if (style("readv")) {
            struct iovec v[3] = {{e.buf, 1}, {e.buf + 1, 0}, {e.buf + 1, ask}};
            book(e.buf, readv(e.fd, v, 3));
        } else if (style("recvmsg")) {
            struct iovec v[2] = {{e.buf, 5}, {e.buf + 5, 6000}};
            struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
            book(e.buf, recvmsg(e.fd, &m, 0));
        } else if (style("recvmmsg")) {
            struct iovec v[3] = {{e.buf, 700}, {e.buf + 700, 5}, {e.buf + 705, 9000}};
            struct mmsghdr m[3] = {{.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = v + 1, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = v + 2, .msg_iovlen = 1}}};
            int n = recvmmsg(e.fd, m, 3, MSG_WAITFORONE, NULL);
            for (int i = 0; i < n && !e.over; i++)
                book(v[i].iov_base, m[i].msg_len);
            if (n <= 0)
                book(e.buf, -1);
        } else if (style("preadv2")) {
            struct iovec v[2] = {{e.buf, 3}, {e.buf + 3, ask}};
            book(e.buf, preadv2(e.fd, v, 2, -1, 0));
        } else if (style("syscall")) {
            book(e.buf, syscall(SYS_recvfrom, e.fd, e.buf, ask, 0, NULL, NULL));
        } else if (style("peek")) {
            static uint8_t peeked[9000];
            ssize_t r = recv(e.fd, peeked, ask, MSG_PEEK);
            if (r > 0) {
                if (e.at + (size_t)r > e.total || memcmp(e.stream + e.at, peeked, (size_t)r) != 0)
                    die(1, "MSG_PEEK shows other bytes at %zu", e.at);
                r = read(e.fd, e.buf, (size_t)r);
            }
            book(e.buf, r);
        } else {
            die(2, "style %s", e.style);
        }
        if (e.at == before && !e.over && errno == EAGAIN)
            die(3, "stall at byte %zu of %zu", e.at, e.total);
    }
}

/* Asks how much there is, and reads just that. */
static void recv_counted(void)
{
    set_nonblock(e.fd, 1);
    while (receiving()) {
        size_t before = e.at;
        int n = -1;
        must_wake(wait_for(e.fd, POLLIN, STALL_MS));
        MUST(ioctl(e.fd, FIONREAD, &n) == 0 && n >= 0);
        ssize_t r = read(e.fd, e.buf, n == 0 ? 1 : (size_t)n);
        if (n != 0 && r != n)
            die(1, "FIONREAD said %d, read gave %zd", n, r);
        if (n == 0 && r > 0) /* it came in between */
            e.wakes--;
        book(e.buf, r);
        woke(before);
    }
}

static void recv_slow(void)
{
    set_nonblock(e.fd, 1);
    while (receiving()) {
        size_t before = e.at;
        must_wake(wait_for(e.fd, POLLIN, STALL_MS));
        book(e.buf, read(e.fd, e.buf, 700));
        woke(before);
        nap_ms(e.wakes % 16 == 0);
    }
}

static void accept_probed(void)
{
    static const uint8_t unsuback[] = {0xB0, 2, 0xFF, 0xFF};
    uint8_t probe[59];
    mqtt_accept_on(e.fd);
    get(e.fd, probe, sizeof(probe));
    MUST(probe[0] == 0xA2 && probe[1] == 57 && memcmp(probe + 6, "oe-mqtt/1/", 10) == 0);
    put(e.fd, unsuback, sizeof(unsuback));
}

static void run_receiver(void)
{
    const void *prefix = e.is_server ? (const void *)connect_packet : connack_packet;
    uint8_t *whole;

    e.prefix = e.is_server ? sizeof(connect_packet) : sizeof(connack_packet);
    if (e.probed) {
        accept_probed();
        e.prefix = 0;
        e.replied = 1;
    }
    whole = malloc(e.total + e.prefix);
    memcpy(whole, prefix, e.prefix);
    memcpy(whole + e.prefix, e.stream, e.total);
    free(e.stream);
    e.stream = whole;
    e.total += e.prefix;
    if (!e.is_server)
        put(e.fd, connect_packet, sizeof(connect_packet));
    if (style("poll"))
        recv_poll(2048);
    else if (style("poll-large"))
        recv_poll(sizeof(e.buf));
    else if (style("slow"))
        recv_slow();
    else if (style("counted"))
        recv_counted();
    else if (style("select"))
        recv_select();
    else if (style("epoll") || style("epoll-et") || style("epoll-et-short") || style("oneshot") || style("mosquitto"))
        recv_epoll();
    else
        recv_blocking();
    if (strcmp(e.ending, "rst") != 0) {
        if (e.over == 2)
            die(1, "reset at byte %zu of %zu, where the stream ends in order", e.at, e.total);
        if (e.at != e.total)
            die(1, "%zu of %zu bytes", e.at, e.total);
    } else if (e.over != 2 && e.at != e.total) {
        die(1, "end of stream at byte %zu of %zu, where it was reset", e.at, e.total);
    }
}

/* ---- sending -------------------------------------------------------------------------------------------------------------------------- */

static size_t piece(uint32_t *seed, size_t max)
{
    size_t n = 1 + next_random(seed) % max;
    return n < e.total - e.at ? n : e.total - e.at;
}

/* Books what a write call gave. Returns 1: went on, 0: full. */
static int sent(ssize_t r, size_t asked)
{
    e.calls++;
    if (r < 0 && errno == EAGAIN)
        return 0;
    if (r <= 0 || (size_t)r > asked)
        die(1, "write gave %zd of %zu at %zu: %s", r, asked, e.at, strerror(errno));
    e.at += (size_t)r;
    return 1;
}

static void send_epoll_et(void)
{
    struct epoll_event ev = {.events = EPOLLOUT | EPOLLET}, got;
    int ep = epoll_create1(EPOLL_CLOEXEC), stop_short = style("epoll-et-short");
    uint32_t seed = 5;

    set_nonblock(e.fd, 1);
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, e.fd, &ev) == 0);
    while (e.at < e.total) {
        size_t before = e.at;
        must_wake(epoll_wait(ep, &got, 1, STALL_MS));
        while (e.at < e.total) {
            size_t n = piece(&seed, 200000), had = e.at;
            if (!sent(write(e.fd, e.stream + e.at, n), n) || (stop_short && e.at - had < n))
                break;
        }
        woke(before);
    }
}

static void send_poll(size_t max)
{
    uint32_t seed = 6;
    set_nonblock(e.fd, 1);
    while (e.at < e.total) {
        size_t before = e.at, n = piece(&seed, max);
        must_wake(wait_for(e.fd, POLLOUT, STALL_MS));
        sent(send(e.fd, e.stream + e.at, n, MSG_NOSIGNAL), n);
        woke(before);
    }
}

static void send_blocking(void)
{
    uint32_t seed = 7;
    while (e.at < e.total) {
        size_t n = piece(&seed, 30000);
        uint8_t *p = e.stream + e.at;
        if (style("blocking")) {
            sent(write(e.fd, p, n), n);
        } else if (style("one-byte")) {
            sent(write(e.fd, p, 1), 1);
        } else if (style("large")) {
            n = e.total - e.at < (1 << 20) ? e.total - e.at : 1 << 20;
            ssize_t r = write(e.fd, p, n);
            if (r != (ssize_t)n)
                die(1, "a blocking write took %zd of %zu", r, n);
            sent(r, n);
        } else if (style("syscall")) {
            sent(syscall(SYS_write, e.fd, p, n), n);
        } else if (style("sendmmsg")) {
            struct iovec v[2] = {{p, n / 2}, {p + n / 2, n - n / 2}};
            struct mmsghdr m[2] = {{.msg_hdr = {.msg_iov = v, .msg_iovlen = 1}}, {.msg_hdr = {.msg_iov = v + 1, .msg_iovlen = 1}}};
            int r = sendmmsg(e.fd, m, 2, MSG_NOSIGNAL);
            if (r != 2)
                die(1, "a blocking sendmmsg took %d of 2", r);
            sent((ssize_t)m[0].msg_len + m[1].msg_len, n);
        } else if (style("pwritev2")) {
            struct iovec v[2] = {{p, n / 2}, {p + n / 2, n - n / 2}};
            sent(pwritev2(e.fd, v, 2, -1, 0), n);
        } else {
            struct iovec v[3] = {{p, n / 5}, {p + n / 5, n / 3}, {p + n / 5 + n / 3, n - n / 5 - n / 3}};
            struct msghdr m = {.msg_iov = v, .msg_iovlen = 3};
            sent(style("writev") ? writev(e.fd, v, 3) : sendmsg(e.fd, &m, MSG_NOSIGNAL), n);
        }
    }
}

static void run_sender(void)
{
    if (e.is_server) {
        if (e.probed)
            accept_probed();
        else
            mqtt_accept_on(e.fd);
        get_exactly(e.fd, subscribe_packet, sizeof(subscribe_packet));
    } else {
        put(e.fd, connect_packet, sizeof(connect_packet));
        get_exactly(e.fd, connack_packet, sizeof(connack_packet));
    }
    if (style("poll"))
        send_poll(20000);
    else if (style("poll-one"))
        send_poll(1);
    else if (style("small-sndbuf"))
        send_poll(40000);
    else if (style("epoll-et") || style("epoll-et-short"))
        send_epoll_et();
    else
        send_blocking();
    if (strcmp(e.ending, "open") == 0) {
        must_wake(wait_for(e.fd, POLLIN, 2 * STALL_MS));
        if (read(e.fd, e.buf, 1) > 0)
            die(1, "bytes from a receiver that sends none");
    } else if (strcmp(e.ending, "rst") == 0) {
        struct linger l = {1, 0};
        setsockopt(e.fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
    }
    MUST(close(e.fd) == 0);
}

/* ---- the relay ------------------------------------------------------------------------------------------------------------------------ */

struct pipe_end {
    int from, to;
    int done;
    unsigned long chunks;
    size_t held;
    uint8_t buf[65536];
};

/* Passes a random piece on. Ends are passed on too. */
static void relay_step(struct pipe_end *p, uint32_t *seed)
{
    ssize_t r = recv(p->from, p->buf, 1 + next_random(seed) % (next_random(seed) % 4 == 0 ? 30 : 2500), 0);
    if (r > 0) {
        for (ssize_t at = 0; at < r;) {
            ssize_t w = send(p->to, p->buf + at, (size_t)(r - at), MSG_NOSIGNAL);
            if (w < 0)
                return;
            at += w;
        }
        p->chunks++;
        if (next_random(seed) % 8 == 0)
            nap_ms(next_random(seed) % 3);
        return;
    }
    p->done = 1;
    if (r == 0) {
        shutdown(p->to, SHUT_WR);
    } else {
        struct linger l = {1, 0};
        setsockopt(p->to, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
        printf("ok chunks=%lu\n", p->chunks);
        fflush(stdout);
        _exit(0);
    }
}

static void run_relay(int port, uint32_t seed)
{
    int own, listener = tcp_listen(&own);
    static struct pipe_end up, down;

    printf("%d\n", own);
    fflush(stdout);
    seed = seed * 2654435761U | 1;
    int client = accept(listener, NULL, NULL), one = 1, server = tcp_connect(port);
    setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    up.from = down.to = client;
    up.to = down.from = server;
    while (!up.done || !down.done) {
        struct pollfd p[2] = {{.fd = up.done ? -1 : client, .events = POLLIN}, {.fd = down.done ? -1 : server, .events = POLLIN}};
        if (poll(p, 2, 4 * STALL_MS) <= 0)
            die(3, "relay idle");
        if (p[0].revents)
            relay_step(&up, &seed);
        if (p[1].revents)
            relay_step(&down, &seed);
    }
    printf("ok chunks=%lu\n", up.chunks + down.chunks);
}

/* ---- main ----------------------------------------------------------------------------------------------------------------------------- */

int main(int argc, char **argv)
{
    int port = 0, small;
    uint32_t seed = 1;

    signal(SIGPIPE, SIG_IGN);
    e.ending = "open";
    e.total = 100000;
    for (int i = 1; i < argc; i++) {
        if (strncmp(argv[i], "end=", 4) == 0)
            e.ending = argv[i] + 4;
        else if (strncmp(argv[i], "bytes=", 6) == 0)
            e.total = strtoul(argv[i] + 6, NULL, 10);
        else if (strncmp(argv[i], "seed=", 5) == 0)
            seed = (uint32_t)strtoul(argv[i] + 5, NULL, 10);
        else if (strcmp(argv[i], "probed") == 0)
            e.probed = 1;
        else if (strncmp(argv[i], "port=", 5) == 0)
            port = atoi(argv[i] + 5);
    }
    if (argc > 1 && strcmp(argv[1], "relay") == 0) {
        run_relay(port, seed);
        return 0;
    }
    if (argc < 4)
        return 2;
    e.is_server = strcmp(argv[1], "server") == 0;
    int receiver = strcmp(argv[2], "recv") == 0;
    e.style = argv[3];
    e.stream = malloc(e.total);
    make_stream(e.stream, e.total, seed);
    int size = 4096, sockopt = receiver ? SO_RCVBUF : SO_SNDBUF;
    small = receiver ? style("slow") : style("small-sndbuf");
    if (e.is_server) {
        int listener = tcp_listen(&port);
        if (small)
            setsockopt(listener, SOL_SOCKET, sockopt, &size, sizeof(size));
        printf("%d\n", port);
        fflush(stdout);
        must_wake(wait_for(listener, POLLIN, STALL_MS));
        e.fd = accept(listener, NULL, NULL);
        MUST(e.fd >= 0);
        close(listener);
        int one = 1;
        setsockopt(e.fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
    } else {
        struct sockaddr_in a = loopback(port);
        e.fd = tcp_socket();
        if (small)
            setsockopt(e.fd, SOL_SOCKET, sockopt, &size, sizeof(size));
        MUST(connect(e.fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    }
    if (receiver)
        run_receiver();
    else
        run_sender();
    printf("ok bytes=%zu calls=%lu wakes=%lu empty=%lu end=%d\n", e.at, e.calls, e.wakes, e.empty_wakes, e.over);
    return 0;
}
