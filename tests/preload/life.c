/*
 * Processes and descriptors: one scenario a run, as a client of an echo server (life echo) or as a server of its own.
 *   life SCENARIO [PORT]
 * The last line of standard output is "ok"; status 0: good, 1: wrong, 3: stalled.
 */
#include "peer.h"

#include <dirent.h>
#include <netdb.h>
#include <pthread.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

extern char **environ;

static int port;

/* ---- helpers -------------------------------------------------------------------------------------------------------------------------- */

/* n bytes there through out and back through in. n fits the socket's buffers. */
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

/* The peer's end of stream comes. */
static void get_end(int fd)
{
    char c;
    MUST(wait_for(fd, POLLIN, STALL_MS) == 1);
    MUST(read(fd, &c, 1) == 0);
}

static void child_ok(pid_t pid)
{
    int status;
    MUST(waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        die(1, "child ended with %x", status);
}

static void *echo_thread(void *arg)
{
    int fd = (int)(intptr_t)arg;
    uint8_t *p = malloc(65536);
    ssize_t r;
    size_t n = 0;

    /* MQTT is accepted, anything else echoed at once. */
    while ((r = read(fd, p + n, sizeof(connect_packet) - n)) > 0 && p[0] == connect_packet[0] && (n += (size_t)r) < sizeof(connect_packet))
        ;
    if (r > 0 && n != 0)
        put(fd, connack_packet, sizeof(connack_packet));
    else if (r > 0)
        put(fd, p, (size_t)r);
    while (r > 0 && (r = read(fd, p, 65536)) > 0)
        for (ssize_t at = 0, w = 0; at < r && w >= 0; at += w)
            w = write(fd, p + at, (size_t)(r - at)); /* a client may go without reading the rest */
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

/* ---- processes ------------------------------------------------------------------------------------------------------------------------ */

static void daemonise(void)
{
    int fd = mqtt_connect(port), done[2];
    char c = 0;

    echo(fd, 1);
    MUST(pipe(done) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        setsid();
        if (fork() != 0)
            _exit(0);
        close(done[0]);
        nap_ms(50); /* the parents are gone or do something else */
        for (uint32_t i = 0; i < 20; i++)
            echo(fd, i);
        close(fd);
        MUST(write(done[1], "y", 1) == 1);
        _exit(0);
    }
    child_ok(pid);
    close(done[1]);
    MUST(read(done[0], &c, 1) == 1 && c == 'y');
    MUST(close(fd) == 0);
}

/* Parent and child go on with different directions. */
static void fork_split(void)
{
    static uint8_t data[300000];
    int fd = mqtt_connect(port);

    echo(fd, 1);
    make_stream(data, sizeof(data), 3);
    pid_t pid = fork();
    if (pid == 0) {
        get_exactly(fd, data, sizeof(data));
        _exit(0);
    }
    put(fd, data, sizeof(data));
    child_ok(pid);
}

/* Both write after fork. Prints how each ended; the peer says what came. */
static void fork_both(void)
{
    int fd = mqtt_connect(port), results[2];
    char line[200], who;
    int sent = 0;

    put(fd, "before..", 8);
    nap_ms(100);
    MUST(pipe(results) == 0);
    pid_t pid = fork();
    who = pid == 0 ? 'c' : 'p';
    for (int i = 0; i < 300; i++, sent++) {
        memset(line, who, 8);
        if (write(fd, line, 8) != 8)
            break;
        if (i % 16 == 0)
            nap_ms(1);
    }
    snprintf(line, sizeof(line), "%c sent=%d errno=%s\n", who, sent, sent == 300 ? "0" : strerrorname_np(errno));
    MUST(write(results[1], line, strlen(line)) > 0);
    if (pid == 0)
        _exit(0);
    child_ok(pid);
    ssize_t n = read(results[0], line, sizeof(line) - 1);
    line[n > 0 ? n : 0] = '\0';
    printf("%s", line);
}

struct wait_all {
    int fd;
    uint8_t got[200];
};

/* CONNACK and the whole handshake are in this call; then it waits for more. */
static void *read_200(void *arg)
{
    struct wait_all *w = arg;
    ssize_t r = recv(w->fd, w->got, sizeof(w->got), MSG_WAITALL);
    if (r != sizeof(connack_packet))
        die(1, "the interrupted recv gave %zd", r);
    return NULL;
}

/* A child takes the direction over while a thread waits in recv. The thread's call ends with what it had, the next one fails. */
static void fork_in_read(void)
{
    static struct wait_all w;
    pthread_t t;
    int status = -1;

    w.fd = tcp_connect(port);
    put(w.fd, connect_packet, sizeof(connect_packet));
    MUST(pthread_create(&t, NULL, read_200, &w) == 0);
    for (long end = now_ms() + STALL_MS; *(volatile uint8_t *)w.got != connack_packet[0] && now_ms() < end;)
        nap_ms(1);
    for (int i = 0; i < 100 && status != 0; i++) { /* forked while the thread has the lock the child has no connection */
        pid_t pid = fork();
        if (pid == 0)
            _exit(recv(w.fd, w.got, 1, MSG_DONTWAIT) != -1 || errno != EAGAIN);
        MUST(waitpid(pid, &status, 0) == pid);
    }
    MUST(status == 0);
    put(w.fd, "wake up", 7);
    pthread_join(t, NULL);
    MUST(recv(w.fd, w.got, 1, 0) == -1 && errno == ECONNRESET);
}

/* The old way of a server: the parent accepts, the child serves. With early, the parent talks first. */
static void serve_forked(int early)
{
    int own, listener = tcp_listen(&own);
    printf("%d\n", own);
    fflush(stdout);
    signal(SIGCHLD, SIG_IGN);
    for (;;) {
        int fd = accept(listener, NULL, NULL);
        uint8_t p[65536];
        ssize_t r;
        MUST(fd >= 0);
        if (early) {
            mqtt_accept_on(fd);
            get(fd, p, 2); /* the client's first bytes: behind the handshake */
            put(fd, p, 2);
        }
        if (fork() == 0) {
            close(listener);
            if (!early)
                mqtt_accept_on(fd);
            while ((r = read(fd, p, sizeof(p))) > 0)
                put(fd, p, (size_t)r);
            _exit(r < 0);
        }
        close(fd);
    }
}

static void client(void)
{
    for (uint32_t i = 0; i < 5; i++) {
        int fd = mqtt_connect(port);
        echo(fd, i);
        shutdown(fd, SHUT_WR);
        get_end(fd);
        close(fd);
    }
}

/* Not MQTT, and two processes share it, as telnet's ancestors did: the child reads, the parent writes. */
static void fork_plain(void)
{
    int fd = tcp_connect(port), listen_first;
    char request[] = "GET / HTTP/1.0\r\n\r\n", answer[16];

    for (listen_first = 0; listen_first < 2; listen_first++) {
        pid_t pid = fork();
        if (pid == 0) {
            get(fd, answer, 16);
            _exit(memcmp(answer, request, 16) != 0);
        }
        nap_ms(100); /* the child waits in read by now */
        put(fd, request, 16);
        child_ok(pid);
    }
}

static void spawn_like(int fd, const char *how)
{
    static char name[] = "true";
    char *const argv[] = {name, NULL};
    if (strcmp(how, "vfork") == 0) {
        pid_t pid = vfork();
        if (pid == 0) {
            for (int i = 3; i < 64; i++)
                close(i);
            dup2(1, 5);
            execv("/bin/true", argv);
            _exit(127);
        }
        child_ok(pid);
    } else if (strcmp(how, "fork") == 0) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int i = 3; i < 64; i++)
                close(i);
            execv("/bin/true", argv);
            _exit(127);
        }
        child_ok(pid);
    } else if (strcmp(how, "spawn") == 0) {
        posix_spawn_file_actions_t a;
        pid_t pid;
        posix_spawn_file_actions_init(&a);
        posix_spawn_file_actions_addclose(&a, fd);
        posix_spawn_file_actions_adddup2(&a, 1, fd);
        MUST(posix_spawn(&pid, "/bin/true", &a, NULL, argv, environ) == 0);
        posix_spawn_file_actions_destroy(&a);
        child_ok(pid);
    } else if (strcmp(how, "system") == 0) {
        MUST(system("exec true") == 0);
    } else {
        FILE *f = popen("echo hello", "r");
        char line[20];
        MUST(f != NULL && fgets(line, sizeof(line), f) != NULL && strcmp(line, "hello\n") == 0 && pclose(f) == 0);
    }
}

static void children(void)
{
    static const char *const hows[] = {"vfork", "fork", "spawn", "system", "popen"};
    int fd = mqtt_connect(port), other = tcp_connect(port);
    for (size_t i = 0; i < 5; i++) {
        echo(fd, 3);
        spawn_like(fd, hows[i]);
        echo(fd, 4);
    }
    /* One that had not said anything yet. */
    put(other, connect_packet, sizeof(connect_packet));
    get_exactly(other, connack_packet, sizeof(connack_packet));
    echo(other, 5);
}

/* ---- descriptors ---------------------------------------------------------------------------------------------------------------------- */

static void dups(void)
{
    int fd = mqtt_connect(port), n[5];
    n[0] = dup(fd);
    n[1] = fcntl(fd, F_DUPFD, 50);
    n[2] = fcntl(fd, F_DUPFD_CLOEXEC, 60);
    n[3] = dup3(fd, 70, O_CLOEXEC);
    n[4] = dup2(fd, 2000);
    for (int i = 0; i < 5; i++) {
        MUST(n[i] >= 0);
        echo_over(fd, n[i], 5000, 1);
        echo_over(n[i], fd, 5000, 2);
        echo_over(n[i], n[(i + 1) % 5], 300, 3);
    }
    MUST(dup2(fd, fd) == fd && dup2(n[0], n[1]) == n[1] && n[1] == 50);
    echo_over(n[1], fd, 100, 4);
    MUST(close(fd) == 0);
    for (int i = 0; i < 5; i++) {
        echo(n[i], 9);
        MUST(close(n[i]) == 0);
    }
    MUST(read(fd, &n, 1) == -1 && errno == EBADF);
}

/* dup2 over a tracked descriptor closes it. */
static void dup2_close(void)
{
    int a = mqtt_connect(port), b = mqtt_connect(port), null = open("/dev/null", O_WRONLY), keep = dup(b), two[2];
    char c;

    MUST(dup2(null, b) == b);
    MUST(write(b, "anything", 8) == 8); /* into /dev/null */
    echo(keep, 1);
    MUST(dup2(null, keep) == keep);
    MUST(dup2(a, b) == b); /* b is a now */
    echo_over(b, a, 3000, 1);
    MUST(dup3(null, a, O_CLOEXEC) == a);
    echo(b, 2);
    MUST(dup2(a, a) == a);
    MUST(pipe(two) == 0 && dup2(two[1], b) == b);
    MUST(write(b, "x", 1) == 1 && read(two[0], &c, 1) == 1 && c == 'x');
    /* dup2 of a tracked one over another tracked one */
    int d = mqtt_connect(port), e = mqtt_connect(port);
    MUST(dup2(d, e) == e);
    echo_over(d, e, 777, 1);
}

/* A dup2 or dup3 that fails leaves its target as it was: encrypted. */
static void dup_fails(void)
{
    int fd = mqtt_connect(port);
    MUST(dup2(999, fd) == -1 && errno == EBADF);
    echo(fd, 1);
    MUST(dup3(999, fd, 0) == -1 && errno == EBADF);
    echo(fd, 2);
    MUST(dup3(0, fd, 0x7fff0000) == -1 && errno == EINVAL);
    put(fd, "after the dup3 that failed", 26);
    get_exactly(fd, "after the dup3 that failed", 26);
}

static void reuse(void)
{
    for (uint32_t i = 0; i < 20; i++) {
        int fd = mqtt_connect(port), two[2];
        char c = 0;
        echo(fd, i);
        MUST(close(fd) == 0);
        MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, two) == 0);
        MUST(two[0] == fd);
        MUST(write(two[0], "a", 1) == 1 && read(two[1], &c, 1) == 1 && c == 'a');
        MUST(write(two[1], "b", 1) == 1 && read(two[0], &c, 1) == 1 && c == 'b');
        MUST(send(two[0], "c", 1, 0) == 1 && recv(two[1], &c, 1, 0) == 1 && c == 'c');
        close(two[0]);
        close(two[1]);
    }
}

/* The descriptor is closed behind the library's back; what comes next on its number goes through a hook. */
static void stale_hooked(void)
{
    int own, listener = tcp_listen(&own), fd = mqtt_connect(port), devnull = open("/dev/null", O_WRONLY);
    echo(fd, 1);
    raw_close(fd);
    int again = mqtt_connect(port);
    MUST(again == fd);
    echo(again, 2);
    raw_close(again);
    MUST(dup2(devnull, fd) == fd && write(fd, "x", 1) == 1);
    MUST(close(fd) == 0);
    fd = mqtt_connect(port);
    echo(fd, 3);
    int other = tcp_connect(own);
    raw_close(fd);
    int in = accept(listener, NULL, NULL);
    MUST(in == fd);
    put(other, "POST", 4);
    get_exactly(in, "POST", 4);
}

/* The same, but what comes next is not made by a hooked call. */
static void stale_unhooked(void)
{
    int fd = mqtt_connect(port), two[2], in[2];
    char c = 0;
    echo(fd, 1);
    raw_close(fd);
    MUST(pipe(two) == 0 && two[0] == fd);
    MUST(write(two[1], "a", 1) == 1);
    MUST(read(two[0], &c, 1) == 1 && c == 'a');
    close(two[0]);
    close(two[1]);
    fd = mqtt_connect(port);
    raw_close(fd);
    MUST(socketpair(AF_UNIX, SOCK_STREAM, 0, in) == 0 && in[0] == fd);
    MUST(write(in[0], "b", 1) == 1);
    MUST(recv(in[1], two, 8, MSG_DONTWAIT) == 1);
}

static void half_close(void)
{
    static uint8_t data[40000];
    for (uint32_t i = 0; i < 5; i++) {
        int fd = mqtt_connect(port);
        make_stream(data, sizeof(data), i);
        put(fd, data, sizeof(data));
        MUST(shutdown(fd, SHUT_WR) == 0);
        signal(SIGPIPE, SIG_IGN);
        MUST(write(fd, "x", 1) == -1 && errno == EPIPE);
        get_exactly(fd, data, sizeof(data));
        get_end(fd);
        MUST(close(fd) == 0);
    }
}

/* connect() again on one socket, after a refusal by 127.0.0.2, where nobody listens, reaches 127.0.0.1. */
static void connect_again(void)
{
    int fd = tcp_socket();
    struct sockaddr_in bad = loopback(port), good = loopback(port);
    char c;

    bad.sin_addr.s_addr = htonl(INADDR_LOOPBACK + 1);
    set_nonblock(fd, 1);
    MUST(connect(fd, (struct sockaddr *)&bad, sizeof(bad)) == -1 && errno == EINPROGRESS);
    MUST(wait_for(fd, POLLOUT, STALL_MS) == 1);
    MUST(read(fd, &c, 1) == -1 && errno == ECONNREFUSED);
    int r = connect(fd, (struct sockaddr *)&good, sizeof(good));
    if (r != 0 && errno == ECONNABORTED) /* Linux says once more that the first attempt failed */
        r = connect(fd, (struct sockaddr *)&good, sizeof(good));
    MUST(r == 0 || errno == EINPROGRESS);
    MUST(wait_for(fd, POLLOUT, STALL_MS) == 1);
    put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(fd, connack_packet, sizeof(connack_packet));
    echo(fd, 1);
}

/* ---- what a process can see of us ----------------------------------------------------------------------------------------------------- */

static unsigned count_entries(const char *path)
{
    DIR *d = opendir(path);
    unsigned n = 0;
    MUST(d != NULL);
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    return n;
}

static size_t environ_bytes(void)
{
    size_t n = 0;
    for (char **v = environ; *v != NULL; v++)
        n += strlen(*v) + 1;
    return n;
}

static void unseen(void)
{
    unsigned fds = count_entries("/proc/self/fd"), tasks = count_entries("/proc/self/task");
    size_t env = environ_bytes();
    int fd[10];
    for (int i = 0; i < 10; i++)
        fd[i] = mqtt_connect(port);
    for (int i = 0; i < 10; i++)
        echo(fd[i], 1);
    MUST(count_entries("/proc/self/fd") == fds + 10);
    MUST(count_entries("/proc/self/task") == tasks);
    for (int i = 0; i < 10; i++)
        MUST(close(fd[i]) == 0);
    MUST(count_entries("/proc/self/fd") == fds);
    MUST(environ_bytes() == env);
}

#define KEEPS(call)                                                                                                                        \
    do {                                                                                                                                   \
        errno = 4711;                                                                                                                      \
        long keeps_r = (long)(call);                                                                                                       \
        if (keeps_r < 0 || errno != 4711)                                                                                                  \
            die(1, "line %d: %s gives %ld, errno %d", __LINE__, #call, keeps_r, errno);                                                    \
    } while (0)

static void errno_kept(void)
{
    int own, listener = tcp_listen(&own), fd = tcp_socket(), other, r, a;
    struct sockaddr_in to = loopback(port), self = loopback(own);
    uint8_t p[9000];
    struct iovec v[2] = {{p, 3}, {p + 3, 5}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = 2};
    struct addrinfo *list;

    KEEPS(connect(fd, (struct sockaddr *)&to, sizeof(to)));
    KEEPS(write(fd, connect_packet, sizeof(connect_packet)));
    KEEPS(recv(fd, p, 4, MSG_WAITALL)); /* the whole handshake is in here */
    KEEPS(send(fd, p, 8, 0));
    KEEPS(recv(fd, p, 1, 0));
    KEEPS(readv(fd, v, 2));
    KEEPS(writev(fd, v, 2));
    KEEPS(recvmsg(fd, &m, MSG_PEEK));
    KEEPS(recvfrom(fd, p, 9000, 0, NULL, NULL));
    KEEPS(sendmsg(fd, &m, 0));
    KEEPS(sendto(fd, p, 9000, 0, NULL, 0));
    KEEPS(read(fd, p, 9000));
    KEEPS(other = dup(fd));
    KEEPS(r = fcntl(fd, F_DUPFD_CLOEXEC, 100));
    KEEPS(dup2(other, r));
    KEEPS(close(r));
    KEEPS(a = tcp_connect(own));
    KEEPS(connect(tcp_socket(), (struct sockaddr *)&self, sizeof(self)));
    KEEPS(r = accept(listener, NULL, NULL));
    KEEPS(send(a, connect_packet, sizeof(connect_packet), 0));
    KEEPS(read(r, p, sizeof(p)));
    KEEPS(write(r, connack_packet, 4));
    KEEPS(accept4(listener, NULL, NULL, SOCK_NONBLOCK));
    KEEPS(shutdown(fd, SHUT_WR));
    KEEPS(close(fd));
    KEEPS(close(other));
    errno = 4711;
    MUST(getaddrinfo("127.0.0.1", "1883", NULL, &list) == 0);
}

/* Resident kilobytes. */
static long resident(void)
{
    long pages = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    MUST(f != NULL && fscanf(f, "%*d %ld", &pages) == 1);
    fclose(f);
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

static unsigned mappings(void)
{
    unsigned n = 0;
    int c;
    FILE *f = fopen("/proc/self/maps", "r");
    MUST(f != NULL);
    while ((c = getc(f)) != EOF)
        n += c == '\n';
    fclose(f);
    return n;
}

static void churn(int rounds, int at_once, int with_fork)
{
    int fd[64];
    for (int i = 0; i < rounds; i++) {
        for (int k = 0; k < at_once; k++)
            fd[k] = tcp_connect(port);
        if (with_fork)
            spawn_like(fd[0], "fork");
        for (int k = 0; k < at_once; k++)
            close(fd[k]);
    }
}

static void memory(void)
{
    int fd = mqtt_connect(port);
    for (uint32_t i = 0; i < 50; i++)
        echo_over(fd, fd, 60000, i);
    churn(5, 64, 1);
    long before = resident();
    unsigned maps = mappings();
    for (uint32_t i = 0; i < 500; i++)
        echo_over(fd, fd, 60000, i);
    churn(40, 64, 0);
    long data = resident();
    if (data > before + 1000)
        die(1, "30 MB of data and 2,560 connections cost %ld KiB", data - before);
    churn(40, 64, 1); /* 2,560 connections that were there at a fork */
    if (mappings() > maps + 2)
        die(1, "2,560 connections that were there at a fork of a child that is gone cost %u mappings", mappings() - maps);
}

/* ---- main ----------------------------------------------------------------------------------------------------------------------------- */

static void serve_forked_late(void)
{
    serve_forked(0);
}

static void serve_forked_early(void)
{
    serve_forked(1);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"echo", run_echo},
    {"daemonise", daemonise},
    {"fork_split", fork_split},
    {"fork_both", fork_both},
    {"fork_in_read", fork_in_read},
    {"serve_forked", serve_forked_late},
    {"serve_forked_early", serve_forked_early},
    {"client", client},
    {"fork_plain", fork_plain},
    {"children", children},
    {"dups", dups},
    {"dup2_close", dup2_close},
    {"dup_fails", dup_fails},
    {"reuse", reuse},
    {"stale_hooked", stale_hooked},
    {"stale_unhooked", stale_unhooked},
    {"half_close", half_close},
    {"connect_again", connect_again},
    {"unseen", unseen},
    {"errno_kept", errno_kept},
    {"memory", memory},
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
