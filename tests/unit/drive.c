#include "drive.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void require(int holds, const char *what, int line)
{
    if (!holds) {
        (void)fprintf(stderr, "drive.c:%d: does not hold: %s\n", line, what);
        abort();
    }
}

#define REQUIRE(x) require(!!(x), #x, __LINE__)

/* ---- packets -------------------------------------------------------------------------------------------------------------------------- */

void drive_raw(struct oe_buf *b, const void *p, size_t n)
{
    REQUIRE(oe_buf_put(b, p, n) == OE_OK);
}

static void put_text(struct oe_buf *b, const char *text)
{
    uint8_t n[2];
    oe_bytes_put16(n, (uint16_t)strlen(text));
    drive_raw(b, n, 2);
    drive_raw(b, text, strlen(text));
}

static void put_body(struct oe_buf *b, unsigned first, struct oe_buf *body)
{
    uint8_t header[5] = {(uint8_t)first};
    drive_raw(b, header, 1 + oe_varint_put(header + 1, (uint32_t)oe_buf_n(body)));
    drive_raw(b, oe_buf_span(body).p, oe_buf_n(body));
    oe_buf_free(body);
}

static void put_connect(struct oe_buf *b, enum oe_mqtt version, const char *user, int will)
{
    struct oe_buf body = {0};
    uint8_t fixed[4] = {(uint8_t)version, (uint8_t)(0x02 | (user != NULL ? 0x80 : 0) | (will ? 0x04 : 0)), 0, 60};
    put_text(&body, version == OE_MQTT_31 ? "MQIsdp" : "MQTT");
    drive_raw(&body, fixed, 4);
    if (version == OE_MQTT_5)
        drive_raw(&body, "\x00", 1);
    put_text(&body, "client");
    if (will) {
        if (version == OE_MQTT_5)
            drive_raw(&body, "\x00", 1);
        put_text(&body, "will");
        put_text(&body, WORLD_MARKER);
    }
    if (user != NULL)
        put_text(&body, user);
    put_body(b, 0x10, &body);
}

void drive_connect(struct oe_buf *b, enum oe_mqtt version)
{
    put_connect(b, version, NULL, 0);
}

void drive_connect_of(struct oe_buf *b, enum oe_mqtt version, size_t n, int will)
{
    struct oe_buf trial = {0};
    size_t user_n = n > 100 ? n - 100 : 0;
    char *user = calloc(1, n + 1);

    REQUIRE(user != NULL);
    memset(user, 'u', user_n);
    put_connect(&trial, version, n == 0 ? NULL : user, will);
    while (oe_buf_n(&trial) < n) {
        user[user_n++] = 'u';
        oe_buf_free(&trial);
        put_connect(&trial, version, user, will);
    }
    REQUIRE(n == 0 || oe_buf_n(&trial) == n);
    drive_raw(b, oe_buf_span(&trial).p, oe_buf_n(&trial));
    oe_buf_free(&trial);
    free(user);
}

void drive_connack(struct oe_buf *b, enum oe_mqtt version, unsigned code)
{
    uint8_t packet[5] = {0x20, version == OE_MQTT_5 ? 3 : 2, 0, (uint8_t)code, 0};
    drive_raw(b, packet, 2U + packet[1]);
}

void drive_publish(struct oe_buf *b, enum oe_mqtt version, unsigned first, const char *topic, const void *payload, size_t n)
{
    struct oe_buf body = {0};
    put_text(&body, topic);
    if (first & 6)
        drive_raw(&body, "\x00\x07", 2);
    if (version == OE_MQTT_5)
        drive_raw(&body, "\x00", 1);
    drive_raw(&body, payload, n);
    put_body(b, first, &body);
}

/* ---- one end -------------------------------------------------------------------------------------------------------------------------- */

/* Every client may connect, and no CONNECT is fresh, unless a test says otherwise. */
#define SEEN_MAX 64
static enum oe_admission admission = OE_ADMIT_ANY;
static uint8_t own_epoch[OE_EPOCH_BYTES];
static unsigned fresh_left;
static struct oe_public seen[SEEN_MAX];
static size_t seen_n;

static enum oe_admission admit(const struct oe_public *client, enum oe_policy policy)
{
    (void)client;
    (void)policy;
    return admission;
}

static void epoch(uint8_t out[OE_EPOCH_BYTES])
{
    memcpy(out, own_epoch, sizeof(own_epoch));
}

static int fresh(const uint8_t told[OE_EPOCH_BYTES], const struct oe_public *ephemeral)
{
    if (fresh_left == 0 || memcmp(told, own_epoch, sizeof(own_epoch)) != 0)
        return 0;
    for (size_t i = 0; i < seen_n; i++)
        if (memcmp(seen[i].b, ephemeral->b, sizeof(ephemeral->b)) == 0)
            return 0;
    REQUIRE(seen_n < SEEN_MAX);
    seen[seen_n++] = *ephemeral;
    fresh_left--;
    return 1;
}

static const struct oe_conn_calls drive_calls = {.admit = admit, .epoch = epoch, .fresh = fresh};

void drive_responders(enum oe_admission who, uint8_t epoch_byte, unsigned fresh_n)
{
    admission = who;
    memset(own_epoch, epoch_byte, sizeof(own_epoch));
    fresh_left = fresh_n;
    seen_n = 0;
}

void drive_admit(enum oe_admission who)
{
    admission = who;
}

void drive_new_epoch(const uint8_t bytes[OE_EPOCH_BYTES])
{
    memcpy(own_epoch, bytes, sizeof(own_epoch));
    seen_n = 0;
}

static struct oe_secret secret_of(unsigned byte)
{
    struct oe_secret s;
    memset(s.b, (int)byte, sizeof(s.b));
    return s;
}

struct oe_public drive_key(uint8_t seed)
{
    struct oe_secret s = secret_of(seed + 1U);
    struct oe_public key;
    oe_secret_public(&s, &key);
    return key;
}

/* Tells the connection what is known, from memory that is freed at once. */
static void tell_trust(struct drive *d)
{
    const struct drive_trust *t = &d->how.trust;
    struct oe_known right = {drive_key(d->how.peer_seed), t->pinned}, wrong = {drive_key((uint8_t)(d->how.peer_seed + 0x55)), !t->pinned};
    size_t n = t->known == DRIVE_KNOWN_NONE ? 0 : t->known == DRIVE_KNOWN_SECOND ? 2 : 1;
    struct oe_known *known = malloc(n == 0 ? 1 : n * sizeof(*known));
    struct oe_trust trust = {.known = known, .n = n, .downgrade = t->downgrade, .undecided = t->undecided};

    REQUIRE(known != NULL);
    if (n != 0)
        known[0] = t->known == DRIVE_KNOWN_RIGHT ? right : wrong;
    if (n == 2)
        known[1] = right;
    memset(trust.epoch, t->epoch, sizeof(trust.epoch));
    REQUIRE(oe_conn_trust(&d->conn, &trust) == OE_OK);
    free(known);
}

void drive_open(struct drive *d, enum oe_role role, const struct drive_how *how)
{
    struct oe_conn_setup setup = {.role = role, .policy = how->policy, .handshake_ms = OE_HANDSHAKE_MS_DEFAULT};
    memset(d, 0, sizeof(*d));
    d->how = *how;
    d->now = 1000;
    d->app_at_records = d->sent_at_records = SIZE_MAX;
    d->identity = how->identity != NULL ? *how->identity : secret_of(how->seed + 1U);
    setup.ephemeral[0] = how->ephemeral0 != NULL ? *how->ephemeral0 : secret_of(how->seed + 2U);
    setup.ephemeral[1] = how->ephemeral1 != NULL ? *how->ephemeral1 : secret_of(how->seed + 3U);
    setup.calls = &drive_calls;
    setup.identity = &d->identity;
    d->st = oe_conn_init(&d->conn, &setup);
    d->dead[0] = d->dead[1] = d->st;
    memset(&setup, 0xEE, sizeof(setup));
    if (role == OE_INITIATOR && d->st == OE_OK)
        tell_trust(d);
}

void drive_close(struct drive *d)
{
    oe_conn_wipe(&d->conn);
    oe_buf_free(&d->app);
    oe_buf_free(&d->wire);
    oe_buf_free(&d->sent);
}

/* Where less than all of what an application writes may be taken. */
static int may_wait(const struct oe_conn *c)
{
    switch (c->phase) {
    case OE_PHASE_I_PROBE:
    case OE_PHASE_I_UNSUBACK:
    case OE_PHASE_I_PREFACE_IK:
    case OE_PHASE_I_PREFACE_XX:
    case OE_PHASE_R_RETRY:
    case OE_PHASE_R_PREFACE:
    case OE_PHASE_R_MESSAGE3:
    case OE_PHASE_REFUSED:
        return 1;
    case OE_PHASE_R_FIRST:
        return c->policy == OE_POLICY_REQUIRE;
    case OE_PHASE_I_CONNECT:
    case OE_PHASE_I_CONNACK:
    case OE_PHASE_I_LATE:
    case OE_PHASE_R_CONNECT:
    case OE_PHASE_R_ANSWER:
    case OE_PHASE_RECORDS:
    case OE_PHASE_PLAIN:
    case OE_PHASE_BROKEN:
        break;
    }
    return 0;
}

/* What came into the caller's memory and the rest of it, to where it belongs. */
static void gather(struct oe_buf *to, struct oe_sink *sink)
{
    REQUIRE(sink->n <= sink->n_max);
    drive_raw(to, sink->p, sink->n);
    drive_raw(to, oe_buf_span(sink->rest).p, oe_buf_n(sink->rest));
    oe_buf_free(sink->rest);
}

/* What is true after every call, whatever it returned. */
static void check(const struct drive *d, enum oe_dir dir)
{
    const struct oe_conn *c = &d->conn;
    uint64_t deadline;
    REQUIRE(d->st != OE_MORE);
    if (d->st != OE_OK)
        REQUIRE(oe_conn_why(c, dir) != OE_REASON_NONE);
    if (d->st != OE_OK && d->st != OE_INVALID)
        REQUIRE(c->phase == OE_PHASE_BROKEN || c->phase == OE_PHASE_RECORDS || (c->phase == OE_PHASE_REFUSED && dir == OE_FROM_APP));
    if (c->phase == OE_PHASE_RECORDS)
        REQUIRE(c->security == OE_SEC_UNAUTHENTICATED || c->security == OE_SEC_TOFU || c->security == OE_SEC_PINNED);
    REQUIRE((c->phase == OE_PHASE_REFUSED) == (c->security == OE_SEC_REFUSED));
    if (c->phase == OE_PHASE_PLAIN)
        REQUIRE(c->security == OE_SEC_PLAIN && c->reason != OE_REASON_NONE);
    if (c->security == OE_SEC_PLAIN)
        REQUIRE(c->phase == OE_PHASE_PLAIN || c->phase == OE_PHASE_I_LATE || c->phase == OE_PHASE_BROKEN);
    if (c->downgraded)
        REQUIRE(c->role == OE_INITIATOR && (c->security == OE_SEC_PLAIN || c->reason == OE_REASON_KEY_CHANGED));
    if (c->phase == OE_PHASE_REFUSED)
        REQUIRE(c->reason != OE_REASON_NONE);
    REQUIRE(oe_conn_waiting(c, &deadline) == (c->phase == OE_PHASE_I_PROBE || c->phase == OE_PHASE_I_UNSUBACK || oe_conn_prefaced(c)));
    if (c->phase == OE_PHASE_PLAIN && oe_conn_transparent(c))
        REQUIRE(oe_conn_kept(c) == 0 || c->hs != NULL);
}

static void note_records(struct drive *d, int prefaced, size_t app_before, size_t held_before)
{
    if (d->conn.phase != OE_PHASE_RECORDS || d->app_at_records != SIZE_MAX)
        return;
    /* An initiator hands over what it held in the step that begins records, a responder nothing but the CONNECT of message 1. With a preface all
     * that an initiator has taken goes through the handshake. */
    d->app_at_records = d->conn.role == OE_INITIATOR ? oe_buf_n(&d->app) : app_before;
    d->sent_at_records = prefaced ? 0 : oe_buf_n(&d->sent) - held_before;
}

#define REFUSING_CONNACK_BYTES 5U

static enum oe_status push(struct drive *d, enum oe_dir dir, const uint8_t *bytes, size_t n, size_t *taken)
{
    struct oe_buf rest = {0}, answer = {0};
    uint8_t *in = malloc(n == 0 ? 1 : n), *room = malloc(d->how.room == 0 ? 1 : d->how.room);
    struct oe_sink forward = {.p = room, .n_max = d->how.room, .rest = &rest};
    struct oe_flow flow = {.forward = &forward, .answer = dir == OE_FROM_PEER ? &answer : NULL};
    size_t app_before = oe_buf_n(&d->app), kept = oe_conn_kept(&d->conn), held = oe_conn_held(&d->conn);
    enum oe_phase before = d->conn.phase;
    int prefaced = oe_conn_prefaced(&d->conn);

    REQUIRE(in != NULL && room != NULL);
    if (n != 0)
        memcpy(in, bytes, n);
    d->st = oe_conn_push(&d->conn, dir, (struct oe_span){in, n}, d->now, &flow);
    free(in);
    *taken = flow.taken;
    size_t forwarded = forward.n + oe_buf_n(&rest);
    REQUIRE(flow.taken <= n);
    if (d->st == OE_OK && flow.taken < n)
        REQUIRE(dir == OE_FROM_APP && may_wait(&d->conn));
    if (dir == OE_FROM_PEER)
        REQUIRE(forwarded <= n + kept + (d->conn.phase == OE_PHASE_REFUSED ? REFUSING_CONNACK_BYTES : 0));
    if (before == OE_PHASE_BROKEN || d->st == OE_INVALID)
        REQUIRE(forwarded == 0 && oe_buf_n(&answer) == 0);
    gather(dir == OE_FROM_PEER ? &d->app : &d->wire, &forward);
    drive_raw(&d->wire, oe_buf_span(&answer).p, oe_buf_n(&answer));
    oe_buf_free(&answer);
    free(room);
    if (dir == OE_FROM_APP && d->st == OE_OK)
        drive_raw(&d->sent, bytes, flow.taken);
    note_records(d, prefaced, app_before, held);
    check(d, dir);
    if (d->st != OE_OK)
        d->dead[dir] = d->st;
    return d->st;
}

static enum oe_status pushes(struct drive *d, enum oe_dir dir, const uint8_t *bytes, size_t n)
{
    size_t taken = 0;
    if (!d->how.bytewise)
        return push(d, dir, bytes, n, &taken);
    for (size_t i = 0; i < n; i++)
        if (push(d, dir, bytes + i, 1, &taken) != OE_OK || taken == 0)
            break;
    return d->st;
}

enum oe_status drive_app(struct drive *d, const void *p, size_t n)
{
    return pushes(d, OE_FROM_APP, p, n);
}

enum oe_status drive_peer(struct drive *d, const void *p, size_t n)
{
    return pushes(d, OE_FROM_PEER, p, n);
}

/* The calls without input. */
static enum oe_status call(struct drive *d, enum oe_status function(struct oe_conn *, struct oe_flow *))
{
    struct oe_buf rest = {0}, answer = {0};
    uint8_t *room = malloc(d->how.room == 0 ? 1 : d->how.room);
    struct oe_sink forward = {.p = room, .n_max = d->how.room, .rest = &rest};
    struct oe_flow flow = {.forward = &forward, .answer = &answer};

    REQUIRE(room != NULL);
    d->st = function(&d->conn, &flow);
    gather(&d->app, &forward);
    free(room);
    if (d->conn.phase != OE_PHASE_REFUSED)
        REQUIRE(oe_buf_n(&answer) == 0);
    drive_raw(&d->wire, oe_buf_span(&answer).p, oe_buf_n(&answer));
    oe_buf_free(&answer);
    check(d, OE_FROM_PEER);
    if (d->st != OE_OK)
        d->dead[OE_FROM_PEER] = d->st;
    return d->st;
}

enum oe_status drive_end(struct drive *d)
{
    return call(d, oe_conn_peer_end);
}

enum oe_status drive_expire(struct drive *d)
{
    uint64_t deadline;
    if (oe_conn_waiting(&d->conn, &deadline))
        d->now = deadline;
    return call(d, oe_conn_expire);
}

enum oe_status drive_move(struct drive *from, struct drive *to, size_t n)
{
    struct oe_buf piece = {0};
    if (n > oe_buf_n(&from->wire))
        n = oe_buf_n(&from->wire);
    drive_raw(&piece, oe_buf_span(&from->wire).p, n);
    oe_buf_drop(&from->wire, n);
    enum oe_status st = drive_peer(to, oe_buf_span(&piece).p, n);
    oe_buf_free(&piece);
    return st;
}

/* ---- two ends ------------------------------------------------------------------------------------------------------------------------- */

const struct world_how world_default = {
    .version = OE_MQTT_311,
    .client = OE_POLICY_PREFER,
    .broker = OE_POLICY_PREFER,
    .admission = OE_ADMIT_ANY,
    .flip = {SIZE_MAX, SIZE_MAX},
    .end = {SIZE_MAX, SIZE_MAX},
};

static void write_script(struct world *w)
{
    enum oe_mqtt v = w->how.version;
    struct oe_buf *up = w->script[WORLD_UP], *down = w->script[WORLD_DOWN];
    size_t n = sizeof(WORLD_MARKER) - 1;

    drive_connect_of(&up[0], v, w->how.connect_n, w->how.will);
    drive_connack(&down[0], v, 0);
    drive_publish(&down[0], v, 0x30, "queued", "1", 1);
    drive_publish(&up[1], v, 0x32, "up", WORLD_MARKER, n);
    drive_raw(&down[1], "\x40\x02\x00\x07", 4);
    drive_publish(&down[1], v, 0x31, "down", WORLD_MARKER, n);
    if (w->how.large != 0) {
        uint8_t *large = malloc(w->how.large);
        REQUIRE(large != NULL);
        for (size_t i = 0; i < w->how.large; i++)
            large[i] = (uint8_t)WORLD_MARKER[i % n];
        drive_publish(&up[2], v, 0x30, "large", large, w->how.large);
        drive_publish(&down[2], v, 0x30, "large", large, w->how.large);
        free(large);
    }
    drive_raw(&up[2], "\xC0\x00", 2);
    drive_raw(&down[2], "\xD0\x00", 2);
    drive_raw(&up[3], "\xE0\x00", 2);
    for (int way = 0; way < 2; way++)
        for (int i = 0; i < WORLD_PARTS; i++)
            drive_raw(&w->whole[way], oe_buf_span(&w->script[way][i]).p, oe_buf_n(&w->script[way][i]));
}

void world_open(struct world *w, const struct world_how *how)
{
    memset(w, 0, sizeof(*w));
    w->how = *how;
    drive_responders(how->admission, how->epoch, how->fresh_n);
    drive_open(&w->client, OE_INITIATOR,
               &(struct drive_how){.policy = how->client, .seed = 0x10, .room = how->room, .trust = how->trust, .peer_seed = 0x20});
    drive_open(&w->broker, OE_RESPONDER, &(struct drive_how){.policy = how->broker, .seed = 0x20, .room = how->room});
    write_script(w);
}

static struct drive *sender(struct world *w, int way)
{
    return way == WORLD_UP ? &w->client : &w->broker;
}

/* Bytes of the other way that the application must have been given before it says its part i. */
static size_t needed(const struct world *w, int way, int i)
{
    size_t n = 0;
    int parts = way == WORLD_UP ? i : i + 1;
    for (int k = 0; k < parts && k < WORLD_PARTS; k++)
        n += oe_buf_n(&w->script[1 - way][k]);
    return n;
}

/* An application says what is its turn to say. Whether something was taken. */
static int speak(struct world *w, int way)
{
    struct drive *d = sender(w, way);
    size_t begin = 0;

    if (d->dead[OE_FROM_APP] != OE_OK || d->conn.phase == OE_PHASE_BROKEN || d->conn.phase == OE_PHASE_REFUSED)
        return 0;
    for (int i = 0; i < WORLD_PARTS; i++) {
        size_t size = oe_buf_n(&w->script[way][i]);
        if (w->said[way] < begin + size) {
            if (oe_buf_n(&d->app) < needed(w, way, i))
                return 0;
            if (i == 0 && !drive_prefix(&d->app, &w->whole[1 - way]))
                return 0; /* a broker has nothing to say to what is no CONNECT */
            size_t before = oe_buf_n(&d->sent), done = w->said[way] - begin;
            (void)drive_app(d, oe_buf_span(&w->script[way][i]).p + done, size - done);
            size_t taken = oe_buf_n(&d->sent) - before;
            w->said[way] += taken;
            return taken != 0;
        }
        begin += size;
    }
    return 0;
}

/* The relay carries bytes one way. Whether there were any. */
static int deliver(struct world *w, int way)
{
    struct drive *from = sender(w, way), *to = sender(w, 1 - way);
    struct oe_buf piece = {0};
    size_t n = oe_buf_n(&from->wire), at = w->delivered[way];

    if (w->how.bytes[way] && n > 1)
        n = 1;
    if (w->how.cut[way] > at && n > w->how.cut[way] - at)
        n = w->how.cut[way] - at;
    if (n > w->how.end[way] - at)
        n = w->how.end[way] - at;
    if (n == 0)
        return 0;
    drive_raw(&piece, oe_buf_span(&from->wire).p, n);
    oe_buf_drop(&from->wire, n);
    if (w->how.flip[way] >= at && w->how.flip[way] - at < n)
        piece.p[w->how.flip[way] - at] ^= w->how.mask;
    w->delivered[way] += n;
    drive_raw(&w->seen[way], piece.p, n);
    if (to->dead[OE_FROM_PEER] == OE_OK && to->conn.phase != OE_PHASE_BROKEN)
        (void)drive_peer(to, piece.p, n);
    oe_buf_free(&piece);
    return 1;
}

static int is_over(const struct drive *d)
{
    return d->conn.phase == OE_PHASE_BROKEN || d->conn.phase == OE_PHASE_REFUSED || d->dead[0] != OE_OK || d->dead[1] != OE_OK;
}

/* One end is broken, or the stream was ended: the other learns of it. Who is refused shuts both directions down. */
static int end_one(struct world *w, int way)
{
    struct drive *from = sender(w, way), *to = sender(w, 1 - way);
    int over = w->delivered[way] == w->how.end[way] || is_over(from) || to->conn.phase == OE_PHASE_REFUSED;

    if (!over || w->ended[way])
        return 0;
    w->ended[way] = 1;
    if (to->dead[OE_FROM_PEER] == OE_OK && to->conn.phase != OE_PHASE_BROKEN)
        (void)drive_end(to);
    return 1;
}

static int expire(struct world *w)
{
    uint64_t deadline;
    if (w->expired || !oe_conn_waiting(&w->client.conn, &deadline))
        return 0;
    w->expired = 1;
    (void)drive_expire(&w->client);
    return 1;
}

void world_run(struct world *w)
{
    int moved;
    do {
        moved = 0;
        for (int way = 0; way < 2; way++) {
            moved |= speak(w, way);
            moved |= deliver(w, way);
        }
        if (!moved)
            moved = end_one(w, WORLD_UP) | end_one(w, WORLD_DOWN);
        if (!moved)
            moved = expire(w);
    } while (moved);
}

void world_close(struct world *w)
{
    drive_close(&w->client);
    drive_close(&w->broker);
    for (int way = 0; way < 2; way++) {
        oe_buf_free(&w->whole[way]);
        oe_buf_free(&w->seen[way]);
        for (int i = 0; i < WORLD_PARTS; i++)
            oe_buf_free(&w->script[way][i]);
    }
}

/* ---- comparing ------------------------------------------------------------------------------------------------------------------------ */

int drive_prefix(const struct oe_buf *a, const struct oe_buf *b)
{
    return oe_buf_n(a) <= oe_buf_n(b) && (oe_buf_n(a) == 0 || memcmp(oe_buf_span(a).p, oe_buf_span(b).p, oe_buf_n(a)) == 0);
}

int drive_same(const struct oe_buf *a, const struct oe_buf *b)
{
    return oe_buf_n(a) == oe_buf_n(b) && drive_prefix(a, b);
}

int drive_contains(const struct oe_buf *b, const void *p, size_t n)
{
    return oe_buf_n(b) >= n && memmem(oe_buf_span(b).p, oe_buf_n(b), p, n) != NULL;
}
