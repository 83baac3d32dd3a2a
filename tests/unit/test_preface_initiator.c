/* The initiator's rows of PROTOCOL.md 8.4. A test is named by its state, then by its event. */
#include <check.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "states_preface.h"

/* ---- I_CONNECT, preface wanted -------------------------------------------------------------------------------------------------------- */

/* Kept to the last byte, then the preface goes out in place of it; what the application wrote behind it waits. */
START_TEST(i_connect__kept)
{
    EACH_VERSION(v)
    {
        const struct drive_trust trusts[] = {nothing, known, known_fresh, wrong, second};
        for (size_t t = 0; t < sizeof(trusts) / sizeof(trusts[0]); t++) {
            struct oe_buf two = connect_of(v);
            size_t n = oe_buf_n(&two);
            drive_publish(&two, (enum oe_mqtt)v, 0x30, "a", "b", 1);
            for (size_t cut = 1; cut < oe_buf_n(&two); cut++) {
                open_trust(t == 0 ? OE_POLICY_REQUIRE : OE_POLICY_PREFER, OE_POLICY_PREFER, trusts[t]);
                ck_assert_int_eq(drive_app(&I, oe_buf_span(&two).p, cut), OE_OK);
                ck_assert_uint_eq(oe_buf_n(&I.sent), cut < n ? cut : n);
                ck_assert_uint_eq(oe_buf_n(&I.wire) != 0, cut >= n);
                ck_assert_int_eq(drive_app(&I, oe_buf_span(&two).p + cut, oe_buf_n(&two) - cut), OE_OK);
                ck_assert_uint_eq(oe_buf_n(&I.sent), n);
                ck_phase(&I, t == 0 ? OE_PHASE_I_PREFACE_XX : OE_PHASE_I_PREFACE_IK);
                ck_assert(oe_conn_prefaced(&I.conn));
                ck_assert_int_eq(I.conn.version, v);
                ck_assert_uint_eq(oe_buf_n(&I.wire), t == 0 ? 61 : trusts[t].epoch != 0 ? 144 + n : 143);
                ck_assert(!drive_contains(&I.wire, "client", 6));
                ck_bytes(&I.app, "", 0);
                close_both();
            }
            oe_buf_free(&two);
        }
    }
}
END_TEST

/* Who is known with downgrade = refuse gets the preface, who is not with policy prefer does not; off and a policy that warns do not. */
START_TEST(i_connect__who_gets_a_preface)
{
    for (int policy = OE_POLICY_OFF; policy <= OE_POLICY_REQUIRE; policy++) {
        for (int k = 0; k < 4; k++) {
            struct drive_trust t = {.known = k & 1 ? DRIVE_KNOWN_RIGHT : DRIVE_KNOWN_NONE,
                                    .downgrade = k & 2 ? OE_DOWNGRADE_WARN : OE_DOWNGRADE_REFUSE};
            open_trust((enum oe_policy)policy, OE_POLICY_PREFER, t);
            push(drive_app, &I, connect_of(4));
            enum oe_phase expected = policy == OE_POLICY_OFF       ? OE_PHASE_PLAIN
                                     : k == 1                      ? OE_PHASE_I_PREFACE_IK
                                     : policy == OE_POLICY_REQUIRE ? OE_PHASE_I_PREFACE_XX
                                                                   : OE_PHASE_I_CONNACK;
            ck_phase(&I, expected);
            ck_assert(!I.conn.downgraded || k & 1);
            close_both();
        }
    }
}
END_TEST

/* 1 MiB is kept, a byte more is refused, however it comes. */
START_TEST(i_connect__connect_large)
{
    EACH_VERSION(v)
    {
        for (int k = 0; k < 4; k++) {
            struct oe_buf c = connect_of(v);
            uint8_t length[4];
            size_t body = oe_buf_n(&c) - 2, n = OE_PREFACE_KEPT_BYTES_MAX + (size_t)(k & 1);
            struct oe_buf large = {0};
            uint8_t *zeros = calloc(1, n);
            drive_raw(&large, "\x10", 1);
            drive_raw(&large, length, oe_varint_put(length, (uint32_t)(n - 4))); /* three bytes of length */
            drive_raw(&large, oe_buf_span(&c).p + 2, body);
            drive_raw(&large, zeros, n - oe_buf_n(&large));
            open_trust(OE_POLICY_REQUIRE, OE_POLICY_PREFER, nothing);
            for (size_t at = 0, piece = k & 2 ? 10000 : n; at < n; at += piece)
                (void)drive_app(&I, oe_buf_span(&large).p + at, n - at < piece ? n - at : piece);
            if (k & 1)
                ck_refused(v, OE_REASON_CONNECT_LARGE);
            else
                ck_phase(&I, OE_PHASE_I_PREFACE_XX);
            oe_buf_free(&c);
            oe_buf_free(&large);
            free(zeros);
            close_both();
        }
    }
}
END_TEST

START_TEST(i_connect__malformed)
{
    static const struct {
        const char *bytes;
        size_t n;
    } cases[] = {
        {"\x10\x80\x80\x80\x80\x01", 6},
        {"\x10\x0C\x00\x04MQTT\x06\x02\x00\x00\x00\x00", 14},
        {"\x10\x00", 2},
        {"\x10\x01\x00", 3},
        {"\x10\x8C\x00\x00\x04", 5},
        {"\x10\x0C\x00\x04MQXX", 8},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t cut = 0; cut < cases[i].n; cut++) {
            open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, i % 2 ? known : wrong);
            ck_assert_int_eq(drive_app(&I, cases[i].bytes, cut), OE_OK);
            if (I.conn.phase != OE_PHASE_REFUSED)
                ck_assert_int_eq(drive_app(&I, cases[i].bytes + cut, cases[i].n - cut), OE_OK);
            ck_refused(0, OE_REASON_MALFORMED);
            close_both();
        }
    }
}
END_TEST

START_TEST(i_connect__undecided)
{
    EACH_VERSION(v)
    {
        for (int k = 0; k < 8; k++) {
            struct drive_trust t = {.known = k & 1 ? DRIVE_KNOWN_RIGHT : DRIVE_KNOWN_NONE,
                                    .downgrade = k & 4 ? OE_DOWNGRADE_WARN : OE_DOWNGRADE_REFUSE,
                                    .epoch = EPOCH,
                                    .undecided = 1};
            struct oe_buf c = connect_of(v);
            open_trust(k & 2 ? OE_POLICY_REQUIRE : OE_POLICY_PREFER, OE_POLICY_PREFER, t);
            for (size_t i = 0; i < oe_buf_n(&c); i++) {
                ck_phase(&I, OE_PHASE_I_CONNECT);
                ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p + i, 1), OE_OK);
            }
            ck_refused(v, OE_REASON_TRUST_UNDECIDED);
            oe_buf_free(&c);
            close_both();
        }
    }
}
END_TEST

/* A key that gives an all-zero secret is nobody's. */
START_TEST(i_connect__known_key_of_low_order)
{
    struct oe_known zero = {.pinned = 1};
    open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, known);
    ck_assert_int_eq(oe_conn_trust(&I.conn, &(struct oe_trust){.known = &zero, .n = 1}), OE_OK);
    push(drive_app, &I, connect_of(5));
    ck_refused(5, OE_REASON_KEY_CHANGED);
    close_both();
}
END_TEST

START_TEST(i_connect__first_byte_of_something_else)
{
    static const struct {
        const char *bytes;
        size_t n;
        enum oe_reason reason;
    } cases[] = {{"\x16\x03\x01\x00\xF1", 5, OE_REASON_TLS},
                 {"GET / HTTP/1.1\r\n", 16, OE_REASON_NOT_MQTT},
                 {"\x00\x10\x00", 3, OE_REASON_NOT_MQTT}};
    for (int k = 0; k < 6; k++) {
        const struct drive_trust trusts[] = {nothing, known, {.known = DRIVE_KNOWN_RIGHT, .undecided = 1}};
        for (size_t i = 0; i < 3; i++) {
            open_trust(k % 2 || k / 2 == 0 ? OE_POLICY_REQUIRE : OE_POLICY_PREFER, OE_POLICY_PREFER, trusts[k / 2]);
            ck_assert_int_eq(drive_app(&I, cases[i].bytes, 1), OE_OK);
            ck_assert_int_eq(drive_app(&I, cases[i].bytes + 1, cases[i].n - 1), OE_OK);
            ck_ended_plain(&I, cases[i].reason);
            ck_assert_msg(!I.conn.downgraded, "what is not MQTT is nothing to warn of");
            ck_bytes(&I.wire, cases[i].bytes, cases[i].n);
            ck_assert_int_eq(drive_peer(&I, "answer", 6), OE_OK);
            ck_bytes(&I.app, "answer", 6);
            close_both();
        }
    }
}
END_TEST

START_TEST(i_connect__peer_before_first)
{
    EACH_VERSION(v)
    {
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            open_trust(OE_POLICY_REQUIRE, OE_POLICY_PREFER, nothing);
            I.how.bytewise = bytewise;
            ck_assert_int_eq(drive_peer(&I, "220 hello", 9), OE_OK);
            ck_bytes(&I.app, "220 hello", 9);
            ck_phase(&I, OE_PHASE_I_CONNECT);
            push(drive_app, &I, connect_of(v));
            ck_refused(v, OE_REASON_PEER_FIRST);
            close_both();
        }
        /* of a broker that is known nothing is handed on before the handshake */
        open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, known);
        ck_assert_int_eq(drive_peer(&I, "220 hello", 9), OE_OK);
        ck_phase(&I, OE_PHASE_REFUSED);
        ck_assert_int_eq(I.conn.reason, OE_REASON_PEER_FIRST);
        ck_bytes(&I.app, "", 0);
        ck_bytes(&I.wire, "", 0);
        close_both();
    }
}
END_TEST

START_TEST(i_connect__peer_later)
{
    EACH_VERSION(v)
    {
        struct oe_buf c = connect_of(v);
        for (size_t n = 1; n < oe_buf_n(&c); n++) {
            open_trust(OE_POLICY_REQUIRE, OE_POLICY_PREFER, nothing);
            ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, n), OE_OK);
            ck_assert_int_eq(drive_peer(&I, "\x20\x02\x00\x00", 4), OE_OK);
            ck_refused(n >= (v == 3 ? 11U : 9U) ? v : 0, OE_REASON_PEER_FIRST); /* in the version, once it is known */
            close_both();
            n += n > 12;
        }
        oe_buf_free(&c);
    }
}
END_TEST

/* A server that closes at once: the application's CONNECT does not go out in plain for that. */
START_TEST(i_connect__peer_end)
{
    for (size_t n = 0; n < 20; n++) {
        struct oe_buf c = connect_of(4);
        open_trust(OE_POLICY_REQUIRE, OE_POLICY_PREFER, nothing);
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, n), OE_OK);
        ck_assert_int_eq(drive_end(&I), OE_OK);
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p + n, oe_buf_n(&c) - n), OE_OK);
        ck_assert(!drive_contains(&I.wire, "client", 6));
        clear(&I.wire);
        ck_assert_int_eq(drive_end(&I), OE_OK);
        ck_preface_ended();
        oe_buf_free(&c);
        close_both();
    }
}
END_TEST

/* A second process that uses the socket does not open the way either. */
START_TEST(i_connect__shared)
{
    open_trust(OE_POLICY_PREFER, OE_POLICY_REQUIRE, known);
    ck_assert_int_eq(oe_conn_abandon(&I.conn), 1);
    ck_assert_int_eq(oe_conn_abandon(&R.conn), 1);
    push(drive_app, &I, connect_of(4));
    ck_phase(&I, OE_PHASE_I_PREFACE_IK);
    ck_assert(!oe_conn_abandon(&I.conn));
    push(drive_peer, &R, connect_of(5)); /* watched all the same */
    ck_phase(&R, OE_PHASE_R_FIRST);
    ck_assert(!oe_conn_abandon(&R.conn));
    close_both();
}
END_TEST

/* ---- I_PREFACE_IK --------------------------------------------------------------------------------------------------------------------- */

START_TEST(i_preface_ik__early)
{
    EACH_VERSION(v)
    {
        to_preface(known_fresh, v);
        struct oe_buf c = connect_of(v);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_phase(&R, OE_PHASE_RECORDS);
        ck_assert(drive_same(&R.app, &c)); /* before anything came back */
        ck_assert_int_eq(R.conn.version, v);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_bytes(&I.wire, "", 0);
        ck_records(OE_SEC_TOFU, OE_REASON_KEY_KNOWN);
        ck_assert(I.conn.epoch_seen && I.conn.epoch[0] == EPOCH && I.conn.epoch[15] == EPOCH);
        ck_talk(c);
        close_both();
    }
}
END_TEST

/* Where it cannot be early the CONNECT comes in the first record, once. */
START_TEST(i_preface_ik__not_early)
{
    static const struct {
        struct drive_trust trust;
        unsigned fresh;
        size_t n;
        int will, in_message1;
    } cases[] = {
        {{.known = DRIVE_KNOWN_RIGHT}, 10, 0, 0, 0},                             /* no epoch is known */
        {{.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH + 1}, 10, 0, 0, 1},         /* another one */
        {{.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH, .pinned = 1}, 0, 0, 0, 1}, /* not fresh */
        {{.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH}, 10, 16385, 0, 0},
        {{.known = DRIVE_KNOWN_RIGHT, .epoch = EPOCH}, 10, 0, 1, 0},
    };
    EACH_VERSION(v)
    {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            struct oe_buf c = {0};
            drive_connect_of(&c, (enum oe_mqtt)v, cases[i].n, cases[i].will);
            size_t n = oe_buf_n(&c);
            open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, cases[i].trust);
            drive_responders(OE_ADMIT_ANY, EPOCH, cases[i].fresh);
            ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, n), OE_OK);
            ck_assert_uint_eq(oe_buf_n(&I.wire) >= 113 + 28 + n, cases[i].in_message1);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_bytes(&R.app, "", 0);
            ck_phase(&R, OE_PHASE_RECORDS);
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
            ck_records(cases[i].trust.pinned ? OE_SEC_PINNED : OE_SEC_TOFU,
                       cases[i].trust.pinned ? OE_REASON_KEY_PINNED : OE_REASON_KEY_KNOWN);
            ck_assert_uint_eq(oe_buf_n(&I.wire),
                              n <= 16363 ? oe_record_bytes(OE_MQTT_5, n) : 16386 + oe_record_bytes(OE_MQTT_5, n - 16363));
            ck_talk(c);
            close_both();
        }
    }
}
END_TEST

/* 16,384 bytes are the most that message 1 carries. */
START_TEST(i_preface_ik__early_largest)
{
    EACH_VERSION(v)
    {
        struct oe_buf c = {0};
        drive_connect_of(&c, (enum oe_mqtt)v, OE_PREFACE_CONNECT_BYTES_MAX, 0);
        open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, known_fresh);
        ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, oe_buf_n(&c)), OE_OK);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_assert(drive_same(&R.app, &c));
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_records(OE_SEC_TOFU, OE_REASON_KEY_KNOWN);
        ck_talk(c);
        close_both();
    }
}
END_TEST

/* A bridge's CONNECT, with 0x80 in its level. */
START_TEST(i_preface_ik__early_bridge)
{
    open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, known_fresh);
    struct oe_buf c = connect_of(4);
    c.p[c.pos + 8] |= 0x80;
    ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, oe_buf_n(&c)), OE_OK);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_assert(drive_same(&R.app, &c));
    exchange();
    ck_records(OE_SEC_TOFU, OE_REASON_KEY_KNOWN);
    ck_assert_int_eq(R.conn.version, 4);
    ck_talk(c);
    close_both();
}
END_TEST

/* A CONNECT whose inside is not MQTT is the application's; message 1 does not carry it. */
START_TEST(i_preface_ik__odd_connect)
{
    open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, known_fresh);
    struct oe_buf c = {0};
    drive_raw(&c, "\x10\x0E\x00\x04MQTT\x04\x02\x00\x3C\x00\x09xx", 16);
    ck_assert_int_eq(drive_app(&I, oe_buf_span(&c).p, oe_buf_n(&c)), OE_OK);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_bytes(&R.app, "", 0);
    exchange();
    ck_records(OE_SEC_TOFU, OE_REASON_KEY_KNOWN);
    ck_packet(&R.app, &c);
    close_both();
}
END_TEST

/* Message 2 of IK verifies, but its payload is none: another length, early for a CONNECT that was not sent, no such early. */
START_TEST(i_preface_ik__message2_payload)
{
    uint8_t payload[40] = {0};
    for (size_t n = 0; n <= 34; n++) {
        for (unsigned early = 0; early < 4; early++) {
            for (int sent = 0; sent < 2; sent++) {
                to_preface(sent ? known_fresh : known, 4);
                hand_reads(OE_NOISE_IK);
                payload[0] = (uint8_t)(early == 3 ? 255 : early);
                push(drive_peer, &I, hand_says(OE_TYPE_AUTH, OE_PREFACE_IK, payload, n));
                if (n == 17 && early <= (unsigned)sent)
                    ck_phase(&I, OE_PHASE_RECORDS);
                else
                    ck_refused(4, OE_REASON_OE_MQTT_GONE);
                close_both();
            }
        }
    }
}
END_TEST

START_TEST(i_preface_ik__retry)
{
    EACH_VERSION(v)
    {
        to_preface(second, v);
        struct oe_buf c = connect_of(v), preface = taken(&I);
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&preface).p, oe_buf_n(&preface)), OE_OK);
        ck_phase(&R, OE_PHASE_R_RETRY);
        ck_assert_uint_eq(oe_buf_n(&R.wire), 18);
        ck_assert_mem_eq(oe_buf_span(&R.wire).p, "\xF0\x10\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x03", 18);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_phase(&I, OE_PHASE_I_PREFACE_XX);
        ck_assert_uint_eq(oe_buf_n(&I.wire), 18 + 32);
        /* with an ephemeral key of its own */
        ck_assert(!drive_contains(&preface, oe_buf_span(&I.wire).p + 18, 32));
        oe_buf_free(&preface);
        exchange();
        ck_records(OE_SEC_TOFU, OE_REASON_KEY_KNOWN);
        ck_talk(c);
        close_both();
    }
}
END_TEST

START_TEST(i_preface_ik__retry_pinned)
{
    struct drive_trust t = second;
    t.pinned = 1;
    to_preface(t, 4);
    exchange();
    ck_records(OE_SEC_PINNED, OE_REASON_KEY_PINNED);
    close_both();
}
END_TEST

/* Retry comes once. */
START_TEST(i_preface__retry_again)
{
    to_preface(second, 5);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    struct oe_buf retry = taken(&R);
    ck_assert_int_eq(drive_peer(&I, oe_buf_span(&retry).p, oe_buf_n(&retry)), OE_OK);
    ck_phase(&I, OE_PHASE_I_PREFACE_XX);
    clear(&I.wire);
    ck_assert_int_eq(drive_peer(&I, oe_buf_span(&retry).p, oe_buf_n(&retry)), OE_OK);
    ck_refused(5, OE_REASON_OE_MQTT_GONE);
    oe_buf_free(&retry);
    close_both();
}
END_TEST

/* ---- I_PREFACE_XX --------------------------------------------------------------------------------------------------------------------- */

START_TEST(i_preface_xx__message2)
{
    EACH_VERSION(v)
    {
        to_preface(nothing, v);
        struct oe_buf c = connect_of(v);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_phase(&R, OE_PHASE_R_PREFACE);
        ck_bytes(&R.app, "", 0);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_phase(&I, OE_PHASE_RECORDS);
        ck_assert_uint_eq(oe_buf_n(&I.wire), 18 + 65 + oe_record_bytes(OE_MQTT_5, oe_buf_n(&c)));
        ck_assert(I.conn.epoch_seen && I.conn.epoch[0] == EPOCH);
        ck_assert_int_eq(drive_move(&I, &R, 18 + 65), OE_OK);
        ck_records(OE_SEC_UNAUTHENTICATED, OE_REASON_HANDSHAKE_DONE);
        ck_assert_int_eq(R.conn.security, OE_SEC_UNAUTHENTICATED);
        ck_assert_int_eq(R.conn.version, v);
        ck_assert(!I.conn.downgraded);
        ck_talk(c);
        close_both();
    }
}
END_TEST

/* The responder proves a key that is not among the known ones: no message 3, and the operator can be told which key it is. */
START_TEST(i_preface_xx__other_key)
{
    EACH_VERSION(v)
    {
        for (int policy = OE_POLICY_PREFER; policy <= OE_POLICY_REQUIRE; policy++) {
            struct oe_public key = drive_key(2);
            open_trust((enum oe_policy)policy, OE_POLICY_PREFER, wrong);
            push(drive_app, &I, connect_of(v));
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_phase(&R, OE_PHASE_R_RETRY);
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
            ck_assert(I.conn.peer_seen && memcmp(I.conn.peer.b, key.b, 32) == 0);
            ck_assert(!I.conn.epoch_seen);
            ck_refused(v, OE_REASON_KEY_CHANGED);
            ck_assert_int_eq(drive_end(&R), OE_OK);
            ck_bytes(&R.app, "", 0);
            close_both();
        }
    }
}
END_TEST

START_TEST(i_preface_xx__message2_payload)
{
    uint8_t payload[40] = {0};
    for (size_t n = 0; n <= 34; n++) {
        to_preface(nothing, 5);
        hand_reads(OE_NOISE_XX);
        push(drive_peer, &I, hand_says(OE_TYPE_AUTH, OE_PREFACE_XX, payload, n));
        if (n == 16)
            ck_phase(&I, OE_PHASE_RECORDS);
        else
            ck_refused(5, OE_REASON_REQUIRED);
        close_both();
    }
}
END_TEST

/* Message 2 under another id, and a CONNECT in place of the AUTH around it. */
START_TEST(i_preface__message2_as_something_else)
{
    uint8_t payload[17] = {0};
    for (int i = 0; i < 5; i++) {
        int xx = i < 2;
        to_preface(xx ? nothing : known, 4);
        hand_reads(xx ? OE_NOISE_XX : OE_NOISE_IK);
        enum oe_type type = i == 1 || i == 4 ? OE_TYPE_CONNECT : OE_TYPE_AUTH;
        enum oe_preface_id id = i == 0   ? OE_PREFACE_IK
                                : i == 1 ? OE_PREFACE_XX
                                : i == 2 ? OE_PREFACE_XX
                                : i == 3 ? OE_PREFACE_RETRY
                                         : OE_PREFACE_IK;
        push(drive_peer, &I, hand_says(type, id, payload, xx ? 16 : 17));
        ck_refused(4, xx ? OE_REASON_REQUIRED : OE_REASON_OE_MQTT_GONE);
        close_both();
    }
}
END_TEST

/* ---- I_PREFACE_* ---------------------------------------------------------------------------------------------------------------------- */

/* What stock brokers say to an unknown method, and other things that are no answer. */
START_TEST(i_preface__anything_else)
{
    static const struct {
        const char *bytes;
        size_t n;
        enum oe_reason reason; /* NONE: that of a broker without OE-MQTT */
    } cases[] = {
        {"\x20\x03\x00\x8C\x00", 5, OE_REASON_NONE},
        {"\x20\x02\x00\x01", 4, OE_REASON_NONE},
        {"\x20\x03\x00\x87\x00", 5, OE_REASON_NONE},
        {"\x20\x03\x00\x00\x00", 5, OE_REASON_NONE},
        {"\x20\x02\x00\x00", 4, OE_REASON_NONE},
        {"\x20\x0D\x00\x87\x0A\x15\x00\x07OE-MQTT", 15, OE_REASON_NOT_ADMITTED_THERE},
        {"\x20\x0D\x00\x87\x0A\x15\x00\x07OE-MQTX", 15, OE_REASON_NONE},
        {"\x20\x0D\x00\x86\x0A\x15\x00\x07OE-MQTT", 15, OE_REASON_NONE},
        {"\xF0\x00", 2, OE_REASON_NONE},
        {"\xF0\x10\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x01", 18, OE_REASON_NONE},
        {"\xF0\x10\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x02", 18, OE_REASON_NONE},
        {"\xF0\x10\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x00", 18, OE_REASON_NONE},
        {"\xF0\x11\x18\x0F\x15\x00\x07OE-MQTT\x16\x00\x02\x03\x00", 19, OE_REASON_NONE}, /* retry with something behind it */
        {"\xF0\x10\x19\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x03", 18, OE_REASON_NONE},
        {"\xE0\x02\x8C\x00", 4, OE_REASON_NONE},
        {"\x30\x05\x00\x01t12", 7, OE_REASON_NONE},
        {"\x30\x16\x00\x01$\x00"
         "0123456789abcdefgh",
         24, OE_REASON_NONE},
        {"\xFF\xFF\xFF\xFF\xFF\xFF", 6, OE_REASON_NONE},
        {"HTTP/1.1 400", 12, OE_REASON_NONE},
    };
    EACH_VERSION(v)
    {
        for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
            for (size_t cut = 0; cut < cases[i].n; cut++) {
                for (int ik = 0; ik < 2; ik++) {
                    to_preface(ik ? known_fresh : nothing, v);
                    clear(&I.wire);
                    ck_assert_int_eq(drive_peer(&I, cases[i].bytes, cut), OE_OK);
                    ck_assert_int_eq(drive_peer(&I, cases[i].bytes + cut, cases[i].n - cut), OE_OK);
                    ck_refused(v, cases[i].reason != OE_REASON_NONE ? cases[i].reason : ik ? OE_REASON_OE_MQTT_GONE : OE_REASON_REQUIRED);
                    ck_assert_int_eq(I.conn.remember, OE_REMEMBER_NOTHING);
                    close_both();
                }
            }
        }
    }
}
END_TEST

/* Message 2 altered in any bit leads to a refusal, and does not go back to plain. */
START_TEST(i_preface__message2_every_bit)
{
    for (int ik = 0; ik < 2; ik++) {
        to_preface(ik ? known_fresh : nothing, 4);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        struct oe_buf message2 = taken(&R);
        close_both();
        for (size_t bit = 0; bit < oe_buf_n(&message2) * 8; bit++) {
            to_preface(ik ? known_fresh : nothing, 4);
            clear(&I.wire);
            message2.p[message2.pos + bit / 8] ^= (uint8_t)(1 << bit % 8);
            ck_assert_int_eq(drive_peer(&I, oe_buf_span(&message2).p, oe_buf_n(&message2)), OE_OK);
            ck_assert_int_eq(drive_end(&I), OE_OK);
            ck_refused(4, ik ? OE_REASON_OE_MQTT_GONE : OE_REASON_REQUIRED);
            message2.p[message2.pos + bit / 8] ^= (uint8_t)(1 << bit % 8);
            close_both();
        }
        oe_buf_free(&message2);
    }
}
END_TEST

START_TEST(i_preface__end)
{
    EACH_VERSION(v)
    {
        for (int ik = 0; ik < 2; ik++) {
            for (size_t n = 0; n < 60; n++) {
                to_preface(ik ? known : nothing, v);
                ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
                ck_assert_int_eq(drive_move(&R, &I, n), OE_OK); /* the front of message 2 */
                ck_assert_int_eq(drive_end(&I), OE_OK);
                ck_preface_ended();
                close_both();
            }
        }
    }
}
END_TEST

/* Five times handshake-timeout, counted from the preface; a retry does not give more. */
START_TEST(i_preface__timeout)
{
    EACH_VERSION(v)
    {
        const struct drive_trust trusts[] = {nothing, known, second};
        for (int t = 0; t < 3; t++) {
            uint64_t deadline = 0;
            to_preface(trusts[t], v);
            ck_assert(oe_conn_waiting(&I.conn, &deadline));
            ck_assert_uint_eq(deadline, 1000 + 5 * OE_HANDSHAKE_MS_DEFAULT);
            if (t == 2) {
                I.now += 5;
                ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
                ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
                ck_assert(oe_conn_waiting(&I.conn, &deadline));
                ck_assert_uint_eq(deadline, 1000 + 5 * OE_HANDSHAKE_MS_DEFAULT);
            }
            clear(&I.wire);
            ck_assert_int_eq(drive_peer(&I, "\xF0", 1), OE_OK);
            ck_assert_int_eq(drive_expire(&I), OE_OK);
            ck_refused(v, OE_REASON_PREFACE_TIMEOUT);
            ck_assert_int_eq(I.conn.remember, OE_REMEMBER_NOTHING);
            ck_assert(!oe_conn_waiting(&I.conn, &deadline));
            ck_assert_int_eq(drive_expire(&I), OE_OK);
            close_both();
        }
    }
}
END_TEST

START_TEST(i_preface__app_bytes)
{
    for (int ik = 0; ik < 2; ik++) {
        to_preface(ik ? known : nothing, 4);
        size_t wire = oe_buf_n(&I.wire), sent = oe_buf_n(&I.sent);
        ck_assert_int_eq(drive_app(&I, "\xC0\x00", 2), OE_OK);
        ck_assert_uint_eq(oe_buf_n(&I.wire), wire);
        ck_assert_uint_eq(oe_buf_n(&I.sent), sent);
        exchange();
        ck_talk(connect_of(4));
        close_both();
    }
}
END_TEST

/* A refusal that comes behind message 3 of XX breaks the records and says who refused, in one piece and byte by byte. */
START_TEST(records__refusal_behind_message3)
{
    for (int bytewise = 0; bytewise < 2; bytewise++) {
        to_preface(nothing, 4);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        drive_responders(OE_ADMIT_NOT, EPOCH, 0);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_phase(&I, OE_PHASE_RECORDS);
        I.how.bytewise = bytewise;
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_refuses(OE_REASON_NOT_ADMITTED);
        ck_assert_int_ne(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_assert_int_eq(oe_conn_why(&I.conn, OE_FROM_PEER), OE_REASON_NOT_ADMITTED_THERE);
        ck_bytes(&I.app, "", 0);
        close_both();
    }
}
END_TEST

/* ... but not behind the first record. */
START_TEST(records__connack_later)
{
    to_preface(nothing, 4);
    exchange();
    ck_talk(connect_of(4));
    ck_assert_int_ne(drive_peer(&I, "\x20\x0D\x00\x87\x0A\x15\x00\x07OE-MQTT", 15), OE_OK);
    ck_assert_int_eq(oe_conn_why(&I.conn, OE_FROM_PEER), OE_REASON_NOT_A_RECORD);
    ck_assert_int_ne(drive_peer(&R, "\x20\x0D\x00\x87\x0A\x15\x00\x07OE-MQTT", 15), OE_OK);
    ck_assert_int_eq(oe_conn_why(&R.conn, OE_FROM_PEER), OE_REASON_NOT_A_RECORD);
    close_both();
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        i_connect__kept,
        i_connect__who_gets_a_preface,
        i_connect__connect_large,
        i_connect__malformed,
        i_connect__undecided,
        i_connect__known_key_of_low_order,
        i_connect__first_byte_of_something_else,
        i_connect__peer_before_first,
        i_connect__peer_later,
        i_connect__peer_end,
        i_connect__shared,
        i_preface_ik__early,
        i_preface_ik__not_early,
        i_preface_ik__early_largest,
        i_preface_ik__early_bridge,
        i_preface_ik__odd_connect,
        i_preface_ik__message2_payload,
        i_preface_ik__retry,
        i_preface_ik__retry_pinned,
        i_preface__retry_again,
        i_preface_xx__message2,
        i_preface_xx__other_key,
        i_preface_xx__message2_payload,
        i_preface__message2_as_something_else,
        i_preface__anything_else,
        i_preface__message2_every_bit,
        i_preface__end,
        i_preface__timeout,
        i_preface__app_bytes,
        records__refusal_behind_message3,
        records__connack_later,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("preface_initiator", tests);
}
