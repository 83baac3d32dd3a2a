#include "names.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>

#include "../os/clock.h"
#include "../os/noprobe.h"
#include "life.h"
#include "lock.h"

#define NAMES_MAX 1024U
#define BROKERS_MAX 1024U

struct name {
    uint8_t ip[16];
    char *hosts[OE_NAMES_EACH]; /* the latest first */
    UT_hash_handle hh;
};

struct broker {
    char *endpoint;
    int64_t until;
    enum oe_remember why;
    UT_hash_handle hh;
};

static pthread_mutex_t names_lock = PTHREAD_MUTEX_INITIALIZER;
static struct name *names;     /* in the order they were learned */
static struct broker *brokers; /* the same */

int oe_names_address(const struct sockaddr *sa, socklen_t n, struct oe_address *out)
{
    *out = (struct oe_address){0};
    if (n >= sizeof(struct sockaddr_in) && sa->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, sa, sizeof(in));
        /* IPv4 is kept as the mapped IPv6 address, so that both forms of one address are one key */
        out->ip[10] = out->ip[11] = 0xFF;
        memcpy(out->ip + 12, &in.sin_addr, 4);
        out->port = ntohs(in.sin_port);
        return 0;
    }
    if (n >= sizeof(struct sockaddr_in6) && sa->sa_family == AF_INET6) {
        struct sockaddr_in6 in6;
        memcpy(&in6, sa, sizeof(in6));
        memcpy(out->ip, &in6.sin6_addr, 16);
        out->port = ntohs(in6.sin6_port);
        out->v6 = !IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr);
        return 0;
    }
    return -1;
}

void oe_names_ip(const struct oe_address *address, char *out, size_t n)
{
    if (address->v6)
        inet_ntop(AF_INET6, address->ip, out, (socklen_t)n);
    else
        inet_ntop(AF_INET, address->ip + 12, out, (socklen_t)n);
}

void oe_names_endpoint(const struct oe_address *address, const char *host, char *out, size_t n)
{
    char ip[INET6_ADDRSTRLEN];

    oe_names_ip(address, ip, sizeof(ip));
    if (host == NULL)
        host = ip;
    snprintf(out, n, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, (unsigned)address->port);
}

/* ---- names for addresses -------------------------------------------------------------------------------------------------------------- */

static void forget_name(struct name *e)
{
    HASH_DEL(names, e);
    for (unsigned i = 0; i < OE_NAMES_EACH; i++)
        free(e->hosts[i]);
    free(e);
}

/* One address may have several names (and a later one must not hide what is known of an earlier): the latest comes first. */
static void to_front(struct name *e, const char *host)
{
    unsigned i = 0;
    char *name = NULL;

    while (i < OE_NAMES_EACH - 1 && e->hosts[i] != NULL && strcmp(e->hosts[i], host) != 0)
        i++;
    if (e->hosts[i] != NULL && strcmp(e->hosts[i], host) == 0)
        name = e->hosts[i];
    else if ((name = strdup(host)) == NULL)
        return;
    else
        free(e->hosts[i]);
    memmove(e->hosts + 1, e->hosts, i * sizeof(e->hosts[0]));
    e->hosts[0] = name;
}

static void learn(const uint8_t ip[16], const char *host)
{
    struct name *e, *added = NULL;

    HASH_FIND(hh, names, ip, 16, e);
    if (e != NULL) {
        to_front(e, host);
        return;
    }
    if (HASH_COUNT(names) >= NAMES_MAX)
        forget_name(names);
    e = calloc(1, sizeof(*e));
    if (e == NULL || (e->hosts[0] = strdup(host)) == NULL) {
        free(e);
        return;
    }
    memcpy(e->ip, ip, 16);
    HASH_ADD(hh, names, ip, 16, e);
    HASH_FIND(hh, names, ip, 16, added);
    if (added != e) {
        free(e->hosts[0]);
        free(e);
    }
}

void oe_names_learn(const char *name, const struct addrinfo *list)
{
    struct oe_address a;

    /* An address is its own name. */
    uint8_t ip[16];
    if (name == NULL || strlen(name) > OE_HOST_CHARS_MAX || inet_pton(AF_INET, name, ip) == 1 || inet_pton(AF_INET6, name, ip) == 1)
        return;
    uint64_t signals = oe_lock(&names_lock);
    for (; list != NULL; list = list->ai_next)
        if (oe_names_address(list->ai_addr, list->ai_addrlen, &a) == 0)
            learn(a.ip, name);
    oe_unlock(&names_lock, signals);
}

unsigned oe_names_find(const struct oe_address *address, char *hosts[OE_NAMES_EACH])
{
    struct name *e;
    unsigned n = 0;

    uint64_t signals = oe_lock(&names_lock);
    HASH_FIND(hh, names, address->ip, 16, e);
    for (unsigned i = 0; e != NULL && i < OE_NAMES_EACH && e->hosts[i] != NULL; i++)
        if ((hosts[n] = strdup(e->hosts[i])) != NULL)
            n++;
    oe_unlock(&names_lock, signals);
    return n;
}

/* ---- brokers that must not be probed -------------------------------------------------------------------------------------------------- */

static void forget_broker(struct broker *b)
{
    HASH_DEL(brokers, b);
    free(b->endpoint);
    free(b);
}

static void remember_here(const char *endpoint, enum oe_remember why, int64_t until)
{
    struct broker *b, *added = NULL;

    HASH_FIND_STR(brokers, endpoint, b);
    if (b != NULL || HASH_COUNT(brokers) >= BROKERS_MAX)
        forget_broker(b != NULL ? b : brokers);
    b = calloc(1, sizeof(*b));
    if (b == NULL || (b->endpoint = strdup(endpoint)) == NULL) {
        free(b);
        return;
    }
    b->why = why;
    b->until = until;
    HASH_ADD_KEYPTR(hh, brokers, b->endpoint, strlen(b->endpoint), b);
    HASH_FIND_STR(brokers, endpoint, added);
    if (added != b) {
        free(b->endpoint);
        free(b);
    }
}

void oe_names_remember(const char *endpoint, enum oe_remember why)
{
    int64_t now = oe_clock_wall_s();

    uint64_t signals = oe_lock(&names_lock);
    remember_here(endpoint, why, now + OE_NO_PROBE_SECONDS);
    oe_unlock(&names_lock, signals);
    if (oe_life.env.state_dir[0] == '\0')
        return;
    int cancel = oe_life_no_cancel();
    (void)oe_noprobe_remember(oe_life.env.state_dir, endpoint, why == OE_REMEMBER_CLOSED ? OE_NOPROBE_CLOSED : OE_NOPROBE_TIMEOUT, now);
    oe_life_cancel(cancel);
}

enum oe_reason oe_names_no_probe(const char *endpoint)
{
    int64_t now = oe_clock_wall_s();
    enum oe_remember why = OE_REMEMBER_NOTHING;
    struct broker *b;

    uint64_t signals = oe_lock(&names_lock);
    HASH_FIND_STR(brokers, endpoint, b);
    if (b != NULL && now < b->until)
        why = b->why;
    oe_unlock(&names_lock, signals);
    if (why == OE_REMEMBER_NOTHING && oe_life.env.state_dir[0] != '\0') {
        int cancel = oe_life_no_cancel();
        enum oe_noprobe_reason r = oe_noprobe_lookup(oe_life.env.state_dir, endpoint, now);
        oe_life_cancel(cancel);
        if (r != OE_NOPROBE_NONE)
            why = r == OE_NOPROBE_CLOSED ? OE_REMEMBER_CLOSED : OE_REMEMBER_TIMEOUT;
    }
    switch (why) {
    case OE_REMEMBER_CLOSED:
        return OE_REASON_REMEMBERED_CLOSED;
    case OE_REMEMBER_TIMEOUT:
        return OE_REASON_REMEMBERED_TIMEOUT;
    case OE_REMEMBER_NOTHING:
        break;
    }
    return OE_REASON_NONE;
}

void oe_names_fork_prepare(void)
{
    pthread_mutex_lock(&names_lock);
}

void oe_names_fork_done(void)
{
    pthread_mutex_unlock(&names_lock);
}
