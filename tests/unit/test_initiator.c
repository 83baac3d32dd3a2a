/* Every row of PROTOCOL.md 3.1, and of 3.3 and the policies. A test is named by its state, then by its event. */
#include <check.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "states.h"

/* ---- 3.1 initiator -------------------------------------------------------------------------------------------------------------------- */

START_TEST(i_connect__connect_complete)
{
    EACH_VERSION(v)
    {
        struct oe_buf c = connect_of(v);
        open_both();
        for (size_t i = 0; i < oe_buf_n(&c); i++) {
            ck_phase(&I, OE_PHASE_I_CONNECT);
            ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p + i, 1), OE_OK);
            ck_assert_uint_eq(oe_buf_n(&I.wire), i + 1);
        }
        ck_phase(&I, OE_PHASE_I_CONNACK);
        ck_assert_int_eq(I.conn.version, v);
        ck_packet(&I.wire, &c);
        close_both();
    }
}
END_TEST

START_TEST(i_connect__app_anything_else)
{
    static const struct {
        const char *bytes;
        size_t n;
        enum oe_reason reason;
    } others[] = {
        {"\x16\x03\x01\x00\xF1\x01\x00\x00\xED\x03\x03", 11, OE_REASON_TLS},
        {"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 27, OE_REASON_NOT_MQTT},
        {"\x00\x01\x02\x03", 4, OE_REASON_NOT_MQTT},
        {"\xC0\x00", 2, OE_REASON_NOT_MQTT},
        {"\x10\x80\x80\x80\x80\x01", 6, OE_REASON_NOT_MQTT},
        {"\x10\x0C\x00\x04MQTT\x06\x02\x00\x00\x00\x00", 14, OE_REASON_NOT_MQTT},
        {"\x10\x00", 2, OE_REASON_MALFORMED},
        {"\x10\x01\x00", 3, OE_REASON_MALFORMED},
    };
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        for (size_t cut = 0; cut < others[i].n; cut++) {
            open_both();
            ck_assert_int_eq(drive_app(&I, others[i].bytes, cut), OE_OK);
            ck_assert_int_eq(drive_app(&I, others[i].bytes + cut, others[i].n - cut), OE_OK);
            ck_ended_plain(&I, others[i].reason);
            ck_bytes(&I.wire, others[i].bytes, others[i].n);
            ck_assert_int_eq(drive_peer(&I, "answer", 6), OE_OK);
            ck_bytes(&I.app, "answer", 6);
            ck_assert(oe_conn_transparent(&I.conn));
            close_both();
        }
    }
}
END_TEST

START_TEST(i_connect__peer_any_byte)
{
    for (size_t sent = 0; sent < 10; sent++) {
        struct oe_buf c = connect_of(4);
        open_both();
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, sent), OE_OK);
        ck_assert_int_eq(drive_peer(&I, "220 hello", 9), OE_OK);
        ck_ended_plain(&I, OE_REASON_PEER_FIRST);
        ck_bytes(&I.app, "220 hello", 9);
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p + sent, oe_buf_n(&c) - sent), OE_OK);
        ck_packet(&I.wire, &c);
        close_both();
    }
}
END_TEST

/* A server that closes before it is spoken to; the application may still write. */
START_TEST(i_connect__peer_end)
{
    for (size_t sent = 0; sent < 10; sent++) {
        struct oe_buf c = connect_of(4);
        open_both();
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, sent), OE_OK);
        ck_assert_int_eq(drive_end(&I), OE_OK);
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p + sent, oe_buf_n(&c) - sent), OE_OK);
        ck_packet(&I.wire, &c);
        ck_assert_int_eq(drive_end(&I), OE_OK);
        ck_phase(&I, OE_PHASE_PLAIN);
        close_both();
    }
}
END_TEST

START_TEST(i_connack__app_auth)
{
    static const char auth[] = "\xF0\x08\x18\x06\x15\x00\x03"
                               "abc";
    to_connack(5);
    ck_assert_int_eq(drive_app(&I, auth, 4), OE_OK);
    ck_assert_int_eq(drive_app(&I, auth + 4, sizeof(auth) - 5), OE_OK);
    ck_assert_int_eq(drive_app(&I, auth, sizeof(auth) - 1), OE_OK);
    ck_phase(&I, OE_PHASE_I_CONNACK);
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    ck_phase(&I, OE_PHASE_I_PROBE);
    close_both();
}
END_TEST

START_TEST(i_connack__app_auth_not_whole)
{
    static const char auth[] = "\xF0\x08\x18\x06\x15\x00\x03"
                               "abc";
    for (size_t n = 1; n < sizeof(auth) - 1; n++) {
        to_connack(5);
        ck_assert_int_eq(drive_app(&I, auth, n), OE_OK);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_ended_plain(&I, OE_REASON_PIPELINED);
        struct oe_buf c = connack_of(5);
        ck_packet(&I.app, &c);
        close_both();
    }
}
END_TEST

START_TEST(i_connack__app_any_other_packet)
{
    EACH_VERSION(v)
    {
        struct oe_buf two = connect_of(v), c = connack_of(v);
        size_t connect_n = oe_buf_n(&two);
        drive_publish(&two, (enum oe_mqtt)v, 0x30, "a", "b", 1);
        for (size_t cut = connect_n; cut < oe_buf_n(&two); cut++) {
            open_both();
            ck_assert_int_eq(drive_app(&I, oe_buf_span(&two).p, cut), OE_OK);
            ck_assert_int_eq(drive_app(&I, oe_buf_span(&two).p + cut, oe_buf_n(&two) - cut), OE_OK);
            ck_ended_plain(&I, OE_REASON_PIPELINED);
            ck_assert(drive_same(&I.wire, &two));
            ck_assert_int_eq(drive_peer(&I, oe_buf_span(&c).p, oe_buf_n(&c)), OE_OK);
            ck_assert(drive_same(&I.app, &c));
            close_both();
        }
        /* an AUTH before MQTT 5 is some other packet too */
        open_both();
        oe_buf_free(&two);
        two = connect_of(v);
        drive_raw(&two, "\xF0\x00", 2);
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&two).p, oe_buf_n(&two)), OE_OK);
        ck_phase(&I, v == 5 ? OE_PHASE_I_CONNACK : OE_PHASE_PLAIN);
        oe_buf_free(&two);
        oe_buf_free(&c);
        close_both();
    }
}
END_TEST

START_TEST(i_connack__peer_not_connack)
{
    static const char auth[] = "\xF0\x08\x18\x06\x15\x00\x03"
                               "abc";
    for (size_t cut = 0; cut < sizeof(auth) - 1; cut++) {
        to_connack(5);
        ck_assert_int_eq(drive_peer(&I, auth, cut), OE_OK);
        ck_assert_int_eq(drive_peer(&I, auth + cut, sizeof(auth) - 1 - cut), OE_OK);
        ck_phase(&I, OE_PHASE_I_CONNACK);
        ck_bytes(&I.app, auth, sizeof(auth) - 1);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_phase(&I, OE_PHASE_I_PROBE);
        close_both();
    }
}
END_TEST

START_TEST(i_connack__connack_no_probe)
{
    static const struct {
        int v;
        const char *bytes;
        size_t n;
        enum oe_reason reason;
    } cases[] = {
        {3, "\x20\x02\x00\x05", 4, OE_REASON_CONNACK_REFUSED},
        {4, "\x20\x02\x00\x01", 4, OE_REASON_CONNACK_REFUSED},
        {5, "\x20\x03\x00\x87\x00", 5, OE_REASON_CONNACK_REFUSED},
        {5, "\x20\x02\x00\x01", 4, OE_REASON_CONNACK_REFUSED}, /* a server without MQTT 5 */
        {5, "\x20\x08\x00\x00\x05\x27\x00\x00\x00\x3B", 10, OE_REASON_PACKET_SIZE},
        {5, "\x20\x0A\x00\x00\x07\x13\x00\x0A\x27\x00\x00\x00", 12, OE_REASON_MALFORMED}, /* cut short: see below */
        {4, "\x20\x03\x00\x00\x00", 5, OE_REASON_MALFORMED},
        {4, "\x20\x01\x00", 3, OE_REASON_MALFORMED},
        {4, "\x20\x80\x80\x80\x80", 5, OE_REASON_MALFORMED},
        {4, "\xD0\x80\x80\x80\x80", 5, OE_REASON_MALFORMED},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        if (i == 5)
            continue;
        for (size_t cut = 0; cut < cases[i].n; cut++) {
            to_connack(cases[i].v);
            ck_assert_int_eq(drive_peer(&I, cases[i].bytes, cut), OE_OK);
            ck_assert_int_eq(drive_peer(&I, cases[i].bytes + cut, cases[i].n - cut), OE_OK);
            ck_ended_plain(&I, cases[i].reason);
            ck_bytes(&I.app, cases[i].bytes, cases[i].n);
            ck_bytes(&I.wire, "", 0);
            close_both();
        }
    }
    to_connack(5);
    ck_assert_int_eq(drive_peer(&I, "\x20\x08\x00\x00\x05\x27\x00\x00\x00\x3C", 10), OE_OK); /* exactly the probe's size */
    ck_phase(&I, OE_PHASE_I_PROBE);
    close_both();
}
END_TEST

/* Properties that cannot be read may hide a Maximum Packet Size: nothing is sent behind the application's back. */
START_TEST(i_connack__connack_unreadable_properties)
{
    static const char connack[] = "\x20\x0A\x00\x00\x07\x7F\x01\x27\x00\x00\x00\x14";
    to_connack(5);
    ck_assert_int_eq(drive_peer(&I, connack, sizeof(connack) - 1), OE_OK);
    ck_phase(&I, OE_PHASE_PLAIN);
    ck_bytes(&I.wire, "", 0);
    close_both();
}
END_TEST

START_TEST(i_connack__connack_large)
{
    for (int more = 0; more < 2; more++) {
        size_t total = OE_CONNACK_BYTES_MAX + (size_t)more, properties = total - 4 - 2 - 3;
        struct oe_buf c = {0};
        uint8_t n[4];
        to_connack(5);
        drive_raw(&c, "\x20", 1);
        drive_raw(&c, n, oe_varint_put(n, (uint32_t)(total - 4)));
        drive_raw(&c, "\x00\x00", 2);
        drive_raw(&c, n, oe_varint_put(n, (uint32_t)properties));
        for (size_t left = properties; left != 0;) { /* user properties; the last fits exactly */
            size_t size = left > 120 ? 100 : left;
            uint8_t text[128] = {0x26, 0, (uint8_t)(size - 5)};
            drive_raw(&c, text, size);
            left -= size;
        }
        ck_assert_uint_eq(oe_buf_n(&c), total);
        ck_assert_int_eq(drive_peer(&I, oe_buf_span(&c).p, total), OE_OK);
        if (more)
            ck_ended_plain(&I, OE_REASON_CONNACK_LARGE);
        else
            ck_phase(&I, OE_PHASE_I_PROBE);
        ck_assert_uint_eq(oe_buf_n(&I.app), more ? total : 0);
        oe_buf_free(&c);
        close_both();
    }
}
END_TEST

START_TEST(i_connack__remembered)
{
    to_connack(4);
    I.conn.no_probe = OE_REASON_REMEMBERED_CLOSED;
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    ck_ended_plain(&I, OE_REASON_REMEMBERED_CLOSED);
    ck_bytes(&I.wire, "", 0);
    close_both();
}
END_TEST

START_TEST(i_connack__peer_end)
{
    for (size_t n = 0; n < 4; n++) {
        to_connack(4);
        ck_assert_int_eq(drive_peer(&I, "\x20\x02\x00\x00", n), OE_OK);
        ck_assert_int_eq(drive_end(&I), OE_OK);
        ck_bytes(&I.app, "\x20\x02\x00\x00", n);
        ck_phase(&I, OE_PHASE_PLAIN);
        ck_assert_int_eq(drive_app(&I, "x", 1), OE_OK);
        close_both();
    }
}
END_TEST

START_TEST(i_probe__unsuback)
{
    EACH_VERSION(v)
    {
        static const unsigned firsts[] = {0x30, 0x32, 0x35};
        struct oe_buf all = connack_of(v);
        to_probe(v);
        for (int i = 0; i < 3; i++) {
            struct oe_buf p = publish_of(v, firsts[i], i == 2 ? "oe-mqtt/1" : "t", 300); /* QoS 2 on the topic is another packet */
            drive_raw(&all, oe_buf_span(&p).p, oe_buf_n(&p));
            push(drive_peer, &I, p);
        }
        ck_assert_uint_eq(oe_buf_n(&I.app), 0);
        ck_assert_uint_eq(oe_conn_kept(&I.conn), oe_buf_n(&all));
        stock_unsuback(v);
        ck_ended_plain(&I, OE_REASON_NO_OE_MQTT);
        ck_assert_int_eq(I.conn.remember, OE_REMEMBER_NOTHING);
        ck_packet(&I.app, &all);
        ck_assert(oe_conn_transparent(&I.conn));
        close_both();
    }
}
END_TEST

/* An UNSUBACK with properties and another code is a stock server's as well; one with another identifier is not ours. */
START_TEST(i_probe__unsuback_forms)
{
    static const char rich[] = "\xB0\x0C\xFF\xFF\x07\x1F\x00\x04nope\x87";
    to_probe(5);
    ck_assert_int_eq(drive_peer(&I, "\xB0\x04\xFF\xFE\x00\x11", 6), OE_OK);
    ck_phase(&I, OE_PHASE_I_PROBE);
    for (size_t i = 0; i < 14; i++)
        ck_assert_int_eq(drive_peer(&I, rich + i, 1), OE_OK);
    ck_ended_plain(&I, OE_REASON_NO_OE_MQTT);
    ck_bytes(&I.app, "\x20\x03\x00\x00\x00\xB0\x04\xFF\xFE\x00\x11", 11);
    close_both();
}
END_TEST

START_TEST(i_probe__publish_that_is_no_message2)
{
    static const size_t sizes[] = {0, 1, 63, 64, 95, 96, 97, 98, 5000};
    EACH_VERSION(v)
    {
        for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
            to_message3(v);
            struct oe_buf p = publish_of(v, i % 2 ? 0x39 : 0x30, "oe-mqtt/1", sizes[i]);
            for (size_t k = 0; k < oe_buf_n(&p); k += 7) {
                size_t n = oe_buf_n(&p) - k < 7 ? oe_buf_n(&p) - k : 7;
                ck_assert_int_eq(drive_peer(&I, oe_buf_span(&p).p + k, n), OE_OK);
            }
            oe_buf_free(&p);
            ck_phase(&I, OE_PHASE_I_PROBE);
            ck_bytes(&I.wire, "", 0);
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK); /* the right one still works */
            ck_phase(&I, OE_PHASE_RECORDS);
            struct oe_buf c = connack_of(v);
            ck_packet(&I.app, &c);
            close_both();
        }
    }
}
END_TEST

START_TEST(i_probe__message2_verifies)
{
    EACH_VERSION(v)
    {
        to_unsuback(v);
        ck_assert_uint_eq(oe_buf_n(&I.wire), 13 + (size_t)(v == 5) + 64);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_phase(&I, OE_PHASE_RECORDS);
        close_both();
    }
}
END_TEST

START_TEST(i_probe__app_bytes)
{
    to_probe(4);
    clear(&I.wire);
    ck_assert_int_eq(drive_app(&I, "\xC0\x00", 2), OE_OK);
    ck_assert_uint_eq(oe_buf_n(&I.wire), 0);
    stock_unsuback(4);
    ck_assert_int_eq(drive_app(&I, "\xC0\x00", 2), OE_OK);
    ck_bytes(&I.wire, "\xC0\x00", 2);
    close_both();
}
END_TEST

START_TEST(i_probe__held_too_much)
{
    struct oe_buf p = publish_of(4, 0x30, "big", (1 << 20) + 7);
    size_t total = 4;
    to_probe(4);
    while (total + oe_buf_n(&p) <= OE_INITIATOR_HELD_BYTES_MAX) {
        ck_assert_int_eq(drive_peer(&I, oe_buf_span(&p).p, oe_buf_n(&p)), OE_OK);
        total += oe_buf_n(&p);
    }
    ck_phase(&I, OE_PHASE_I_PROBE);
    ck_assert_int_eq(drive_peer(&I, oe_buf_span(&p).p, OE_INITIATOR_HELD_BYTES_MAX - total), OE_OK);
    ck_phase(&I, OE_PHASE_I_PROBE);
    ck_assert_int_eq(drive_peer(&I, oe_buf_span(&p).p + (OE_INITIATOR_HELD_BYTES_MAX - total), 1), OE_OK);
    ck_phase(&I, OE_PHASE_I_LATE);
    ck_assert_int_eq(I.conn.reason, OE_REASON_HELD_TOO_MUCH);
    ck_assert_int_eq(I.conn.remember, OE_REMEMBER_NOTHING);
    ck_assert_uint_eq(oe_buf_n(&I.app), OE_INITIATOR_HELD_BYTES_MAX + 1);
    oe_buf_free(&p);
    close_both();
}
END_TEST

START_TEST(i_probe__peer_end)
{
    static const char unsuback[] = "\xB0\x02\xFF\xFF";
    for (size_t n = 0; n < 4; n++) {
        to_probe(4);
        ck_assert_int_eq(drive_peer(&I, unsuback, n), OE_OK);
        ck_assert_int_eq(drive_end(&I), OE_OK);
        ck_ended_plain(&I, OE_REASON_PROBE_CLOSED);
        ck_assert_int_eq(I.conn.remember, OE_REMEMBER_CLOSED);
        ck_bytes(&I.app, "\x20\x02\x00\x00", 4);
        ck_assert_int_eq(drive_app(&I, "x", 1), OE_OK);
        close_both();
    }
}
END_TEST

START_TEST(i_probe__malformed)
{
    to_probe(4);
    ck_assert_int_eq(drive_peer(&I, "\x30\xFF\xFF\xFF\xFF\x01rest", 10), OE_MALFORMED);
    ck_phase(&I, OE_PHASE_BROKEN);
    ck_assert_uint_eq(oe_buf_n(&I.app), 0);
    close_both();
}
END_TEST

START_TEST(i_unsuback__anything_else)
{
    static const char *const others[] = {"\xB0\x02\xFF\xFE", "\xB0\x04\xFF\xFF", "\xB1\x02\xFF\xFF", "\xC0\x00\x00\x00",
                                         "\x30\x02\x00\x00"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        for (size_t cut = 0; cut < 4; cut++) {
            to_unsuback(4);
            enum oe_status st = drive_peer(&I, others[i], cut);
            if (st == OE_OK)
                st = drive_peer(&I, others[i] + cut, 4 - cut);
            ck_assert_int_eq(st, OE_CRYPTO);
            ck_phase(&I, OE_PHASE_BROKEN);
            ck_assert_int_eq(oe_conn_why(&I.conn, OE_FROM_PEER), OE_REASON_BAD_UNSUBACK);
            ck_assert_uint_eq(oe_buf_n(&I.app), 0);
            close_both();
        }
    }
}
END_TEST

START_TEST(i_unsuback__end_and_timeout)
{
    for (size_t n = 0; n < 4; n++) {
        to_unsuback(3);
        ck_assert_int_eq(drive_peer(&I, "\xB0\x02\xFF\xFF", n), OE_OK);
        ck_assert_int_eq(drive_end(&I), OE_CRYPTO);
        ck_phase(&I, OE_PHASE_BROKEN);
        close_both();
        to_unsuback(3);
        ck_assert_int_eq(drive_peer(&I, "\xB0\x02\xFF\xFF", n), OE_OK);
        ck_assert_int_eq(drive_expire(&I), OE_CRYPTO);
        ck_phase(&I, OE_PHASE_BROKEN);
        ck_assert_int_ne(drive_app(&I, "x", 1), OE_OK);
        ck_assert_int_ne(drive_peer(&I, "x", 1), OE_OK);
        ck_bytes(&I.app, "", 0);
        close_both();
    }
}
END_TEST

START_TEST(i_late__unsuback)
{
    EACH_VERSION(v)
    {
        to_late(v);
        clear(&I.wire);
        ck_assert_int_eq(drive_app(&I, "\xC0\x00", 2), OE_OK);
        ck_bytes(&I.wire, "\xC0\x00", 2);
        ck_assert_int_eq(drive_peer(&I, "\xD0\x00", 2), OE_OK);
        ck_bytes(&I.app, "\xD0\x00", 2);
        stock_unsuback(v);
        ck_ended_plain(&I, OE_REASON_TIMEOUT);
        ck_bytes(&I.app, "", 0);
        ck_assert(oe_conn_transparent(&I.conn));
        close_both();
    }
}
END_TEST

/* The front of the answer came before the time-out. */
START_TEST(i_late__unsuback_in_two)
{
    for (size_t n = 0; n < 4; n++) {
        to_probe(4);
        ck_assert_int_eq(drive_peer(&I, "\xB0\x02\xFF\xFF", n), OE_OK);
        ck_assert_int_eq(drive_expire(&I), OE_OK);
        ck_bytes(&I.app, "\x20\x02\x00\x00", 4);
        ck_assert_int_eq(drive_peer(&I, &"\xB0\x02\xFF\xFF"[n], 4 - n), OE_OK);
        ck_phase(&I, OE_PHASE_PLAIN);
        ck_bytes(&I.app, "", 0);
        close_both();
    }
}
END_TEST

/* Message 2 comes late, whole or begun in time; nothing was said since the probe: the responder is told by abort. */
START_TEST(i_late__message2_abort)
{
    EACH_VERSION(v)
    {
        for (size_t cut = 0; cut < message2_n(v); cut += 9) {
            to_message3(v);
            ck_assert_int_eq(drive_app(&R, "\xD0\x00", 2), OE_OK); /* held */
            ck_assert_int_eq(drive_move(&R, &I, cut), OE_OK);
            ck_assert_int_eq(drive_expire(&I), OE_OK);
            struct oe_buf c = connack_of(v), abort = {0};
            ck_packet(&I.app, &c);
            ck_assert_int_eq(drive_move(&R, &I, message2_n(v) - cut), OE_OK);
            ck_phase(&I, OE_PHASE_I_LATE);
            drive_publish(&abort, (enum oe_mqtt)v, 0x30, "oe-mqtt/1", "", 0);
            ck_assert(drive_same(&I.wire, &abort));
            oe_buf_free(&abort);
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK); /* UNSUBACK */
            ck_phase(&I, OE_PHASE_PLAIN);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK); /* abort */
            ck_ended_plain(&R, OE_REASON_INITIATOR_GAVE_UP);
            ck_bytes(&R.app, "", 0);
            ck_bytes(&R.wire, "\xD0\x00", 2);
            ck_bytes(&I.app, "", 0);
            close_both();
        }
    }
}
END_TEST

START_TEST(i_late__message2_in_mid_packet)
{
    to_message3(4);
    ck_assert_int_eq(drive_expire(&I), OE_OK);
    clear(&I.app);
    ck_assert_int_eq(drive_app(&I, "\x30\x05\x00\x01", 4), OE_OK);
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    ck_bytes(&I.wire, "\x30\x05\x00\x01", 4);
    ck_bytes(&I.app, "", 0);
    close_both();
}
END_TEST

/* The application's packet crosses the late message 2. It has made the responder plain already: an abort behind it would reach the broker as
 * a PUBLISH that its client never sent. */
START_TEST(i_late__abort_does_not_reach_the_broker)
{
    to_message3(4);
    ck_assert_int_eq(drive_expire(&I), OE_OK);
    ck_assert_int_eq(drive_app(&I, "\xC0\x00", 2), OE_OK);
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK); /* message 2, UNSUBACK */
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_ended_plain(&R, OE_REASON_INITIATOR_GAVE_UP);
    ck_bytes(&R.app, "\xC0\x00", 2);
    close_both();
}
END_TEST

START_TEST(i_late__app_malformed)
{
    to_late(4);
    clear(&I.wire);
    ck_assert_int_eq(drive_app(&I, "\x30\xFF\xFF\xFF\xFF\xFFmore", 10), OE_OK);
    ck_assert_int_eq(drive_app(&I, "more", 4), OE_OK);
    ck_bytes(&I.wire, "\x30\xFF\xFF\xFF\xFF\xFFmoremore", 14);
    stock_unsuback(4);
    ck_phase(&I, OE_PHASE_PLAIN);
    close_both();
}
END_TEST

START_TEST(i_late__peer_end)
{
    to_late(4);
    ck_assert_int_eq(drive_peer(&I, "\xD0", 1), OE_OK);
    ck_assert_int_eq(drive_end(&I), OE_OK);
    ck_bytes(&I.app, "\xD0", 1);
    ck_ended_plain(&I, OE_REASON_TIMEOUT);
    close_both();
}
END_TEST

/* ---- 3.3 common, policies --------------------------------------------------------------------------------------------------------------- */

START_TEST(records__both_ways)
{
    EACH_VERSION(v)
    {
        to_records(v);
        ck_assert_int_eq(drive_app(&I, "malformed \xFF\xFF\xFF\xFF\xFF is carried", 24), OE_OK);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_bytes(&R.app, "malformed \xFF\xFF\xFF\xFF\xFF is carried", 24);
        ck_assert_int_eq(drive_end(&R), OE_OK);
        ck_phase(&R, OE_PHASE_RECORDS);
        ck_assert(!oe_conn_transparent(&I.conn) && !oe_conn_transparent(&R.conn));
        close_both();
    }
}
END_TEST

START_TEST(policy_off)
{
    EACH_VERSION(v)
    {
        open_policy(OE_POLICY_OFF);
        struct oe_buf c = connect_of(v);
        push(drive_app, &I, connect_of(v));
        ck_ended_plain(&I, OE_REASON_POLICY_OFF);
        ck_assert_int_eq(I.conn.version, v);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_ended_plain(&R, OE_REASON_POLICY_OFF);
        ck_packet(&R.app, &c);
        close_both();
    }
}
END_TEST

/* Not a byte that may begin a CONNECT passes, however often it is tried; what is not MQTT does. */
START_TEST(policy_refuse)
{
    open_policy(OE_POLICY_REFUSE);
    struct oe_buf c = connect_of(4);
    for (size_t n = 1; n <= oe_buf_n(&c); n++) {
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, n), OE_INVALID);
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p, n), OE_INVALID);
    }
    ck_bytes(&I.wire, "", 0);
    ck_bytes(&R.app, "", 0);
    ck_assert_int_eq(oe_conn_why(&I.conn, OE_FROM_APP), OE_REASON_POLICY_REFUSE);
    oe_buf_free(&c);
    close_both();
    open_policy(OE_POLICY_REFUSE);
    ck_assert_int_eq(drive_app(&I, "\x16\x03\x01", 3), OE_OK);
    ck_bytes(&I.wire, "\x16\x03\x01", 3);
    close_both();
}
END_TEST

/* A server, or whoever is on the way, that says a byte first does not open the way for a CONNECT. */
START_TEST(policy_refuse__peer_first)
{
    struct oe_buf c = connect_of(4);
    open_policy(OE_POLICY_REFUSE);
    (void)drive_peer(&I, "\x00", 1);
    (void)drive_app(&I, oe_buf_span(&c).p, oe_buf_n(&c));
    ck_assert_msg(oe_buf_n(&I.wire) == 0, "CONNECT left in plain");
    (void)drive_app(&R, "\x00", 1);
    (void)drive_peer(&R, oe_buf_span(&c).p, oe_buf_n(&c));
    ck_assert_msg(oe_buf_n(&R.app) == 0, "CONNECT was handed over");
    oe_buf_free(&c);
    close_both();
}
END_TEST

/* ... nor does a second process that uses the socket. */
START_TEST(policy_refuse__shared)
{
    struct oe_buf c = connect_of(4);
    open_policy(OE_POLICY_REFUSE);
    (void)oe_conn_abandon(&I.conn);
    (void)drive_app(&I, oe_buf_span(&c).p, oe_buf_n(&c));
    ck_assert_msg(oe_buf_n(&I.wire) == 0, "CONNECT left in plain");
    oe_buf_free(&c);
    close_both();
}
END_TEST

/* A second process: plain before CONNECT is complete, not possible any more from then on. */
START_TEST(shared)
{
    struct oe_buf c = connect_of(4);
    for (size_t n = 0; n < oe_buf_n(&c); n++) {
        open_both();
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, n), OE_OK);
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p, n), OE_OK);
        ck_assert(oe_conn_abandon(&I.conn) && oe_conn_abandon(&R.conn));
        ck_ended_plain(&I, OE_REASON_SHARED);
        ck_ended_plain(&R, OE_REASON_SHARED);
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p + n, oe_buf_n(&c) - n), OE_OK);
        ck_assert(drive_same(&I.wire, &c));
        close_both();
    }
    oe_buf_free(&c);
    void (*const states[])(int) = {to_connack, to_probe, to_message3, to_unsuback, to_records};
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        states[i](4);
        enum oe_phase before[2] = {I.conn.phase, R.conn.phase};
        ck_assert(!oe_conn_abandon(&I.conn) && !oe_conn_abandon(&R.conn));
        ck_assert(I.conn.phase == before[0] && R.conn.phase == before[1]);
        close_both();
    }
}
END_TEST

/* A use that cannot be followed: plain where nothing was said, and not behind the first byte. */
START_TEST(left)
{
    struct oe_buf c = connect_of(4);
    open_both();
    ck_assert(oe_conn_leave(&I.conn, OE_REASON_STDIO) && oe_conn_leave(&R.conn, OE_REASON_KERNEL_COPY));
    ck_ended_plain(&I, OE_REASON_STDIO);
    ck_ended_plain(&R, OE_REASON_KERNEL_COPY);
    ck_assert(oe_conn_leave(&I.conn, OE_REASON_KERNEL_COPY)); /* it is plain, and the reason stays */
    ck_ended_plain(&I, OE_REASON_STDIO);
    close_both();
    for (size_t n = 1; n < oe_buf_n(&c); n++) {
        open_both();
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, n), OE_OK);
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p, n), OE_OK);
        ck_assert(!oe_conn_leave(&I.conn, OE_REASON_STDIO) && !oe_conn_leave(&R.conn, OE_REASON_STDIO));
        ck_assert(I.conn.security == OE_SEC_UNDECIDED && R.conn.security == OE_SEC_UNDECIDED);
        close_both();
    }
    for (int policy = OE_POLICY_REQUIRE; policy <= OE_POLICY_REFUSE; policy++) {
        open_policy((enum oe_policy)policy);
        ck_assert(!oe_conn_leave(&I.conn, OE_REASON_STDIO) && !oe_conn_leave(&R.conn, OE_REASON_STDIO));
        close_both();
    }
    void (*const states[])(int) = {to_connack, to_probe, to_message3, to_unsuback, to_records};
    for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++) {
        states[i](4);
        ck_assert(!oe_conn_leave(&I.conn, OE_REASON_STDIO) && !oe_conn_leave(&R.conn, OE_REASON_STDIO));
        close_both();
    }
    oe_buf_free(&c);
}
END_TEST

START_TEST(nothing_pushed)
{
    EACH_VERSION(v)
    {
        to_unsuback(v);
        ck_assert_int_eq(drive_app(&I, "", 0), OE_OK);
        ck_assert_int_eq(drive_peer(&I, "", 0), OE_OK);
        ck_assert_int_eq(drive_app(&R, "", 0), OE_OK);
        ck_assert_int_eq(drive_peer(&R, "", 0), OE_OK);
        close_both();
    }
}
END_TEST

/* After forget the keys are gone and nothing was freed. */
START_TEST(forget_wipes_keys)
{
    static const uint8_t zeros[32];
    to_unsuback(4);
    oe_conn_forget(&I.conn);
    oe_conn_forget(&R.conn);
    close_both();
    to_records(4);
    oe_conn_forget(&I.conn);
    ck_assert_mem_eq(I.conn.send.cipher.k.b, zeros, 32);
    ck_assert_mem_eq(I.conn.receive.cipher.k.b, zeros, 32);
    close_both();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        i_connect__connect_complete,
        i_connect__app_anything_else,
        i_connect__peer_any_byte,
        i_connect__peer_end,
        i_connack__app_auth,
        i_connack__app_auth_not_whole,
        i_connack__app_any_other_packet,
        i_connack__peer_not_connack,
        i_connack__connack_no_probe,
        i_connack__connack_unreadable_properties,
        i_connack__connack_large,
        i_connack__remembered,
        i_connack__peer_end,
        i_probe__unsuback,
        i_probe__unsuback_forms,
        i_probe__publish_that_is_no_message2,
        i_probe__message2_verifies,
        i_probe__app_bytes,
        i_probe__held_too_much,
        i_probe__peer_end,
        i_probe__malformed,
        i_unsuback__anything_else,
        i_unsuback__end_and_timeout,
        i_late__unsuback,
        i_late__unsuback_in_two,
        i_late__message2_abort,
        i_late__message2_in_mid_packet,
        i_late__abort_does_not_reach_the_broker,
        i_late__app_malformed,
        i_late__peer_end,
        records__both_ways,
        policy_off,
        policy_refuse,
        policy_refuse__peer_first,
        policy_refuse__shared,
        shared,
        left,
        nothing_pushed,
        forget_wipes_keys,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("initiator", tests);
}
