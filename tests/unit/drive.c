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

void drive_connect(struct oe_buf *b, enum oe_mqtt version)
{
    struct oe_buf body = {0};
    uint8_t fixed[4] = {(uint8_t)version, 0x02, 0, 60};
    put_text(&body, version == OE_MQTT_31 ? "MQIsdp" : "MQTT");
    drive_raw(&body, fixed, 4);
    if (version == OE_MQTT_5)
        drive_raw(&body, "\x00", 1);
    put_text(&body, "client");
    put_body(b, 0x10, &body);
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
static enum oe_admission admission = OE_ADMIT_ANY;
static uint8_t own_epoch[OE_EPOCH_BYTES];
static unsigned fresh_left;

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
    (void)ephemeral;
    if (fresh_left == 0 || memcmp(told, own_epoch, sizeof(own_epoch)) != 0)
        return 0;
    fresh_left--;
    return 1;
}

static const struct oe_conn_calls drive_calls = {.admit = admit, .epoch = epoch, .fresh = fresh};

void drive_responders(enum oe_admission who, uint8_t epoch_byte, unsigned fresh_n)
{
    admission = who;
    memset(own_epoch, epoch_byte, sizeof(own_epoch));
    fresh_left = fresh_n;
}

void drive_open(struct drive *d, enum oe_role role, const struct drive_how *how)
{
    struct oe_conn_setup setup = {.role = role, .policy = how->policy, .handshake_ms = OE_HANDSHAKE_MS_DEFAULT};
    memset(d, 0, sizeof(*d));
    d->how = *how;
    d->now = 1000;
    d->app_at_records = d->sent_at_records = SIZE_MAX;
    memset(d->identity.b, how->seed + 1, sizeof(d->identity.b));
    memset(setup.ephemeral[0].b, how->seed + 2, sizeof(setup.ephemeral[0].b));
    memset(setup.ephemeral[1].b, how->seed + 3, sizeof(setup.ephemeral[1].b));
    setup.calls = &drive_calls;
    setup.identity = &d->identity;
    d->st = oe_conn_init(&d->conn, &setup);
    d->dead[0] = d->dead[1] = d->st;
    memset(&setup, 0xEE, sizeof(setup));
}

void drive_close(struct drive *d)
{
    oe_conn_wipe(&d->conn);
    oe_buf_free(&d->app);
    oe_buf_free(&d->wire);
    oe_buf_free(&d->sent);
}

static int handshaking(enum oe_phase phase)
{
    return phase == OE_PHASE_I_PROBE || phase == OE_PHASE_I_UNSUBACK || phase == OE_PHASE_R_MESSAGE3;
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
        REQUIRE(c->phase == OE_PHASE_BROKEN || c->phase == OE_PHASE_RECORDS);
    if (c->phase == OE_PHASE_RECORDS)
        REQUIRE(c->security == OE_SEC_UNAUTHENTICATED || c->security == OE_SEC_TOFU || c->security == OE_SEC_PINNED);
    REQUIRE((c->phase == OE_PHASE_REFUSED) == (c->security == OE_SEC_REFUSED));
    if (c->phase == OE_PHASE_PLAIN)
        REQUIRE(c->security == OE_SEC_PLAIN && c->reason != OE_REASON_NONE);
    if (c->security == OE_SEC_PLAIN)
        REQUIRE(c->phase == OE_PHASE_PLAIN || c->phase == OE_PHASE_I_LATE || c->phase == OE_PHASE_BROKEN);
    REQUIRE(oe_conn_waiting(c, &deadline) == (c->phase == OE_PHASE_I_PROBE || c->phase == OE_PHASE_I_UNSUBACK || oe_conn_prefaced(c)));
    if (c->phase == OE_PHASE_PLAIN && oe_conn_transparent(c))
        REQUIRE(oe_conn_kept(c) == 0 || c->hs != NULL);
}

static void note_records(struct drive *d, size_t app_before, size_t held_before)
{
    if (d->conn.phase != OE_PHASE_RECORDS || d->app_at_records != SIZE_MAX)
        return;
    /* An initiator hands over what it held in the step that begins records, a responder nothing. */
    d->app_at_records = d->conn.role == OE_INITIATOR ? oe_buf_n(&d->app) : app_before;
    d->sent_at_records = oe_buf_n(&d->sent) - held_before;
}

static enum oe_status push(struct drive *d, enum oe_dir dir, const uint8_t *bytes, size_t n, size_t *taken)
{
    struct oe_buf rest = {0}, answer = {0};
    uint8_t *in = malloc(n == 0 ? 1 : n), *room = malloc(d->how.room == 0 ? 1 : d->how.room);
    struct oe_sink forward = {.p = room, .n_max = d->how.room, .rest = &rest};
    struct oe_flow flow = {.forward = &forward, .answer = dir == OE_FROM_PEER ? &answer : NULL};
    size_t app_before = oe_buf_n(&d->app), kept = oe_conn_kept(&d->conn), held = oe_conn_held(&d->conn);
    enum oe_phase before = d->conn.phase;

    REQUIRE(in != NULL && room != NULL);
    if (n != 0)
        memcpy(in, bytes, n);
    d->st = oe_conn_push(&d->conn, dir, (struct oe_span){in, n}, d->now, &flow);
    free(in);
    *taken = flow.taken;
    size_t forwarded = forward.n + oe_buf_n(&rest);
    REQUIRE(flow.taken <= n);
    if (d->st == OE_OK && flow.taken < n)
        REQUIRE(dir == OE_FROM_APP && handshaking(d->conn.phase));
    if (dir == OE_FROM_PEER)
        REQUIRE(forwarded <= n + kept);
    if (before == OE_PHASE_BROKEN || d->st == OE_INVALID)
        REQUIRE(forwarded == 0 && oe_buf_n(&answer) == 0);
    gather(dir == OE_FROM_PEER ? &d->app : &d->wire, &forward);
    drive_raw(&d->wire, oe_buf_span(&answer).p, oe_buf_n(&answer));
    oe_buf_free(&answer);
    free(room);
    if (dir == OE_FROM_APP && d->st == OE_OK)
        drive_raw(&d->sent, bytes, flow.taken);
    note_records(d, app_before, held);
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
    .flip = {SIZE_MAX, SIZE_MAX},
    .end = {SIZE_MAX, SIZE_MAX},
};

static void write_script(struct world *w)
{
    enum oe_mqtt v = w->how.version;
    struct oe_buf *up = w->script[WORLD_UP], *down = w->script[WORLD_DOWN];
    size_t n = sizeof(WORLD_MARKER) - 1;

    drive_connect(&up[0], v);
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
    drive_open(&w->client, OE_INITIATOR, &(struct drive_how){.policy = how->client, .seed = 0x10, .room = how->room});
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

    if (d->dead[OE_FROM_APP] != OE_OK || d->conn.phase == OE_PHASE_BROKEN)
        return 0;
    for (int i = 0; i < WORLD_PARTS; i++) {
        size_t size = oe_buf_n(&w->script[way][i]);
        if (w->said[way] < begin + size) {
            if (oe_buf_n(&d->app) < needed(w, way, i))
                return 0;
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

/* One end is broken, or the stream was ended: the other learns of it. */
static int end_one(struct world *w, int way)
{
    struct drive *from = sender(w, way), *to = sender(w, 1 - way);
    int over =
        w->delivered[way] == w->how.end[way] || from->conn.phase == OE_PHASE_BROKEN || from->dead[0] != OE_OK || from->dead[1] != OE_OK;

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
