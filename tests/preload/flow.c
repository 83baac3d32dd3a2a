/*
 * Threads, signals and time on one connection; and servers for the corners of the handshake. One scenario a run:
 *   flow SCENARIO [PORT]
 * The last line of standard output is "ok"; status 0: good, 1: wrong, 3: stalled.
 */
#include "peer.h"

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>

static int port;

static void on_signal(int number)
{
    (void)number;
}

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = flags};
    MUST(sigaction(number, &a, NULL) == 0);
}

static void timer_us(long every)
{
    struct itimerval t = {{every / 1000000, every % 1000000}, {every / 1000000, every % 1000000}};
    MUST(setitimer(ITIMER_REAL, &t, NULL) == 0);
}

static void echo(int fd, size_t n, uint32_t seed)
{
    uint8_t *p = malloc(n);
    make_stream(p, n, seed);
    put(fd, p, n);
    get_exactly(fd, p, n);
    free(p);
}

/* ---- threads -------------------------------------------------------------------------------------------------------------------------- */

struct job {
    int fd;
    size_t n;
    uint8_t *data;
    pthread_t thread;
};

static void *write_all(void *arg)
{
    struct job *j = arg;
    uint32_t seed = 3;
    for (size_t at = 0; at < j->n;) {
        size_t k = 1 + next_random(&seed) % 70000;
        k = k < j->n - at ? k : j->n - at;
        put(j->fd, j->data + at, k);
        at += k;
    }
    return NULL;
}

static void duplex(void)
{
    struct job j = {.fd = mqtt_connect(port), .n = 8 << 20};
    static uint8_t buf[50000];
    j.data = malloc(j.n);
    make_stream(j.data, j.n, 5);
    MUST(pthread_create(&j.thread, NULL, write_all, &j) == 0);
    for (size_t at = 0; at < j.n;) {
        MUST(wait_for(j.fd, POLLIN, STALL_MS) == 1);
        ssize_t r = read(j.fd, buf, sizeof(buf));
        MUST(r > 0 && memcmp(buf, j.data + at, (size_t)r) == 0);
        at += (size_t)r;
    }
    pthread_join(j.thread, NULL);
    free(j.data);
}

static void *many_thread(void *arg)
{
    for (uint32_t i = 0; i < 6; i++) {
        int fd = mqtt_connect(port);
        echo(fd, 2 + (size_t)(intptr_t)arg * 1000, i);
        echo(fd, 30, i);
        close(fd);
    }
    return NULL;
}

static void many(void)
{
    pthread_t t[24];
    for (intptr_t i = 0; i < 24; i++)
        MUST(pthread_create(&t[i], NULL, many_thread, (void *)i) == 0);
    for (int i = 0; i < 24; i++)
        pthread_join(t[i], NULL);
}

/* Two readers, a writer, and one that duplicates, peeks and closes, on one socket from its first byte on. */
struct contest {
    int fd;
    _Atomic size_t got;
    size_t want;
};

static void *contend_read(void *arg)
{
    struct contest *c = arg;
    uint8_t buf[600];
    while (c->got < c->want) {
        ssize_t r;
        if (wait_for(c->fd, POLLIN, 50) == 1 && (r = recv(c->fd, buf, sizeof(buf), MSG_DONTWAIT)) > 0)
            c->got += (size_t)r;
    }
    return NULL;
}

static void *contend_write(void *arg)
{
    struct contest *c = arg;
    static uint8_t data[20000];
    put(c->fd, connect_packet, sizeof(connect_packet));
    while (c->got < sizeof(connack_packet))
        nap_ms(1);
    for (size_t at = 0; at < sizeof(data); at += 500)
        put(c->fd, data + at, 500);
    return NULL;
}

static void *contend_else(void *arg)
{
    struct contest *c = arg;
    uint8_t buf[100];
    while (c->got < c->want) {
        int other = dup(c->fd);
        (void)recv(other, buf, sizeof(buf), MSG_PEEK | MSG_DONTWAIT);
        close(other);
        close(tcp_connect(port));
    }
    return NULL;
}

static void contend(void)
{
    for (int i = 0; i < 20; i++) {
        struct contest c = {.fd = tcp_connect(port), .want = 4 + 20000};
        void *(*const runs[])(void *) = {contend_read, contend_read, contend_write, contend_else};
        pthread_t t[4];
        for (int k = 0; k < 4; k++)
            MUST(pthread_create(&t[k], NULL, runs[k], &c) == 0);
        long end = now_ms() + STALL_MS;
        while (c.got < c.want && now_ms() < end)
            nap_ms(1);
        if (c.got < c.want)
            die(3, "stall: %zu of %zu", (size_t)c.got, c.want);
        for (int k = 0; k < 4; k++)
            pthread_join(t[k], NULL);
        close(c.fd);
    }
}

/* A race of the program's own, to see that ThreadSanitizer is awake. */
static size_t race_counter;

static void *race_thread(void *arg)
{
    (void)arg;
    race_counter++;
    return NULL;
}

static void race(void)
{
    pthread_t t[2];
    close(mqtt_connect(port));
    for (int i = 0; i < 2; i++)
        MUST(pthread_create(&t[i], NULL, race_thread, NULL) == 0);
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
}

static void *blocked_read(void *arg)
{
    struct job *j = arg;
    j->n = (size_t)read(j->fd, j->data, j->n);
    if (j->n == (size_t)-1)
        j->n = (size_t)-errno;
    return NULL;
}

/* Another thread closes what this one waits on, and the number goes to something else, which must lose nothing. */
static void close_race(void)
{
    static uint8_t data[70000];
    for (int i = 0; i < 4; i++) {
        size_t ask = i % 2 == 0 ? sizeof(data) : 100;
        struct job j = {.fd = mqtt_connect(port), .n = ask, .data = data};
        int keep = dup(j.fd), two[2], tcp = i >= 2;
        char c[20] = {0};
        echo(j.fd, 100, 1);
        MUST(pthread_create(&j.thread, NULL, blocked_read, &j) == 0);
        nap_ms(50);
        int number = j.fd;
        MUST(close(number) == 0);
        if (tcp) {
            two[0] = tcp_connect(port); /* echoes what is not MQTT */
            put(two[0], "not yours", 9);
            MUST(wait_for(two[0], POLLIN, STALL_MS) == 1);
        } else {
            MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0);
            MUST(write(two[1], "not yours", 9) == 9);
        }
        MUST(two[0] == number);
        put(keep, "wake up", 7);
        nap_ms(100);
        ssize_t r = recv(two[0], c, sizeof(c), MSG_DONTWAIT);
        if (r != 9 || memcmp(c, "not yours", 9) != 0)
            die(1, "round %d: a blocked read took bytes of what got its descriptor's number (%zd)", i, r);
        pthread_join(j.thread, NULL);
        /* A close-race is the program's own fault; it may lose that read, but not see what is not its own. */
        if ((ssize_t)j.n > 0 && (j.n != 7 || memcmp(data, "wake up", 7) != 0))
            die(1, "round %d: the blocked read gave %zd other bytes", i, (ssize_t)j.n);
        close(keep);
        close(two[0]);
        if (!tcp)
            close(two[1]);
    }
}

/* shutdown wakes the blocked reader, as it does natively. */
static void shutdown_wakes(void)
{
    static uint8_t data[5000];
    struct job j = {.fd = mqtt_connect(port), .n = sizeof(data), .data = data};
    MUST(pthread_create(&j.thread, NULL, blocked_read, &j) == 0);
    nap_ms(50);
    shutdown(j.fd, SHUT_RDWR);
    pthread_join(j.thread, NULL);
    MUST(j.n == 0);
    close(j.fd);
}

static void cancel(void)
{
    static uint8_t data[5000];
    int fd = mqtt_connect(port);
    for (uint32_t i = 0; i < 60; i++) {
        struct job j = {.fd = fd, .n = i % 2 ? 1 : sizeof(data), .data = data};
        void *result;
        MUST(pthread_create(&j.thread, NULL, blocked_read, &j) == 0);
        if (i % 3 != 0)
            nap_ms(2);
        pthread_cancel(j.thread);
        pthread_join(j.thread, &result);
        MUST(result == PTHREAD_CANCELED);
        echo(fd, 3000, i);
    }
    /* close still sends the end: no cancelled thread kept the socket */
    MUST(close(fd) == 0);
    echo(mqtt_connect(port), 100, 1);
}

static void *cancelled_already(void *arg)
{
    struct job *j = arg;
    pthread_cancel(pthread_self());
    j->n = (size_t)read(j->fd, j->data, j->n); /* natively: never gets here */
    return NULL;
}

/* A thread that is cancelled in the read which meets the CONNACK, where the library looks at files, leaves no lock behind. */
static void cancel_connack(void)
{
    static uint8_t data[100];
    for (int i = 0; i < 3; i++) {
        struct job j = {.fd = tcp_connect(port), .n = sizeof(data), .data = data};
        void *result;
        put(j.fd, connect_packet, sizeof(connect_packet));
        MUST(wait_for(j.fd, POLLIN, STALL_MS) == 1);
        MUST(pthread_create(&j.thread, NULL, cancelled_already, &j) == 0);
        pthread_join(j.thread, &result);
        MUST(result == PTHREAD_CANCELED);
        get_exactly(j.fd, connack_packet, sizeof(connack_packet));
        echo(j.fd, 100, 1);
        close(j.fd);
    }
}

/* A thread cancelled in a blocked write leaves the connection usable, its stream as far as it came. */
static void cancel_writer(void)
{
    struct job j = {.fd = mqtt_connect(port), .n = 64 << 20};
    void *result;
    j.data = calloc(1, j.n);
    MUST(pthread_create(&j.thread, NULL, write_all, &j) == 0);
    nap_ms(300); /* the echo server is stuck in its own write by now */
    pthread_cancel(j.thread);
    pthread_join(j.thread, &result);
    MUST(result == PTHREAD_CANCELED);
    static uint8_t buf[100000];
    size_t got = 0;
    while (wait_for(j.fd, POLLIN, 500) == 1) {
        ssize_t r = read(j.fd, buf, sizeof(buf));
        MUST(r > 0);
        got += (size_t)r;
    }
    MUST(got > 100000);
    put(j.fd, "end", 3);
    MUST(wait_for(j.fd, POLLIN, STALL_MS) == 1);
}

/* ---- signals -------------------------------------------------------------------------------------------------------------------------- */

static int signal_fd;
static volatile sig_atomic_t signals_sent, signals_failed;

static void write_in_handler(int number)
{
    int saved = errno;
    (void)number;
    if (write(signal_fd, "S", 1) == 1)
        signals_sent++;
    else
        signals_failed++;
    errno = saved;
}

/* The handler writes on the connection that is written and read all the time. */
static void handler_writes(void)
{
    static uint8_t buf[4096];
    int fd = mqtt_connect(port);
    size_t sent = 0, got = 0, marks = 0;

    signal_fd = fd;
    handle(SIGALRM, write_in_handler, SA_RESTART);
    memset(buf, 'M', sizeof(buf));
    set_nonblock(fd, 1);
    timer_us(70);
    for (long end = now_ms() + 2000; now_ms() < end;) {
        uint8_t in[8192];
        if (sent - (got - marks) < 20000) {
            size_t n = 1 + sent % 300;
            ssize_t r = write(fd, buf, n);
            if (r > 0)
                sent += (size_t)r;
            else
                MUST(errno == EAGAIN);
        }
        ssize_t r = read(fd, in, sizeof(in));
        MUST(r > 0 || (r < 0 && errno == EAGAIN));
        for (ssize_t i = 0; i < r; i++)
            marks += in[i] == 'S';
        got += r > 0 ? (size_t)r : 0;
    }
    timer_us(0);
    while (got < sent + (size_t)signals_sent) {
        uint8_t in[8192];
        if (wait_for(fd, POLLIN, STALL_MS) != 1)
            die(3, "%zu of %zu + %d bytes came back", got, sent, (int)signals_sent);
        ssize_t r = read(fd, in, sizeof(in));
        MUST(r > 0);
        for (ssize_t i = 0; i < r; i++)
            marks += in[i] == 'S';
        got += (size_t)r;
    }
    MUST(marks == (size_t)signals_sent && signals_sent > 50);
    printf("signals=%d failed=%d bytes=%zu\n", (int)signals_sent, (int)signals_failed, sent);
}

/* The handler writes on one connection, the program works on another and in malloc. */
static void handler_other(void)
{
    int fd = mqtt_connect(port);
    signal_fd = mqtt_connect(port);
    echo(signal_fd, 100, 1);
    handle(SIGALRM, write_in_handler, SA_RESTART);
    timer_us(100);
    for (long end = now_ms() + 1000; now_ms() < end;) {
        echo(fd, 40000, 1);
        free(malloc(3000));
        close(mqtt_connect(port));
    }
    timer_us(0);
    MUST(signals_sent > 100);
}

/* The handler writes while its own thread waits for the answer to a probe. */
static void handler_in_handshake(void)
{
    int fd = tcp_connect(port);
    struct itimerval once = {{0, 0}, {0, 150000}};
    char c;

    signal_fd = fd;
    handle(SIGALRM, write_in_handler, SA_RESTART);
    put(fd, connect_packet, sizeof(connect_packet));
    MUST(wait_for(fd, POLLIN, STALL_MS) == 1);
    setitimer(ITIMER_REAL, &once, NULL);
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    put(fd, "8 bytes.", 8);
    get(fd, &c, 1); /* the peer has had them */
    printf("sent=%d failed=%d\n", (int)signals_sent, (int)signals_failed);
}

/* 100 bytes come, then a reset, while 200 are waited for. */
static void waitall_reset(void)
{
    int fd = mqtt_connect(port);
    char c[200];
    put(fd, "8 bytes.", 8);
    ssize_t r = recv(fd, c, sizeof(c), MSG_WAITALL);
    if (r != 100)
        die(1, "recv gave %zd", r);
    r = recv(fd, c, sizeof(c), 0);
    if (r != -1 || errno != ECONNRESET)
        die(1, "after the reset recv gives %zd, errno %d", r, r < 0 ? errno : 0);
}

static void interrupted(void)
{
    int fd = mqtt_connect(port);
    char c;
    struct timeval limit = {0, 200000};

    echo(fd, 1000, 1);
    handle(SIGALRM, on_signal, 0);
    struct itimerval once = {{0, 0}, {0, 50000}};
    setitimer(ITIMER_REAL, &once, NULL);
    errno = 0;
    MUST(read(fd, &c, 1) == -1 && errno == EINTR);
    echo(fd, 1000, 2);

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    long start = now_ms();
    MUST(recv(fd, &c, 1, 0) == -1 && errno == EAGAIN);
    MUST(now_ms() - start >= 190 && now_ms() - start < 1000);
    echo(fd, 1000, 3);

    /* SO_RCVTIMEO makes a call one that is not restarted (signal(7)); without it SA_RESTART goes on. */
    limit = (struct timeval){0, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    handle(SIGALRM, on_signal, SA_RESTART);
    timer_us(20000);
    static uint8_t data[100];
    struct job j = {.fd = fd, .n = 1, .data = data};
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGALRM);
    MUST(pthread_create(&j.thread, NULL, blocked_read, &j) == 0);
    pthread_sigmask(SIG_BLOCK, &set, NULL); /* they all go to the reader */
    nap_ms(300);
    put(fd, "x", 1);
    pthread_join(j.thread, NULL);
    timer_us(0);
    MUST(j.n == 1 && data[0] == 'x');
}

/* Server: takes CONNECT and 8 bytes, sleeps, reads until 700 ms of silence, says in 8 digits how much came. */
static void lazy(void)
{
    int own, listener = tcp_listen(&own), size = 4096;
    static uint8_t buf[65536];
    size_t n = 0;
    char line[9];

    setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
    printf("%d\n", own);
    fflush(stdout);
    int fd = accept(listener, NULL, NULL);
    mqtt_accept_on(fd);
    get(fd, buf, 8);
    nap_ms(700);
    while (wait_for(fd, POLLIN, 700) == 1) {
        ssize_t r = read(fd, buf, sizeof(buf));
        MUST(r > 0);
        n += (size_t)r;
    }
    snprintf(line, sizeof(line), "%08zu", n);
    put(fd, line, 8);
    nap_ms(200);
}

/* A blocking write that says "all of it" has handed all of it to the kernel, whatever signals came. */
static void write_answered(int flags, long send_timeout_ms)
{
    static uint8_t data[40000];
    int fd = tcp_socket(), size = 4608;
    struct sockaddr_in a = loopback(port);
    char line[9] = {0}, want[9];

    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
    MUST(connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    put(fd, data, 8);
    if (send_timeout_ms == 0) {
        handle(SIGALRM, on_signal, flags);
        timer_us(50000);
    } else {
        struct timeval t = {0, send_timeout_ms * 1000};
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &t, sizeof(t));
    }
    for (size_t at = 0; at < sizeof(data);) {
        ssize_t r = write(fd, data + at, sizeof(data) - at);
        if (r < 0 && !(errno == EINTR && (flags & SA_RESTART) == 0) && !(errno == EAGAIN && send_timeout_ms != 0))
            die(1, "write: %s after %zu bytes", strerror(errno), at);
        at += r > 0 ? (size_t)r : 0;
    }
    timer_us(0);
    get(fd, line, 8);
    snprintf(want, sizeof(want), "%08zu", sizeof(data));
    if (strcmp(line, want) != 0)
        die(1, "write took %s bytes, the peer has %s", want, line);
}

static void write_restart(void)
{
    write_answered(SA_RESTART, 0);
}

static void write_eintr(void)
{
    write_answered(0, 0);
}

static void write_timeout(void)
{
    write_answered(0, 100);
}

/* A blocking connect that a signal interrupts goes on in the background: the connection is no other than one by EINPROGRESS. */
static void connect_interrupted(void)
{
    struct sockaddr_in a = loopback(port);
    int fd = tcp_socket(), error = 0;
    socklen_t n = sizeof(error);

    handle(SIGALRM, on_signal, 0);
    timer_us(200000);
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
        die(2, "connect was not interrupted");
    MUST(errno == EINTR);
    timer_us(0);
    printf("interrupted\n");
    fflush(stdout);
    MUST(wait_for(fd, POLLOUT, 10000) == 1);
    MUST(getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error == 0);
    put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    echo(fd, 1000, 1);
}

/* A record comes byte by byte; SO_RCVTIMEO is 300 ms. */
static void trickle(void)
{
    int fd = mqtt_connect(port);
    struct timeval limit = {0, 300000};
    char c[100];

    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
    put(fd, "go......", 8);
    long start = now_ms();
    ssize_t r = read(fd, c, sizeof(c));
    long took = now_ms() - start;
    printf("read gave %zd after %ld ms\n", r, took);
    MUST(took < 1000);
}

/* ---- Nagle's algorithm ---------------------------------------------------------------------------------------------------------------- */

/* What calls do, in order: '+' and '-' switch TCP_NODELAY on and off, 's' sends, once or several times in a row. The library makes raw system
 * calls: a seccomp filter stops the thread at each until the tracer has noted it. */
static char trace[16];
static _Atomic size_t trace_n;

static void *tracer(void *listener)
{
    for (;;) {
        struct seccomp_notif call = {0};
        MUST(ioctl((int)(intptr_t)listener, SECCOMP_IOCTL_NOTIF_RECV, &call) == 0);
        int option = call.data.nr == SYS_setsockopt, nodelay = option && call.data.args[1] == IPPROTO_TCP && call.data.args[2] == TCP_NODELAY;
        char what = nodelay ? *(const int *)(uintptr_t)call.data.args[3] ? '+' : '-' : 's';
        if (option == nodelay && trace_n < sizeof(trace) - 1 && (what != 's' || trace_n == 0 || trace[trace_n - 1] != 's'))
            trace[trace_n++] = what;
        struct seccomp_notif_resp go = {.id = call.id, .flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
        MUST(ioctl((int)(intptr_t)listener, SECCOMP_IOCTL_NOTIF_SEND, &go) == 0);
    }
    return NULL;
}

/* 0: this system has no such filters. */
static int start_trace(void)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_sendto, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_setsockopt, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};
    pthread_t t;

    MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0);
    long listener = syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, &program);
    if (listener < 0)
        return 0;
    MUST(pthread_create(&t, NULL, tracer, (void *)(intptr_t)listener) == 0);
    return 1;
}

/* A write whose trace is `want` and which leaves TCP_NODELAY as it was. Returns what it took. */
static size_t traced_write(int fd, const uint8_t *p, size_t n, const char *want)
{
    int before, after;
    socklen_t size = sizeof(int);
    MUST(getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &before, &size) == 0);
    trace_n = 0;
    ssize_t r = write(fd, p, n);
    trace[trace_n] = '\0';
    MUST(r > 0 && getsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &after, &size) == 0);
    if (strcmp(trace, want) != 0 || !before != !after)
        die(1, "write of %zu bytes, TCP_NODELAY %d: trace \"%s\", not \"%s\"; TCP_NODELAY is %d", n, before, trace, want, after);
    return (size_t)r;
}

/* Behind message 3, and from OE_WRITE_BYTES on, a write switches TCP_NODELAY on for itself, if the application has not. */
static void nodelay(void)
{
    static uint8_t data[16 << 20];
    static const size_t sizes[] = {30, 30, 300000};
    int sndbuf = 16384;
    if (!start_trace()) {
        printf("no seccomp\n");
        return;
    }
    for (int on = 0; on < 2; on++) {
        int fd = tcp_connect(port);
        MUST(setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
        put(fd, connect_packet, sizeof(connect_packet));
        get_exactly(fd, connack_packet, sizeof(connack_packet));
        for (int i = 0; i < 3; i++) {
            make_stream(data, sizes[i], 1);
            MUST(traced_write(fd, data, sizes[i], on || i == 1 ? "s" : "+s-") == sizes[i]);
            get_exactly(fd, data, sizes[i]);
        }
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
        set_nonblock(fd, 1); /* more than the kernel takes */
        MUST(traced_write(fd, data, sizeof(data), on ? "s" : "+s-") < sizeof(data));
        close(fd);
    }
}

/* ---- closing -------------------------------------------------------------------------------------------------------------------------- */

/* What write calls took is delivered although the program closes, if the kernel had room for it before close. */
static void close_flushes(void)
{
    static uint8_t data[1 << 20];
    int fd = mqtt_connect(port);
    size_t at = 0;

    make_stream(data, sizeof(data), 1);
    set_nonblock(fd, 1);
    put(fd, "8 bytes.", 8);
    for (;;) {
        ssize_t r = write(fd, data, 100000);
        if (r < 0)
            break;
        at += (size_t)r;
    }
    MUST(errno == EAGAIN);
    MUST(at > 100000);
    nap_ms(1500); /* the peer reads all there is in the meantime */
    MUST(close(fd) == 0);
    printf("took %zu\n", at + 8);
}

/* ---- servers in the corners of the handshake ------------------------------------------------------------------------------------------ */

/* An epoll server that writes n bytes some time after CONNACK, with EPOLLOUT only while it has to. Counts its wake-ups. */
static void epoll_server(size_t n, int sndbuf)
{
    int own, listener = tcp_listen(&own), ep = epoll_create1(0);
    struct epoll_event ev = {.events = EPOLLIN};
    static uint8_t data[1 << 21], buf[4096];
    size_t at = 0;
    unsigned wakes = 0;

    make_stream(data, n, 9);
    printf("%d\n", own);
    fflush(stdout);
    int fd = accept(listener, NULL, NULL);
    if (sndbuf != 0)
        setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &sndbuf, sizeof(sndbuf));
    mqtt_accept_on(fd);
    set_nonblock(fd, 1);
    MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev) == 0);
    long due = now_ms() + 400, end = now_ms() + 2500;
    while (now_ms() < end) {
        long wait = at == 0 && now_ms() < due ? due - now_ms() : end - now_ms();
        int r = epoll_wait(ep, &ev, 1, (int)(wait < 0 ? 0 : wait));
        wakes += r == 1;
        if (r == 1 && (ev.events & EPOLLIN) && read(fd, buf, sizeof(buf)) == 0)
            break;
        if (now_ms() < due || at == n)
            continue;
        ssize_t w = write(fd, data + at, n - at);
        MUST(w >= 0 || errno == EAGAIN);
        at += w > 0 ? (size_t)w : 0;
        struct epoll_event want = {.events = EPOLLIN | (at < n ? EPOLLOUT : 0)};
        MUST(epoll_ctl(ep, EPOLL_CTL_MOD, fd, &want) == 0);
    }
    printf("wakes=%u took=%zu\n", wakes, at);
}

static void server_64k(void)
{
    epoll_server(64 << 10, 0);
}

static void server_small_sndbuf(void)
{
    epoll_server(16000, 4608);
}

/* Client of a broker that sends a lot behind CONNACK at once: reads all of it, says when it came. */
static void burst(void)
{
    int fd = tcp_connect(port);
    static uint8_t buf[4096];
    size_t got = 0;
    long start = now_ms();

    put(fd, connect_packet, sizeof(connect_packet));
    set_nonblock(fd, 1);
    while (got < 4 + 300000) {
        if (wait_for(fd, POLLIN, STALL_MS) != 1)
            die(3, "stall at %zu", got);
        ssize_t r = read(fd, buf, sizeof(buf));
        if (r < 0 && errno == EAGAIN)
            continue;
        MUST(r > 0);
        got += (size_t)r;
    }
    printf("ms=%ld\n", now_ms() - start);
}

/* ---- main ----------------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"duplex", duplex},
    {"many", many},
    {"contend", contend},
    {"race", race},
    {"close_race", close_race},
    {"shutdown_wakes", shutdown_wakes},
    {"cancel", cancel},
    {"cancel_writer", cancel_writer},
    {"cancel_connack", cancel_connack},
    {"handler_writes", handler_writes},
    {"handler_other", handler_other},
    {"handler_in_handshake", handler_in_handshake},
    {"waitall_reset", waitall_reset},
    {"interrupted", interrupted},
    {"lazy", lazy},
    {"write_restart", write_restart},
    {"write_eintr", write_eintr},
    {"write_timeout", write_timeout},
    {"connect_interrupted", connect_interrupted},
    {"trickle", trickle},
    {"nodelay", nodelay},
    {"close_flushes", close_flushes},
    {"server_64k", server_64k},
    {"server_small_sndbuf", server_small_sndbuf},
    {"burst", burst},
};

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    port = argc > 2 ? atoi(argv[2]) : 0;
    for (size_t i = 0; argc > 1 && i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            printf("ok\n");
            return 0;
        }
    }
    return 2;
}
