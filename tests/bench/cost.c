/*
 * What being there costs a program that does no MQTT. Standard C library only; run natively or with the library preloaded.
 *
 *   cost spawn ROUNDS VARIANT... -- PROGRAM ARGS   runs PROGRAM once for each VARIANT in each round, in an order that rotates. A variant is a list of
 *                                                  NAME=VALUE, separated by blanks, for its environment; "" is none. JSON: for each variant the
 *                                                  rounds' wall clock and CPU time in ns
 *   cost micro                                     CPU time in ns a call, of calls whose descriptor is none of OE-MQTT's business. JSON
 *   cost serve                                     prints a port; GET /N is answered by N bytes, 16 other bytes by themselves
 *   cost connects PORT N                           N connections, one after the other: connect, 16 bytes there and back, reset. JSON: ns
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MUST(x) ((x) ? (void)0 : die(#x, __LINE__))
#define VARIANTS_MAX 8
#define ECHO_BYTES 16

extern char **environ;

static void die(const char *what, int line)
{
    fprintf(stderr, "cost: line %d: %s: %s\n", line, what, strerror(errno));
    exit(1);
}

static uint64_t now_ns(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (uint64_t)t.tv_sec * 1000000000U + (uint64_t)t.tv_nsec;
}

/* ---- spawn ------------------------------------------------------------------------------------------------------------------------------ */

/* This process' environment and what text adds. */
static char **environment(const char *text)
{
    char **env, *copy = strdup(text), *rest = copy, *word;
    size_t n = 0;

    while (environ[n] != NULL)
        n++;
    MUST(copy != NULL && (env = calloc(n + strlen(text) + 1, sizeof(*env))) != NULL);
    n = 0;
    while ((word = strsep(&rest, " ")) != NULL)
        if (*word != '\0')
            env[n++] = word;
    for (size_t i = 0; environ[i] != NULL; i++) {
        size_t name_n = strcspn(environ[i], "=") + 1;
        int replaced = 0;
        for (size_t k = 0; k < n && !replaced; k++)
            replaced = strncmp(env[k], environ[i], name_n) == 0;
        if (!replaced)
            env[n++] = environ[i];
    }
    return env;
}

static uint64_t cpu_ns(const struct rusage *u)
{
    return (uint64_t)(u->ru_utime.tv_sec + u->ru_stime.tv_sec) * 1000000000U + (uint64_t)(u->ru_utime.tv_usec + u->ru_stime.tv_usec) * 1000U;
}

static void print_list(const char *name, const uint64_t *of, unsigned rounds)
{
    printf("\"%s\": [", name);
    for (unsigned r = 0; r < rounds; r++)
        printf("%s%llu", r ? ", " : "", (unsigned long long)of[r]);
    printf("]");
}

static int spawn(unsigned rounds, char **args)
{
    char **env[VARIANTS_MAX];
    uint64_t *wall[VARIANTS_MAX], *cpu[VARIANTS_MAX];
    posix_spawn_file_actions_t to_null;
    unsigned n = 0;

    for (; *args != NULL && strcmp(*args, "--") != 0; args++, n++) {
        MUST(n < VARIANTS_MAX);
        env[n] = environment(*args);
        MUST((wall[n] = calloc(rounds, sizeof(uint64_t))) != NULL && (cpu[n] = calloc(rounds, sizeof(uint64_t))) != NULL);
    }
    MUST(*args != NULL && *++args != NULL && n != 0);
    MUST(posix_spawn_file_actions_init(&to_null) == 0 && posix_spawn_file_actions_addopen(&to_null, 1, "/dev/null", O_WRONLY, 0) == 0);
    for (unsigned r = 0; r < rounds; r++)
        for (unsigned i = 0; i < n; i++) {
            unsigned v = (r + i) % n;
            struct rusage usage;
            int status;
            pid_t pid;
            uint64_t start = now_ns(CLOCK_MONOTONIC);
            MUST((errno = posix_spawnp(&pid, args[0], &to_null, NULL, args, env[v])) == 0);
            MUST(wait4(pid, &status, 0, &usage) == pid);
            wall[v][r] = now_ns(CLOCK_MONOTONIC) - start;
            cpu[v][r] = cpu_ns(&usage);
            if (status != 0) {
                fprintf(stderr, "cost: %s ended with status 0x%x\n", args[0], (unsigned)status);
                return 1;
            }
        }
    printf("[");
    for (unsigned v = 0; v < n; v++) {
        printf("%s{", v ? ", " : "");
        print_list("wall_ns", wall[v], rounds);
        printf(", ");
        print_list("cpu_ns", cpu[v], rounds);
        printf("}");
    }
    printf("]\n");
    return 0;
}

/* ---- micro ------------------------------------------------------------------------------------------------------------------------------ */

static int zero, null, pair[2], tcp[2];
static char byte[1];

static void read_1(void)
{
    MUST(read(zero, byte, 1) == 1);
}

static void write_1(void)
{
    MUST(write(null, byte, 1) == 1);
}

static void dup_close(void)
{
    int fd = dup(null);
    MUST(fd >= 0 && close(fd) == 0);
}

static void open_close(void)
{
    int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
    MUST(fd >= 0 && close(fd) == 0);
}

static void get_flags(void)
{
    MUST(fcntl(null, F_GETFL) >= 0);
}

static void through(const int fd[2])
{
    MUST(send(fd[0], byte, 1, 0) == 1 && recv(fd[1], byte, 1, 0) == 1);
}

static void unix_pair(void)
{
    through(pair);
}

static void tcp_pair(void)
{
    through(tcp);
}

static int listener(struct sockaddr_in *address)
{
    socklen_t n = sizeof(*address);
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

    *address = (struct sockaddr_in){.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)address, n) == 0 && listen(fd, 128) == 0);
    MUST(getsockname(fd, (struct sockaddr *)address, &n) == 0);
    return fd;
}

/* A connection with itself. Its first bytes are no MQTT, so the library lets go of both ends. */
static void make_tcp(void)
{
    struct sockaddr_in address;
    int fd = listener(&address), on = 1;

    MUST((tcp[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) >= 0);
    MUST(connect(tcp[0], (struct sockaddr *)&address, sizeof(address)) == 0 && (tcp[1] = accept(fd, NULL, NULL)) >= 0 && close(fd) == 0);
    MUST(setsockopt(tcp[0], IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on)) == 0);
    for (unsigned i = 0; i < 64; i++)
        tcp_pair();
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* CPU time, which nobody else's load lengthens; the median over blocks of calls. */
static void measure(const char *name, void (*call)(void), unsigned calls)
{
    enum { BLOCKS = 9 };
    double each[BLOCKS];

    for (unsigned i = 0; i < calls / 10; i++)
        call();
    for (unsigned b = 0; b < BLOCKS; b++) {
        uint64_t start = now_ns(CLOCK_PROCESS_CPUTIME_ID);
        for (unsigned i = 0; i < calls; i++)
            call();
        each[b] = (double)(now_ns(CLOCK_PROCESS_CPUTIME_ID) - start) / calls;
    }
    qsort(each, BLOCKS, sizeof(each[0]), compare);
    printf("%s\"%s\": %.1f", strcmp(name, "read") == 0 ? "{" : ", ", name, each[BLOCKS / 2]);
}

static int micro(void)
{
    memset(byte, 'x', sizeof(byte));
    MUST((zero = open("/dev/zero", O_RDONLY | O_CLOEXEC)) >= 0 && (null = open("/dev/null", O_RDWR | O_CLOEXEC)) >= 0);
    MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) == 0);
    make_tcp();
    measure("read", read_1, 60000);
    measure("write", write_1, 60000);
    measure("fcntl", get_flags, 60000);
    measure("dup_close", dup_close, 30000);
    measure("open_close", open_close, 10000);
    measure("unix", unix_pair, 10000);
    measure("tcp", tcp_pair, 5000);
    printf("}\n");
    return 0;
}

/* ---- sockets ---------------------------------------------------------------------------------------------------------------------------- */

static void serve_one(int fd)
{
    static char data[1 << 18];
    char request[2048];
    ssize_t got = recv(fd, request, sizeof(request) - 1, 0);

    request[got > 0 ? got : 0] = '\0';
    if (strncmp(request, "GET /", 5) == 0) {
        unsigned long long left = strtoull(request + 5, NULL, 10);
        int n = snprintf(data, sizeof(data), "HTTP/1.0 200 OK\r\nContent-Length: %llu\r\n\r\n", left);
        ssize_t sent = send(fd, data, (size_t)n, MSG_NOSIGNAL);
        while (sent > 0 && left > 0) {
            sent = send(fd, data, left < sizeof(data) ? (size_t)left : sizeof(data), MSG_NOSIGNAL);
            left -= sent > 0 ? (unsigned long long)sent : 0;
        }
    } else if (got > 0) {
        (void)!send(fd, request, (size_t)got, MSG_NOSIGNAL);
        (void)!recv(fd, request, sizeof(request), 0); /* its end */
    }
    close(fd);
}

static int serve(void)
{
    struct sockaddr_in address;
    int fd = listener(&address), peer;

    printf("%u\n", ntohs(address.sin_port));
    fflush(stdout);
    while ((peer = accept(fd, NULL, NULL)) >= 0 || errno == ECONNABORTED)
        if (peer >= 0)
            serve_one(peer);
    return 1;
}

static int connects(unsigned port, unsigned n)
{
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    struct linger reset = {.l_onoff = 1}; /* no TIME_WAIT, which would use up the ports */
    char there[ECHO_BYTES] = "sixteen bytes...", back[ECHO_BYTES];
    uint64_t start = now_ns(CLOCK_MONOTONIC);

    for (unsigned i = 0; i < n; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        MUST(fd >= 0 && connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0);
        MUST(send(fd, there, sizeof(there), MSG_NOSIGNAL) == ECHO_BYTES && recv(fd, back, sizeof(back), MSG_WAITALL) == ECHO_BYTES);
        MUST(memcmp(there, back, sizeof(back)) == 0);
        MUST(setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0 && close(fd) == 0);
    }
    printf("{\"ns\": %llu}\n", (unsigned long long)(now_ns(CLOCK_MONOTONIC) - start));
    return 0;
}

int main(int n, char **args)
{
    if (n > 4 && strcmp(args[1], "spawn") == 0)
        return spawn((unsigned)atoi(args[2]), args + 3);
    if (n == 2 && strcmp(args[1], "micro") == 0)
        return micro();
    if (n == 2 && strcmp(args[1], "serve") == 0)
        return serve();
    if (n == 4 && strcmp(args[1], "connects") == 0)
        return connects((unsigned)atoi(args[2]), (unsigned)atoi(args[3]));
    fprintf(stderr, "usage: cost spawn ROUNDS VARIANT... -- PROGRAM ARGS | micro | serve | connects PORT N\n");
    return 2;
}
