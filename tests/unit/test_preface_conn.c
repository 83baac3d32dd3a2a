/*
 * The preface between two ends with everything a relay can do: every split of the streams, every bit, every end, and what was recorded sent again.
 * OE_TEST_THIN=n takes only every n-th position (for valgrind).
 */
#include <check.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "states_preface.h"

static size_t thin(void)
{
    const char *text = getenv("OE_TEST_THIN");
    size_t n = text == NULL ? 1 : strtoul(text, NULL, 10);
    return n == 0 ? 1 : n;
}

/* All positions in 3.1.1, some in the other versions: the preface is the same, the CONNECT inside is not. */
static size_t step_of(int v, size_t others)
{
    return thin() * (v == OE_MQTT_311 ? 1 : others);
}

/* ---- what may be known ----------------------------------------------------------------------------------------------------------------- */

static const struct kind {
    const char *name;
    enum oe_policy client, broker;
    struct drive_trust trust;
    enum oe_admission admission;
    unsigned fresh;
    int will;
    size_t connect_n;
    int probe;          /* it is a probe, for want of a key */
    int early;          /* the CONNECT of message 1 is handed on */
    enum oe_security i; /* what the initiator says */
} kinds[] = {
    {"xx", OE_POLICY_REQUIRE, OE_POLICY_PREFER, {.known = DRIVE_KNOWN_NONE}, OE_ADMIT_ANY, 1, 0, 0, 0, 0, OE_SEC_UNAUTHENTICATED},
    {"xx, both require",
     OE_POLICY_REQUIRE,
     OE_POLICY_REQUIRE,
     {.known = DRIVE_KNOWN_NONE},
     OE_ADMIT_LISTED,
     1,
     1,
     0,
     0,
     0,
     OE_SEC_UNAUTHENTICATED},
    {"ik", OE_POLICY_PREFER, OE_POLICY_PREFER, {.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH}, OE_ADMIT_ANY, 1, 0, 0, 0, 1, OE_SEC_TOFU},
    {"ik, no epoch", OE_POLICY_PREFER, OE_POLICY_REQUIRE, {.known = DRIVE_KNOWN_RIGHT}, OE_ADMIT_ANY, 1, 0, 0, 0, 0, OE_SEC_TOFU},
    {"ik, old epoch",
     OE_POLICY_PREFER,
     OE_POLICY_PREFER,
     {.known = DRIVE_KNOWN_RIGHT, .epoch = 9},
     OE_ADMIT_ANY,
     1,
     0,
     0,
     0,
     0,
     OE_SEC_TOFU},
    {"ik, seen",
     OE_POLICY_PREFER,
     OE_POLICY_PREFER,
     {.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH, .pinned = 1},
     OE_ADMIT_ANY,
     0,
     0,
     0,
     0,
     0,
     OE_SEC_PINNED},
    {"ik, will",
     OE_POLICY_PREFER,
     OE_POLICY_REQUIRE,
     {.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH},
     OE_ADMIT_LISTED,
     1,
     1,
     0,
     0,
     0,
     OE_SEC_TOFU},
    {"retry",
     OE_POLICY_PREFER,
     OE_POLICY_PREFER,
     {.known = DRIVE_KNOWN_SECOND, .epoch = EPOCH, .pinned = 1},
     OE_ADMIT_ANY,
     1,
     0,
     0,
     0,
     0,
     OE_SEC_PINNED},
    {"probe, required",
     OE_POLICY_PREFER,
     OE_POLICY_REQUIRE,
     {.known = DRIVE_KNOWN_NONE},
     OE_ADMIT_ANY,
     1,
     0,
     0,
     1,
     0,
     OE_SEC_UNAUTHENTICATED},
    {"probe, warn",
     OE_POLICY_PREFER,
     OE_POLICY_REQUIRE,
     {.known = DRIVE_KNOWN_WRONG, .downgrade = OE_DOWNGRADE_WARN},
     OE_ADMIT_ANY,
     1,
     0,
     0,
     1,
     0,
     OE_SEC_UNAUTHENTICATED},
    {"ik, large",
     OE_POLICY_PREFER,
     OE_POLICY_PREFER,
     {.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH},
     OE_ADMIT_ANY,
     1,
     0,
     16384,
     0,
     1,
     OE_SEC_TOFU},
    {"ik, too large",
     OE_POLICY_PREFER,
     OE_POLICY_PREFER,
     {.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH},
     OE_ADMIT_ANY,
     1,
     0,
     16385,
     0,
     0,
     OE_SEC_TOFU},
};

#define KINDS 12
#define SMALL_KINDS 10 /* without the large CONNECTs */
#define PREFACES 8     /* without the probes */

static struct world_how how_of(const struct kind *k, int v)
{
    struct world_how how = world_default;
    how.version = (enum oe_mqtt)v;
    how.client = k->client;
    how.broker = k->broker;
    how.trust = k->trust;
    how.admission = k->admission;
    how.epoch = EPOCH;
    how.fresh_n = k->fresh;
    how.will = k->will;
    how.connect_n = k->connect_n;
    return how;
}

/* Nothing that an application said is on the wire; of a probe CONNECT and CONNACK are. */
static void ck_hidden(const struct world *w, const struct kind *k, const char *what, size_t at)
{
    for (int way = 0; way < 2; way++) {
        ck_assert_msg(!drive_contains(&w->seen[way], WORLD_MARKER, sizeof(WORLD_MARKER) - 1), "%s, %s %zu: plaintext on the wire", k->name,
                      what, at);
        ck_assert_msg(!drive_contains(&w->seen[way], "queued", 6), "%s, %s %zu: what was queued is on the wire", k->name, what, at);
        if (!k->probe)
            ck_assert_msg(!drive_contains(&w->seen[way], "client", 6), "%s, %s %zu: the client identifier is on the wire", k->name, what,
                          at);
    }
}

static void ck_encrypted(const struct world *w, const struct kind *k, const char *what, size_t at)
{
    const struct oe_conn *i = &w->client.conn, *r = &w->broker.conn;
    ck_assert_msg(i->phase == OE_PHASE_RECORDS && r->phase == OE_PHASE_RECORDS, "%s, %s %zu: phases %d %d", k->name, what, at,
                  (int)i->phase, (int)r->phase);
    ck_assert_msg(drive_same(&w->client.app, &w->whole[WORLD_DOWN]), "%s, %s %zu: the client's bytes differ", k->name, what, at);
    ck_assert_msg(drive_same(&w->broker.app, &w->whole[WORLD_UP]), "%s, %s %zu: the broker's bytes differ", k->name, what, at);
    ck_assert(w->client.st == OE_OK && w->broker.st == OE_OK);
    ck_assert(i->security == k->i && r->security == (k->admission == OE_ADMIT_LISTED ? OE_SEC_PINNED : OE_SEC_UNAUTHENTICATED));
    ck_assert_int_eq(i->downgraded, k->trust.known == DRIVE_KNOWN_WRONG);
    ck_assert_int_eq(i->version, w->how.version);
    ck_assert_int_eq(r->version, w->how.version);
    ck_assert(i->hs == NULL && r->hs == NULL);
    ck_hidden(w, k, what, at);
}

/* Bytes of the handshake's packets each way in a run with nothing altered, and all bytes. */
struct shape {
    size_t handshake[2], n[2];
    struct oe_buf seen[2];
};

static size_t packet_n(const struct oe_buf *b, size_t at)
{
    struct oe_header h;
    ck_assert_int_eq(oe_frame_header(oe_buf_span(b).p + at, oe_buf_n(b) - at, &h), OE_OK);
    return h.total_n;
}

static struct shape shape_of(const struct kind *k, int v)
{
    struct world_how how = how_of(k, v);
    struct shape s = {0};
    struct world w;
    world_open(&w, &how);
    world_run(&w);
    ck_encrypted(&w, k, "shape", 0);
    for (int way = 0; way < 2; way++) {
        s.n[way] = oe_buf_n(&w.seen[way]);
        s.seen[way] = w.seen[way];
        w.seen[way] = (struct oe_buf){0};
        while (s.handshake[way] < s.n[way] && (oe_buf_span(&s.seen[way]).p[s.handshake[way]] & 0xF0) != 0x30)
            s.handshake[way] += packet_n(&s.seen[way], s.handshake[way]);
    }
    world_close(&w);
    return s;
}

static void free_shape(struct shape *s)
{
    oe_buf_free(&s->seen[0]);
    oe_buf_free(&s->seen[1]);
}

/* ---- undisturbed ----------------------------------------------------------------------------------------------------------------------- */

START_TEST(handshake_and_records)
{
    static const size_t large[] = {0, 1000, 16363, 16364, 40000};
    static const size_t rooms[] = {0, 1, 7, 4096, 300000};
    for (size_t k = 0; k < KINDS; k++) {
        EACH_VERSION(v)
        {
            for (size_t i = 0; i < 25; i += 1 + (k >= SMALL_KINDS) * 5) {
                struct world_how how = how_of(&kinds[k], v);
                struct oe_public key = drive_key(0x20);
                struct world w;
                how.large = large[i / 5];
                how.room = rooms[i % 5];
                world_open(&w, &how);
                world_run(&w);
                ck_encrypted(&w, &kinds[k], "whole", i);
                ck_assert_mem_eq(w.client.conn.peer.b, key.b, 32);
                key = drive_key(0x10);
                ck_assert_mem_eq(w.broker.conn.peer.b, key.b, 32);
                ck_assert_int_eq(w.client.conn.wire, kinds[k].probe ? v : OE_MQTT_5);
                ck_assert_int_eq(w.broker.conn.wire, kinds[k].probe ? v : OE_MQTT_5);
                ck_assert_int_eq(w.client.conn.epoch_seen, !kinds[k].probe);
                ck_assert_int_eq(drive_end(&w.client), OE_OK);
                ck_assert_int_eq(drive_end(&w.broker), OE_OK);
                world_close(&w);
            }
        }
    }
}
END_TEST

/* The wire is the same bytes whatever the pieces. */
START_TEST(every_split)
{
    for (size_t k = 0; k < SMALL_KINDS; k++) {
        EACH_VERSION(v)
        {
            struct shape s = shape_of(&kinds[k], v);
            for (int way = 0; way < 2; way++) {
                for (size_t cut = 1; cut <= s.n[way]; cut += step_of(v, 7)) {
                    struct world_how how = how_of(&kinds[k], v);
                    struct world w;
                    how.cut[way] = cut;
                    how.room = cut % 3 * 11;
                    world_open(&w, &how);
                    world_run(&w);
                    ck_encrypted(&w, &kinds[k], way == WORLD_UP ? "split up" : "split down", cut);
                    if (!kinds[k].probe)
                        ck_assert(drive_same(&w.seen[0], &s.seen[0]) && drive_same(&w.seen[1], &s.seen[1]));
                    world_close(&w);
                }
            }
            free_shape(&s);
        }
    }
}
END_TEST

START_TEST(byte_by_byte)
{
    for (size_t k = 0; k < KINDS; k++) {
        EACH_VERSION(v)
        {
            for (int i = 1; i < 4; i++) {
                struct world_how how = how_of(&kinds[k], v);
                struct world w;
                how.bytes[WORLD_UP] = i & 1;
                how.bytes[WORLD_DOWN] = i >> 1 & 1;
                world_open(&w, &how);
                w.client.how.bytewise = i & 1; /* the application's writes too */
                w.broker.how.bytewise = i >> 1 & 1;
                world_run(&w);
                ck_encrypted(&w, &kinds[k], "bytes", (size_t)i);
                world_close(&w);
            }
        }
    }
}
END_TEST

/* ---- disturbed ------------------------------------------------------------------------------------------------------------------------- */

/* The client's application was given a beginning of what the broker's said, or a CONNACK that refuses, or nothing where the stream ended first. */
static int is_fair_to_client(const struct world *w)
{
    struct oe_buf refusing = {0};
    drive_raw(&refusing, w->how.version == OE_MQTT_5 ? "\x20\x03\x00\x88\x00" : "\x20\x02\x00\x03", w->how.version == OE_MQTT_5 ? 5 : 4);
    int ended = w->client.conn.reason == OE_REASON_PREFACE_ENDED && oe_buf_n(&w->client.app) == 0;
    int fair = w->client.conn.phase == OE_PHASE_REFUSED ? ended || drive_same(&w->client.app, &refusing)
                                                        : drive_prefix(&w->client.app, &w->whole[WORLD_DOWN]);
    oe_buf_free(&refusing);
    return fair;
}

/* The broker's: a beginning of what the client's said; or, where a preface is no longer one, a beginning of the bytes as they came. */
static int is_fair_to_broker(const struct world *w)
{
    return drive_prefix(&w->broker.app, &w->whole[WORLD_UP]) ||
           (w->broker.conn.phase != OE_PHASE_RECORDS && drive_prefix(&w->broker.app, &w->seen[WORLD_UP]));
}

static void ck_fair(const struct world *w, const struct kind *k, const char *what, size_t at)
{
    ck_assert_msg(is_fair_to_client(w), "%s, %s %zu: the client was given something else", k->name, what, at);
    ck_assert_msg(is_fair_to_broker(w), "%s, %s %zu: the broker was given something else", k->name, what, at);
    ck_assert(!oe_conn_prefaced(&w->client.conn));
    for (int way = 0; way < 2; way++) {
        ck_assert_msg(!drive_contains(&w->seen[way], WORLD_MARKER, sizeof(WORLD_MARKER) - 1), "%s, %s %zu: plaintext on the wire", k->name,
                      what, at);
        ck_assert_msg(!drive_contains(&w->seen[way], "client", 6), "%s, %s %zu: the client identifier is on the wire", k->name, what, at);
    }
}

/* Each bit of each packet of the handshake and of the records. In the handshake a flip may cost the connection or lead to a retry, but it is
 * noticed: the two ends come to records only with all of what both applications said. */
START_TEST(every_bit)
{
    for (size_t k = 0; k < PREFACES; k++) {
        int all = k == 0 || k == 2 || k == 7; /* every bit of xx, ik and retry, some of the others */
        EACH_VERSION(v)
        {
            struct shape s = shape_of(&kinds[k], v);
            for (int way = 0; way < 2; way++) {
                for (size_t bit = 0; bit < s.n[way] * 8; bit += step_of(v, 41) * (bit / 8 < s.handshake[way] && all ? 1 : 5)) {
                    struct world_how how = how_of(&kinds[k], v);
                    struct world w;
                    how.flip[way] = bit / 8;
                    how.mask = (uint8_t)(1 << bit % 8);
                    world_open(&w, &how);
                    world_run(&w);
                    ck_fair(&w, &kinds[k], way == WORLD_UP ? "bit up" : "bit down", bit);
                    if (bit / 8 < s.handshake[way] && w.client.conn.phase == OE_PHASE_RECORDS && w.broker.conn.phase == OE_PHASE_RECORDS &&
                        w.client.dead[0] == OE_OK && w.client.dead[1] == OE_OK && w.broker.dead[0] == OE_OK && w.broker.dead[1] == OE_OK)
                        ck_encrypted(&w, &kinds[k], "bit", bit);
                    if (bit / 8 >= s.handshake[way]) {
                        struct drive *to = way == WORLD_UP ? &w.broker : &w.client;
                        ck_assert(to->dead[OE_FROM_PEER] != OE_OK || drive_end(to) != OE_OK); /* a longer record: at the end */
                    }
                    world_close(&w);
                }
            }
            free_shape(&s);
        }
    }
}
END_TEST

/* The stream ends at each byte. */
START_TEST(end_at_every_byte)
{
    for (size_t k = 0; k < PREFACES; k++) {
        EACH_VERSION(v)
        {
            struct shape s = shape_of(&kinds[k], v);
            for (int way = 0; way < 2; way++) {
                for (size_t end = 0; end < s.n[way]; end += step_of(v, 5)) {
                    struct world_how how = how_of(&kinds[k], v);
                    struct world w;
                    how.end[way] = end;
                    world_open(&w, &how);
                    world_run(&w);
                    ck_fair(&w, &kinds[k], way == WORLD_UP ? "end up" : "end down", end);
                    if (way == WORLD_DOWN && end < s.handshake[way]) {
                        ck_assert_int_eq(w.client.conn.phase, OE_PHASE_REFUSED);
                        ck_assert_int_eq(w.client.conn.remember, OE_REMEMBER_NOTHING);
                    }
                    if (way == WORLD_UP && end < s.handshake[way])
                        ck_assert_int_ne(w.broker.conn.phase, OE_PHASE_RECORDS);
                    world_close(&w);
                }
            }
            free_shape(&s);
        }
    }
}
END_TEST

/* Nobody answers. */
START_TEST(nothing_comes_back)
{
    for (size_t k = 0; k < PREFACES; k++) {
        EACH_VERSION(v)
        {
            struct world_how how = how_of(&kinds[k], v);
            struct world w;
            world_open(&w, &how);
            push(drive_app, &w.client, connect_of(v));
            (void)drive_expire(&w.client);
            ck_assert_int_eq(w.client.conn.phase, OE_PHASE_REFUSED);
            ck_assert_int_eq(w.client.conn.reason, OE_REASON_PREFACE_TIMEOUT);
            ck_assert(is_fair_to_client(&w));
            world_close(&w);
        }
    }
}
END_TEST

/* A client that the broker does not admit, and keys that do not fit: each refused at both ends, with all that crossed the wire hidden. */
START_TEST(refused_at_both_ends)
{
    for (size_t k = 0; k < PREFACES; k++) {
        for (int i = 0; i < 2; i++) {
            EACH_VERSION(v)
            {
                struct world_how how = how_of(&kinds[k], v);
                struct world w;
                if (i == 0)
                    how.admission = OE_ADMIT_NOT;
                else if (how.trust.known != DRIVE_KNOWN_NONE)
                    how.trust.known = DRIVE_KNOWN_WRONG;
                else
                    continue;
                world_open(&w, &how);
                world_run(&w);
                ck_fair(&w, &kinds[k], "refused", (size_t)i);
                ck_assert_uint_eq(oe_buf_n(&w.broker.app), 0);
                ck_assert_int_eq(w.broker.conn.phase, i == 0 ? OE_PHASE_REFUSED : OE_PHASE_PLAIN);
                int xx = kinds[k].trust.known == DRIVE_KNOWN_NONE || kinds[k].trust.known == DRIVE_KNOWN_SECOND;
                if (i == 0 && xx) /* it came behind message 3 */
                    ck_assert_int_eq(oe_conn_why(&w.client.conn, OE_FROM_PEER), OE_REASON_NOT_ADMITTED_THERE);
                else
                    ck_assert_int_eq(w.client.conn.reason, i == 0 ? OE_REASON_NOT_ADMITTED_THERE : OE_REASON_KEY_CHANGED);
                world_close(&w);
            }
        }
    }
}
END_TEST

/* ---- sent again ------------------------------------------------------------------------------------------------------------------------ */

/* What crossed the wire upwards, sent again to new connections of the same responder, whole and cut, in the same epoch and in another: the
 * CONNECT is not handed on again, nor is anything of the records. */
START_TEST(replay)
{
    for (size_t k = 0; k < PREFACES; k++) {
        EACH_VERSION(v)
        {
            struct world_how how = how_of(&kinds[k], v);
            struct world w;
            size_t handed_on = 0;
            how.fresh_n += 10;
            if (kinds[k].fresh == 0)
                how.trust.epoch = EPOCH + 1; /* it is not fresh for its epoch then */
            world_open(&w, &how);
            world_run(&w);
            ck_assert(drive_same(&w.broker.app, &w.whole[WORLD_UP]));
            struct oe_span up = oe_buf_span(&w.seen[WORLD_UP]);
            for (int again = 0; again < 6; again++) {
                struct drive d;
                if (again == 4) {
                    uint8_t other[OE_EPOCH_BYTES] = {1};
                    drive_new_epoch(other);
                }
                struct oe_secret e; /* another one, as the responder would have */
                memset(e.b, 100 + again, sizeof(e.b));
                drive_open(&d, OE_RESPONDER,
                           &(struct drive_how){.policy = kinds[k].broker, .seed = 0x20, .bytewise = again & 1, .ephemeral0 = &e});
                for (size_t at = 0, n = again & 2 ? 100 : up.n; at < up.n && d.st == OE_OK && d.conn.phase != OE_PHASE_BROKEN; at += n)
                    (void)drive_peer(&d, up.p + at, up.n - at < n ? up.n - at : n);
                handed_on += oe_buf_n(&d.app) != 0;
                ck_assert_msg(oe_buf_n(&d.app) == 0, "%s %d: a replay was handed on", kinds[k].name, v);
                drive_close(&d);
            }
            ck_assert_uint_eq(handed_on, 0);
            world_close(&w);
        }
    }
}
END_TEST

/* Message 1 is swallowed and sent later: it is handed on once at most, and not in another epoch. */
START_TEST(replay_of_what_was_swallowed)
{
    for (int new_epoch = 0; new_epoch < 2; new_epoch++) {
        struct world_how how = how_of(&kinds[2], OE_MQTT_311);
        struct world w;
        unsigned handed_on = 0;
        how.fresh_n = 10;
        world_open(&w, &how);
        push(drive_app, &w.client, connect_of(4));
        if (new_epoch) {
            uint8_t other[OE_EPOCH_BYTES] = {1};
            drive_new_epoch(other);
        }
        for (int again = 0; again < 3; again++) {
            struct drive d;
            drive_open(&d, OE_RESPONDER, &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 0x20});
            ck_assert_int_eq(drive_peer(&d, oe_buf_span(&w.client.wire).p, oe_buf_n(&w.client.wire)), OE_OK);
            ck_assert_int_eq(d.conn.phase, OE_PHASE_RECORDS);
            handed_on += oe_buf_n(&d.app) != 0;
            drive_close(&d);
        }
        ck_assert_uint_eq(handed_on, !new_epoch);
        world_close(&w);
    }
}
END_TEST

/* What the responder said, sent again to a client that connects anew, or back to the responder. */
START_TEST(replay_downwards_and_reflection)
{
    for (size_t k = 0; k < PREFACES; k++) {
        struct world_how how = how_of(&kinds[k], OE_MQTT_5);
        struct world w, next;
        world_open(&w, &how);
        world_run(&w);
        world_open(&next, &how);
        struct drive_how other = next.client.how; /* with other ephemeral keys, as it would have */
        struct oe_secret e[2];
        memset(e, 100, sizeof(e[0]));
        memset(e + 1, 101, sizeof(e[1]));
        other.ephemeral0 = &e[0];
        other.ephemeral1 = &e[1];
        drive_close(&next.client);
        drive_open(&next.client, OE_INITIATOR, &other);
        push(drive_app, &next.client, connect_of(5));
        clear(&next.client.wire);
        (void)drive_peer(&next.client, oe_buf_span(&w.seen[WORLD_DOWN]).p, oe_buf_n(&w.seen[WORLD_DOWN]));
        ck_assert_int_eq(next.client.conn.phase, OE_PHASE_REFUSED);
        ck_assert(is_fair_to_client(&next));
        (void)drive_peer(&next.broker, oe_buf_span(&w.seen[WORLD_DOWN]).p, oe_buf_n(&w.seen[WORLD_DOWN]));
        ck_assert_int_ne(next.broker.conn.phase, OE_PHASE_RECORDS);
        world_close(&w);
        world_close(&next);
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        handshake_and_records,
        every_split,
        byte_by_byte,
        every_bit,
        end_at_every_byte,
        nothing_comes_back,
        refused_at_both_ends,
        replay,
        replay_of_what_was_swallowed,
        replay_downwards_and_reflection,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("preface_conn", tests);
}
