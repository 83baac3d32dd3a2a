/* oe-mqttctl probe: asks a broker for its key by the first message of a preface (PROTOCOL.md 8) and hangs up. A broker without OE-MQTT refuses the unknown
 * Authentication Method and makes no session; one with it answers with its key before its application sees anything. */
#include <errno.h>
#include <getopt.h>
#include <netdb.h>
#include <poll.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../shim/core/preface.h"
#include "../shim/os/clock.h"
#include "../shim/os/env.h"
#include "../shim/os/file.h"
#include "../shim/os/peerfile.h"
#include "ctl.h"

#define TIMEOUT_MS_DEFAULT 5000
#define TIMEOUT_S_MAX 600
#define ANSWER_BYTES_MAX 512U /* message 2 in AUTH has 130 */

const char ctl_probe_usage[] = "probe [-t SECONDS] HOST[:PORT]";

struct probe {
    char endpoint[OE_ENDPOINT_CHARS_MAX];
    uint64_t deadline_ms;
    struct oe_noise noise;
    uint8_t answer[ANSWER_BYTES_MAX];
    size_t answer_n;
    int ended;
};

/* What the broker turned out to be. */
enum finding {
    OFFERS,  /* noise.rs is its key */
    WITHOUT, /* it answered, but has no OE-MQTT */
    SILENT,  /* it did not answer, or hung up without a word */
    UNREACHABLE,
};

/* Waits for the socket. 0: in time. */
static int await(const struct probe *p, int fd, short events)
{
    struct pollfd poll_fd = {.fd = fd, .events = events};
    int r;

    do {
        uint64_t now = oe_clock_monotonic_ms();
        r = now >= p->deadline_ms ? 0 : poll(&poll_fd, 1, (int)(p->deadline_ms - now));
    } while (r < 0 && errno == EINTR);
    if (r == 0)
        errno = ETIMEDOUT;
    return r > 0 ? 0 : -1;
}

static int connect_one(const struct probe *p, const struct addrinfo *a)
{
    int error = 0, fd = socket(a->ai_family, a->ai_socktype | SOCK_NONBLOCK | SOCK_CLOEXEC, a->ai_protocol);
    socklen_t n = sizeof(error);

    if (fd < 0)
        return -1;
    if (connect(fd, a->ai_addr, a->ai_addrlen) == 0)
        return fd;
    if (errno == EINPROGRESS && await(p, fd, POLLOUT) == 0 && getsockopt(fd, SOL_SOCKET, SO_ERROR, &error, &n) == 0) {
        if (error == 0)
            return fd;
        errno = error;
    }
    oe_file_close(fd);
    return -1;
}

/* Connects to the first address that answers; -1: errno, or *why says it. */
static int connect_any(const struct probe *p, const char **why)
{
    struct addrinfo hints = {.ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM}, *list = NULL;
    char host[OE_ENDPOINT_CHARS_MAX];
    int fd = -1;

    memcpy(host, p->endpoint, sizeof(host));
    char *port = strrchr(host, ':');
    *port++ = '\0';
    char *name = host;
    if (name[0] == '[') {
        name++;
        name[strlen(name) - 1] = '\0';
    }
    int e = getaddrinfo(name, port, &hints, &list);
    if (e != 0) {
        *why = e == EAI_SYSTEM ? strerror(errno) : gai_strerror(e);
        return -1;
    }
    for (const struct addrinfo *a = list; a != NULL && fd < 0; a = a->ai_next)
        fd = connect_one(p, a);
    if (fd < 0)
        *why = strerror(errno);
    freeaddrinfo(list);
    return fd;
}

static int send_preface(struct probe *p, int fd)
{
    struct oe_secret ephemeral;
    struct oe_buf packet = {0};
    struct oe_sink to = {.rest = &packet};
    uint8_t message[OE_MESSAGE1_BYTES];
    size_t n;
    int result = -1;

    randombytes_buf(ephemeral.b, sizeof(ephemeral.b));
    oe_preface_noise(&p->noise, OE_NOISE_XX, 1, NULL, &ephemeral, NULL);
    oe_secret_wipe(&ephemeral);
    if (oe_noise_write(&p->noise, (struct oe_span){NULL, 0}, message, sizeof(message), &n) == OE_OK &&
        oe_preface_put(&to, OE_TYPE_CONNECT, OE_PREFACE_XX, (struct oe_span){message, n}) == OE_OK) {
        struct oe_span out = oe_buf_span(&packet);
        result = send(fd, out.p, out.n, MSG_NOSIGNAL) == (ssize_t)out.n ? 0 : -1; /* a new connection takes 100 bytes */
    }
    oe_buf_free(&packet);
    return result;
}

/* Judges the answer as far as it has come; SILENT: it may go on. */
static enum finding judge(struct probe *p)
{
    struct oe_span message;
    enum oe_preface_id id;
    uint8_t epoch[OE_EPOCH_BYTES];
    size_t want, n;

    if (p->answer_n == 0)
        return SILENT;
    enum oe_status st = oe_preface_read(OE_TYPE_AUTH, p->answer, p->answer_n, &id, &message, &want);
    if (st == OE_MORE)
        return SILENT;
    if (st == OE_OK && id == OE_PREFACE_XX && oe_noise_read(&p->noise, message, epoch, sizeof(epoch), &n) == OE_OK)
        return OFFERS;
    return WITHOUT;
}

static enum finding ask(struct probe *p, const char **why)
{
    enum finding finding = SILENT;
    int fd = connect_any(p, why);

    if (fd < 0)
        return UNREACHABLE;
    if (send_preface(p, fd) != 0) {
        *why = strerror(errno);
        finding = UNREACHABLE;
    }
    while (finding == SILENT && p->answer_n < sizeof(p->answer) && await(p, fd, POLLIN) == 0) {
        ssize_t r = recv(fd, p->answer + p->answer_n, 1, 0); /* not a byte more than the answer */
        if (r < 0 && (errno == EINTR || errno == EAGAIN))
            continue;
        p->ended = r <= 0;
        if (p->ended)
            break;
        p->answer_n++;
        finding = judge(p);
    }
    oe_file_close(fd);
    return finding;
}

/* Tells what is known of the key. CTL_FAILED: another key is. */
static int compare(const struct probe *p, const struct oe_env *env)
{
    char key[OE_FINGERPRINT_CHARS + 1], known[OE_FINGERPRINT_CHARS + 1];
    struct oe_peers peers = {0};
    const struct oe_peer *same = NULL, *other = NULL;
    int result = CTL_DONE;

    oe_public_fingerprint(&p->noise.rs, key);
    enum oe_status st = env->state_dir[0] == '\0' ? OE_OK : oe_peerfile_read_known(env->state_dir, &peers);
    for (size_t i = 0; i < peers.n; i++) {
        const struct oe_peer *peer = &peers.peers[i];
        if (strcmp(peer->endpoint, p->endpoint) != 0)
            continue;
        if (memcmp(peer->key.b, p->noise.rs.b, sizeof(peer->key.b)) == 0)
            same = peer;
        else
            other = peer;
    }
    if (same != NULL) {
        (void)printf("%s offers OE-MQTT with %s, %s (%s:%u)\n", p->endpoint, key, same->state == OE_PEER_PINNED ? "pinned" : "tofu",
                     peers.path, same->line);
    } else if (other != NULL) {
        oe_public_fingerprint(&other->key, known);
        (void)printf("%s offers OE-MQTT with %s, NOT the key that is known\n", p->endpoint, key);
        ctl_complain("%s:%u knows %s with %s; if the new key is right: oe-mqttctl trust %s %s", peers.path, other->line, p->endpoint, known,
                     p->endpoint, key);
        result = CTL_FAILED;
    } else {
        (void)printf("%s offers OE-MQTT with %s, not known\n", p->endpoint, key);
    }
    if ((st != OE_OK || peers.bad_line != 0) && same == NULL) {
        ctl_complain("it cannot be told what is known: %s", peers.why);
        result = CTL_FAILED;
    }
    oe_peers_free(&peers);
    return result;
}

static int tell(const struct probe *p, enum finding finding, const char *why, const struct oe_env *env)
{
    switch (finding) {
    case OFFERS:
        return compare(p, env);
    case WITHOUT:
        if (p->answer_n != 0 && oe_header_type(p->answer[0]) == OE_TYPE_CONNACK)
            (void)printf("%s has no OE-MQTT: it refused the question as an MQTT broker\n", p->endpoint);
        else
            (void)printf("%s has no OE-MQTT, and does not answer like an MQTT broker\n", p->endpoint);
        break;
    case SILENT:
        (void)printf("%s has no OE-MQTT: %s\n", p->endpoint, p->ended ? "it closed the connection" : "no answer in time");
        break;
    case UNREACHABLE:
        ctl_complain("%s: %s", p->endpoint, why);
        break;
    }
    return CTL_FAILED;
}

int ctl_probe_main(int argc, char **argv)
{
    static const struct option options[] = {{"timeout", required_argument, NULL, 't'}, {NULL, 0, NULL, 0}};
    char why[CTL_WHY_BYTES], *end;
    const char *reason = "";
    struct probe p = {0};
    struct oe_env env;
    long timeout_ms = TIMEOUT_MS_DEFAULT;
    int option;

    while ((option = getopt_long(argc, argv, "+t:", options, NULL)) != -1) {
        if (option != 't')
            return ctl_usage(ctl_probe_usage);
        timeout_ms = strtol(optarg, &end, 10);
        if (*optarg == '\0' || *end != '\0' || timeout_ms < 1 || timeout_ms > TIMEOUT_S_MAX) {
            ctl_complain("-t \"%.40s\": allowed: 1 to %d seconds", optarg, TIMEOUT_S_MAX);
            return CTL_WRONG_USAGE;
        }
        timeout_ms *= 1000;
    }
    if (optind != argc - 1)
        return ctl_usage(ctl_probe_usage);
    if (oe_peerfile_endpoint(argv[optind], p.endpoint) != OE_OK) {
        ctl_complain("\"%.100s\" is not a broker; allowed: HOST, HOST:PORT, [IPV6]:PORT", argv[optind]);
        return CTL_WRONG_USAGE;
    }
    if (oe_env_read(&env, why, sizeof(why)) != OE_OK && env.state_dir[0] == '\0')
        ctl_complain("%s", why);
    p.deadline_ms = oe_clock_monotonic_ms() + (uint64_t)timeout_ms;
    enum finding finding = ask(&p, &reason);
    int result = tell(&p, finding, reason, &env);
    oe_noise_wipe(&p.noise);
    oe_env_free(&env);
    return result;
}
