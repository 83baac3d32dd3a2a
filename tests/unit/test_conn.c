/*
 * An initiator against a responder with everything a relay can do between them: every split of the streams, every bit, every end.
 * OE_TEST_THIN=n takes only every n-th position (for valgrind).
 */
#include <check.h>
#include <pthread.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "drive.h"
#include "run.h"

static const enum oe_mqtt versions[] = {OE_MQTT_31, OE_MQTT_311, OE_MQTT_5};
#define VERSIONS 3

static size_t thin(void)
{
    const char *text = getenv("OE_TEST_THIN");
    size_t n = text == NULL ? 1 : strtoul(text, NULL, 10);
    return n == 0 ? 1 : n;
}

static struct world_how how_of(int v)
{
    struct world_how how = world_default;
    how.version = versions[v];
    return how;
}

/* Both applications have been given everything the other said, through records. */
static void ck_encrypted(const struct world *w, const char *what, size_t at)
{
    ck_assert_msg(w->client.conn.phase == OE_PHASE_RECORDS && w->broker.conn.phase == OE_PHASE_RECORDS, "%s %zu: phases %d %d", what, at,
                  (int)w->client.conn.phase, (int)w->broker.conn.phase);
    ck_assert_msg(drive_same(&w->client.app, &w->whole[WORLD_DOWN]), "%s %zu: the client's bytes differ", what, at);
    ck_assert_msg(drive_same(&w->broker.app, &w->whole[WORLD_UP]), "%s %zu: the broker's bytes differ", what, at);
    ck_assert(w->client.st == OE_OK && w->broker.st == OE_OK);
    for (int way = 0; way < 2; way++)
        ck_assert_msg(!drive_contains(&w->seen[way], WORLD_MARKER, sizeof(WORLD_MARKER) - 1), "%s %zu: plaintext on the wire", what, at);
}

static void ck_plain(const struct world *w)
{
    ck_assert(w->client.conn.security == OE_SEC_PLAIN && w->broker.conn.security == OE_SEC_PLAIN);
    ck_assert(drive_same(&w->client.app, &w->whole[WORLD_DOWN]));
    ck_assert(drive_same(&w->broker.app, &w->whole[WORLD_UP]));
}

/* The streams of one run with nothing altered, to know their lengths. */
struct shape {
    size_t n[2];
    size_t handshake_begin[2], handshake_end[2]; /* by way: probe and message 3; message 2 and UNSUBACK */
};

static struct shape shape_of(const struct world_how *how)
{
    struct world w;
    struct shape s;
    world_open(&w, how);
    world_run(&w);
    ck_encrypted(&w, "shape", 0);
    for (int way = 0; way < 2; way++)
        s.n[way] = oe_buf_n(&w.seen[way]);
    size_t five = how->version == OE_MQTT_5;
    s.handshake_begin[WORLD_UP] = oe_buf_n(&w.script[WORLD_UP][0]);
    s.handshake_end[WORLD_UP] = s.handshake_begin[WORLD_UP] + 59 + five + 13 + five + 64;
    s.handshake_begin[WORLD_DOWN] = 4 + five;
    s.handshake_end[WORLD_DOWN] = 0; /* what the broker queued behind CONNACK is in front of it: found below */
    const uint8_t *p = oe_buf_span(&w.seen[WORLD_DOWN]).p;
    const uint8_t *m = memmem(p, s.n[WORLD_DOWN], "oe-mqtt/1", 9);
    ck_assert_ptr_nonnull(m);
    s.handshake_begin[WORLD_DOWN] = (size_t)(m - p) - 4;
    s.handshake_end[WORLD_DOWN] = s.handshake_begin[WORLD_DOWN] + 13 + five + 96 + (five ? 6 : 4);
    world_close(&w);
    return s;
}

START_TEST(handshake_and_records)
{
    static const size_t large[] = {0, 1000, 16364, 16365, 40000, 200000};
    static const size_t rooms[] = {0, 1, 7, 4096, 300000};
    for (int v = 0; v < VERSIONS; v++) {
        for (size_t i = 0; i < 6 * 5; i++) {
            struct world_how how = how_of(v);
            struct world w;
            how.large = large[i / 5];
            how.room = rooms[i % 5];
            world_open(&w, &how);
            world_run(&w);
            ck_encrypted(&w, "whole", i);
            ck_assert_mem_eq(w.client.conn.peer.b, w.client.conn.peer.b, 32);
            struct oe_public key;
            oe_secret_public(&w.broker.identity, &key);
            ck_assert_mem_eq(w.client.conn.peer.b, key.b, 32);
            oe_secret_public(&w.client.identity, &key);
            ck_assert_mem_eq(w.broker.conn.peer.b, key.b, 32);
            ck_assert(w.client.conn.hs == NULL && w.broker.conn.hs == NULL);
            ck_assert_int_eq(drive_end(&w.client), OE_OK);
            ck_assert_int_eq(drive_end(&w.broker), OE_OK);
            world_close(&w);
        }
    }
}
END_TEST

/* The wire is the same bytes whatever the pieces; only records may differ where pieces of the application's stream do. */
START_TEST(every_split)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct world_how how = how_of(v);
        struct shape s = shape_of(&how);
        for (int way = 0; way < 2; way++) {
            for (size_t cut = 1; cut <= s.n[way]; cut += thin()) {
                struct world w;
                how = how_of(v);
                how.cut[way] = cut;
                how.room = cut % 3 * 11;
                world_open(&w, &how);
                world_run(&w);
                ck_encrypted(&w, way == WORLD_UP ? "split up" : "split down", cut);
                world_close(&w);
            }
        }
    }
}
END_TEST

START_TEST(byte_by_byte)
{
    for (int v = 0; v < VERSIONS; v++) {
        for (int i = 1; i < 8; i++) {
            struct world_how how = how_of(v);
            struct world w;
            how.bytes[WORLD_UP] = i & 1;
            how.bytes[WORLD_DOWN] = i >> 1 & 1;
            how.large = i & 4 ? 17000 : 0;
            world_open(&w, &how);
            w.client.how.bytewise = i & 1; /* the application's writes too */
            w.broker.how.bytewise = i >> 1 & 1;
            world_run(&w);
            ck_encrypted(&w, "bytes", (size_t)i);
            world_close(&w);
        }
    }
}
END_TEST

/* ---- without OE-MQTT at one end ------------------------------------------------------------------------------------------------------- */

START_TEST(policy_off_at_either_end)
{
    for (int v = 0; v < VERSIONS; v++) {
        for (int i = 0; i < 3; i++) {
            struct world_how how = how_of(v);
            struct world w;
            if (i == 1)
                continue; /* a responder with policy off behind a probing initiator needs a stock broker: test_states */
            how.client = OE_POLICY_OFF;
            how.broker = i == 0 ? OE_POLICY_PREFER : OE_POLICY_OFF;
            how.large = 50000;
            world_open(&w, &how);
            world_run(&w);
            ck_plain(&w);
            ck_assert(drive_same(&w.seen[WORLD_UP], &w.whole[WORLD_UP]) && drive_same(&w.seen[WORLD_DOWN], &w.whole[WORLD_DOWN]));
            ck_assert_int_eq(w.client.conn.reason, OE_REASON_POLICY_OFF);
            ck_assert_int_eq(w.broker.conn.reason, i == 0 ? OE_REASON_NOT_PROBED : OE_REASON_POLICY_OFF);
            ck_assert(oe_conn_transparent(&w.client.conn) && oe_conn_transparent(&w.broker.conn));
            world_close(&w);
        }
    }
}
END_TEST

/* ---- ends ----------------------------------------------------------------------------------------------------------------------------- */

/* Whether bytes that an application was given are no others than the other application said. */
static void ck_prefixes(const struct world *w, const char *what, size_t at)
{
    ck_assert_msg(drive_prefix(&w->client.app, &w->whole[WORLD_DOWN]), "%s %zu: client", what, at);
    ck_assert_msg(drive_prefix(&w->broker.app, &w->whole[WORLD_UP]), "%s %zu: broker", what, at);
}

START_TEST(end_at_every_byte)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct world_how how = how_of(v);
        struct shape s = shape_of(&how);
        for (int way = 0; way < 2; way++) {
            for (size_t end = 0; end < s.n[way]; end += thin()) {
                struct world w;
                how = how_of(v);
                how.end[way] = end;
                world_open(&w, &how);
                world_run(&w);
                const struct drive *to = way == WORLD_UP ? &w.broker : &w.client;
                const struct oe_conn *c = &to->conn;
                /* The front of a probe that never became one may reach the broker, as it would without a responder. */
                if (way == WORLD_UP && end > s.handshake_begin[way] && end < s.handshake_begin[way] + oe_link_probe_bytes(versions[v]))
                    ck_assert(drive_prefix(&to->app, &w.seen[WORLD_UP]));
                else
                    ck_prefixes(&w, "end", end);
                ck_assert_int_ne(c->phase, OE_PHASE_I_PROBE);
                ck_assert_int_ne(c->phase, OE_PHASE_I_UNSUBACK);
                if (end > s.handshake_begin[way] && end < s.handshake_end[way])
                    ck_assert_msg(c->phase != OE_PHASE_RECORDS, "end %zu", end);
                if (way == WORLD_DOWN && end >= s.handshake_begin[way] && end < s.handshake_end[way]) {
                    int message2 = end >= s.handshake_begin[way] + 13 + (versions[v] == OE_MQTT_5) + 96;
                    ck_assert_int_eq(c->phase, message2 ? OE_PHASE_BROKEN : OE_PHASE_PLAIN);
                    ck_assert_int_eq(c->reason, message2 ? OE_REASON_HANDSHAKE_ENDED : OE_REASON_PROBE_CLOSED);
                    ck_assert_int_eq(c->remember, message2 ? OE_REMEMBER_NOTHING : OE_REMEMBER_CLOSED);
                }
                world_close(&w);
            }
        }
    }
}
END_TEST

/* In records an end is clean exactly between two of them. */
START_TEST(end_inside_a_record)
{
    struct world w;
    struct world_how how = how_of(1);
    world_open(&w, &how);
    world_run(&w);
    ck_encrypted(&w, "whole", 0);
    (void)drive_app(&w.client, "0123456789", 10);
    (void)drive_app(&w.client, "abcde", 5);
    size_t n = oe_buf_n(&w.client.wire), first = oe_record_bytes(OE_MQTT_311, 10);
    for (size_t end = 0; end <= n; end++) {
        struct oe_conn copy = w.broker.conn; /* nothing of it is owned in records between two pushes */
        struct oe_buf out = {0}, answer = {0};
        struct oe_sink sink = {.rest = &out};
        struct oe_flow flow = {.forward = &sink, .answer = &answer};
        ck_assert_int_eq(oe_conn_push(&copy, OE_FROM_PEER, (struct oe_span){oe_buf_span(&w.client.wire).p, end}, 0, &flow), OE_OK);
        enum oe_status st = oe_conn_peer_end(&copy, &flow);
        int clean = end == 0 || end == first || end == n;
        ck_assert_int_eq(st, clean ? OE_OK : OE_CRYPTO);
        ck_assert_int_eq(oe_conn_why(&copy, OE_FROM_PEER), clean ? OE_REASON_NONE : OE_REASON_TRUNCATED);
        ck_assert_uint_eq(oe_buf_n(&out), end < first ? 0 : end < n ? 10 : 15);
        ck_assert_uint_eq(oe_buf_n(&answer), 0);
        oe_buf_free(&out);
        oe_conn_wipe(&copy);
    }
    world_close(&w);
}
END_TEST

/* An end that follows a record that failed is no clean end. */
START_TEST(end_after_a_bad_record)
{
    struct world w;
    struct world_how how = how_of(1);
    world_open(&w, &how);
    world_run(&w);
    ck_assert_int_eq(drive_peer(&w.client, "\x30\x14\x00\x01$0123456789abcdefg", 22), OE_CRYPTO);
    ck_assert_int_eq(oe_conn_why(&w.client.conn, OE_FROM_PEER), OE_REASON_BAD_TAG);
    ck_assert_int_ne(drive_end(&w.client), OE_OK);
    world_close(&w);
}
END_TEST

/* ---- altered bits --------------------------------------------------------------------------------------------------------------------- */

START_TEST(handshake_every_bit)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct world_how how = how_of(v);
        struct shape s = shape_of(&how);
        for (int way = 0; way < 2; way++) {
            for (size_t bit = s.handshake_begin[way] * 8; bit < s.handshake_end[way] * 8; bit += thin()) {
                struct world w;
                how = how_of(v);
                how.flip[way] = bit / 8;
                how.mask = (uint8_t)(1 << bit % 8);
                world_open(&w, &how);
                world_run(&w);
                const struct oe_conn *i = &w.client.conn, *r = &w.broker.conn;
                ck_assert_msg(i->phase != OE_PHASE_RECORDS || r->phase != OE_PHASE_RECORDS, "way %d byte %zu mask %02x: unnoticed", way,
                              bit / 8, how.mask);
                /* Nothing comes out of records that do not fit, and what was before them is what the other said. */
                if (i->security == OE_SEC_UNAUTHENTICATED)
                    ck_assert(drive_prefix(&w.client.app, &w.whole[WORLD_DOWN]));
                if (r->security == OE_SEC_UNAUTHENTICATED)
                    ck_assert(drive_prefix(&w.broker.app, &w.whole[WORLD_UP]));
                if (i->phase == OE_PHASE_BROKEN)
                    ck_assert_uint_eq(oe_buf_n(&w.client.app), 0);
                if (r->phase == OE_PHASE_BROKEN)
                    ck_assert(drive_prefix(&w.broker.app, &w.script[WORLD_UP][0]));
                /* An end that is in records or broken gave nothing of its application away in plain. */
                if (i->security == OE_SEC_UNAUTHENTICATED || i->phase == OE_PHASE_BROKEN)
                    ck_assert(!drive_contains(&w.seen[WORLD_UP], WORLD_MARKER, sizeof(WORLD_MARKER) - 1));
                if (r->security == OE_SEC_UNAUTHENTICATED || r->phase == OE_PHASE_BROKEN)
                    ck_assert(!drive_contains(&w.seen[WORLD_DOWN], WORLD_MARKER, sizeof(WORLD_MARKER) - 1));
                world_close(&w);
            }
        }
    }
}
END_TEST

/* Records with the sealed stream in them, each bit altered, fed whole and byte by byte. */
START_TEST(records_every_bit)
{
    static const uint8_t text[] = "0123456789abcdefghijklmnopqrstuvwxyz";
    for (int v = 0; v < VERSIONS; v++) {
        struct world_how how = how_of(v);
        struct world w;
        world_open(&w, &how);
        world_run(&w);
        for (size_t i = 0; i < 36; i += 12)
            (void)drive_app(&w.client, text + i, 12);
        struct oe_span wire = oe_buf_span(&w.client.wire);
        size_t size = oe_record_bytes(versions[v], 12);
        ck_assert_uint_eq(wire.n, 3 * size);
        for (size_t bit = 0; bit < wire.n * 8; bit += thin()) {
            size_t outs[2] = {0, 0}, whys[2] = {0, 0};
            w.client.wire.p[w.client.wire.pos + bit / 8] ^= (uint8_t)(1 << bit % 8);
            for (int bytes = 0; bytes < 2; bytes++) {
                struct oe_conn copy = w.broker.conn;
                struct oe_buf out = {0}, answer = {0};
                struct oe_sink sink = {.rest = &out};
                struct oe_flow flow = {.forward = &sink, .answer = &answer};
                enum oe_status st = OE_OK;
                for (size_t at = 0; at < wire.n && st == OE_OK; at += bytes ? 1 : wire.n)
                    st = oe_conn_push(&copy, OE_FROM_PEER, (struct oe_span){wire.p + at, bytes ? 1 : wire.n}, 0, &flow);
                if (st == OE_OK)
                    st = oe_conn_peer_end(&copy, &flow);
                ck_assert_int_ne(st, OE_OK);
                ck_assert_msg(oe_buf_n(&out) == bit / 8 / size * 12, "bit %zu: %zu bytes came out", bit, oe_buf_n(&out));
                ck_assert(oe_buf_n(&out) == 0 || memcmp(oe_buf_span(&out).p, text, oe_buf_n(&out)) == 0);
                outs[bytes] = oe_buf_n(&out);
                whys[bytes] = (size_t)oe_conn_why(&copy, OE_FROM_PEER);
                ck_assert_int_ne(oe_conn_push(&copy, OE_FROM_PEER, wire, 0, &flow), OE_OK); /* broken for good */
                ck_assert_uint_eq(oe_buf_n(&out), outs[bytes]);
                oe_buf_free(&out);
                oe_conn_wipe(&copy);
            }
            ck_assert(outs[0] == outs[1] && whys[0] == whys[1]);
            w.client.wire.p[w.client.wire.pos + bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        world_close(&w);
    }
}
END_TEST

START_TEST(records_refuse_everything_else)
{
    static const struct {
        const char *bytes;
        size_t n;
    } others[] = {
        {"\xC0\x00", 2},
        {"\x30\x03\x00\x01$", 5},
        {"\xE0\x00", 2},
        {"\xB0\x02\xFF\xFF", 4},
        {"\x30\x0B\x00\x09oe-mqtt/1", 13},
        {"\x20\x02\x00\x00", 4},
        {"\x00", 1},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        struct world w;
        struct world_how how = how_of(1);
        world_open(&w, &how);
        world_run(&w);
        size_t client = oe_buf_n(&w.client.app), broker = oe_buf_n(&w.broker.app);
        ck_assert_int_ne(drive_peer(&w.client, others[i].bytes, others[i].n), OE_OK);
        ck_assert_int_ne(drive_peer(&w.broker, others[i].bytes, others[i].n), OE_OK);
        ck_assert(oe_buf_n(&w.client.app) == client && oe_buf_n(&w.broker.app) == broker);
        ck_assert_int_eq(oe_conn_why(&w.client.conn, OE_FROM_PEER), OE_REASON_NOT_A_RECORD);
        /* the other direction is the caller's to stop; by itself it still seals */
        ck_assert_int_eq(oe_conn_why(&w.client.conn, OE_FROM_APP), OE_REASON_NONE);
        world_close(&w);
    }
}
END_TEST

/* Records that are repeated, left out, in another order, or sent back to their sender. */
START_TEST(records_order)
{
    static const int orders[][3] = {{0, 0, 1}, {0, 2, 1}, {1, 0, 2}, {0, 1, 1}, {2, 1, 0}};
    static const size_t right[] = {1, 1, 0, 2, 0};
    for (size_t i = 0; i < sizeof(orders) / sizeof(orders[0]); i++) {
        struct world w;
        struct world_how how = how_of(2);
        enum oe_status st = OE_OK;
        world_open(&w, &how);
        world_run(&w);
        size_t before = oe_buf_n(&w.broker.app), size = oe_record_bytes(OE_MQTT_5, 4);
        for (int k = 0; k < 3; k++)
            (void)drive_app(&w.client, "text", 4);
        const uint8_t *p = oe_buf_span(&w.client.wire).p;
        for (int k = 0; k < 3 && st == OE_OK; k++)
            st = drive_peer(&w.broker, p + size * (size_t)orders[i][k], size);
        ck_assert_int_eq(st, OE_CRYPTO);
        ck_assert_uint_eq(oe_buf_n(&w.broker.app) - before, 4 * right[i]);
        ck_assert_int_eq(drive_peer(&w.client, p, size), OE_CRYPTO); /* reflected */
        world_close(&w);
    }
}
END_TEST

/* ---- rekey, counters, threads ----------------------------------------------------------------------------------------------------------- */

START_TEST(rekey_in_both_directions)
{
    struct world w;
    struct world_how how = how_of(1);
    world_open(&w, &how);
    w.client.conn.send.rekey_records = w.broker.conn.receive.rekey_records = 2;
    w.broker.conn.send.rekey_records = w.client.conn.receive.rekey_records = 3;
    world_run(&w);
    for (int i = 0; i < 50; i++) {
        (void)drive_app(&w.client, "up", 2);
        (void)drive_app(&w.broker, "down", 4);
        ck_assert_int_eq(drive_move(&w.client, &w.broker, SIZE_MAX), OE_OK);
        ck_assert_int_eq(drive_move(&w.broker, &w.client, SIZE_MAX), OE_OK);
    }
    ck_assert(drive_same(&w.client.app, &w.broker.sent) && drive_same(&w.broker.app, &w.client.sent));
    world_close(&w);
}
END_TEST

START_TEST(counter_ends)
{
    struct world w;
    struct world_how how = how_of(1);
    world_open(&w, &how);
    world_run(&w);
    w.client.conn.send.cipher.n = w.broker.conn.receive.cipher.n = UINT64_MAX - 1;
    ck_assert_int_eq(drive_app(&w.client, "x", 1), OE_OK);
    ck_assert_int_eq(drive_move(&w.client, &w.broker, SIZE_MAX), OE_OK);
    ck_assert_int_eq(drive_app(&w.client, "y", 1), OE_LIMIT);
    ck_assert_int_eq(oe_conn_why(&w.client.conn, OE_FROM_APP), OE_REASON_COUNTER);
    ck_assert_uint_eq(oe_buf_n(&w.client.wire), 0);
    ck_assert_int_ne(drive_app(&w.client, "z", 1), OE_OK);
    ck_assert_uint_eq(oe_buf_n(&w.client.wire), 0);
    world_close(&w);
}
END_TEST

struct one_way {
    struct oe_conn *from, *to;
    struct oe_buf got;
    int failed;
};

static void *carry(void *arg)
{
    struct one_way *o = arg;
    for (int i = 0; i < 300 && !o->failed; i++) {
        struct oe_buf wire = {0}, answer = {0};
        struct oe_sink out = {.rest = &wire}, in = {.rest = &o->got};
        struct oe_flow flow = {.forward = &out};
        uint8_t text[200];
        memset(text, i, sizeof(text));
        o->failed |= oe_conn_push(o->from, OE_FROM_APP, (struct oe_span){text, sizeof(text)}, 0, &flow) != OE_OK;
        flow = (struct oe_flow){.forward = &in, .answer = &answer};
        struct oe_span s = oe_buf_span(&wire);
        o->failed |= oe_conn_push(o->to, OE_FROM_PEER, (struct oe_span){s.p, 100}, 0, &flow) != OE_OK;
        o->failed |= oe_conn_push(o->to, OE_FROM_PEER, (struct oe_span){s.p + 100, s.n - 100}, 0, &flow) != OE_OK;
        oe_buf_free(&wire);
    }
    return NULL;
}

/* In RECORDS the two directions share nothing that changes: no lock here, and TSan has nothing to say. */
START_TEST(two_directions_at_once)
{
    struct world w;
    struct world_how how = how_of(1);
    pthread_t up, down;
    world_open(&w, &how);
    world_run(&w);
    struct one_way a = {.from = &w.client.conn, .to = &w.broker.conn}, b = {.from = &w.broker.conn, .to = &w.client.conn};
    ck_assert_int_eq(pthread_create(&up, NULL, carry, &a), 0);
    ck_assert_int_eq(pthread_create(&down, NULL, carry, &b), 0);
    ck_assert_int_eq(pthread_join(up, NULL), 0);
    ck_assert_int_eq(pthread_join(down, NULL), 0);
    ck_assert(!a.failed && !b.failed);
    ck_assert(oe_buf_n(&a.got) == 60000 && oe_buf_n(&b.got) == 60000);
    oe_buf_free(&a.got);
    oe_buf_free(&b.got);
    world_close(&w);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        handshake_and_records,  every_split,
        byte_by_byte,           policy_off_at_either_end,
        end_at_every_byte,      end_inside_a_record,
        end_after_a_bad_record, handshake_every_bit,
        records_every_bit,      records_refuse_everything_else,
        records_order,          rekey_in_both_directions,
        counter_ends,           two_directions_at_once,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("conn", tests);
}
