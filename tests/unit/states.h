/* Brings an initiator and a responder to each state of PROTOCOL.md 3. One end is real, what the other says is scripted; where a valid answer is
 * needed a real one makes it. */
#ifndef OE_TESTS_STATES_H
#define OE_TESTS_STATES_H

#include <check.h>
#include <stdlib.h>
#include <string.h>

#include "drive.h"

#define EACH_VERSION(v) for (int v = OE_MQTT_31; v <= OE_MQTT_5; v++)

static struct drive I, R; /* initiator, responder */

static inline void open_policy(enum oe_policy policy)
{
    drive_open(&I, OE_INITIATOR, &(struct drive_how){.policy = policy, .seed = 1});
    drive_open(&R, OE_RESPONDER, &(struct drive_how){.policy = policy, .seed = 2});
}

static inline void open_both(void)
{
    open_policy(OE_POLICY_PREFER);
}

static inline void close_both(void)
{
    drive_close(&I);
    drive_close(&R);
}

static inline void ck_phase(const struct drive *d, enum oe_phase phase)
{
    ck_assert_int_eq(d->conn.phase, phase);
}

static inline void ck_ended_plain(const struct drive *d, enum oe_reason reason)
{
    ck_assert_int_eq(d->conn.phase, OE_PHASE_PLAIN);
    ck_assert_int_eq(d->conn.security, OE_SEC_PLAIN);
    ck_assert_int_eq(d->conn.reason, reason);
}

static inline void clear(struct oe_buf *b)
{
    oe_buf_drop(b, oe_buf_n(b));
}

static inline void ck_bytes(struct oe_buf *b, const void *p, size_t n)
{
    ck_assert_uint_eq(oe_buf_n(b), n);
    ck_assert(n == 0 || memcmp(oe_buf_span(b).p, p, n) == 0);
    clear(b);
}

static inline void ck_packet(struct oe_buf *b, struct oe_buf *packet)
{
    ck_assert(drive_same(b, packet));
    clear(b);
    oe_buf_free(packet);
}

static inline struct oe_buf connect_of(int v)
{
    struct oe_buf b = {0};
    drive_connect(&b, (enum oe_mqtt)v);
    return b;
}

static inline struct oe_buf connack_of(int v)
{
    struct oe_buf b = {0};
    drive_connack(&b, (enum oe_mqtt)v, 0);
    return b;
}

static inline struct oe_buf publish_of(int v, unsigned first, const char *topic, size_t n)
{
    struct oe_buf b = {0};
    uint8_t *payload = calloc(1, n == 0 ? 1 : n);
    drive_publish(&b, (enum oe_mqtt)v, first, topic, payload, n);
    free(payload);
    return b;
}

static inline void push(enum oe_status how(struct drive *, const void *, size_t), struct drive *d, struct oe_buf b)
{
    ck_assert_int_eq(how(d, oe_buf_span(&b).p, oe_buf_n(&b)), OE_OK);
    oe_buf_free(&b);
}

/* Both have seen CONNECT; CONNACK is on the responder's wire. */
static inline void to_connack(int v)
{
    open_both();
    push(drive_app, &I, connect_of(v));
    ck_phase(&I, OE_PHASE_I_CONNACK);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    clear(&R.app);
    ck_phase(&R, OE_PHASE_R_FIRST);
    push(drive_app, &R, connack_of(v));
}

/* The probe is on the initiator's wire. */
static inline void to_probe(int v)
{
    to_connack(v);
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    ck_phase(&I, OE_PHASE_I_PROBE);
    ck_assert_uint_eq(oe_buf_n(&I.app), 0);
    ck_assert_uint_eq(oe_buf_n(&I.wire), oe_link_probe_bytes((enum oe_mqtt)v));
}

/* Message 2 and UNSUBACK are on the responder's wire. */
static inline void to_message3(int v)
{
    to_probe(v);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_phase(&R, OE_PHASE_R_MESSAGE3);
    ck_assert_uint_eq(oe_buf_n(&R.app), 0);
}

static inline size_t message2_n(int v)
{
    return 13 + (v == 5) + 96;
}

/* Message 3 is on the initiator's wire, UNSUBACK on the responder's. */
static inline void to_unsuback(int v)
{
    to_message3(v);
    ck_assert_int_eq(drive_move(&R, &I, message2_n(v)), OE_OK);
    ck_phase(&I, OE_PHASE_I_UNSUBACK);
    ck_assert_uint_eq(oe_buf_n(&I.app), 0);
}

static inline void to_records(int v)
{
    to_unsuback(v);
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_phase(&I, OE_PHASE_RECORDS);
    ck_phase(&R, OE_PHASE_RECORDS);
    clear(&I.app);
    ck_assert_uint_eq(oe_buf_n(&R.app), 0);
}

static inline void to_late(int v)
{
    to_probe(v);
    ck_assert_int_eq(drive_expire(&I), OE_OK);
    ck_phase(&I, OE_PHASE_I_LATE);
    ck_assert_int_eq(I.conn.reason, OE_REASON_TIMEOUT);
    ck_assert_int_eq(I.conn.remember, OE_REMEMBER_TIMEOUT);
    struct oe_buf c = connack_of(v);
    ck_packet(&I.app, &c);
}

/* What a stock server answers. */
static inline void stock_unsuback(int v)
{
    if (v == 5)
        ck_assert_int_eq(drive_peer(&I, "\xB0\x04\xFF\xFF\x00\x11", 6), OE_OK);
    else
        ck_assert_int_eq(drive_peer(&I, "\xB0\x02\xFF\xFF", 4), OE_OK);
}

#endif
