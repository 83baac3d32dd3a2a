#include "trust.h"

#include <arpa/inet.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "../os/clock.h"
#include "life.h"
#include "lock.h"
#include "names.h"

#define WAIT_MS 1000U /* for other processes that write known_peers */
#define LEARNED_MAX 1024U

static struct oe_peers known_at_start, allowed_at_start;
static int known_was_read, allowed_was_read;

/* What this process learned and could not write down. */
struct learned {
    struct oe_peer peer;
    UT_hash_handle hh;
};

static pthread_mutex_t trust_lock = PTHREAD_MUTEX_INITIALIZER;
static struct learned *learned; /* by endpoint, under trust_lock */

void oe_trust_start(void)
{
    if (oe_life.env.state_dir[0] == '\0')
        return;
    known_was_read = oe_peerfile_read_known(oe_life.env.state_dir, &known_at_start) == OE_OK;
    allowed_was_read = oe_peerfile_read_allowed(oe_life.env.state_dir, &allowed_at_start) == OE_OK;
}

/* Whether a reading says nothing because the state directory is out of reach by now. */
static int out_of_reach(enum oe_status st, const struct oe_peers *now)
{
    return st == OE_SYSTEM || (st == OE_OK && now->missing && access(oe_life.env.state_dir, F_OK) != 0);
}

/* ---- brokers -------------------------------------------------------------------------------------------------------------------------- */

/* The keys of an endpoint: those of the file, else what was learned here. Returns how many; the one seen last comes first. */
static size_t keys_of(const struct oe_peers *peers, const char *endpoint, struct oe_known *out, const struct oe_peer **first)
{
    size_t n = 0, best = 0;

    *first = NULL;
    for (size_t i = 0; i < peers->n; i++) {
        const struct oe_peer *p = &peers->peers[i];
        if (strcmp(p->endpoint, endpoint) != 0)
            continue;
        if (*first == NULL || p->last_s > (*first)->last_s) {
            *first = p;
            best = n;
        }
        out[n++] = (struct oe_known){.key = p->key, .pinned = p->state == OE_PEER_PINNED};
    }
    if (n != 0) {
        struct oe_known front = out[best];
        out[best] = out[0];
        out[0] = front;
    }
    return n;
}

/* Under trust_lock. */
static const struct oe_peer *learned_of(const char *endpoint)
{
    struct learned *l;
    HASH_FIND(hh, learned, endpoint, strlen(endpoint), l);
    return l == NULL ? NULL : &l->peer;
}

static struct oe_trusted *new_trusted(const char *endpoint, const char *why)
{
    size_t n = strlen(why) + 1;
    struct oe_trusted *t = calloc(1, sizeof(*t) + n);

    if (t == NULL)
        return NULL;
    (void)snprintf(t->endpoint, sizeof(t->endpoint), "%s", endpoint);
    memcpy(t->why, why, n);
    return t;
}

/* The i-th name of the peer in known_peers, the last one is its address. 0: there are no more. */
static int endpoint_of(const struct oe_sock *s, unsigned i, char out[OE_ENDPOINT_CHARS_MAX])
{
    char text[OE_ENDPOINT_CHARS_MAX];

    if (i > s->hosts_n)
        return 0;
    oe_names_endpoint(&s->address, i < s->hosts_n ? s->hosts[i] : NULL, text, sizeof(text));
    if (oe_peerfile_endpoint(text, out) != OE_OK)
        (void)snprintf(out, OE_ENDPOINT_CHARS_MAX, "%s", text); /* a name that no file can have */
    return 1;
}

/* warn only if no name of the peer says otherwise */
static enum oe_downgrade downgrade_of(const struct oe_sock *s)
{
    char ip[INET6_ADDRSTRLEN];
    enum oe_downgrade d;

    oe_names_ip(&s->address, ip, sizeof(ip));
    d = s->hosts_n == 0 ? oe_policy_downgrade(&oe_life.env.conf, NULL, ip, s->address.port) : OE_DOWNGRADE_WARN;
    for (unsigned i = 0; i < s->hosts_n; i++)
        if (oe_policy_downgrade(&oe_life.env.conf, s->hosts[i], ip, s->address.port) == OE_DOWNGRADE_REFUSE)
            d = OE_DOWNGRADE_REFUSE;
    return d;
}

/* Looks the peer up under each of its names, the first that is known counts. */
static enum oe_status find(struct oe_sock *s, const struct oe_peers *peers, const char *why)
{
    struct oe_known *known = calloc(peers->n + 1, sizeof(*known));
    char endpoint[OE_ENDPOINT_CHARS_MAX];
    const struct oe_peer *first = NULL;
    struct oe_trust trust = {.known = known, .downgrade = downgrade_of(s)};
    enum oe_status st = OE_NOMEM;

    if (known == NULL)
        return OE_NOMEM;
    uint64_t signals = oe_lock(&trust_lock);
    for (unsigned i = 0; trust.n == 0 && endpoint_of(s, i, endpoint); i++) {
        trust.n = keys_of(peers, endpoint, known, &first);
        if (trust.n == 0 && (first = learned_of(endpoint)) != NULL)
            known[trust.n++] = (struct oe_known){.key = first->key};
    }
    trust.undecided = trust.n == 0 && why[0] != '\0';
    if (trust.n == 0)
        (void)endpoint_of(s, 0, endpoint);
    s->trusted = new_trusted(endpoint, trust.undecided ? why : "");
    if (s->trusted != NULL && first != NULL) {
        s->trusted->is_known = 1;
        s->trusted->first = *first;
        if (first->has_epoch)
            memcpy(trust.epoch, first->epoch, sizeof(trust.epoch));
    }
    oe_unlock(&trust_lock, signals);
    if (s->trusted != NULL)
        st = oe_conn_trust(&s->conn, &trust);
    free(known);
    return st;
}

enum oe_status oe_trust_ask(struct oe_sock *s)
{
    struct oe_peers now = {0};
    const struct oe_peers *peers = &now;
    enum oe_status st = OE_OK;
    const char *why = "";

    int cancel = oe_life_no_cancel();
    if (oe_life.env.state_dir[0] != '\0')
        st = oe_peerfile_read_known(oe_life.env.state_dir, &now);
    if (known_was_read && out_of_reach(st, &now)) {
        peers = &known_at_start;
        st = OE_OK;
    }
    if (st == OE_SYSTEM || st == OE_INVALID || peers->bad_line != 0)
        why = peers->why;
    if (st != OE_NOMEM)
        st = find(s, peers, why);
    oe_peers_free(&now);
    oe_life_cancel(cancel);
    return st;
}

int oe_trust_may_know(const struct oe_sock *s)
{
    struct oe_peers now = {0};
    const struct oe_peers *peers = &now;
    char endpoint[OE_ENDPOINT_CHARS_MAX];
    enum oe_status st = OE_OK;
    int known = 0;

    int cancel = oe_life_no_cancel();
    if (oe_life.env.state_dir[0] != '\0')
        st = oe_peerfile_read_known(oe_life.env.state_dir, &now);
    if (known_was_read && out_of_reach(st, &now)) {
        peers = &known_at_start;
        st = OE_OK;
    }
    known = st != OE_OK || peers->bad_line != 0;
    uint64_t signals = oe_lock(&trust_lock);
    for (unsigned i = 0; !known && endpoint_of(s, i, endpoint); i++) {
        known = learned_of(endpoint) != NULL;
        for (size_t k = 0; k < peers->n; k++)
            known |= strcmp(peers->peers[k].endpoint, endpoint) == 0;
    }
    oe_unlock(&trust_lock, signals);
    oe_peers_free(&now);
    oe_life_cancel(cancel);
    return known && downgrade_of(s) == OE_DOWNGRADE_REFUSE;
}

static void learn(const char *endpoint, const struct oe_public *key, const uint8_t *epoch)
{
    struct learned *l, *added = NULL;
    size_t n = strlen(endpoint);

    uint64_t signals = oe_lock(&trust_lock);
    HASH_FIND(hh, learned, endpoint, n, l);
    if (l == NULL && HASH_COUNT(learned) < LEARNED_MAX && (l = calloc(1, sizeof(*l))) != NULL) {
        memcpy(l->peer.endpoint, endpoint, n + 1);
        l->peer.key = *key;
        l->peer.first_s = l->peer.last_s = -1;
        HASH_ADD_KEYPTR(hh, learned, l->peer.endpoint, n, l);
        HASH_FIND(hh, learned, endpoint, n, added);
        if (added != l) {
            free(l);
            l = NULL;
        }
    }
    if (l != NULL && epoch != NULL) {
        l->peer.has_epoch = 1;
        memcpy(l->peer.epoch, epoch, sizeof(l->peer.epoch));
    }
    oe_unlock(&trust_lock, signals);
}

enum oe_status oe_trust_contact(const struct oe_trusted *trusted, const struct oe_public *key, const uint8_t *epoch)
{
    static _Atomic int said;
    char why[OE_PEERFILE_WHY_BYTES] = "there is no state directory (set OE_MQTT_STATE)";
    enum oe_status st = OE_SYSTEM;

    int cancel = oe_life_no_cancel();
    if (oe_life.env.state_dir[0] != '\0')
        st = oe_peerfile_contact(oe_life.env.state_dir, trusted->endpoint, key, epoch, oe_clock_wall_s(), WAIT_MS, why);
    if (st == OE_CRYPTO) {
        oe_log_write(&oe_life.env.log, OE_LOG_ERROR,
                     "connect %s broken: while this connection was made another one found another key there", trusted->endpoint);
    } else if (st != OE_OK) {
        learn(trusted->endpoint, key, epoch);
        if (!atomic_exchange(&said, 1))
            oe_log_write(&oe_life.env.log, OE_LOG_ERROR,
                         "known_peers cannot be written, keys of brokers are known to this process only: %s", why);
    }
    oe_life_cancel(cancel);
    return st == OE_CRYPTO ? OE_CRYPTO : OE_OK;
}

/* ---- words ---------------------------------------------------------------------------------------------------------------------------- */

static const char *state_name(const struct oe_trusted *t)
{
    return t->first.state == OE_PEER_PINNED ? "pinned" : "tofu";
}

/* "oe1:... (FILE:LINE, tofu)", or without the file where only this process knows. */
static void known_key(const struct oe_trusted *t, char *out, size_t n)
{
    char key[OE_FINGERPRINT_CHARS + 1];

    oe_public_fingerprint(&t->first.key, key);
    if (t->first.line != 0)
        (void)snprintf(out, n, "%s (%.400s/known_peers:%u, %s)", key, oe_life.env.state_dir, t->first.line, state_name(t));
    else
        (void)snprintf(out, n, "%s (an earlier contact of this process)", key);
}

void oe_trust_explain(const struct oe_trusted *trusted, enum oe_reason reason, const struct oe_public *peer, char *out, size_t n)
{
    char known[600], key[OE_FINGERPRINT_CHARS + 1] = "";
    struct oe_public own;

    out[0] = '\0';
    if (peer != NULL)
        oe_public_fingerprint(peer, key);
    if (reason == OE_REASON_NOT_ADMITTED && peer != NULL) {
        (void)snprintf(out, n, "to admit it add a line \"NAME %s\" to %s/allowed_peers", key, oe_life.env.state_dir);
    } else if (trusted == NULL) {
        return;
    } else if (reason == OE_REASON_TRUST_UNDECIDED) {
        (void)snprintf(out, n, "%s", trusted->why);
    } else if (reason == OE_REASON_NOT_ADMITTED_THERE) {
        oe_secret_public(oe_life.identity, &own);
        oe_public_fingerprint(&own, key);
        (void)snprintf(out, n, "its operator admits it by a line \"NAME %s\" in the broker's allowed_peers", key);
    } else if (trusted->is_known && reason == OE_REASON_KEY_CHANGED) {
        known_key(trusted, known, sizeof(known));
        (void)snprintf(out, n, "known: %s, now: %s; somebody may stand in between. If the new key is right: oe-mqttctl trust %s %s", known,
                       key, trusted->endpoint, key);
    } else if (trusted->is_known &&
               (reason == OE_REASON_OE_MQTT_GONE || reason == OE_REASON_PREFACE_TIMEOUT || reason == OE_REASON_PREFACE_ENDED ||
                reason == OE_REASON_NO_OE_MQTT || reason == OE_REASON_PROBE_CLOSED || reason == OE_REASON_TIMEOUT)) {
        known_key(trusted, known, sizeof(known));
        (void)snprintf(out, n, "known: %s; somebody may stand in between. If it is right that it has none: oe-mqttctl forget %s", known,
                       trusted->endpoint);
    } else if (reason == OE_REASON_REQUIRED || reason == OE_REASON_PREFACE_TIMEOUT || reason == OE_REASON_PREFACE_ENDED) {
        (void)snprintf(out, n, "run the broker under oe-mqtt, or accept plain text for it: [connect \"%s\"] policy = prefer",
                       trusted->endpoint);
    }
}

/* ---- clients -------------------------------------------------------------------------------------------------------------------------- */

static enum oe_admission admit(const struct oe_public *client, enum oe_policy policy)
{
    enum oe_admission unlisted = policy == OE_POLICY_REQUIRE ? OE_ADMIT_NOT : OE_ADMIT_ANY, result = unlisted;
    struct oe_peers now = {0};
    const struct oe_peers *peers = &now;
    enum oe_status st = OE_OK;

    if (oe_life.env.state_dir[0] == '\0')
        return OE_ADMIT_ANY;
    int cancel = oe_life_no_cancel();
    st = oe_peerfile_read_allowed(oe_life.env.state_dir, &now);
    if (allowed_was_read && out_of_reach(st, &now)) {
        peers = &allowed_at_start;
        st = OE_OK;
    }
    if (st == OE_OK && peers->bad_line == 0) {
        if (peers->missing)
            result = OE_ADMIT_ANY;
        for (size_t i = 0; i < peers->n; i++)
            if (memcmp(peers->clients[i].key.b, client->b, sizeof(client->b)) == 0)
                result = OE_ADMIT_LISTED;
    } else {
        oe_log_write(&oe_life.env.log, OE_LOG_ERROR, "allowed_peers cannot be used, so it lists nobody: %s", peers->why);
    }
    oe_peers_free(&now);
    oe_life_cancel(cancel);
    return result;
}

/* ---- freshness (8.3) ------------------------------------------------------------------------------------------------------------------ */

#define SLOTS (2 * OE_PREFACE_SEEN_MAX)

static struct {
    int drawn;
    uint64_t until_ms;
    uint8_t epoch[OE_EPOCH_BYTES];
    uint8_t key[crypto_shorthash_KEYBYTES];
    uint64_t *seen; /* hashes of ephemeral keys, 0: free; NULL until the first */
    size_t n;
} fresh; /* under fresh_lock */
static pthread_mutex_t fresh_lock = PTHREAD_MUTEX_INITIALIZER;

static void draw_epoch(void)
{
    randombytes_buf(fresh.epoch, sizeof(fresh.epoch));
    randombytes_buf(fresh.key, sizeof(fresh.key));
    if (fresh.seen != NULL)
        memset(fresh.seen, 0, SLOTS * sizeof(*fresh.seen));
    fresh.n = 0;
    fresh.until_ms = oe_clock_monotonic_ms() + OE_EPOCH_MS_MAX;
    fresh.drawn = 1;
}

/* Under fresh_lock. */
static void end_epoch_if_due(void)
{
    if (!fresh.drawn || fresh.n >= OE_PREFACE_SEEN_MAX || oe_clock_monotonic_ms() >= fresh.until_ms)
        draw_epoch();
}

/* A process that has this memory without fork's handlers cannot tell what the other one has seen: zeros, which never are an epoch. */
static void current_epoch(uint8_t out[OE_EPOCH_BYTES])
{
    memset(out, 0, OE_EPOCH_BYTES);
    if (oe_life_foreign())
        return;
    uint64_t signals = oe_lock(&fresh_lock);
    end_epoch_if_due();
    memcpy(out, fresh.epoch, OE_EPOCH_BYTES);
    oe_unlock(&fresh_lock, signals);
}

/* Under fresh_lock: counts the key as seen. 0: it was, or there is no memory to tell. */
static int is_new(const struct oe_public *ephemeral)
{
    uint64_t h;

    if (fresh.seen == NULL && (fresh.seen = calloc(SLOTS, sizeof(*fresh.seen))) == NULL)
        return 0;
    crypto_shorthash((unsigned char *)&h, ephemeral->b, sizeof(ephemeral->b), fresh.key);
    h |= h == 0;
    size_t i = h % SLOTS;
    for (; fresh.seen[i] != 0; i = (i + 1) % SLOTS)
        if (fresh.seen[i] == h)
            return 0;
    fresh.seen[i] = h;
    fresh.n++;
    return 1;
}

static int is_fresh(const uint8_t epoch[OE_EPOCH_BYTES], const struct oe_public *ephemeral)
{
    int result = 0;

    if (oe_life_foreign())
        return 0;
    uint64_t signals = oe_lock(&fresh_lock);
    end_epoch_if_due();
    if (sodium_memcmp(epoch, fresh.epoch, OE_EPOCH_BYTES) == 0)
        result = is_new(ephemeral);
    oe_unlock(&fresh_lock, signals);
    return result;
}

const struct oe_conn_calls oe_trust_calls = {.admit = admit, .epoch = current_epoch, .fresh = is_fresh};

/* ---- fork ----------------------------------------------------------------------------------------------------------------------------- */

void oe_trust_fork_prepare(void)
{
    pthread_mutex_lock(&trust_lock);
    pthread_mutex_lock(&fresh_lock);
}

void oe_trust_fork_parent(void)
{
    pthread_mutex_unlock(&fresh_lock);
    pthread_mutex_unlock(&trust_lock);
}

void oe_trust_fork_child(void)
{
    fresh.drawn = 0;
    oe_trust_fork_parent();
}
