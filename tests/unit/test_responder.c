/* Every row of PROTOCOL.md 3.2. A test is named by its state, then by its event. */
#include <check.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "states.h"

/* ---- 3.2 responder -------------------------------------------------------------------------------------------------------------------- */

START_TEST(r_connect__connect_complete)
{
    EACH_VERSION(v)
    {
        struct oe_buf c = connect_of(v);
        size_t at_version = v == OE_MQTT_31 ? 11 : 9; /* bytes up to and with the level */
        open_both();
        for (size_t i = 0; i < oe_buf_n(&c); i++) {
            /* the first byte may be that of a preface; what follows shows that it is none */
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p + i, 1), OE_OK);
            ck_assert_uint_eq(oe_buf_n(&R.app), i == 0 ? 0 : i + 1);
            ck_assert(R.conn.phase == (i + 1 < at_version ? OE_PHASE_R_CONNECT : OE_PHASE_R_FIRST));
        }
        ck_phase(&R, OE_PHASE_R_FIRST);
        ck_assert_int_eq(R.conn.version, v);
        ck_packet(&R.app, &c);
        close_both();
    }
}
END_TEST

START_TEST(r_connect__anything_else)
{
    static const char *const others[] = {"\x16\x03\x01\x02\x01\x01\x01", "GET / HTTP/1.1\r\n", "\xFF\xFF\xFF\xFF",
                                         "\x10\x80\x80\x80\x80\x80", "\x10\x01\x01\x01"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        size_t n = strlen(others[i]);
        for (size_t cut = 0; cut < n; cut++) {
            open_both();
            ck_assert_int_eq(drive_peer(&R, others[i], cut), OE_OK);
            ck_assert_int_eq(drive_peer(&R, others[i] + cut, n - cut), OE_OK);
            ck_ended_plain(&R, i == 0 ? OE_REASON_TLS : OE_REASON_NOT_MQTT);
            ck_bytes(&R.app, others[i], n);
            close_both();
        }
    }
}
END_TEST

START_TEST(r_connect__app_any_byte)
{
    open_both();
    ck_assert_int_eq(drive_peer(&R, "\x10", 1), OE_OK);
    ck_assert_int_eq(drive_app(&R, "220 hello", 9), OE_OK);
    ck_ended_plain(&R, OE_REASON_PEER_FIRST);
    ck_bytes(&R.wire, "220 hello", 9);
    close_both();
}
END_TEST

/* A port scanner: connects, says nothing or little, closes. The broker may still write. */
START_TEST(r_connect__peer_end)
{
    for (size_t n = 0; n < 5; n++) {
        open_both();
        ck_assert_int_eq(drive_peer(&R, "\x10\x0C\x00\x04M", n), OE_OK);
        ck_assert_int_eq(drive_end(&R), OE_OK);
        ck_bytes(&R.app, "\x10\x0C\x00\x04M", n);
        ck_assert_int_eq(drive_app(&R, "bye", 3), OE_OK);
        ck_bytes(&R.wire, "bye", 3);
        ck_assert_int_eq(drive_peer(&R, "x", 1), OE_OK);
        close_both();
    }
}
END_TEST

START_TEST(r_first__probe_split_everywhere)
{
    EACH_VERSION(v)
    {
        size_t n = oe_link_probe_bytes((enum oe_mqtt)v);
        for (size_t cut = 0; cut <= n; cut++) {
            to_probe(v);
            ck_assert_int_eq(drive_move(&I, &R, cut), OE_OK);
            ck_phase(&R, cut == n ? OE_PHASE_R_MESSAGE3 : OE_PHASE_R_FIRST);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_phase(&R, OE_PHASE_R_MESSAGE3);
            ck_bytes(&R.app, "", 0);
            ck_assert_uint_eq(oe_buf_n(&R.wire), message2_n(v) + (v == 5 ? 6 : 4));
            close_both();
        }
    }
}
END_TEST

START_TEST(r_first__auth)
{
    static const char auth[] = "\xF0\x08\x19\x06\x15\x00\x03"
                               "abc";
    to_probe(5);
    for (size_t i = 0; i < sizeof(auth) - 1; i++)
        ck_assert_int_eq(drive_peer(&R, auth + i, 1), OE_OK);
    ck_assert_int_eq(drive_peer(&R, auth, sizeof(auth) - 1), OE_OK);
    ck_phase(&R, OE_PHASE_R_FIRST);
    ck_assert_uint_eq(oe_buf_n(&R.app), 2 * (sizeof(auth) - 1));
    clear(&R.app);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_phase(&R, OE_PHASE_R_MESSAGE3);
    close_both();
}
END_TEST

/* The whole exchange of an enhanced authentication before CONNACK, then the probe. */
START_TEST(r_first__auth_exchange)
{
    static const char auth[] = "\xF0\x08\x18\x06\x15\x00\x03"
                               "abc";
    open_both();
    push(drive_app, &I, connect_of(5));
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(drive_app(&R, auth, sizeof(auth) - 1), OE_OK);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_assert_int_eq(drive_app(&I, auth, sizeof(auth) - 1), OE_OK);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    }
    push(drive_app, &R, connack_of(5));
    for (int i = 0; i < 4; i++) {
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    }
    ck_phase(&I, OE_PHASE_RECORDS);
    ck_phase(&R, OE_PHASE_RECORDS);
    close_both();
}
END_TEST

START_TEST(r_first__other)
{
    EACH_VERSION(v)
    {
        size_t n = oe_link_probe_bytes((enum oe_mqtt)v);
        for (size_t at = 0; at < n; at++) { /* differs from a probe from byte at on */
            to_probe(v);
            I.wire.p[I.wire.pos + at] ^= 0x80;
            struct oe_buf copy = {0};
            drive_raw(&copy, oe_buf_span(&I.wire).p, n);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_assert_msg(R.conn.phase == OE_PHASE_PLAIN && R.conn.reason == OE_REASON_NOT_PROBED,
                          "version %d: byte %zu was taken for a probe's", v, at);
            ck_packet(&R.app, &copy);
            close_both();
        }
    }
}
END_TEST

/* The front of a probe, then something else: what was kept comes first. */
START_TEST(r_first__front_of_a_probe)
{
    for (size_t n = 1; n < 59; n++) {
        to_probe(4);
        struct oe_buf copy = {0};
        drive_raw(&copy, oe_buf_span(&I.wire).p, n);
        drive_raw(&copy, "\x80", 1); /* in no byte of a probe */
        drive_raw(&copy, "tail", 4);
        for (size_t i = 0; i < oe_buf_n(&copy); i++)
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&copy).p + i, 1), OE_OK);
        if (R.conn.phase == OE_PHASE_R_FIRST)
            ck_assert_int_eq(drive_end(&R), OE_OK);
        ck_packet(&R.app, &copy);
        ck_phase(&R, OE_PHASE_PLAIN);
        close_both();
    }
}
END_TEST

START_TEST(r_first__probe_before_connack)
{
    EACH_VERSION(v)
    {
        to_probe(v);
        struct drive other;
        struct oe_buf probe = {0};
        drive_raw(&probe, oe_buf_span(&I.wire).p, oe_buf_n(&I.wire));
        drive_open(&other, OE_RESPONDER, &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 9});
        push(drive_peer, &other, connect_of(v));
        clear(&other.app);
        struct oe_buf c = connack_of(v); /* all but its last byte */
        ck_assert_int_eq(drive_app(&other, oe_buf_span(&c).p, oe_buf_n(&c) - 1), OE_OK);
        ck_assert_int_eq(drive_peer(&other, oe_buf_span(&probe).p, oe_buf_n(&probe)), OE_OK);
        ck_ended_plain(&other, OE_REASON_NOT_PROBED);
        ck_packet(&other.app, &probe);
        ck_assert_int_eq(drive_app(&other, oe_buf_span(&c).p + oe_buf_n(&c) - 1, 1), OE_OK);
        ck_packet(&other.wire, &c);
        drive_close(&other);
        close_both();
    }
}
END_TEST

START_TEST(r_first__connack_refuses)
{
    to_probe(4);
    struct drive other;
    drive_open(&other, OE_RESPONDER, &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 9});
    push(drive_peer, &other, connect_of(4));
    ck_assert_int_eq(drive_peer(&other, oe_buf_span(&I.wire).p, 20), OE_OK); /* the front of a probe is kept */
    clear(&other.app);
    ck_assert_int_eq(drive_app(&other, "\x20\x02\x00\x05", 4), OE_OK);
    ck_ended_plain(&other, OE_REASON_CONNACK_REFUSED);
    ck_assert(!oe_conn_transparent(&other.conn));
    ck_assert_int_eq(drive_peer(&other, oe_buf_span(&I.wire).p + 20, 39), OE_OK);
    ck_assert(drive_same(&other.app, &I.wire));
    ck_assert(oe_conn_transparent(&other.conn));
    drive_close(&other);
    close_both();
}
END_TEST

START_TEST(r_first__app_malformed)
{
    to_connack(4);
    clear(&R.wire);
    ck_assert_int_eq(drive_app(&R, "\x30\xFF\xFF\xFF\xFF\xFF", 6), OE_OK);
    ck_ended_plain(&R, OE_REASON_MALFORMED);
    ck_bytes(&R.wire, "\x30\xFF\xFF\xFF\xFF\xFF", 6);
    close_both();
}
END_TEST

/* The probe comes while the broker is in mid-packet: the answer waits for the packet's end, wherever it was. */
START_TEST(r_answer__own_output_at_boundary)
{
    EACH_VERSION(v)
    {
        struct oe_buf p = publish_of(v, 0x30, "topic", 40), tail = publish_of(v, 0x30, "behind", 3);
        for (size_t cut = 1; cut < oe_buf_n(&p); cut++) {
            to_probe(v);
            ck_assert_int_eq(drive_app(&R, oe_buf_span(&p).p, cut), OE_OK);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_phase(&R, OE_PHASE_R_ANSWER);
            ck_assert_uint_eq(oe_buf_n(&R.wire), cut);
            struct oe_buf rest = {0}; /* the end of this packet and one more, in one write */
            drive_raw(&rest, oe_buf_span(&p).p + cut, oe_buf_n(&p) - cut);
            drive_raw(&rest, oe_buf_span(&tail).p, oe_buf_n(&tail));
            push(drive_app, &R, rest);
            ck_phase(&R, OE_PHASE_R_MESSAGE3);
            ck_assert(memcmp(oe_buf_span(&R.wire).p, oe_buf_span(&p).p, oe_buf_n(&p)) == 0);
            ck_assert_uint_eq(oe_buf_n(&R.wire), oe_buf_n(&p) + message2_n(v) + (v == 5 ? 6 : 4));
            ck_assert_uint_eq(oe_conn_held(&R.conn), oe_buf_n(&tail));
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
            ck_phase(&I, OE_PHASE_RECORDS);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
            struct oe_buf all = connack_of(v);
            drive_raw(&all, oe_buf_span(&p).p, oe_buf_n(&p));
            drive_raw(&all, oe_buf_span(&tail).p, oe_buf_n(&tail));
            ck_packet(&I.app, &all);
            close_both();
        }
        oe_buf_free(&p);
        oe_buf_free(&tail);
    }
}
END_TEST

START_TEST(r_answer__peer_any_byte)
{
    to_probe(4);
    ck_assert_int_eq(drive_app(&R, "\x30\x05", 2), OE_OK);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_phase(&R, OE_PHASE_R_ANSWER);
    clear(&R.wire);
    ck_assert_int_eq(drive_peer(&R, "\xC0\x00", 2), OE_OK);
    ck_phase(&R, OE_PHASE_PLAIN);
    ck_bytes(&R.app, "\xC0\x00", 2);
    ck_assert_int_eq(drive_app(&R, "\x00\x01t12", 5), OE_OK);
    ck_bytes(&R.wire, "\x00\x01t12", 5);
    close_both();
}
END_TEST

START_TEST(r_message3__verifies)
{
    EACH_VERSION(v)
    {
        to_unsuback(v);
        ck_assert_int_eq(drive_app(&R, "held for the wire", 17), OE_OK);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK); /* UNSUBACK */
        clear(&I.app);
        ck_assert_uint_eq(oe_buf_n(&R.wire), 0);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_phase(&R, OE_PHASE_RECORDS);
        ck_assert_uint_eq(oe_buf_n(&R.wire), oe_record_bytes((enum oe_mqtt)v, 17));
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_bytes(&I.app, "held for the wire", 17);
        close_both();
    }
}
END_TEST

START_TEST(r_message3__publish_that_does_not_or_record)
{
    static const size_t sizes[] = {1, 63, 64, 65, 96, 97, 98, 5000};
    EACH_VERSION(v)
    {
        for (size_t i = 0; i < 11; i++) {
            to_message3(v);
            clear(&R.wire);
            ck_assert_int_eq(drive_app(&R, "held", 4), OE_OK);
            struct oe_buf p = i < 8    ? publish_of(v, 0x30, "oe-mqtt/1", sizes[i])
                              : i == 8 ? publish_of(v, 0x39, "$", 30)
                              : i == 9 ? publish_of(v, 0x31, "oe-mqtt/1", 64)
                                       : publish_of(v, 0x30, "$", 30);
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&p).p, oe_buf_n(&p)), OE_CRYPTO);
            oe_buf_free(&p);
            ck_phase(&R, OE_PHASE_BROKEN);
            ck_assert_int_eq(oe_conn_why(&R.conn, OE_FROM_PEER), OE_REASON_BAD_MESSAGE3);
            ck_bytes(&R.wire, "", 0);
            ck_bytes(&R.app, "", 0);
            ck_assert_int_ne(drive_app(&R, "x", 1), OE_OK);
            ck_bytes(&R.wire, "", 0);
            close_both();
        }
    }
}
END_TEST

START_TEST(r_message3__abort)
{
    EACH_VERSION(v)
    {
        struct oe_buf abort = publish_of(v, 0x30, "oe-mqtt/1", 0);
        for (size_t cut = 0; cut < oe_buf_n(&abort); cut++) {
            to_message3(v);
            clear(&R.wire);
            ck_assert_int_eq(drive_app(&R, "held", 4), OE_OK);
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&abort).p, cut), OE_OK);
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&abort).p + cut, oe_buf_n(&abort) - cut), OE_OK);
            ck_ended_plain(&R, OE_REASON_INITIATOR_GAVE_UP);
            ck_bytes(&R.wire, "held", 4);
            ck_bytes(&R.app, "", 0);
            close_both();
        }
        oe_buf_free(&abort);
    }
}
END_TEST

START_TEST(r_message3__any_other_packet)
{
    static const struct {
        const char *bytes;
        size_t n;
    } others[] = {{"\xC0\x00", 2},
                  {"\x82\x06\x00\x01\x00\x01#\x00", 8},
                  {"\x30\x03\x00\x01t", 5},
                  {"\x32\x05\x00\x01$\x00\x01", 7},
                  {"\xB0\x02\xFF\xFF", 4}};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        for (size_t cut = 0; cut < others[i].n; cut++) {
            to_message3(4);
            clear(&R.wire);
            ck_assert_int_eq(drive_app(&R, "held", 4), OE_OK);
            ck_assert_int_eq(drive_peer(&R, others[i].bytes, cut), OE_OK);
            ck_assert_int_eq(drive_peer(&R, others[i].bytes + cut, others[i].n - cut), OE_OK);
            ck_ended_plain(&R, OE_REASON_INITIATOR_GAVE_UP);
            ck_bytes(&R.wire, "held", 4);
            ck_bytes(&R.app, others[i].bytes, others[i].n);
            ck_assert_int_eq(drive_app(&R, "more", 4), OE_OK);
            ck_bytes(&R.wire, "more", 4);
            close_both();
        }
    }
}
END_TEST

START_TEST(r_message3__malformed)
{
    static const char *const others[] = {"\x30\xFF\xFF\xFF\xFF\x01", "\xC0\x80\x80\x80\x80\x80", "\x82\xFF\xFF\xFF\xFF\xFF"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        for (size_t cut = 0; cut < 5; cut++) {
            to_message3(4);
            clear(&R.wire);
            ck_assert_int_eq(drive_app(&R, "held", 4), OE_OK);
            ck_assert_int_eq(drive_peer(&R, others[i], cut), OE_OK);
            ck_assert_int_ne(drive_peer(&R, others[i] + cut, 6 - cut), OE_OK);
            ck_phase(&R, OE_PHASE_BROKEN);
            ck_bytes(&R.wire, "", 0);
            ck_bytes(&R.app, "", 0);
            close_both();
        }
    }
}
END_TEST

START_TEST(r_message3__hold_is_bounded)
{
    uint8_t *block = calloc(1, OE_RESPONDER_HELD_BYTES_MAX);
    ck_assert_ptr_nonnull(block);
    to_message3(4);
    clear(&R.wire);
    size_t before = oe_buf_n(&R.sent);
    ck_assert_int_eq(drive_app(&R, block, 1000), OE_OK);
    ck_assert_int_eq(drive_app(&R, block, OE_RESPONDER_HELD_BYTES_MAX), OE_OK);
    ck_assert_uint_eq(oe_buf_n(&R.sent) - before, OE_RESPONDER_HELD_BYTES_MAX);
    ck_assert_uint_eq(oe_conn_held(&R.conn), OE_RESPONDER_HELD_BYTES_MAX);
    R.now += OE_RESPONDER_HELD_MS_MAX - 1;
    ck_assert_int_eq(drive_app(&R, block, 1), OE_OK);
    ck_assert_uint_eq(oe_buf_n(&R.sent) - before, OE_RESPONDER_HELD_BYTES_MAX);
    ck_assert_int_eq(oe_conn_overdue(&R.conn, R.now), OE_OK);
    ck_phase(&R, OE_PHASE_R_MESSAGE3);
    R.now += 1;
    ck_assert_int_eq(oe_conn_overdue(&R.conn, R.now), OE_LIMIT);
    ck_phase(&R, OE_PHASE_BROKEN);
    ck_assert_int_eq(oe_conn_why(&R.conn, OE_FROM_APP), OE_REASON_HELD_TOO_MUCH);
    ck_bytes(&R.wire, "", 0);
    free(block);
    close_both();
}
END_TEST

/* As much as may be held still comes out right. */
START_TEST(r_message3__hold_all)
{
    uint8_t *block = malloc(OE_RESPONDER_HELD_BYTES_MAX);
    ck_assert_ptr_nonnull(block);
    for (size_t i = 0; i < OE_RESPONDER_HELD_BYTES_MAX; i++)
        block[i] = (uint8_t)(i * 31 >> 3);
    to_unsuback(5);
    ck_assert_int_eq(drive_app(&R, block, OE_RESPONDER_HELD_BYTES_MAX), OE_OK);
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    clear(&I.app);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    ck_bytes(&I.app, block, OE_RESPONDER_HELD_BYTES_MAX);
    free(block);
    close_both();
}
END_TEST

/* 2.1: a low-order message 1 is no valid probe. */
START_TEST(r_first__low_order_message1)
{
    to_probe(4);
    memset(I.wire.p + I.wire.pos + 16, 'A', 43); /* all zeros in base64url */
    struct oe_buf copy = {0};
    drive_raw(&copy, oe_buf_span(&I.wire).p, oe_buf_n(&I.wire));
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_ended_plain(&R, OE_REASON_NOT_PROBED);
    ck_packet(&R.app, &copy);
    close_both();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        r_connect__connect_complete,
        r_connect__anything_else,
        r_connect__app_any_byte,
        r_connect__peer_end,
        r_first__probe_split_everywhere,
        r_first__auth,
        r_first__auth_exchange,
        r_first__other,
        r_first__front_of_a_probe,
        r_first__probe_before_connack,
        r_first__connack_refuses,
        r_first__app_malformed,
        r_first__low_order_message1,
        r_answer__own_output_at_boundary,
        r_answer__peer_any_byte,
        r_message3__verifies,
        r_message3__publish_that_does_not_or_record,
        r_message3__abort,
        r_message3__any_other_packet,
        r_message3__malformed,
        r_message3__hold_is_bounded,
        r_message3__hold_all,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("responder", tests);
}
