/* Load generator of the benchmark. One binary on the stock libmosquitto: what carries its connections (nothing, the launcher, TLS, a tunnel) is
 * decided outside. bench.py drives it through its standard input and output, one line each way:
 *   load MODE PORT QOS SIZE TOPIC [CAFILE]      prints {"ready":true} once connected
 *   run N      does N messages (sub, pub, ping) or N connections (connect, idle), prints one JSON object
 *   touch      idle only: each connection sends itself one message of SIZE bytes
 *   quit       or end of input: ends cleanly
 * LOAD_CREDIT names a pipe over which a subscriber tells a publisher how far it has come: the broker queues at most CREDIT_BYTES. Without that a
 * run at QoS 0 measures how much memory the broker gets for what the subscriber has not read yet. LOAD_NODELAY sets TCP_NODELAY.
 * Times are CLOCK_MONOTONIC in nanoseconds, so publisher and subscriber share them; cpu_ns is this process, user and system. */
#include <errno.h>
#include <fcntl.h>
#include <mosquitto.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define STALL_NS INT64_C(20000000000) /* without progress for so long a run has failed */
#define WINDOW_MESSAGES 100           /* QoS 1: sent and not acknowledged */
#define WINDOW_BYTES (8 << 20)
#define CREDIT_BYTES (4 << 20)
#define CREDIT_STEPS 4 /* tellings in CREDIT_BYTES */
#define KEEPALIVE_S 600
#define MARK "OEbench!" /* in every payload, so that a wire can be searched; payload: sequence (8), MARK ... MARK */

struct load {
    const char *mode, *host, *topic, *cafile;
    int port, qos, credit;
    uint64_t step; /* messages a byte in the credit pipe stands for */
    size_t size;
    unsigned char *payload;
};

struct client {
    struct mosquitto *mosq;
    const struct load *load;
    bool connected, subscribed, failed;
    uint64_t sent, acked, got, wrong; /* messages; the first got carries sequence number 0 */
    uint64_t credited;                /* got by the subscriber, as far as the publisher knows */
    int64_t connected_ns, last_ns;
};

static void die(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));

static void die(const char *format, ...)
{
    va_list ap;

    va_start(ap, format);
    fputs("load: ", stderr);
    vfprintf(stderr, format, ap);
    fputc('\n', stderr);
    va_end(ap);
    exit(1);
}

static int64_t now_of(clockid_t clock)
{
    struct timespec ts;

    clock_gettime(clock, &ts);
    return ts.tv_sec * INT64_C(1000000000) + ts.tv_nsec;
}

static int64_t now(void)
{
    return now_of(CLOCK_MONOTONIC);
}

static int64_t cpu(void)
{
    return now_of(CLOCK_PROCESS_CPUTIME_ID);
}

static void on_connect(struct mosquitto *mosq, void *arg, int code)
{
    struct client *c = arg;

    (void)mosq;
    c->connected = code == 0;
    c->failed = code != 0;
    c->connected_ns = now();
}

static void on_disconnect(struct mosquitto *mosq, void *arg, int code)
{
    struct client *c = arg;

    (void)mosq;
    c->failed = code != 0;
}

static void on_subscribe(struct mosquitto *mosq, void *arg, int mid, int n, const int *granted)
{
    struct client *c = arg;

    (void)mosq, (void)mid, (void)n, (void)granted;
    c->subscribed = true;
}

static void on_publish(struct mosquitto *mosq, void *arg, int mid)
{
    struct client *c = arg;

    (void)mosq, (void)mid;
    c->acked++;
}

static void on_message(struct mosquitto *mosq, void *arg, const struct mosquitto_message *m)
{
    struct client *c = arg;
    const size_t mark = sizeof MARK - 1;
    uint64_t sequence = UINT64_MAX;

    (void)mosq;
    c->last_ns = now();
    if (m->payloadlen >= 16)
        memcpy(&sequence, m->payload, sizeof sequence);
    if (sequence != c->got || memcmp((const char *)m->payload + m->payloadlen - mark, MARK, mark) != 0)
        c->wrong++;
    c->got++;
}

/* A new client, connecting; the caller loops until it is connected. */
static void client_open(struct client *c, const struct load *load)
{
    memset(c, 0, sizeof *c);
    c->load = load;
    c->mosq = mosquitto_new(NULL, true, c);
    if (!c->mosq)
        die("mosquitto_new: %s", strerror(errno));
    mosquitto_connect_callback_set(c->mosq, on_connect);
    mosquitto_disconnect_callback_set(c->mosq, on_disconnect);
    mosquitto_subscribe_callback_set(c->mosq, on_subscribe);
    mosquitto_publish_callback_set(c->mosq, on_publish);
    mosquitto_message_callback_set(c->mosq, on_message);
    mosquitto_int_option(c->mosq, MOSQ_OPT_TCP_NODELAY, getenv("LOAD_NODELAY") != NULL);
    mosquitto_int_option(c->mosq, MOSQ_OPT_SEND_MAXIMUM, WINDOW_MESSAGES);
    if (load->cafile) {
        int rc = mosquitto_tls_set(c->mosq, load->cafile, NULL, NULL, NULL, NULL);

        if (rc == MOSQ_ERR_SUCCESS)
            rc = mosquitto_tls_opts_set(c->mosq, 1, "tlsv1.3", NULL);
        if (rc != MOSQ_ERR_SUCCESS)
            die("tls: %s", mosquitto_strerror(rc));
    }
    int rc = mosquitto_connect(c->mosq, load->host, load->port, KEEPALIVE_S);
    if (rc != MOSQ_ERR_SUCCESS)
        die("connect: %s", mosquitto_strerror(rc));
}

/* One turn of libmosquitto's own loop. */
static void client_turn(struct client *c)
{
    int rc = mosquitto_loop(c->mosq, 1000, 1);

    if (rc != MOSQ_ERR_SUCCESS || c->failed)
        die("%s: connection lost: %s; sent %ju acked %ju got %ju", c->load->mode, mosquitto_strerror(rc), (uintmax_t)c->sent,
            (uintmax_t)c->acked, (uintmax_t)c->got);
}

/* The same without select(), which ends at descriptor 1023. */
static void client_turn_poll(struct client *c)
{
    bool out = mosquitto_want_write(c->mosq);
    struct pollfd p = {.fd = mosquitto_socket(c->mosq), .events = (short)(POLLIN | (out ? POLLOUT : 0))};
    int rc = MOSQ_ERR_SUCCESS;

    if (poll(&p, 1, 1000) < 0)
        die("poll: %s", strerror(errno));
    if (p.revents & POLLOUT)
        rc = mosquitto_loop_write(c->mosq, 1);
    if (rc == MOSQ_ERR_SUCCESS && p.revents & ~POLLOUT)
        rc = mosquitto_loop_read(c->mosq, 1);
    if (rc != MOSQ_ERR_SUCCESS || c->failed)
        die("%s: connection lost: %s", c->load->mode, mosquitto_strerror(rc));
}

/* Turns until *flag. */
static void client_await(struct client *c, const bool *flag, void (*turn)(struct client *))
{
    int64_t end = now() + STALL_NS;

    while (!*flag) {
        turn(c);
        if (now() > end)
            die("%s: no answer from the broker", c->load->mode);
    }
}

static void client_subscribe(struct client *c, const char *topic, void (*turn)(struct client *))
{
    int rc = mosquitto_subscribe(c->mosq, NULL, topic, c->load->qos);

    if (rc != MOSQ_ERR_SUCCESS)
        die("subscribe: %s", mosquitto_strerror(rc));
    client_await(c, &c->subscribed, turn);
}

static void client_publish(struct client *c, const char *topic, int qos, bool retain)
{
    int rc;

    memcpy(c->load->payload, &c->sent, sizeof c->sent);
    rc = mosquitto_publish(c->mosq, NULL, topic, (int)c->load->size, c->load->payload, qos, retain);
    if (rc != MOSQ_ERR_SUCCESS)
        die("publish: %s", mosquitto_strerror(rc));
    c->sent++;
}

static void client_close(struct client *c)
{
    mosquitto_disconnect(c->mosq);
    for (int i = 0; i < 100 && mosquitto_want_write(c->mosq); i++)
        mosquitto_loop_write(c->mosq, 1);
    mosquitto_destroy(c->mosq);
}

static unsigned char *payload_make(size_t size)
{
    const size_t mark = sizeof MARK - 1;
    unsigned char *p = malloc(size);
    uint32_t x = 2463534242;

    if (!p || size < 16)
        die("payload of %zu bytes: at least 16, and memory", size);
    for (size_t i = 0; i < size; i++) {
        x ^= x << 13, x ^= x >> 17, x ^= x << 5;
        p[i] = (unsigned char)x;
    }
    memcpy(p + 8, MARK, mark);
    memcpy(p + size - mark, MARK, mark);
    return p;
}

static void run_sub(struct client *c, uint64_t n)
{
    const uint64_t step = c->load->step;
    uint64_t end = c->got + n, seen = c->got;
    int64_t cpu0 = cpu(), quiet = now();

    while (c->got < end && now() - quiet < STALL_NS) {
        client_turn(c);
        if (c->got == seen)
            continue;
        for (uint64_t i = seen / step; i < c->got / step; i++)
            if (c->load->credit >= 0 && write(c->load->credit, "", 1) != 1)
                die("credit: %s", strerror(errno));
        seen = c->got;
        quiet = c->last_ns;
    }
    printf("{\"end_ns\":%jd,\"cpu_ns\":%jd,\"got\":%ju,\"wrong\":%ju}\n", (intmax_t)c->last_ns, (intmax_t)(cpu() - cpu0),
           (uintmax_t)(n - (end - c->got)), (uintmax_t)c->wrong);
}

/* Waits until the subscriber has got enough of what was sent. Only with nothing left to write, or it would wait for itself. */
static void credit_await(struct client *c)
{
    const struct load *load = c->load;
    char got[64];

    while (load->credit >= 0 && c->sent - c->credited >= load->step * CREDIT_STEPS) {
        ssize_t n = read(load->credit, got, sizeof got);

        if (n <= 0)
            die("credit: %s", strerror(errno));
        c->credited += (uint64_t)n * load->step;
    }
}

static void run_pub(struct client *c, uint64_t n)
{
    uint64_t end = c->sent + n, window = WINDOW_BYTES / c->load->size;
    int64_t cpu0 = cpu(), start = now();

    window = window < 1 ? 1 : window > WINDOW_MESSAGES ? WINDOW_MESSAGES : window;
    while (c->acked < end) {
        if (c->sent < end && !mosquitto_want_write(c->mosq) && (c->load->qos == 0 || c->sent - c->acked < window)) {
            credit_await(c);
            client_publish(c, c->load->topic, c->load->qos, false);
        } else {
            client_turn(c);
        }
    }
    while (mosquitto_want_write(c->mosq))
        client_turn(c);
    printf("{\"start_ns\":%jd,\"end_ns\":%jd,\"cpu_ns\":%jd,\"sent\":%ju}\n", (intmax_t)start, (intmax_t)now(), (intmax_t)(cpu() - cpu0),
           (uintmax_t)n);
}

/* One client that sends itself a message and waits for it: two hops, one of each direction. */
static void run_ping(struct client *c, uint64_t n)
{
    int64_t cpu0 = cpu();

    fputs("{\"ns\":[", stdout);
    for (uint64_t i = 0; i < n; i++) {
        int64_t start = now(), end = start + STALL_NS;

        client_publish(c, c->load->topic, c->load->qos, false);
        while (c->got < c->sent) {
            client_turn(c);
            if (now() > end)
                die("ping: message %ju did not come back", (uintmax_t)c->got);
        }
        printf("%s%jd", i ? "," : "", (intmax_t)(c->last_ns - start));
        while (c->acked < c->sent || mosquitto_want_write(c->mosq))
            client_turn(c);
    }
    printf("],\"cpu_ns\":%jd,\"wrong\":%ju}\n", (intmax_t)(cpu() - cpu0), (uintmax_t)c->wrong);
}

/* New connection, subscription, retained message; n times one after the other. */
static void run_connect(const struct load *load, uint64_t n)
{
    int64_t cpu0 = cpu();
    uint64_t wrong = 0;

    fputs("{\"ns\":[", stdout);
    for (uint64_t i = 0; i < n; i++) {
        struct client c;
        int64_t start = now(), end = start + STALL_NS;

        client_open(&c, load);
        client_await(&c, &c.connected, client_turn);
        client_subscribe(&c, load->topic, client_turn);
        while (c.got == 0) {
            client_turn(&c);
            if (now() > end)
                die("connect: the retained message did not come");
        }
        printf("%s[%jd,%jd]", i ? "," : "", (intmax_t)(c.connected_ns - start), (intmax_t)(c.last_ns - start));
        wrong += c.wrong;
        client_close(&c);
    }
    printf("],\"cpu_ns\":%jd,\"wrong\":%ju}\n", (intmax_t)(cpu() - cpu0), (uintmax_t)wrong);
}

static struct client *run_idle(const struct load *load, uint64_t n)
{
    struct client *all = calloc(n, sizeof *all);

    if (!all)
        die("memory");
    for (uint64_t i = 0; i < n; i++) {
        client_open(&all[i], load);
        client_await(&all[i], &all[i].connected, client_turn_poll);
    }
    printf("{\"open\":%ju}\n", (uintmax_t)n);
    return all;
}

static void run_touch(struct client *all, uint64_t n)
{
    uint64_t wrong = 0;

    for (uint64_t i = 0; i < n; i++) {
        char topic[64];
        struct client *c = &all[i];

        snprintf(topic, sizeof topic, "touch/%ju", (uintmax_t)i);
        client_subscribe(c, topic, client_turn_poll);
        client_publish(c, topic, 1, false);
        while (c->got < 1 || c->acked < 1)
            client_turn_poll(c);
        wrong += c->wrong;
    }
    printf("{\"touched\":%ju,\"wrong\":%ju}\n", (uintmax_t)n, (uintmax_t)wrong);
}

static void command_loop(struct load *load, struct client *c)
{
    char line[64];
    struct client *idle = NULL;
    uint64_t idle_n = 0;

    puts("{\"ready\":true}");
    while (fflush(stdout) == 0 && fgets(line, sizeof line, stdin) && strncmp(line, "quit", 4) != 0) {
        uint64_t n = strtoull(line + strcspn(line, " "), NULL, 10);

        if (strncmp(line, "touch", 5) == 0)
            run_touch(idle, idle_n);
        else if (strcmp(load->mode, "sub") == 0)
            run_sub(c, n);
        else if (strcmp(load->mode, "pub") == 0)
            run_pub(c, n);
        else if (strcmp(load->mode, "ping") == 0)
            run_ping(c, n);
        else if (strcmp(load->mode, "connect") == 0)
            run_connect(load, n);
        else
            idle = run_idle(load, idle_n = n);
    }
    for (uint64_t i = 0; i < idle_n; i++)
        client_close(&idle[i]);
    free(idle);
}

int main(int argc, char **argv)
{
    struct load load = {.host = "127.0.0.1"};
    struct client c;
    bool idle;

    if (argc < 6)
        die("usage: load sub|pub|ping|connect|idle PORT QOS SIZE TOPIC [CAFILE]");
    load.mode = argv[1];
    load.port = atoi(argv[2]);
    load.qos = atoi(argv[3]);
    load.size = strtoull(argv[4], NULL, 10);
    load.topic = argv[5];
    load.cafile = argc > 6 ? argv[6] : NULL;
    load.payload = payload_make(load.size);
    load.step = CREDIT_BYTES / CREDIT_STEPS / load.size + 1;
    load.credit = getenv("LOAD_CREDIT") ? open(getenv("LOAD_CREDIT"), O_RDWR | O_CLOEXEC) : -1; /* both ways: a pipe's open would wait */
    mosquitto_lib_init();

    idle = strcmp(load.mode, "idle") == 0;
    if (!idle) {
        client_open(&c, &load);
        client_await(&c, &c.connected, client_turn);
        if (strcmp(load.mode, "connect") == 0) {
            client_publish(&c, load.topic, 1, true);
            while (c.acked < c.sent)
                client_turn(&c);
        } else if (strcmp(load.mode, "pub") != 0) {
            client_subscribe(&c, load.topic, client_turn);
        }
    }
    command_loop(&load, &c);
    if (!idle)
        client_close(&c);
    mosquitto_lib_cleanup();
    free(load.payload);
    return 0;
}
