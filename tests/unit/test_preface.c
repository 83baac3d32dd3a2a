/* The packets of the preface, byte by byte as in PROTOCOL.md 8.1, and whole connections against tests/vectors/preface.txt. */
#include <check.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/core/preface.h"
#include "run.h"
#include "states.h"
#include "vectors.h"

#define PREFACE_VECTORS "tests/vectors/preface.txt"

static uint8_t *exact(const void *p, size_t n)
{
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    ck_assert_ptr_nonnull(copy);
    if (n != 0)
        memcpy(copy, p, n);
    return copy;
}

/* ---- packets -------------------------------------------------------------------------------------------------------------------------- */

static const enum oe_type types[] = {OE_TYPE_CONNECT, OE_TYPE_AUTH};

/* The packet by the letter of 8.1; returns where its data begins. */
static size_t by_hand(enum oe_type type, unsigned id, const uint8_t *message, size_t n, struct oe_buf *out)
{
    struct oe_buf body = {0}, properties = {0};
    uint8_t v[4], two[2];

    drive_raw(&properties, "\x15\x00\x07\x4F\x45\x2D\x4D\x51\x54\x54\x16", 11);
    oe_bytes_put16(two, (uint16_t)(1 + n));
    drive_raw(&properties, two, 2);
    two[0] = (uint8_t)id;
    drive_raw(&properties, two, 1);
    drive_raw(&properties, message, n);
    if (type == OE_TYPE_CONNECT)
        drive_raw(&body, "\x00\x04\x4D\x51\x54\x54\x05\x02\x00\x3C", 10);
    else
        drive_raw(&body, "\x18", 1);
    drive_raw(&body, v, oe_varint_put(v, (uint32_t)oe_buf_n(&properties)));
    drive_raw(&body, oe_buf_span(&properties).p, oe_buf_n(&properties));
    if (type == OE_TYPE_CONNECT)
        drive_raw(&body, "\x00\x00", 2);
    drive_raw(out, type == OE_TYPE_CONNECT ? "\x10" : "\xF0", 1);
    drive_raw(out, v, oe_varint_put(v, (uint32_t)oe_buf_n(&body)));
    drive_raw(out, oe_buf_span(&body).p, oe_buf_n(&body));
    size_t front = oe_buf_n(out) - (type == OE_TYPE_CONNECT ? 2 : 0) - n - 1;
    oe_buf_free(&body);
    oe_buf_free(&properties);
    return front;
}

static struct oe_buf packet_of(enum oe_type type, enum oe_preface_id id, const uint8_t *message, size_t n)
{
    struct oe_buf out = {0};
    struct oe_sink sink = {.rest = &out};
    ck_assert_int_eq(oe_preface_put(&sink, type, id, (struct oe_span){message, n}), OE_OK);
    return out;
}

/* Whole, and cut at every byte: what is asked for next. */
static void ck_cuts(enum oe_type type, enum oe_preface_id id, const struct oe_buf *packet, size_t front, size_t n, size_t step)
{
    struct oe_span whole = oe_buf_span(packet), message;
    enum oe_preface_id got;
    size_t want = 0;

    for (size_t k = 0; k <= whole.n; k += k < front + 3 || k + step >= whole.n ? 1 : step) {
        uint8_t *p = exact(whole.p, k);
        enum oe_status st = oe_preface_read(type, p, k, &got, &message, &want);
        ck_assert_msg(st == (k < whole.n ? OE_MORE : OE_OK), "%zu of %zu bytes: status %d", k, whole.n, (int)st);
        if (k < whole.n)
            ck_assert_uint_eq(want, k < front ? k + 1 : whole.n);
        else
            ck_assert(got == id && message.n == n && message.p == p + front + 1);
        free(p);
    }
}

START_TEST(packet_bytes)
{
    static uint8_t message[OE_PREFACE_MESSAGE_BYTES_MAX];
    randombytes_buf(message, sizeof(message));
    for (int t = 0; t < 2; t++) {
        for (size_t n = 0; n <= sizeof(message); n += n < 140 || n + 200 > sizeof(message) ? 1 : 257) {
            enum oe_preface_id id = (enum oe_preface_id)(1 + n % 3);
            struct oe_buf expected = {0}, packet = packet_of(types[t], id, message, n);
            size_t front = by_hand(types[t], id, message, n, &expected);
            ck_assert_msg(drive_same(&packet, &expected), "type %d, a message of %zu bytes", (int)types[t], n);
            ck_cuts(types[t], id, &packet, front, n, n < 140 ? 1 : 1001);
            enum oe_preface_id got;
            struct oe_span span;
            size_t want;
            struct oe_span s = oe_buf_span(&packet);
            ck_assert_int_eq(oe_preface_read(types[1 - t], s.p, s.n, &got, &span, &want), OE_MALFORMED);
            oe_buf_free(&packet);
            oe_buf_free(&expected);
        }
    }
}
END_TEST

/* 113 + n bytes of IK with a CONNECT of at most 16,384 are the longest. */
START_TEST(packet_longest)
{
    static uint8_t message[OE_PREFACE_MESSAGE_BYTES_MAX + 1];
    ck_assert_uint_eq(OE_PREFACE_MESSAGE_BYTES_MAX, 113 + 16384);
    for (int t = 0; t < 2; t++) {
        struct oe_buf packet = {0};
        enum oe_preface_id id;
        struct oe_span span;
        size_t want;
        (void)by_hand(types[t], OE_PREFACE_IK, message, sizeof(message), &packet);
        struct oe_span s = oe_buf_span(&packet);
        ck_assert_int_eq(oe_preface_read(types[t], s.p, s.n, &id, &span, &want), OE_MALFORMED);
        ck_assert_int_eq(oe_preface_read(types[t], s.p, 30, &id, &span, &want), OE_MALFORMED);
        oe_buf_free(&packet);
    }
}
END_TEST

/* One encoding: up to the method another byte makes it somebody else's packet, behind that a wrong one of ours. */
START_TEST(packet_every_byte)
{
    static const size_t sizes[] = {0, 32, 65, 112, 113, 200};
    uint8_t message[200];
    memset(message, 0xAB, sizeof(message));
    for (size_t i = 0; i < 2 * sizeof(sizes) / sizeof(sizes[0]); i++) {
        enum oe_type type = types[i % 2];
        struct oe_buf packet = {0};
        size_t front = by_hand(type, OE_PREFACE_XX, message, sizes[i / 2], &packet), n = oe_buf_n(&packet);
        for (size_t at = 0; at < n; at++) {
            uint8_t good = packet.p[packet.pos + at];
            for (unsigned value = 0; value < 256; value++) {
                enum oe_preface_id id = OE_PREFACE_XX;
                struct oe_span span;
                size_t want;
                if (value == good)
                    continue;
                packet.p[packet.pos + at] = (uint8_t)value;
                uint8_t *p = exact(oe_buf_span(&packet).p, n);
                enum oe_status st = oe_preface_read(type, p, n, &id, &span, &want);
                if (at < front - 3)
                    ck_assert_msg(st == OE_MALFORMED, "byte %zu as %02x: status %d", at, value, (int)st);
                else if (at < front || at > front + sizes[i / 2])
                    ck_assert_msg(st == OE_INVALID, "byte %zu as %02x: status %d", at, value, (int)st);
                else if (at == front)
                    ck_assert(value == 2 || value == 3 ? st == OE_OK && (unsigned)id == value : st == OE_INVALID);
                else
                    ck_assert_int_eq(st, OE_OK);
                free(p);
            }
            packet.p[packet.pos + at] = good;
        }
        oe_buf_free(&packet);
    }
}
END_TEST

/* Lengths that are not in their shortest form. */
START_TEST(packet_lengths)
{
    static const struct {
        const char *bytes;
        size_t n;
        enum oe_type type;
    } cases[] = {
        {"\x10\xBB\x00\x00\x04MQTT\x05\x02\x00\x3C\x2E\x15\x00\x07OE-MQTT\x16\x00\x21\x01", 30, OE_TYPE_CONNECT},
        {"\x10\x3C\x00\x04MQTT\x05\x02\x00\x3C\xAE\x00\x15\x00\x07OE-MQTT\x16\x00\x21\x01", 30, OE_TYPE_CONNECT},
        {"\xF0\x90\x00\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x03", 19, OE_TYPE_AUTH},
        {"\xF0\x11\x18\x8E\x00\x15\x00\x07OE-MQTT\x16\x00\x01\x03", 19, OE_TYPE_AUTH},
        {"\xF0\xFF\xFF\xFF\xFF", 5, OE_TYPE_AUTH},
        {"\xF0\x00", 2, OE_TYPE_AUTH},
        {"\xF0\x0F", 2, OE_TYPE_AUTH},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        enum oe_preface_id id;
        struct oe_span span;
        size_t want;
        enum oe_status st = OE_MORE;
        for (size_t k = 1; k <= cases[i].n && st == OE_MORE; k++) {
            uint8_t *p = exact(cases[i].bytes, k);
            st = oe_preface_read(cases[i].type, p, k, &id, &span, &want);
            free(p);
        }
        ck_assert_msg(st == OE_MALFORMED, "case %zu: %d", i, (int)st);
    }
}
END_TEST

START_TEST(refusal_bytes)
{
    static const char bytes[] = "\x20\x0D\x00\x87\x0A\x15\x00\x07\x4F\x45\x2D\x4D\x51\x54\x54";
    struct oe_buf b = {0};
    struct oe_sink sink = {.rest = &b};
    ck_assert_int_eq(oe_preface_put_refusal(&sink), OE_OK);
    ck_bytes(&b, bytes, 15);
    oe_buf_free(&b);
    for (size_t n = 0; n <= 15; n++) {
        uint8_t *p = exact(bytes, n);
        ck_assert_int_eq(oe_preface_read_refusal(p, n), n < 15 ? OE_MORE : OE_OK);
        for (size_t bit = 0; bit < 8 * n; bit++) {
            p[bit / 8] ^= (uint8_t)(1 << bit % 8);
            ck_assert_int_eq(oe_preface_read_refusal(p, n), OE_MALFORMED);
            p[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        free(p);
    }
    ck_assert_int_eq(oe_preface_read_refusal((const uint8_t *)bytes, 16), OE_MALFORMED);
}
END_TEST

START_TEST(connack_bytes)
{
    static const struct {
        enum oe_mqtt version;
        int why;
        const char *bytes;
        size_t n;
    } cases[] = {
        {OE_MQTT_NONE, OE_REFUSE_UNAVAILABLE, "\x20\x02\x00\x03", 4},    {OE_MQTT_31, OE_REFUSE_UNAVAILABLE, "\x20\x02\x00\x03", 4},
        {OE_MQTT_311, OE_REFUSE_UNAVAILABLE, "\x20\x02\x00\x03", 4},     {OE_MQTT_5, OE_REFUSE_UNAVAILABLE, "\x20\x03\x00\x88\x00", 5},
        {OE_MQTT_NONE, OE_REFUSE_NOT_AUTHORISED, "\x20\x02\x00\x05", 4}, {OE_MQTT_31, OE_REFUSE_NOT_AUTHORISED, "\x20\x02\x00\x05", 4},
        {OE_MQTT_311, OE_REFUSE_NOT_AUTHORISED, "\x20\x02\x00\x05", 4},  {OE_MQTT_5, OE_REFUSE_NOT_AUTHORISED, "\x20\x03\x00\x87\x00", 5},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct oe_buf b = {0};
        struct oe_sink sink = {.rest = &b};
        ck_assert_int_eq(oe_preface_put_connack(&sink, cases[i].version, cases[i].why), OE_OK);
        ck_bytes(&b, cases[i].bytes, cases[i].n);
        oe_buf_free(&b);
    }
}
END_TEST

/* ---- vectors -------------------------------------------------------------------------------------------------------------------------- */

struct vec_packet {
    uint8_t p[1024];
    size_t n; /* 0: the block has none */
};

/* A connection of the vectors. */
struct vector {
    char kind[16];
    int version;
    struct oe_secret is, ie, ie_xx, rs, re;
    struct oe_known known[2];
    size_t known_n;
    uint8_t i_epoch[16], r_epoch[16];
    struct oe_buf connect;
    int early;
    struct vec_packet preface, retry, message1, message2, message3;
};

static struct vector V;

static int is_kind(const char *kind)
{
    return strcmp(V.kind, kind) == 0;
}

static void read_packet(const struct vec_block *b, const char *key, struct vec_packet *out)
{
    out->n = vec_get(b, key) == NULL ? 0 : vec_bytes(b, key, out->p, sizeof(out->p));
}

static void read_vector(const struct vec_block *b)
{
    const char *kind = vec_get(b, "kind");
    uint8_t connect[1024];
    ck_assert_ptr_nonnull(kind);
    oe_buf_free(&V.connect);
    memset(&V, 0, sizeof(V));
    (void)snprintf(V.kind, sizeof(V.kind), "%s", kind);
    V.version = (int)vec_number(b, "version");
    vec_bytes(b, "initiator_secret", V.is.b, 32);
    vec_bytes(b, "initiator_ephemeral", V.ie.b, 32);
    if (vec_get(b, "initiator_ephemeral_xx") != NULL)
        vec_bytes(b, "initiator_ephemeral_xx", V.ie_xx.b, 32);
    V.known_n = vec_bytes(b, "initiator_believes", V.known[0].key.b, 32) / 32;
    vec_bytes(b, "initiator_epoch", V.i_epoch, 16);
    vec_bytes(b, "responder_secret", V.rs.b, 32);
    vec_bytes(b, "responder_ephemeral", V.re.b, 32);
    vec_bytes(b, "responder_epoch", V.r_epoch, 16);
    if (is_kind("retry")) /* known too, but seen longer ago */
        vec_bytes(b, "responder_public", V.known[V.known_n++].key.b, 32);
    drive_raw(&V.connect, connect, vec_bytes(b, "connect", connect, sizeof(connect)));
    for (size_t i = oe_buf_n(&V.connect); i < vec_number(b, "connect_n"); i++) {
        uint8_t byte = (uint8_t)(i + 7 * (i / 256));
        drive_raw(&V.connect, &byte, 1);
    }
    ck_assert_uint_eq(oe_buf_n(&V.connect), vec_number(b, "connect_n"));
    V.early = (int)vec_number(b, "early");
    read_packet(b, "preface", &V.preface);
    read_packet(b, "retry", &V.retry);
    read_packet(b, "message1", &V.message1);
    read_packet(b, "message2", &V.message2);
    read_packet(b, "message3", &V.message3);
}

static void open_vector(int bytewise)
{
    struct oe_trust trust = {.known = V.known, .n = V.known_n};
    enum oe_policy policy = V.known_n == 0 ? OE_POLICY_REQUIRE : OE_POLICY_PREFER;
    drive_open(&I, OE_INITIATOR,
               &(struct drive_how){.policy = policy, .bytewise = bytewise, .identity = &V.is, .ephemeral0 = &V.ie, .ephemeral1 = &V.ie_xx});
    memcpy(trust.epoch, V.i_epoch, 16);
    ck_assert_int_eq(oe_conn_trust(&I.conn, &trust), OE_OK);
    drive_open(&R, OE_RESPONDER,
               &(struct drive_how){.policy = OE_POLICY_PREFER, .bytewise = bytewise, .identity = &V.rs, .ephemeral0 = &V.re});
    drive_responders(OE_ADMIT_ANY, 0, 100);
    drive_new_epoch(V.r_epoch);
}

/* Exactly this packet is on the wire of from; the other end gets it. */
static void carry(struct drive *from, struct drive *to, const struct vec_packet *packet)
{
    ck_assert_msg(oe_buf_n(&from->wire) >= packet->n && memcmp(oe_buf_span(&from->wire).p, packet->p, packet->n) == 0,
                  "%s %d: a packet differs", V.kind, V.version);
    ck_assert_int_eq(drive_move(from, to, packet->n), OE_OK);
}

/* One record each way: plain text in, these bytes on the wire, plain text out. */
static void record(const struct vec_block *b, const char *way, int k, struct drive *from, struct drive *to, int say)
{
    struct vec_packet plain, sealed;
    char key[32];

    (void)snprintf(key, sizeof(key), "%s_plain_%d", way, k);
    read_packet(b, key, &plain);
    (void)snprintf(key, sizeof(key), "%s_record_%d", way, k);
    read_packet(b, key, &sealed);
    ck_assert(plain.n != 0 && sealed.n != 0);
    if (say) {
        int bytewise = from->how.bytewise;
        from->how.bytewise = 0;
        ck_assert_int_eq(drive_app(from, plain.p, plain.n), OE_OK);
        from->how.bytewise = bytewise;
    }
    ck_assert_uint_eq(oe_buf_n(&from->wire), sealed.n);
    carry(from, to, &sealed);
    ck_bytes(&to->app, plain.p, plain.n);
}

static void ck_keys(const struct vec_block *b)
{
    uint8_t up[32], down[32];
    vec_bytes(b, "key_initiator", up, 32);
    vec_bytes(b, "key_responder", down, 32);
    ck_assert_mem_eq(I.conn.send.cipher.k.b, up, 32);
    ck_assert_mem_eq(I.conn.receive.cipher.k.b, down, 32);
    ck_assert_mem_eq(R.conn.receive.cipher.k.b, up, 32);
    ck_assert_mem_eq(R.conn.send.cipher.k.b, down, 32);
}

/* Up to the moment at which both have agreed. */
static void shake_hands(void)
{
    ck_assert_int_eq(drive_app(&I, oe_buf_span(&V.connect).p, oe_buf_n(&V.connect)), OE_OK);
    ck_assert_msg(oe_buf_n(&I.wire) == V.preface.n, "%s %d: %zu, %zu", V.kind, V.version, oe_buf_n(&I.wire), V.preface.n);
    carry(&I, &R, &V.preface);
    if (V.retry.n != 0) {
        ck_assert_uint_eq(oe_buf_n(&R.wire), V.retry.n);
        carry(&R, &I, &V.retry);
        ck_assert_uint_eq(oe_buf_n(&I.wire), V.message1.n);
        carry(&I, &R, &V.message1);
    }
    ck_assert_uint_eq(oe_buf_n(&R.wire), V.message2.n);
    carry(&R, &I, &V.message2);
    ck_phase(&I, OE_PHASE_RECORDS);
    carry(&I, &R, &V.message3);
    ck_phase(&R, OE_PHASE_RECORDS);
}

/* The records of a CONNECT that fills more than one. */
static void large_connect(const struct vec_block *b)
{
    uint8_t expected[32], digest[32];
    struct oe_span s = oe_buf_span(&I.wire);
    ck_assert_uint_eq(s.n, vec_number(b, "up_records_n"));
    vec_bytes(b, "up_records_sha256", expected, 32);
    crypto_hash_sha256(digest, s.p, s.n);
    ck_assert_mem_eq(digest, expected, 32);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_assert(drive_same(&R.app, &V.connect));
    clear(&R.app);
}

static void vector_preface(const struct vec_block *b, int bytewise)
{
    open_vector(bytewise);
    if (is_kind("ik-seen")) { /* the same preface came before */
        struct drive earlier;
        drive_open(&earlier, OE_RESPONDER, &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 77, .identity = &V.rs});
        ck_assert_int_eq(drive_peer(&earlier, V.preface.p, V.preface.n), OE_OK);
        ck_assert(drive_same(&earlier.app, &V.connect));
        drive_close(&earlier);
    }
    shake_hands();
    ck_keys(b);
    ck_assert(I.conn.version == (enum oe_mqtt)V.version && R.conn.version == (enum oe_mqtt)V.version);
    ck_assert(I.conn.epoch_seen && memcmp(I.conn.epoch, V.r_epoch, 16) == 0);
    ck_assert_int_eq(I.conn.security, is_kind("xx") ? OE_SEC_UNAUTHENTICATED : OE_SEC_TOFU);
    ck_assert_uint_eq(oe_buf_n(&R.app), V.early ? oe_buf_n(&V.connect) : 0);
    ck_assert(drive_prefix(&R.app, &V.connect));
    clear(&R.app);
    if (is_kind("ik-large"))
        large_connect(b);
    else
        record(b, "up", 0, &I, &R, V.early);
    record(b, "up", 1, &I, &R, 1);
    record(b, "down", 0, &R, &I, 1);
    record(b, "down", 1, &R, &I, 1);
    close_both();
}

/* The packet, and then the end of the stream. */
static void feed(struct drive *d, const struct vec_packet *packet)
{
    if (drive_peer(d, packet->p, packet->n) == OE_OK)
        (void)drive_end(d);
}

static void vector_refused(const struct vec_block *b, int bytewise)
{
    const char *what = vec_get(b, "what"), *why = vec_get(b, "why");
    struct vec_packet packet;
    int bad;

    read_packet(b, "packet", &packet);
    open_vector(bytewise);
    if (strcmp(what, "preface") == 0) {
        feed(&R, &packet);
        int answered = oe_buf_n(&R.wire) != 0 && oe_buf_span(&R.wire).p[0] == 0xF0;
        bad = !answered && !drive_contains(&R.app, "preface-vector", 14) && R.conn.phase != OE_PHASE_RECORDS;
    } else if (strcmp(what, "payload") == 0) {
        feed(&R, &packet);
        ck_phase(&R, OE_PHASE_REFUSED);
        bad = oe_buf_n(&R.app) == 0 && oe_buf_n(&R.wire) == 15 && oe_preface_read_refusal(oe_buf_span(&R.wire).p, 15) == OE_OK;
    } else {
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&V.connect).p, oe_buf_n(&V.connect)), OE_OK);
        carry(&I, &R, &V.preface);
        if (V.retry.n != 0 && strcmp(what, "retry") != 0) {
            carry(&R, &I, &V.retry);
            carry(&I, &R, &V.message1);
        }
        if (strcmp(what, "message3") == 0) {
            feed(&R, &packet);
            bad = R.conn.phase == OE_PHASE_BROKEN && oe_buf_n(&R.app) == 0;
        } else {
            feed(&I, &packet);
            bad = I.conn.phase == OE_PHASE_REFUSED && oe_buf_n(&I.wire) == 0;
        }
    }
    ck_assert_msg(bad, "%s %d, %s %s: phases %d, %d", V.kind, V.version, what, why, (int)I.conn.phase, (int)R.conn.phase);
    close_both();
}

static void vector_refuse(const struct vec_block *b)
{
    struct oe_buf out = {0};
    struct oe_sink sink = {.rest = &out};
    struct vec_packet packet;
    enum oe_mqtt version = (enum oe_mqtt)vec_number(b, "version");
    read_packet(b, "initiator", &packet);
    ck_assert_int_eq(oe_preface_put_connack(&sink, version, OE_REFUSE_UNAVAILABLE), OE_OK);
    ck_bytes(&out, packet.p, packet.n);
    read_packet(b, "responder", &packet);
    ck_assert_int_eq(oe_preface_put_connack(&sink, version, OE_REFUSE_NOT_AUTHORISED), OE_OK);
    ck_bytes(&out, packet.p, packet.n);
    oe_buf_free(&out);
}

START_TEST(own_vectors)
{
    struct vec_block b = {0};
    unsigned prefaces = 0, refused = 0, others = 0;
    FILE *f = fopen(PREFACE_VECTORS, "r");
    ck_assert_msg(f != NULL, "%s: run from the project's root", PREFACE_VECTORS);
    while (vec_next(f, &b)) {
        if (strcmp(b.name, "preface") == 0) {
            read_vector(&b);
            vector_preface(&b, 0);
            vector_preface(&b, 1);
            prefaces++;
        } else if (strcmp(b.name, "refused") == 0) {
            vector_refused(&b, 0);
            vector_refused(&b, 1);
            refused++;
        } else if (strcmp(b.name, "refuse") == 0) {
            vector_refuse(&b);
            others++;
        } else {
            struct vec_packet packet;
            ck_assert_str_eq(b.name, "refusal");
            read_packet(&b, "packet", &packet);
            ck_assert_int_eq(oe_preface_read_refusal(packet.p, packet.n), OE_OK);
            others++;
        }
    }
    vec_free(&b);
    oe_buf_free(&V.connect);
    (void)fclose(f);
    ck_assert_msg(prefaces == 24 && refused > 150 && others == 4, "%u prefaces, %u refused, %u others", prefaces, refused, others);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        packet_bytes, packet_longest, packet_every_byte, packet_lengths, refusal_bytes, connack_bytes, own_vectors,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("preface", tests);
}
