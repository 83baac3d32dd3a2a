/*
 * A program whose system calls fail (inject.c): what it may see is said on standard output, one line a step, and judged by test_syscalls.py.
 *   victim client|poll|fork PORT1 PORT2    talks on PORT1, whatever happens there; then nothing fails any more, and it talks on PORT2
 *   victim server                          the same with two listeners, whose ports it prints
 *   victim echo [answers]                  what the clients talk to, on the port it prints; the server's client is "client", without failures
 * Lines: "1 STEP ERRNO" for a step that failed on the first connection, "2 ok", "fds ok", "end".
 */
#include "../preload/peer.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

static int phase = 1;
static int port[2];

/* A step failed: told, and the connection is given up. */
static int failed(const char *step)
{
    int e = errno;
    printf("%d %s %s\n", phase, step, e == 0 ? "0" : strerrorname_np(e));
    return -1;
}

#define TRY(step, e)                                                                                                                       \
    do {                                                                                                                                   \
        errno = 0;                                                                                                                         \
        if (!(e)) {                                                                                                                        \
            failed(step);                                                                                                                  \
            goto out;                                                                                                                      \
        }                                                                                                                                  \
    } while (0)

static int patience(void)
{
    return 8000; /* more than a handshake's time-out */
}

/* 1: all n; 0: end of stream (errno 0) or an error. */
static int get_all(int fd, void *data, size_t n)
{
    uint8_t *p = data;
    while (n != 0) {
        int ready = wait_for(fd, POLLIN, patience());
        if (ready != 1) {
            errno = ETIME; /* a stall */
            return 0;
        }
        ssize_t r = read(fd, p, n);
        if (r < 0 && errno == EAGAIN && (fcntl(fd, F_GETFL) & O_NONBLOCK))
            continue;
        if (r <= 0) {
            errno = r == 0 ? 0 : errno;
            return 0;
        }
        p += r;
        n -= (size_t)r;
    }
    return 1;
}

static int put_all(int fd, const void *data, size_t n)
{
    const uint8_t *p = data;
    while (n != 0) {
        ssize_t r = write(fd, p, n);
        if (r < 0 && errno == EAGAIN && (fcntl(fd, F_GETFL) & O_NONBLOCK)) {
            if (wait_for(fd, POLLOUT, patience()) != 1) {
                errno = ETIME;
                return 0;
            }
        } else if (r <= 0) {
            return 0;
        } else {
            p += r;
            n -= (size_t)r;
        }
    }
    return 1;
}

/* "MARKER-1." or "MARKER-2." again and again, in one PUBLISH. */
static size_t marked(uint8_t *p, size_t body)
{
    size_t n = 0;
    p[n++] = 0x30;
    for (size_t rest = body;; rest >>= 7) {
        p[n++] = (uint8_t)((rest & 127) | (rest > 127 ? 128 : 0));
        if (rest <= 127)
            break;
    }
    p[n] = 0;
    p[n + 1] = 1;
    for (size_t i = 2; i < body; i++)
        p[n + i] = (uint8_t) "MARKER-0."[(i - 2) % 9] + ((i - 2) % 9 == 7 ? (uint8_t)phase : 0);
    return n + body;
}

static uint8_t sent[70000], got[70000];

static int same(int fd, size_t body)
{
    size_t n = marked(sent, body);
    if (!put_all(fd, sent, n) || !get_all(fd, got, n))
        return 0;
    errno = EILSEQ;
    return memcmp(sent, got, n) == 0;
}

static int is_connack(const uint8_t *p)
{
    errno = EPROTO; /* a CONNACK that refuses */
    return p[0] == connack_packet[0] && p[3] == 0;
}

static const uint8_t connect_marked[] = {0x10, 21,  0,   4,   'M', 'Q', 'T', 'T', 4,   2,   0,  0,
                                         0,    9,   'N', 'A', 'M', 'E', '-', 'M', 'A', 'R', 'K'};

/* What a client does with its connection. */
static int talk(int fd)
{
    int n = 0, other = -1, ok = 0;
    uint8_t c;

    TRY("connect-packet", put_all(fd, connect_marked, sizeof(connect_marked)));
    TRY("connack", get_all(fd, got, sizeof(connack_packet)));
    TRY("refused", is_connack(got));
    TRY("small", same(fd, 100));
    TRY("write", put_all(fd, sent, marked(sent, 50)));
    TRY("peek", wait_for(fd, POLLIN, patience()) == 1 && (recv(fd, &c, 1, MSG_PEEK) == 1 || errno == EAGAIN));
    TRY("fionread", ioctl(fd, FIONREAD, &n) == 0);
    TRY("read", get_all(fd, got, 52));
    TRY("large", same(fd, 60000));
    TRY("dup", (other = dup(fd)) >= 0);
    TRY("over-dup", same(other, 300));
    TRY("close-dup", close(other) == 0);
    other = -1;
    TRY("shutdown", shutdown(fd, SHUT_WR) == 0);
    TRY("end", !get_all(fd, &c, 1) && errno == 0);
    ok = 1;
out:
    if (other >= 0)
        close(other);
    return ok;
}

static int as_client(int to, int nonblocking)
{
    struct sockaddr_in a = loopback(to);
    int ok = 0, fd = -1, error = 0;
    socklen_t n = sizeof(error);

    TRY("socket", (fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | (nonblocking ? SOCK_NONBLOCK : 0), 0)) >= 0);
    TRY("connect", connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0 || (nonblocking && errno == EINPROGRESS));
    TRY("connected", wait_for(fd, POLLOUT, patience()) == 1 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0 && error == 0);
    ok = talk(fd);
out:
    if (fd >= 0 && close(fd) != 0)
        failed("close");
    return ok;
}

/* Connects, and a child goes on. */
static int as_forked(int to)
{
    struct sockaddr_in a = loopback(to);
    int ok = 0, fd = -1, status = 0;
    pid_t pid;

    TRY("socket", (fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    TRY("connect", connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
    TRY("connect-packet", put_all(fd, connect_marked, sizeof(connect_marked)));
    TRY("connack", get_all(fd, got, sizeof(connack_packet)));
    TRY("refused", is_connack(got));
    TRY("fork", (pid = fork()) >= 0);
    if (pid == 0) {
        ok = same(fd, 1000) && same(fd, 2000);
        if (!ok)
            failed("child");
        _exit(!ok);
    }
    TRY("waitpid", waitpid(pid, &status, 0) == pid);
    TRY("child-died", WIFEXITED(status));
    ok = WEXITSTATUS(status) == 0;
out:
    if (fd >= 0 && close(fd) != 0)
        failed("close");
    return ok;
}

static int serve_one(int listener)
{
    int fd = -1, ok = 0;
    ssize_t r;

    for (int i = 0; i < 20 && fd < 0; i++) {
        TRY("no-client", wait_for(listener, POLLIN, 1500) == 1);
        fd = accept(listener, NULL, NULL);
        if (fd < 0)
            failed("accept");
    }
    if (fd < 0)
        return 0;
    TRY("connect-packet", get_all(fd, got, sizeof(connect_marked)));
    TRY("other-bytes", memcmp(got, connect_marked, sizeof(connect_marked)) == 0);
    TRY("connack", put_all(fd, connack_packet, sizeof(connack_packet)));
    for (;;) {
        TRY("wait", wait_for(fd, POLLIN, patience()) == 1);
        TRY("read", (r = read(fd, got, sizeof(got))) >= 0);
        if (r == 0)
            break;
        TRY("write", put_all(fd, got, (size_t)r));
    }
    ok = 1;
out:
    if (fd >= 0 && close(fd) != 0)
        failed("close");
    return ok;
}

static int answers; /* a probe, as a stock broker does */

static void answer_probe(int fd)
{
    uint8_t head[2], rest[127];
    if (wait_for(fd, POLLIN, patience()) == 1 && recv(fd, head, 1, MSG_PEEK) == 1 && head[0] == 0xa2 && get_all(fd, head, 2) && head[1] < 127 && get_all(fd, rest, head[1]))
        put_all(fd, (uint8_t[]){0xb0, 2, rest[0], rest[1]}, 4);
}

static void *echo_thread(void *arg)
{
    int fd = (int)(intptr_t)arg;
    uint8_t *p = malloc(65536);
    ssize_t r;

    if (get_all(fd, p, sizeof(connect_marked)) && p[0] == 0x10 && put_all(fd, connack_packet, sizeof(connack_packet))) {
        if (answers)
            answer_probe(fd);
        while ((r = read(fd, p, 65536)) > 0 && put_all(fd, p, (size_t)r))
            ;
    }
    close(fd);
    free(p);
    return NULL;
}

static void run_echo(void)
{
    int own, listener = tcp_listen(&own), fd;
    printf("%d\n", own);
    fflush(stdout);
    while ((fd = accept(listener, NULL, NULL)) >= 0) {
        pthread_t t;
        MUST(pthread_create(&t, NULL, echo_thread, (void *)(intptr_t)fd) == 0);
        pthread_detach(t);
    }
}

static int open_fds(void)
{
    struct pollfd p[256];
    int n = 0;
    for (int fd = 0; fd < 256; fd++)
        p[fd] = (struct pollfd){.fd = fd};
    MUST(poll(p, 256, 0) >= 0);
    for (int fd = 0; fd < 256; fd++)
        n += (p[fd].revents & POLLNVAL) == 0;
    return n;
}

static void stop_injection(void)
{
    void (*stop)(void) = (void (*)(void))dlsym(RTLD_DEFAULT, "oe_inject_stop");
    if (stop != NULL)
        stop();
}

static int try_to_listen(int *own)
{
    struct sockaddr_in a = loopback(0);
    socklen_t n = sizeof(a);
    int fd = -1;

    TRY("socket", (fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    TRY("listen", bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 16) == 0);
    TRY("getsockname", getsockname(fd, (struct sockaddr *)&a, &n) == 0);
    *own = ntohs(a.sin_port);
    return fd;
out:
    if (fd >= 0)
        close(fd);
    return -1;
}

static int one(const char *what, int which, const int *listeners)
{
    if (strcmp(what, "server") == 0)
        return serve_one(listeners[which]);
    if (strcmp(what, "fork") == 0)
        return as_forked(port[which]);
    return as_client(port[which], strcmp(what, "poll") == 0);
}

int main(int argc, char **argv)
{
    int listeners[2] = {-1, -1}, fds;
    const char *what = argc > 1 ? argv[1] : "";

    signal(SIGPIPE, SIG_IGN);
    setvbuf(stdout, NULL, _IOLBF, 0);
    if (strcmp(what, "echo") == 0) {
        answers = argc > 2;
        run_echo();
        return 1;
    }
    if (strcmp(what, "server") == 0) {
        for (int i = 0; i < 2; i++)
            for (int k = 0; k < 3 && listeners[i] < 0; k++)
                listeners[i] = try_to_listen(&port[i]);
        printf("%d %d\n", port[0], port[1]);
    } else if (argc > 3) {
        port[0] = atoi(argv[2]);
        port[1] = atoi(argv[3]);
    } else {
        return 2;
    }
    fds = open_fds();
    if (one(what, 0, listeners))
        printf("1 ok\n");
    stop_injection();
    phase = 2;
    if (one(what, 1, listeners))
        printf("2 ok\n");
    if (open_fds() == fds)
        printf("fds ok\n");
    printf("end\n");
    return 0;
}
