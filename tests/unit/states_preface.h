/* Brings an initiator and a responder to the states of PROTOCOL.md 8.4: like states.h, and what each test of a refusal looks at. */
#ifndef OE_TESTS_STATES_PREFACE_H
#define OE_TESTS_STATES_PREFACE_H

#include "../../shim/core/preface.h"
#include "states.h"

#define EPOCH 7

static const struct drive_trust nothing = {.known = DRIVE_KNOWN_NONE};
static const struct drive_trust known = {.known = DRIVE_KNOWN_RIGHT};
static const struct drive_trust known_fresh = {.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH};
static const struct drive_trust wrong = {.known = DRIVE_KNOWN_WRONG, .epoch = EPOCH};
static const struct drive_trust second = {.known = DRIVE_KNOWN_SECOND, .epoch = EPOCH};

/* An initiator that knows this, and a responder in epoch EPOCH that every client may connect to. */
static inline void open_trust(enum oe_policy i, enum oe_policy r, struct drive_trust trust)
{
    drive_responders(OE_ADMIT_ANY, EPOCH, 10);
    drive_open(&I, OE_INITIATOR, &(struct drive_how){.policy = i, .seed = 1, .trust = trust, .peer_seed = 2});
    drive_open(&R, OE_RESPONDER, &(struct drive_how){.policy = r, .seed = 2});
}

/* The preface is on the initiator's wire. */
static inline void to_preface(struct drive_trust trust, int v)
{
    open_trust(trust.known == DRIVE_KNOWN_NONE ? OE_POLICY_REQUIRE : OE_POLICY_PREFER, OE_POLICY_PREFER, trust);
    push(drive_app, &I, connect_of(v));
    ck_phase(&I, trust.known == DRIVE_KNOWN_NONE ? OE_PHASE_I_PREFACE_XX : OE_PHASE_I_PREFACE_IK);
    ck_assert_int_eq(oe_buf_span(&I.wire).p[0], 0x10);
}

static inline struct oe_buf taken(struct drive *d)
{
    struct oe_buf b = {0};
    drive_raw(&b, oe_buf_span(&d->wire).p, oe_buf_n(&d->wire));
    clear(&d->wire);
    return b;
}

/* A CONNACK that refuses, in the application's version. */
static inline void ck_connack(struct oe_buf *b, int v, int why)
{
    static const char *const old[] = {"\x20\x02\x00\x03", "\x20\x02\x00\x05"}, *const five[] = {"\x20\x03\x00\x88\x00",
                                                                                                "\x20\x03\x00\x87\x00"};
    ck_bytes(b, v == 5 ? five[why] : old[why], v == 5 ? 5 : 4);
}

/* The initiator refuses: its application has had its CONNACK, nothing goes out, nothing more comes in. */
static inline void ck_refused(int v, enum oe_reason reason)
{
    ck_phase(&I, OE_PHASE_REFUSED);
    ck_assert_int_eq(I.conn.security, OE_SEC_REFUSED);
    ck_assert_int_eq(I.conn.reason, reason);
    ck_assert_int_eq(drive_end(&I), OE_OK); /* where it was the application's write that led here, its CONNACK comes now */
    ck_connack(&I.app, v, 0);
    ck_bytes(&I.wire, "", 0);
    ck_assert_int_eq(drive_app(&I, "\xC0\x00", 2), OE_CRYPTO);
    ck_assert_int_eq(drive_peer(&I, "\x20\x02\x00\x00", 4), OE_OK);
    ck_assert_int_eq(drive_end(&I), OE_OK);
    ck_bytes(&I.wire, "", 0);
    ck_bytes(&I.app, "", 0);
    ck_assert(!oe_conn_transparent(&I.conn));
}

/* The stream ended before the answer: the application gets that end and nothing else. */
static inline void ck_preface_ended(void)
{
    ck_phase(&I, OE_PHASE_REFUSED);
    ck_assert_int_eq(I.conn.security, OE_SEC_REFUSED);
    ck_assert_int_eq(I.conn.reason, OE_REASON_PREFACE_ENDED);
    ck_bytes(&I.app, "", 0);
    ck_bytes(&I.wire, "", 0);
    ck_assert_int_eq(drive_app(&I, "\xC0\x00", 2), OE_CRYPTO);
    ck_assert_int_eq(drive_end(&I), OE_OK);
    ck_bytes(&I.app, "", 0);
}

/* The responder refuses; its application has been given nothing, and gets no more. */
static inline void ck_refuses(enum oe_reason reason)
{
    ck_phase(&R, OE_PHASE_REFUSED);
    ck_assert_int_eq(R.conn.security, OE_SEC_REFUSED);
    ck_assert_int_eq(R.conn.reason, reason);
    ck_bytes(&R.app, "", 0);
    ck_assert_int_eq(drive_app(&R, "\xD0\x00", 2), OE_CRYPTO);
    ck_assert_int_eq(drive_peer(&R, "\xC0\x00", 2), OE_OK);
    ck_assert_int_eq(drive_end(&R), OE_OK);
    ck_bytes(&R.app, "", 0);
    ck_assert_uint_eq(oe_conn_held(&R.conn), 0);
}

static inline void ck_refusal_packet(struct oe_buf *b)
{
    ck_bytes(b, "\x20\x0D\x00\x87\x0A\x15\x00\x07OE-MQTT", 15);
}

static inline void ck_records(enum oe_security security, enum oe_reason reason)
{
    ck_phase(&I, OE_PHASE_RECORDS);
    ck_phase(&R, OE_PHASE_RECORDS);
    ck_assert_int_eq(I.conn.security, security);
    ck_assert_int_eq(I.conn.reason, reason);
    struct oe_public key = drive_key(2);
    ck_assert(I.conn.peer_seen && memcmp(I.conn.peer.b, key.b, 32) == 0);
    key = drive_key(1);
    ck_assert(R.conn.peer_seen && memcmp(R.conn.peer.b, key.b, 32) == 0);
}

/* CONNECT has arrived, once; the two talk. */
static inline void ck_talk(struct oe_buf connect)
{
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_packet(&R.app, &connect);
    push(drive_app, &R, connack_of((int)R.conn.version));
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    struct oe_buf c = connack_of((int)I.conn.version);
    ck_packet(&I.app, &c);
    ck_assert_int_eq(drive_app(&I, "\xC0\x00", 2), OE_OK);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_bytes(&R.app, "\xC0\x00", 2);
}

/* All that is on the wires, until nothing is left. */
static inline void exchange(void)
{
    for (int step = 0; step < 10 && oe_buf_n(&I.wire) + oe_buf_n(&R.wire) != 0; step++) {
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    }
}

/* A responder by hand, of R's identity: what a real one would not say. Reads the initiator's packet; message 2 is written by reply_with. */
static struct oe_noise hand;

static inline void hand_reads(enum oe_noise_pattern pattern)
{
    uint8_t payload[32768];
    struct oe_span message, wire = oe_buf_span(&I.wire);
    struct oe_secret e;
    enum oe_preface_id id;
    size_t want, n;
    memset(e.b, 99, 32);
    ck_assert_int_eq(oe_preface_read(OE_TYPE_CONNECT, wire.p, wire.n, &id, &message, &want), OE_OK);
    oe_preface_noise(&hand, pattern, 0, &R.identity, &e, NULL);
    ck_assert_int_eq(oe_noise_read(&hand, message, payload, sizeof(payload), &n), OE_OK);
    clear(&I.wire);
}

static inline struct oe_buf hand_says(enum oe_type type, enum oe_preface_id id, const uint8_t *payload, size_t payload_n)
{
    struct oe_buf out = {0};
    struct oe_sink sink = {.rest = &out};
    uint8_t message[32768];
    size_t n;
    ck_assert_int_eq(oe_noise_write(&hand, (struct oe_span){payload, payload_n}, message, sizeof(message), &n), OE_OK);
    ck_assert_int_eq(oe_preface_put(&sink, type, id, (struct oe_span){message, n}), OE_OK);
    return out;
}

/* An initiator by hand that speaks to R. */
static inline struct oe_buf hand_begins(enum oe_noise_pattern pattern, enum oe_type type, const uint8_t *payload, size_t payload_n)
{
    struct oe_public key = drive_key(2);
    struct oe_secret e;
    memset(e.b, 98, 32);
    oe_preface_noise(&hand, pattern, 1, &I.identity, &e, pattern == OE_NOISE_IK ? &key : NULL);
    return hand_says(type, pattern == OE_NOISE_IK ? OE_PREFACE_IK : OE_PREFACE_XX, payload, payload_n);
}

#endif
