/*
 * What programs do that no library expects: closing everything, cancelling, jumping and forking in the middle. One scenario a run, as a client of
 * `life echo`; MUTE is the port of a server that answers late or never.
 *   rough SCENARIO PORT [MUTE]
 * The last line of standard output is "ok"; status 0: good, 1: wrong, 3: stalled.
 */
#include "peer.h"

#include <dirent.h>
#include <pthread.h>
#include <setjmp.h>
#include <spawn.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>

extern char **environ;

static int port, mute;

static void echo(int fd, size_t n, uint32_t seed)
{
    uint8_t *p = malloc(n);
    make_stream(p, n, seed);
    put(fd, p, n);
    get_exactly(fd, p, n);
    free(p);
}

static void one_more(void)
{
    int fd = mqtt_connect(port);
    echo(fd, 3000, 1);
    MUST(close(fd) == 0);
}

static void child_ok(pid_t pid)
{
    int status;
    MUST(pid > 0 && waitpid(pid, &status, 0) == pid);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        die(1, "child ended with %x", status);
}

static void timer_us(long every)
{
    struct itimerval t = {{every / 1000000, every % 1000000}, {every / 1000000, every % 1000000}};
    MUST(setitimer(ITIMER_REAL, &t, NULL) == 0);
}

static void handle(int number, void (*handler)(int), int flags)
{
    struct sigaction a = {.sa_handler = handler, .sa_flags = flags};
    MUST(sigaction(number, &a, NULL) == 0);
}

/* A lock that stays behind shows as a hang: not for longer than this. */
static void limit_s(unsigned seconds)
{
    pid_t own = getpid();
    if (fork() != 0)
        return;
    for (unsigned i = 0; i < seconds * 20 && getppid() == own; i++)
        nap_ms(50);
    if (getppid() == own)
        kill(own, SIGABRT);
    _exit(0);
}

/* ---- everything is closed ------------------------------------------------------------------------------------------------------------- */

static void close_by_proc(void)
{
    DIR *d = opendir("/proc/self/fd");
    struct dirent *e;
    MUST(d != NULL);
    while ((e = readdir(d)) != NULL)
        if (atoi(e->d_name) > 2 && atoi(e->d_name) != dirfd(d))
            close(atoi(e->d_name));
    closedir(d);
}

static void close_by_loop(void)
{
    for (int fd = 3; fd < 1024; fd++)
        close(fd);
}

static void close_by_range(void)
{
    MUST(close_range(3, ~0U, 0) == 0);
}

static void close_by_from(void)
{
    closefrom(3);
}

static void close_by_number(void)
{
    for (int fd = 3; fd < 1024; fd++)
        syscall(SYS_close, fd);
}

static void close_all(void)
{
    void (*const ways[])(void) = {close_by_proc, close_by_loop, close_by_range, close_by_from, close_by_number};
    for (size_t i = 0; i < 5; i++) {
        ways[i]();
        int a = mqtt_connect(port), b = mqtt_connect(port), half = tcp_connect(port), two[2];
        char c;
        echo(a, 5000, 1);
        echo(b, 50, 2);
        put(half, connect_packet, 5);
        ways[i]();
        MUST(write(a, "x", 1) == -1 && errno == EBADF && read(b, &c, 1) == -1 && errno == EBADF);
        MUST(pipe(two) == 0 && two[0] == a && two[1] == b); /* their numbers go to a pipe */
        MUST(write(two[1], "pipe", 4) == 4 && read(two[0], &c, 1) == 1 && c == 'p');
        ways[i]();
        one_more();
    }
}

/* libc's own, which replaces 0, 1 and 2 by an internal dup2. One of them is a connection. */
static void libc_daemon(void)
{
    int done[2], fd = mqtt_connect(port), again = mqtt_connect(port);
    char c;

    echo(fd, 100, 1);
    echo(again, 100, 1);
    MUST(pipe(done) == 0);
    pid_t pid = fork();
    if (pid == 0) {
        MUST(dup2(again, 0) == 0);
        echo(0, 200, 2);
        if (daemon(0, 0) != 0)
            _exit(1);
        c = read(0, &c, 1) == 0 && write(0, "into /dev/null", 14) == 14 ? 'y' : 'n';
        for (uint32_t i = 0; i < 10; i++)
            echo(fd, 3000, i);
        echo(again, 1000, 3); /* under its other number */
        int more = mqtt_connect(port);
        echo(more, 1000, 4);
        MUST(dup2(more, 0) == 0);
        echo(0, 1000, 5);
        MUST(write(done[1], &c, 1) == 1);
        _exit(0);
    }
    child_ok(pid);
    close(done[1]);
    MUST(read(done[0], &c, 1) == 1 && c == 'y');
}

/* ---- processes ------------------------------------------------------------------------------------------------------------------------ */

static void spawns(void)
{
    static char name[] = "true";
    char *const argv[] = {name, NULL};
    int fd = mqtt_connect(port), other = mqtt_connect(port);
    pid_t pid;

    for (int way = 0; way < 6; way++) {
        echo(fd, 3000, 1);
        if (way < 3) {
            pid = vfork();
            if (pid == 0) {
                if (way == 0)
                    closefrom(3);
                else if (way == 1)
                    close_range(3, ~0U, 0);
                else
                    for (int i = 3; i < 1024; i++)
                        syscall(SYS_close, i);
                execv("/bin/true", argv);
                _exit(127);
            }
        } else {
            posix_spawn_file_actions_t a;
            MUST(posix_spawn_file_actions_init(&a) == 0);
            if (way == 3)
                MUST(posix_spawn_file_actions_addclosefrom_np(&a, 3) == 0);
            if (way == 4)
                MUST(posix_spawn_file_actions_addclose(&a, fd) == 0 && posix_spawn_file_actions_adddup2(&a, other, fd) == 0 &&
                     posix_spawn_file_actions_adddup2(&a, fd, 0) == 0);
            if (way == 5)
                MUST(posix_spawn_file_actions_addopen(&a, fd, "/dev/null", O_RDONLY, 0) == 0);
            MUST(posix_spawn(&pid, "/bin/true", &a, NULL, argv, environ) == 0);
            posix_spawn_file_actions_destroy(&a);
        }
        child_ok(pid);
        echo(fd, 3000, 2);
        echo(other, 300, 3);
    }
}

static _Atomic int over;
static _Atomic unsigned rounds;

static void *transfers(void *arg)
{
    int fd = mqtt_connect(port);
    for (uint32_t i = 0; !over; i++) {
        echo(fd, 2 + i % 9000, i);
        if (i % 40 == 0)
            one_more();
        rounds++;
    }
    close(fd);
    return arg;
}

/* Signals wait while the library has locks, around fork, too: never longer. */
static int mask_is(const sigset_t *want)
{
    sigset_t now;
    MUST(pthread_sigmask(SIG_BLOCK, NULL, &now) == 0);
    for (int n = 1; n < NSIG; n++)
        if (sigismember(&now, n) != sigismember(want, n))
            return 0;
    return 1;
}

static void fork_thousand(void)
{
    pthread_t t[2];
    int fd = mqtt_connect(port);
    sigset_t mask;

    limit_s(60);
    sigemptyset(&mask);
    sigaddset(&mask, SIGUSR2);
    MUST(pthread_sigmask(SIG_SETMASK, &mask, NULL) == 0);
    for (int i = 0; i < 2; i++)
        MUST(pthread_create(&t[i], NULL, transfers, NULL) == 0);
    for (int i = 0; i < 1000; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            for (int k = 3; k < 20; k++)
                close(k);
            if (i % 50 == 0)
                one_more();
            _exit(!mask_is(&mask));
        }
        child_ok(pid);
        MUST(mask_is(&mask));
    }
    over = 1;
    for (int i = 0; i < 2; i++)
        pthread_join(t[i], NULL);
    MUST(rounds > 20);
    echo(fd, 3000, 1);
}

/* ---- closed while another thread waits ------------------------------------------------------------------------------------------------ */

struct wait {
    int fd, style;
    ssize_t r;
    uint8_t *p;
    size_t n;
    pthread_t thread;
};

enum { READ, RECV, READV, RECVMSG, WAITALL, TIMEOUT, POLL, SELECT, EPOLL, READERS };

static void *reads(void *arg)
{
    struct wait *w = arg;
    struct iovec iov = {w->p, w->n};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    struct timeval ten = {10, 0};
    struct epoll_event ev = {.events = EPOLLIN};
    fd_set set;
    int ep;

    switch (w->style) {
    case READ:
        w->r = read(w->fd, w->p, w->n);
        break;
    case TIMEOUT:
    case RECV:
        w->r = recv(w->fd, w->p, w->n, 0);
        break;
    case READV:
        w->r = readv(w->fd, &iov, 1);
        break;
    case RECVMSG:
        w->r = recvmsg(w->fd, &m, 0);
        break;
    case WAITALL:
        w->r = recv(w->fd, w->p, 7, MSG_WAITALL);
        break;
    case POLL:
        wait_for(w->fd, POLLIN, STALL_MS);
        w->r = read(w->fd, w->p, w->n);
        break;
    case SELECT:
        FD_ZERO(&set);
        FD_SET(w->fd, &set);
        select(w->fd + 1, &set, NULL, NULL, &ten);
        w->r = recv(w->fd, w->p, w->n, MSG_DONTWAIT);
        break;
    case EPOLL:
        ep = epoll_create1(0);
        epoll_ctl(ep, EPOLL_CTL_ADD, w->fd, &ev);
        epoll_wait(ep, &ev, 1, STALL_MS);
        w->r = recv(w->fd, w->p, w->n, MSG_DONTWAIT);
        close(ep);
        break;
    }
    return NULL;
}

static void close_under_reader(void)
{
    static uint8_t data[5000];
    limit_s(40);
    for (int style = 0; style < READERS; style++) {
        struct wait w = {.fd = mqtt_connect(port), .style = style, .p = data, .n = sizeof(data)};
        struct timeval ten = {10, 0};
        int keep = dup(w.fd);
        echo(w.fd, 100, 1);
        if (style == TIMEOUT)
            setsockopt(w.fd, SOL_SOCKET, SO_RCVTIMEO, &ten, sizeof(ten));
        MUST(pthread_create(&w.thread, NULL, reads, &w) == 0);
        nap_ms(30);
        MUST(close(w.fd) == 0);
        put(keep, "wake up", 7);
        pthread_join(w.thread, NULL);
        if (w.r > 0 && (w.r != 7 || memcmp(data, "wake up", 7) != 0))
            die(1, "style %d: %zd other bytes", style, w.r);
        if (w.r <= 0) /* that reader lost its descriptor; the bytes are for the other one */
            get_exactly(keep, "wake up", 7);
        echo(keep, 2000, 2);
        close(keep);
        one_more();
    }
}

static void *writes(void *arg)
{
    struct wait *w = arg;
    struct iovec iov = {w->p, w->n};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    w->r = w->style == 0   ? write(w->fd, w->p, w->n)
           : w->style == 1 ? send(w->fd, w->p, w->n, MSG_NOSIGNAL)
           : w->style == 2 ? writev(w->fd, &iov, 1)
                           : sendmsg(w->fd, &m, 0);
    return NULL;
}

static void close_under_writer(void)
{
    limit_s(40);
    for (int style = 0; style < 4; style++) {
        struct wait w = {.fd = mqtt_connect(port), .style = style, .n = 32 << 20};
        int keep = dup(w.fd);
        static uint8_t buf[100000];
        w.p = calloc(1, w.n);
        MUST(pthread_create(&w.thread, NULL, writes, &w) == 0);
        nap_ms(200); /* both directions are full */
        MUST(close(w.fd) == 0);
        while (wait_for(keep, POLLIN, 700) == 1)
            if (read(keep, buf, sizeof(buf)) <= 0)
                break;
        pthread_join(w.thread, NULL);
        MUST(w.r == (ssize_t)w.n || w.r > 0 || errno != 0);
        close(keep);
        free(w.p);
        one_more();
    }
}

/* ---- cancelled ------------------------------------------------------------------------------------------------------------------------ */

static void *talks_to_mute(void *arg)
{
    struct wait *w = arg;
    uint8_t c[100];
    put(w->fd, connect_packet, sizeof(connect_packet));
    for (;;)
        (void)!read(w->fd, c, sizeof(c));
    return NULL;
}

/* In whatever the thread waits: for CONNACK, for the answer to a probe, for that to a preface. */
static void cancel_waiting(void)
{
    struct wait w = {.fd = tcp_connect(mute)};
    void *result = NULL;
    uint8_t c[100];

    limit_s(20);
    MUST(pthread_create(&w.thread, NULL, talks_to_mute, &w) == 0);
    nap_ms(200);
    pthread_cancel(w.thread);
    long start = now_ms();
    one_more();
    MUST(now_ms() - start < 1500); /* no other connection waits */
    pthread_join(w.thread, &result);
    MUST(result == PTHREAD_CANCELED && now_ms() - start < 5000);
    start = now_ms();
    (void)!recv(w.fd, c, sizeof(c), MSG_DONTWAIT);
    (void)!send(w.fd, subscribe_packet, sizeof(subscribe_packet), MSG_DONTWAIT | MSG_NOSIGNAL);
    MUST(shutdown(w.fd, SHUT_RDWR) == 0 || errno == ENOTCONN);
    MUST(close(w.fd) == 0 && now_ms() - start < 7000); /* one more time-out of a handshake */
    one_more();
}

static int shared_fd;
static _Atomic int async_fd;

static void *async_worker(void *arg)
{
    (void)arg;
    int type, fd = mqtt_connect(port);
    uint8_t c[64] = {0x30, 4, 0, 0, 1, 2};
    async_fd = fd;
    pthread_setcanceltype(PTHREAD_CANCEL_ASYNCHRONOUS, &type);
    for (;;) {
        (void)!send(fd, c, 6, MSG_DONTWAIT);
        (void)!recv(fd, c + 6, 50, MSG_DONTWAIT);
        (void)!send(shared_fd, c, 6, MSG_DONTWAIT);
        (void)!recv(shared_fd, c + 6, 50, MSG_DONTWAIT);
        close(dup(shared_fd));
    }
    return NULL;
}

/* A thread that can be cancelled anywhere: it leaves no lock behind that another connection, or another user of its own, needs. */
static void cancel_async(void)
{
    limit_s(40);
    shared_fd = mqtt_connect(port);
    for (int i = 0; i < 150; i++) {
        async_fd = -1;
        pthread_t t;
        uint8_t c[100];
        MUST(pthread_create(&t, NULL, async_worker, NULL) == 0);
        while (async_fd < 0)
            nap_ms(1);
        nap_ms(i % 4);
        pthread_cancel(t);
        pthread_join(t, NULL);
        (void)!send(shared_fd, c, 0, MSG_DONTWAIT);
        (void)!recv(shared_fd, c, sizeof(c), MSG_DONTWAIT);
        (void)!recv(async_fd, c, sizeof(c), MSG_DONTWAIT);
        close(async_fd);
        if (i % 10 == 0)
            one_more();
    }
}

/* ---- in handlers ---------------------------------------------------------------------------------------------------------------------- */

static int handler_fd;
static volatile sig_atomic_t handled, forked, forks;

static void do_anything(int number)
{
    int saved = errno;
    char c;
    (void)number;
    switch (handled++ % 8) {
    case 0:
    case 4:
        (void)!write(handler_fd, "S", 1);
        break;
    case 1:
    case 5:
        (void)!recv(handler_fd, &c, 1, MSG_DONTWAIT);
        break;
    case 2:
        close(dup(handler_fd));
        break;
    case 3:
        dup2(handler_fd, 200);
        close(200);
        break;
    case 6: {
        pid_t pid = forks ? fork() : -1;
        if (pid == 0)
            _exit(0);
        if (pid > 0 && waitpid(pid, NULL, 0) == pid)
            forked++;
        break;
    }
    case 7:
        close(999);
        break;
    }
    errno = saved;
}

static void handler_does(void)
{
    int fd = mqtt_connect(port);

    limit_s(30);
    handler_fd = mqtt_connect(port);
    echo(handler_fd, 100, 1);
    handle(SIGALRM, do_anything, SA_RESTART);
    timer_us(500);
    for (long end = now_ms() + 3000; now_ms() < end;) {
        echo(fd, 20000, 1);
        one_more();
    }
    timer_us(0);
    MUST(handled > 300 && (forked > 30 || !forks));
    printf("handled=%d forked=%d\n", (int)handled, (int)forked);
    one_more();
}

static void handler_forks(void)
{
    forks = 1;
    handler_does();
}

static sigjmp_buf back;

static void jump(int number)
{
    (void)number;
    siglongjmp(back, 1);
}

/* A time-out as it was made before there was poll: out of the blocked call by siglongjmp. */
static void jump_from_read(void)
{
    static int fd, other;
    static volatile int i;
    char c;

    limit_s(30);
    fd = mqtt_connect(port);
    other = mqtt_connect(port);
    handle(SIGALRM, jump, 0);
    for (i = 0; i < 30; i++) {
        if (sigsetjmp(back, 1) == 0) {
            timer_us(20000);
            (void)!(i % 2 ? read(fd, &c, 1) : recv(fd, &c, 1, MSG_WAITALL));
            die(1, "the blocked call came back");
        }
        timer_us(0);
        echo(fd, 3000, 1);
        echo(other, 3000, 2);
    }
    /* anywhere in a call: that connection may be lost, no other one is */
    for (i = 0; i < 400; i++) {
        if (sigsetjmp(back, 1) == 0) {
            uint8_t block[600] = {0x30, 4, 0, 0, 1, 2};
            timer_us(200 + i);
            for (;;) {
                (void)!send(fd, block, 6, MSG_DONTWAIT);
                (void)!recv(fd, block + 6, 500, MSG_DONTWAIT);
            }
        }
        timer_us(0);
        echo(other, 300, 3);
    }
    one_more();
}

/* ---- main ----------------------------------------------------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    {"close_all", close_all},
    {"libc_daemon", libc_daemon},
    {"spawns", spawns},
    {"fork_thousand", fork_thousand},
    {"close_under_reader", close_under_reader},
    {"close_under_writer", close_under_writer},
    {"cancel_waiting", cancel_waiting},
    {"cancel_async", cancel_async},
    {"handler_does", handler_does},
    {"handler_forks", handler_forks},
    {"jump_from_read", jump_from_read},
};

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    port = argc > 2 ? atoi(argv[2]) : 0;
    mute = argc > 3 ? atoi(argv[3]) : 0;
    for (size_t i = 0; argc > 1 && i < sizeof(scenarios) / sizeof(scenarios[0]); i++) {
        if (strcmp(argv[1], scenarios[i].name) == 0) {
            scenarios[i].run();
            printf("ok\n");
            return 0;
        }
    }
    return 2;
}
