/*
 * Something to show: a process under the library does what its arguments say, in their order.
 *   status PORT COMMAND...
 * `wait` prints "ready" and waits for a line on standard input. The last line of standard output is "ok".
 */
#include "peer.h"

#include <dirent.h>
#include <grp.h>
#include <pthread.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>

extern char **environ;

#define OPEN_MAX_ 512

static int port, last, listener, listening_on, second = -1, open_fd[OPEN_MAX_], open_n;
static pid_t child;

static void do_wait(void)
{
    char line[16];
    printf("ready\n");
    fflush(stdout);
    MUST(fgets(line, sizeof(line), stdin) != NULL);
}

static void opened(int fd)
{
    last = fd;
    MUST(open_n < OPEN_MAX_);
    open_fd[open_n++] = fd;
}

static void do_connect(void)
{
    opened(mqtt_connect(port));
}

/* To a broker, where each client needs a name of its own. */
static void do_client(void)
{
    static unsigned n;
    /* 23 characters: every MQTT version allows them */
    uint8_t packet[14 + 23] = {0x10, 12 + 23, 0, 4, 'M', 'Q', 'T', 'T', 4, 2, 0, 0, 0, 23};
    char id[24];

    snprintf(id, sizeof(id), "status-%08u-%07u", (unsigned)getpid() % 100000000, ++n % 10000000);
    memcpy(packet + 14, id, 23);
    opened(tcp_connect(port));
    put(last, packet, sizeof(packet));
    get_exactly(last, connack_packet, sizeof(connack_packet));
}

/* The same, to a broker that nobody remembers. */
static void do_stranger(void)
{
    char path[4096];
    const char *state = getenv("OE_MQTT_STATE");
    snprintf(path, sizeof(path), "%s/known_peers", state != NULL ? state : "");
    MUST(unlink(path) == 0 || errno == ENOENT || errno == ENOTDIR);
    do_client();
}

static void do_echo(void)
{
    uint8_t p[9000];
    make_stream(p, sizeof(p), 7);
    put(last, p, sizeof(p));
    get_exactly(last, p, sizeof(p));
}

static void do_ping(void)
{
    static const uint8_t request[] = {0xC0, 0}, answer[] = {0xD0, 0};
    put(last, request, 2);
    get_exactly(last, answer, 2);
}

/* The child goes on with the connection. */
static void do_fork(void)
{
    int done[2];
    char c;
    MUST(pipe(done) == 0);
    child = fork();
    if (child == 0) {
        for (int i = 0; i < 5; i++)
            do_echo();
        MUST(write(done[1], "y", 1) == 1);
        pause();
        _exit(0);
    }
    MUST(read(done[0], &c, 1) == 1);
    close(done[0]);
    close(done[1]);
}

static void do_reap(void)
{
    int status;
    MUST(kill(child, SIGKILL) == 0 && waitpid(child, &status, 0) == child);
}

static void do_vfork(void)
{
    static char name[] = "true";
    char *const argv[] = {name, NULL};
    int status;
    pid_t pid = vfork();
    if (pid == 0) {
        for (int i = 3; i < 600; i++)
            close(i);
        execv("/bin/true", argv);
        _exit(127);
    }
    MUST(waitpid(pid, &status, 0) == pid && status == 0);
}

static void do_exec_other(void)
{
    static char name[] = "sleep", time[] = "30";
    char *const argv[] = {name, time, NULL};
    unsetenv("LD_PRELOAD");
    execv("/bin/sleep", argv);
}

static void do_listen(void)
{
    errno = 4711;
    listener = tcp_socket();
    struct sockaddr_in a = loopback(0);
    socklen_t n = sizeof(a);
    MUST(bind(listener, (struct sockaddr *)&a, sizeof(a)) == 0);
    errno = 4711;
    MUST(listen(listener, 64) == 0 && errno == 4711);
    MUST(getsockname(listener, (struct sockaddr *)&a, &n) == 0);
    listening_on = ntohs(a.sin_port);
}

/* Both ends in this process. */
static void do_accept(void)
{
    int fd = tcp_connect(listening_on), in = accept(listener, NULL, NULL);
    MUST(in >= 0);
    put(fd, connect_packet, sizeof(connect_packet));
    get_exactly(in, connect_packet, sizeof(connect_packet));
}

static void do_drop(void)
{
    MUST(setgroups(0, NULL) == 0 && setgid(65534) == 0 && setuid(65534) == 0);
}

static void do_limit(void)
{
    struct rlimit limit = {1000, RLIM_INFINITY};
    MUST(setrlimit(RLIMIT_FSIZE, &limit) == 0);
}

static void do_fds(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    while (readdir(d) != NULL)
        n++;
    closedir(d);
    printf("fds %u\n", n);
}

static void do_close(void)
{
    MUST(close(last) == 0);
    last = open_n > 1 ? open_fd[open_n - 2] : -1;
    open_n--;
}

static void do_dup(void)
{
    second = dup(last);
    MUST(second > 0);
}

static void do_close_dup(void)
{
    MUST(close(second) == 0);
}

/* Something else onto the connection's descriptor. */
static void do_dup2(void)
{
    int null = open("/dev/null", O_RDWR);
    errno = 0;
    MUST(dup2(1000000, last) == -1 && errno == EBADF);
    MUST(dup2(null, last) == last && close(null) == 0);
}

static void *one_thread(void *arg)
{
    (void)arg;
    for (int i = 0; i < 25; i++) {
        int fd = mqtt_connect(port), other;
        uint8_t p[300];
        make_stream(p, sizeof(p), 9);
        put(fd, p, sizeof(p));
        get_exactly(fd, p, sizeof(p));
        MUST((other = dup(fd)) > 0 && close(fd) == 0 && close(other) == 0);
    }
    return NULL;
}

static void do_threads(void)
{
    pthread_t t[6];
    for (int i = 0; i < 6; i++)
        MUST(pthread_create(&t[i], NULL, one_thread, NULL) == 0);
    for (int i = 0; i < 6; i++)
        MUST(pthread_join(t[i], NULL) == 0);
}

static void *blocked(void *arg)
{
    char c;
    (void)arg;
    MUST(read(last, &c, 1) == 1); /* nothing comes */
    return NULL;
}

/* A thread that is cancelled in a read. */
static void do_cancel(void)
{
    pthread_t t;
    void *result;
    MUST(pthread_create(&t, NULL, blocked, NULL) == 0);
    usleep(50000);
    MUST(pthread_cancel(t) == 0 && pthread_join(t, &result) == 0 && result == PTHREAD_CANCELED);
}

static void do_refused(void)
{
    last = tcp_connect(port);
    MUST(write(last, connect_packet, sizeof(connect_packet)) == -1 && errno == EACCES);
}

/* Whatever comes of it. */
static void do_try(void)
{
    char c;
    last = tcp_connect(port);
    if (write(last, connect_packet, sizeof(connect_packet)) == sizeof(connect_packet))
        while (read(last, &c, 1) == 1)
            ;
}

static void do_umask(void)
{
    umask(0);
}

static void do_no_umask(void)
{
    umask(0777);
}

static void do_die(void)
{
    kill(getpid(), SIGKILL);
}

static const struct {
    const char *name;
    void (*run)(void);
} commands[] = {
    {"wait", do_wait},         {"connect", do_connect},     {"echo", do_echo},     {"ping", do_ping},
    {"fork", do_fork},         {"reap", do_reap},           {"vfork", do_vfork},   {"exec_other", do_exec_other},
    {"listen", do_listen},     {"accept", do_accept},       {"drop", do_drop},     {"limit", do_limit},
    {"fds", do_fds},           {"close", do_close},         {"dup", do_dup},       {"close_dup", do_close_dup},
    {"dup2", do_dup2},         {"threads", do_threads},     {"umask", do_umask},   {"no_umask", do_no_umask},
    {"die", do_die},           {"client", do_client},       {"refused", do_refused}, {"try", do_try},
    {"cancel", do_cancel},     {"stranger", do_stranger},
};

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    port = argc > 1 ? atoi(argv[1]) : 0;
    for (int i = 2; i < argc; i++) {
        unsigned found = 0, times = 1;
        char *colon = strchr(argv[i], ':');
        if (strcmp(argv[i], "exec") == 0) { /* the rest is for the next image of this process */
            argv[i] = argv[1];
            argv[i - 1] = argv[0];
            execve(argv[0], argv + i - 1, environ);
        }
        if (colon != NULL) {
            *colon = '\0';
            times = (unsigned)atoi(colon + 1);
        }
        for (size_t k = 0; k < sizeof(commands) / sizeof(commands[0]); k++) {
            if (strcmp(argv[i], commands[k].name) != 0)
                continue;
            for (found = 1; times != 0; times--)
                commands[k].run();
        }
        if (!found)
            return 2;
    }
    printf("ok\n");
    return 0;
}
