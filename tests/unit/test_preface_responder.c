/* The responder's rows of PROTOCOL.md 8.4, what `require` changes in 3.2, and trust (9) with a probe. Names: state, then event. */
#include <check.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "run.h"
#include "states_preface.h"

static void open_responder(enum oe_policy policy)
{
    open_trust(OE_POLICY_REQUIRE, policy, nothing);
}

/* Message 1 of IK of our making, in one piece or byte by byte. */
static void say_ik(const uint8_t *payload, size_t n, int bytewise)
{
    R.how.bytewise = bytewise;
    struct oe_buf b = hand_begins(OE_NOISE_IK, OE_TYPE_CONNECT, payload, n);
    push(drive_peer, &R, b);
}

static struct oe_buf hello(unsigned level, unsigned epoch)
{
    struct oe_buf b = {0};
    uint8_t bytes[17];
    memset(bytes, (int)epoch, sizeof(bytes));
    bytes[0] = (uint8_t)level;
    drive_raw(&b, bytes, sizeof(bytes));
    return b;
}

/* ---- R_CONNECT ------------------------------------------------------------------------------------------------------------------------ */

/* Nothing comes out before the preface is whole. */
START_TEST(r_connect__preface_kept)
{
    EACH_VERSION(v)
    {
        for (int ik = 0; ik < 2; ik++) {
            to_preface(ik ? known_fresh : nothing, v);
            for (size_t n = oe_buf_n(&I.wire); n != 0; n--) {
                ck_phase(&R, OE_PHASE_R_CONNECT);
                ck_assert_int_eq(drive_move(&I, &R, 1), OE_OK);
                ck_assert_uint_eq(oe_buf_n(&R.app) + oe_buf_n(&R.wire) != 0, n == 1);
            }
            ck_phase(&R, ik ? OE_PHASE_RECORDS : OE_PHASE_R_PREFACE);
            close_both();
        }
    }
}
END_TEST

START_TEST(r_connect__ik_fresh)
{
    EACH_VERSION(v)
    {
        for (int policy = OE_POLICY_PREFER; policy <= OE_POLICY_REQUIRE; policy++) {
            struct oe_buf c = connect_of(v), payload = hello((unsigned)v, EPOCH);
            drive_raw(&payload, oe_buf_span(&c).p, oe_buf_n(&c));
            open_responder((enum oe_policy)policy);
            say_ik(oe_buf_span(&payload).p, oe_buf_n(&payload), 0);
            ck_phase(&R, OE_PHASE_RECORDS);
            ck_assert_uint_eq(oe_buf_n(&R.wire), 18 + 65);
            ck_packet(&R.app, &c);
            /* the same again, to another connection */
            drive_close(&R);
            drive_open(&R, OE_RESPONDER, &(struct drive_how){.policy = (enum oe_policy)policy, .seed = 2});
            say_ik(oe_buf_span(&payload).p, oe_buf_n(&payload), 0);
            ck_phase(&R, OE_PHASE_RECORDS);
            ck_bytes(&R.app, "", 0);
            oe_buf_free(&payload);
            close_both();
        }
    }
}
END_TEST

/* One client connects twice in an epoch: it is the ephemeral key that is new or not. */
START_TEST(r_connect__ik_fresh_twice)
{
    open_responder(OE_POLICY_PREFER);
    for (unsigned i = 0; i < 3; i++) {
        struct oe_secret e;
        struct drive client, broker;
        struct oe_buf c = connect_of(4);
        memset(e.b, 50 + (int)(i % 2), sizeof(e.b)); /* the third is the first again */
        drive_open(&client, OE_INITIATOR,
                   &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 1, .peer_seed = 2, .trust = known_fresh, .ephemeral0 = &e});
        drive_open(&broker, OE_RESPONDER, &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 2});
        push(drive_app, &client, connect_of(4));
        ck_assert_int_eq(drive_move(&client, &broker, SIZE_MAX), OE_OK);
        ck_assert_int_eq(broker.conn.phase, OE_PHASE_RECORDS);
        if (i == 2)
            ck_bytes(&broker.app, "", 0);
        else
            ck_assert(drive_same(&broker.app, &c));
        oe_buf_free(&c);
        drive_close(&client);
        drive_close(&broker);
    }
    close_both();
}
END_TEST

/* What message 2 of IK says: early as it was, and the responder's epoch. */
START_TEST(r_connect__ik_answer)
{
    for (int k = 0; k < 4; k++) {
        struct oe_buf payload = hello(4, k == 1 ? EPOCH + 1 : EPOCH);
        uint8_t out[64];
        struct oe_span message, wire;
        enum oe_preface_id id;
        size_t want, n;
        if (k != 0)
            drive_connect(&payload, OE_MQTT_311);
        open_responder(OE_POLICY_PREFER);
        drive_responders(OE_ADMIT_ANY, EPOCH, k != 2);
        say_ik(oe_buf_span(&payload).p, oe_buf_n(&payload), 0);
        wire = oe_buf_span(&R.wire);
        ck_assert_int_eq(oe_preface_read(OE_TYPE_AUTH, wire.p, wire.n, &id, &message, &want), OE_OK);
        ck_assert_int_eq(id, OE_PREFACE_IK);
        ck_assert_int_eq(oe_noise_read(&hand, message, out, sizeof(out), &n), OE_OK);
        ck_assert_uint_eq(n, 17);
        ck_assert_uint_eq(out[0], k == 3);
        ck_assert(out[1] == EPOCH && out[16] == EPOCH);
        ck_assert_uint_eq(oe_buf_n(&R.app) != 0, k == 3);
        oe_buf_free(&payload);
        close_both();
    }
}
END_TEST

/* What may not be behind the epoch, and levels that are none: refused, and the application sees nothing of it. */
START_TEST(r_connect__ik_payload_not_allowed)
{
    EACH_VERSION(v)
    {
        for (int i = 0; i < 14; i++) {
            struct oe_buf payload = hello((unsigned)v, EPOCH), c = connect_of(v);
            size_t n = oe_buf_n(&payload);
            switch (i) {
            case 0: /* a Will */
                drive_connect_of(&payload, (enum oe_mqtt)v, 0, 1);
                break;
            case 1: /* of another version */
                drive_connect(&payload, v == 5 ? OE_MQTT_311 : OE_MQTT_5);
                break;
            case 2: /* two */
                drive_raw(&payload, oe_buf_span(&c).p, oe_buf_n(&c));
                drive_raw(&payload, oe_buf_span(&c).p, oe_buf_n(&c));
                break;
            case 3: /* a byte behind it */
                drive_raw(&payload, oe_buf_span(&c).p, oe_buf_n(&c));
                drive_raw(&payload, "\xC0", 1);
                break;
            case 4: /* not whole */
                drive_raw(&payload, oe_buf_span(&c).p, oe_buf_n(&c) - 1);
                break;
            case 5: /* another packet */
                drive_publish(&payload, (enum oe_mqtt)v, 0x30, "t", "x", 1);
                break;
            case 6:
                drive_raw(&payload, "x", 1);
                break;
            case 7:
            case 8:
            case 9:
            case 10:
                payload.p[payload.pos] = (uint8_t)(i == 7 ? 0 : i == 8 ? 2 : i == 9 ? 6 : v | 0x80);
                break;
            case 11: /* a level without its CONNECT, in front of a right one */
                drive_raw(&payload, oe_buf_span(&c).p, oe_buf_n(&c));
                payload.p[payload.pos] = v == 3 ? 4 : 3;
                break;
            case 12: /* no epoch; the packet is shorter than one of IK */
                payload.len -= 16;
                break;
            case 13:
                payload.len -= n;
                break;
            default:
                ck_abort();
            }
            for (int bytewise = 0; bytewise < 2; bytewise++) {
                open_responder(OE_POLICY_PREFER);
                say_ik(oe_buf_span(&payload).p, oe_buf_n(&payload), bytewise);
                ck_refusal_packet(&R.wire);
                ck_refuses(OE_REASON_BAD_PREFACE);
                close_both();
            }
            oe_buf_free(&payload);
            oe_buf_free(&c);
        }
    }
}
END_TEST

START_TEST(r_connect__ik_does_not_verify)
{
    for (int policy = OE_POLICY_PREFER; policy <= OE_POLICY_REQUIRE; policy++) {
        open_trust(OE_POLICY_PREFER, (enum oe_policy)policy, wrong);
        push(drive_app, &I, connect_of(4));
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_phase(&R, OE_PHASE_R_RETRY);
        ck_bytes(&R.app, "", 0);
        ck_bytes(&R.wire, "\xF0\x10\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x03", 18);
        ck_assert(!R.conn.peer_seen);
        close_both();
    }
}
END_TEST

START_TEST(r_connect__xx)
{
    to_preface(nothing, 4);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_phase(&R, OE_PHASE_R_PREFACE);
    ck_bytes(&R.app, "", 0);
    ck_assert_uint_eq(oe_buf_n(&R.wire), 3 + 128);
    ck_assert(!R.conn.peer_seen);
    close_both();
}
END_TEST

/* As a preface up to the method, and then not. */
START_TEST(r_connect__as_a_preface_and_then_not)
{
    static const size_t sizes[] = {0, 31, 33, 64, 112};
    uint8_t message[200];
    randombytes_buf(message, sizeof(message));
    for (int bytewise = 0; bytewise < 2; bytewise++) {
        for (unsigned id = 1; id <= 3; id++) {
            for (size_t i = 0; i < 5; i++) { /* messages of no such length; retry is nothing that an initiator says */
                struct oe_buf b = {0};
                struct oe_sink sink = {.rest = &b};
                ck_assert_int_eq(oe_preface_put(&sink, OE_TYPE_CONNECT, (enum oe_preface_id)id, (struct oe_span){message, sizes[i]}),
                                 OE_OK);
                open_responder(i % 2 ? OE_POLICY_PREFER : OE_POLICY_REQUIRE);
                R.how.bytewise = bytewise;
                push(drive_peer, &R, b);
                ck_refusal_packet(&R.wire);
                ck_refuses(OE_REASON_BAD_PREFACE);
                close_both();
            }
        }
        to_preface(nothing, 4);
        struct oe_buf good = taken(&I);
        close_both();
        size_t n = oe_buf_n(&good);
        for (size_t at = 23; at < n; at += at == 26 ? n - 2 - 26 : 1) { /* data identifier, length, id; the empty client identifier */
            open_responder(OE_POLICY_PREFER);
            R.how.bytewise = bytewise;
            good.p[good.pos + at] ^= 0x80;
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&good).p, n), OE_OK);
            ck_refusal_packet(&R.wire);
            ck_refuses(OE_REASON_BAD_PREFACE);
            good.p[good.pos + at] ^= 0x80;
            close_both();
        }
        oe_buf_free(&good);
    }
    /* a key of low order */
    struct oe_buf b = {0};
    struct oe_sink sink = {.rest = &b};
    memset(message, 0, sizeof(message));
    ck_assert_int_eq(oe_preface_put(&sink, OE_TYPE_CONNECT, OE_PREFACE_XX, (struct oe_span){message, 32}), OE_OK);
    open_responder(OE_POLICY_PREFER);
    push(drive_peer, &R, b);
    ck_refusal_packet(&R.wire);
    ck_refuses(OE_REASON_BAD_PREFACE);
    close_both();
}
END_TEST

/* A CONNECT that is no preface is the application's, however much it looks like one. */
START_TEST(r_connect__any_other_connect)
{
    to_preface(nothing, 4);
    struct oe_buf good = taken(&I);
    close_both();
    for (size_t at = 2; at < 23; at++) {
        for (size_t cut = 0; cut < oe_buf_n(&good); cut += 3) {
            open_responder(OE_POLICY_PREFER);
            good.p[good.pos + at] ^= 0x20; /* even a level that is none is somebody else's */
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&good).p, cut), OE_OK);
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&good).p + cut, oe_buf_n(&good) - cut), OE_OK);
            ck_assert(drive_same(&R.app, &good));
            ck_bytes(&R.wire, "", 0);
            ck_assert(R.conn.phase == (at < 9 ? OE_PHASE_PLAIN : OE_PHASE_R_FIRST));
            good.p[good.pos + at] ^= 0x20;
            close_both();
        }
    }
    /* policy off: the application's, too */
    drive_open(&I, OE_INITIATOR, &(struct drive_how){.policy = OE_POLICY_OFF, .seed = 1});
    drive_open(&R, OE_RESPONDER, &(struct drive_how){.policy = OE_POLICY_OFF, .seed = 2});
    ck_assert_int_eq(drive_peer(&R, oe_buf_span(&good).p, oe_buf_n(&good)), OE_OK);
    ck_ended_plain(&R, OE_REASON_POLICY_OFF);
    ck_packet(&R.app, &good);
    close_both();
}
END_TEST

/* A server that speaks first, and a client that has OE-MQTT. */
START_TEST(r_connect__app_any_byte)
{
    to_preface(nothing, 4);
    ck_assert_int_eq(drive_app(&R, "220 hello", 9), OE_OK);
    ck_ended_plain(&R, OE_REASON_PEER_FIRST);
    ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
    clear(&I.wire);
    ck_refused(4, OE_REASON_REQUIRED);
    close_both();
}
END_TEST

/* ---- R_RETRY, R_PREFACE --------------------------------------------------------------------------------------------------------------- */

static void to_retry(void)
{
    to_preface(wrong, 4);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_phase(&R, OE_PHASE_R_RETRY);
}

static void to_r_preface(void)
{
    to_preface(nothing, 4);
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_phase(&R, OE_PHASE_R_PREFACE);
}

START_TEST(r_retry__message1)
{
    for (int bytewise = 0; bytewise < 2; bytewise++) {
        to_preface(second, 4);
        R.how.bytewise = bytewise;
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_phase(&R, OE_PHASE_R_PREFACE);
        ck_assert_uint_eq(oe_buf_n(&R.wire), 3 + 128);
        exchange();
        ck_records(OE_SEC_TOFU, OE_REASON_KEY_KNOWN);
        ck_talk(connect_of(4));
        close_both();
    }
}
END_TEST

START_TEST(r_preface__message3)
{
    for (int bytewise = 0; bytewise < 2; bytewise++) {
        to_r_preface();
        R.how.bytewise = bytewise;
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        for (int n = 0; n < 18 + 65; n++) {
            ck_phase(&R, OE_PHASE_R_PREFACE);
            ck_assert_int_eq(drive_move(&I, &R, 1), OE_OK);
        }
        ck_phase(&R, OE_PHASE_RECORDS);
        ck_assert_int_eq(R.conn.security, OE_SEC_UNAUTHENTICATED);
        ck_bytes(&R.wire, "", 0);
        ck_talk(connect_of(4));
        close_both();
    }
}
END_TEST

/* Message 3 verifies, but its payload is no level. */
START_TEST(r_preface__message3_payload)
{
    uint8_t payload[4], out[64];
    for (unsigned level = 0; level < 10; level++) {
        for (size_t n = 0; n < 3; n++) {
            struct oe_span message, wire;
            enum oe_preface_id id;
            size_t want, out_n;
            memset(payload, (int)level, sizeof(payload));
            payload[0] = (uint8_t)(level == 9 ? 0x84 : level);
            open_responder(OE_POLICY_PREFER);
            push(drive_peer, &R, hand_begins(OE_NOISE_XX, OE_TYPE_CONNECT, NULL, 0));
            wire = oe_buf_span(&R.wire);
            ck_assert_int_eq(oe_preface_read(OE_TYPE_AUTH, wire.p, wire.n, &id, &message, &want), OE_OK);
            ck_assert_int_eq(oe_noise_read(&hand, message, out, sizeof(out), &out_n), OE_OK);
            ck_assert(out_n == 16 && out[0] == EPOCH && out[15] == EPOCH);
            clear(&R.wire);
            struct oe_buf m = hand_says(OE_TYPE_AUTH, OE_PREFACE_XX, payload, n);
            int good = n == 1 && level >= 3 && level <= 5;
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&m).p, oe_buf_n(&m)), good ? OE_OK : OE_CRYPTO);
            ck_phase(&R, good ? OE_PHASE_RECORDS : OE_PHASE_BROKEN);
            if (!good)
                ck_assert_int_eq(oe_conn_why(&R.conn, OE_FROM_PEER), OE_REASON_BAD_MESSAGE3);
            ck_bytes(&R.wire, "", 0);
            ck_bytes(&R.app, "", 0);
            oe_buf_free(&m);
            close_both();
        }
    }
}
END_TEST

/* Message 1 of XX that carries something. */
START_TEST(r_connect__xx_with_payload)
{
    open_responder(OE_POLICY_PREFER);
    push(drive_peer, &R, hand_begins(OE_NOISE_XX, OE_TYPE_CONNECT, (const uint8_t *)"x", 1));
    ck_refusal_packet(&R.wire);
    ck_refuses(OE_REASON_BAD_PREFACE);
    close_both();
}
END_TEST

START_TEST(r_retry_and_r_preface__anything_else)
{
    static const struct {
        const char *bytes;
        size_t n;
    } cases[] = {
        {"\xF0\x10\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x01", 18},
        {"\xF0\x10\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x02", 18},
        {"\xF0\x10\x18\x0E\x15\x00\x07OE-MQTT\x16\x00\x01\x03", 18},
        {"\xF0\x10\x18\x0E\x15\x00\x07OE-MQTX\x16\x00\x01\x01", 18},
        {"\xF0\x00", 2},
        {"\xC0\x00", 2},
        {"\x10\x12\x00\x04MQTT\x04\x02\x00\x3C\x00\x06"
         "client",
         20},
        {"\x30\x03\x00\x01$", 5},
        {"\xF0\xFF\xFF\xFF\xFF\xFF", 6},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t cut = 0; cut < cases[i].n; cut++) {
            for (int retry = 0; retry < 2; retry++) {
                if (retry)
                    to_retry();
                else
                    to_r_preface();
                clear(&R.wire);
                enum oe_status st = drive_peer(&R, cases[i].bytes, cut);
                if (st == OE_OK)
                    st = drive_peer(&R, cases[i].bytes + cut, cases[i].n - cut);
                /* message 1 of XX that is none, after a retry, is a preface that is wrong */
                if (retry && i == 0) {
                    ck_refusal_packet(&R.wire);
                    ck_refuses(OE_REASON_BAD_PREFACE);
                } else {
                    ck_assert_int_eq(st, OE_CRYPTO);
                    ck_phase(&R, OE_PHASE_BROKEN);
                }
                ck_bytes(&R.wire, "", 0);
                ck_bytes(&R.app, "", 0);
                ck_assert_int_ne(drive_app(&R, "x", 1), OE_OK);
                ck_assert_int_ne(drive_peer(&R, "x", 1) == OE_OK && R.conn.phase != OE_PHASE_REFUSED, 1);
                ck_bytes(&R.wire, "", 0);
                ck_bytes(&R.app, "", 0);
                close_both();
            }
        }
    }
}
END_TEST

/* Somebody only asked for the key: the application sees nothing but the end, of a message 3 that began neither. */
START_TEST(r_retry_and_r_preface__end)
{
    for (int retry = 0; retry < 2; retry++) {
        for (int policy = OE_POLICY_PREFER; policy <= OE_POLICY_REQUIRE; policy++) {
            for (size_t n = 0; n < 50; n++) {
                open_trust(retry ? OE_POLICY_PREFER : OE_POLICY_REQUIRE, (enum oe_policy)policy, retry ? second : nothing);
                push(drive_app, &I, connect_of(4));
                ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
                ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
                ck_assert_int_eq(drive_move(&I, &R, n), OE_OK); /* the front of message 1 or 3 */
                ck_phase(&R, retry ? OE_PHASE_R_RETRY : OE_PHASE_R_PREFACE);
                ck_assert_int_eq(drive_end(&R), OE_OK);
                ck_ended_plain(&R, OE_REASON_HANDSHAKE_ENDED);
                ck_bytes(&R.app, "", 0);
                ck_bytes(&R.wire, "", 0);
                close_both();
            }
        }
    }
}
END_TEST

START_TEST(r_retry_and_r_preface__app_bytes)
{
    for (int retry = 0; retry < 2; retry++) {
        if (retry)
            to_retry();
        else
            to_r_preface();
        size_t wire = oe_buf_n(&R.wire);
        ck_assert_int_eq(drive_app(&R, "220 hello", 9), OE_OK);
        ck_assert_uint_eq(oe_buf_n(&R.sent), 0);
        ck_assert_uint_eq(oe_buf_n(&R.wire), wire);
        R.now += OE_RESPONDER_HELD_MS_MAX - 1;
        ck_assert_int_eq(oe_conn_overdue(&R.conn, R.now), OE_OK);
        R.now += 1;
        ck_assert_int_eq(oe_conn_overdue(&R.conn, R.now), OE_LIMIT);
        ck_phase(&R, OE_PHASE_BROKEN);
        close_both();
    }
}
END_TEST

/* ---- any, where the client's key is not allowed ---------------------------------------------------------------------------------------- */

/* ANY and LISTED with IK, XX, retry and probe, both policies; NOT is below. */
START_TEST(any__admitted)
{
    for (int listed = 0; listed < 2; listed++) {
        for (int how = 0; how < 4; how++) {
            for (int policy = OE_POLICY_PREFER; policy <= OE_POLICY_REQUIRE; policy++) {
                const struct drive_trust trusts[] = {known_fresh, nothing, second, nothing};
                open_trust(how == 1 ? OE_POLICY_REQUIRE : OE_POLICY_PREFER, (enum oe_policy)policy, trusts[how]);
                drive_responders(listed ? OE_ADMIT_LISTED : OE_ADMIT_ANY, EPOCH, 1);
                push(drive_app, &I, connect_of(4));
                if (how == 3) {
                    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
                    clear(&R.app);
                    push(drive_app, &R, connack_of(4));
                }
                exchange();
                clear(&I.app);
                ck_records(how == 1 || how == 3 ? OE_SEC_UNAUTHENTICATED : OE_SEC_TOFU,
                           how == 1 || how == 3 ? OE_REASON_HANDSHAKE_DONE : OE_REASON_KEY_KNOWN);
                ck_assert_int_eq(R.conn.security, listed ? OE_SEC_PINNED : OE_SEC_UNAUTHENTICATED);
                ck_assert_int_eq(R.conn.reason, listed ? OE_REASON_CLIENT_LISTED : OE_REASON_HANDSHAKE_DONE);
                close_both();
            }
        }
    }
}
END_TEST

/* The operator is told which key was not admitted. */
static void ck_key_is_told(void)
{
    struct oe_public key = drive_key(1);
    ck_assert_msg(R.conn.peer_seen && memcmp(R.conn.peer.b, key.b, 32) == 0, "whose key was not admitted is not known");
}

START_TEST(any__not_admitted_ik)
{
    EACH_VERSION(v)
    {
        to_preface(known_fresh, v);
        drive_responders(OE_ADMIT_NOT, EPOCH, 1);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        ck_key_is_told();
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_refuses(OE_REASON_NOT_ADMITTED);
        ck_refused(v, OE_REASON_NOT_ADMITTED_THERE);
        /* the refusal used nothing up: once it is admitted the same client connects */
        close_both();
    }
}
END_TEST

/* An ephemeral key counts as seen only for a client that may connect, with a CONNECT and the epoch. */
START_TEST(any__not_admitted_is_not_seen)
{
    for (int k = 0; k < 3; k++) {
        struct oe_buf payload = hello(4, k == 1 ? EPOCH + 1 : EPOCH), good = hello(4, EPOCH), c = connect_of(4);
        if (k != 2)
            drive_raw(&payload, oe_buf_span(&c).p, oe_buf_n(&c));
        drive_raw(&good, oe_buf_span(&c).p, oe_buf_n(&c));
        open_responder(OE_POLICY_PREFER);
        drive_responders(k == 0 ? OE_ADMIT_NOT : OE_ADMIT_ANY, EPOCH, 1);
        say_ik(oe_buf_span(&payload).p, oe_buf_n(&payload), 0);
        ck_bytes(&R.app, "", 0);
        drive_close(&R);
        drive_open(&R, OE_RESPONDER, &(struct drive_how){.policy = OE_POLICY_PREFER, .seed = 2});
        if (k == 0) /* keeps what has been seen */
            drive_admit(OE_ADMIT_ANY);
        say_ik(oe_buf_span(&good).p, oe_buf_n(&good), 0);
        ck_packet(&R.app, &c);
        oe_buf_free(&payload);
        oe_buf_free(&good);
        close_both();
    }
}
END_TEST

START_TEST(any__not_admitted_xx)
{
    for (int retry = 0; retry < 2; retry++) {
        open_trust(retry ? OE_POLICY_PREFER : OE_POLICY_REQUIRE, OE_POLICY_REQUIRE, retry ? second : nothing);
        drive_responders(OE_ADMIT_NOT, EPOCH, 1);
        push(drive_app, &I, connect_of(5));
        for (int step = 0; step < 3 && R.conn.phase != OE_PHASE_REFUSED; step++) {
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            if (R.conn.phase != OE_PHASE_REFUSED)
                ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        }
        ck_key_is_told();
        ck_refusal_packet(&R.wire);
        ck_refuses(OE_REASON_NOT_ADMITTED);
        close_both();
    }
}
END_TEST

START_TEST(any__not_admitted_probe)
{
    for (int policy = OE_POLICY_PREFER; policy <= OE_POLICY_REQUIRE; policy++) {
        EACH_VERSION(v)
        {
            open_trust(OE_POLICY_PREFER, (enum oe_policy)policy, nothing);
            drive_responders(OE_ADMIT_NOT, EPOCH, 1);
            push(drive_app, &I, connect_of(v));
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            clear(&R.app);
            push(drive_app, &R, connack_of(v));
            for (int step = 0; step < 3 && R.conn.phase != OE_PHASE_R_MESSAGE3; step++) {
                ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
                ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            }
            ck_assert_int_eq(drive_app(&R, WORLD_MARKER, 19), OE_OK); /* held */
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_key_is_told();
            ck_bytes(&R.wire, "", 0); /* CONNACK has been sent: there is nothing more to say */
            ck_refuses(OE_REASON_NOT_ADMITTED);
            close_both();
        }
    }
}
END_TEST

/* ---- policy require -------------------------------------------------------------------------------------------------------------------- */

/* A plain CONNECT with a Will is not forwarded, however it comes. */
START_TEST(require__will)
{
    EACH_VERSION(v)
    {
        struct oe_buf c = {0};
        drive_connect_of(&c, (enum oe_mqtt)v, 0, 1);
        for (size_t cut = 0; cut < oe_buf_n(&c); cut++) {
            open_responder(OE_POLICY_REQUIRE);
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p, cut), OE_OK);
            ck_bytes(&R.app, "", 0);
            ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p + cut, oe_buf_n(&c) - cut), OE_OK);
            ck_connack(&R.wire, v, 1);
            ck_refuses(OE_REASON_WILL_IN_PLAIN);
            close_both();
        }
        /* with prefer it is no matter */
        open_responder(OE_POLICY_PREFER);
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p, oe_buf_n(&c)), OE_OK);
        ck_packet(&R.app, &c);
        close_both();
    }
}
END_TEST

/* Bytes of a CONNECT of drive_connect_of up to and with its flags. */
static size_t at_flags(int v, size_t length_n)
{
    return 1 + length_n + (v == OE_MQTT_31 ? 8 : 6) + 2;
}

/* Only its front is kept, however large it is. */
START_TEST(require__connect_large)
{
    EACH_VERSION(v)
    {
        struct oe_buf c = {0};
        size_t front = at_flags(v, 3);
        drive_connect_of(&c, (enum oe_mqtt)v, 50000, 0);
        open_responder(OE_POLICY_REQUIRE);
        R.how.bytewise = 1;
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p, front - 1), OE_OK);
        ck_bytes(&R.app, "", 0);
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p + front - 1, 1), OE_OK);
        ck_bytes(&R.app, oe_buf_span(&c).p, front);
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p + front, oe_buf_n(&c) - front), OE_OK);
        ck_phase(&R, OE_PHASE_R_FIRST);
        ck_bytes(&R.app, oe_buf_span(&c).p + front, oe_buf_n(&c) - front);
        oe_buf_free(&c);
        close_both();
    }
}
END_TEST

/* A malformed CONNECT is never forwarded: what it hides could be a Will. */
START_TEST(require__malformed)
{
    static const struct {
        const char *bytes;
        size_t n;
        int v;
    } cases[] = {
        {"\x10\x80\x80\x80\x80\x01", 6, 0},
        {"\x10\x8C\x00\x00\x04", 5, 0},
        {"\x10\x0C\x00\x04MQTT\x06\x02\x00\x00\x00\x00", 14, 0},
        {"\x10\x0C\x00\x04MQTX\x04\x02\x00\x00\x00\x00", 14, 0},
        {"\x10\x00", 2, 0},
        {"\x10\x07\x00\x04MQTT\x04", 9, 4}, /* it ends at its level */
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        for (size_t cut = 0; cut < cases[i].n; cut++) {
            open_responder(OE_POLICY_REQUIRE);
            ck_assert_int_eq(drive_peer(&R, cases[i].bytes, cut), OE_OK);
            ck_assert_int_eq(drive_peer(&R, cases[i].bytes + cut, cases[i].n - cut), OE_OK);
            ck_connack(&R.wire, cases[i].v, 1);
            ck_refuses(OE_REASON_MALFORMED);
            close_both();
        }
    }
}
END_TEST

START_TEST(require__not_mqtt)
{
    static const char *const others[] = {"\x16\x03\x01\x02\x01\x01\x01", "GET / HTTP/1.1\r\n", "\xFF\xFF\xFF\xFF"};
    for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
        size_t n = strlen(others[i]);
        open_responder(OE_POLICY_REQUIRE);
        ck_assert_int_eq(drive_peer(&R, others[i], 1), OE_OK);
        ck_assert_int_eq(drive_peer(&R, others[i] + 1, n - 1), OE_OK);
        ck_ended_plain(&R, i == 0 ? OE_REASON_TLS : OE_REASON_NOT_MQTT);
        ck_bytes(&R.app, others[i], n);
        ck_assert_int_eq(drive_app(&R, "answer", 6), OE_OK);
        ck_bytes(&R.wire, "answer", 6);
        close_both();
    }
}
END_TEST

/* A plain CONNECT without a Will, CONNACK; then something else than a probe. */
static void to_required_first(int v)
{
    open_trust(OE_POLICY_PREFER, OE_POLICY_REQUIRE, nothing);
    struct oe_buf c = connect_of(v);
    push(drive_app, &I, connect_of(v));
    ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    ck_packet(&R.app, &c);
    ck_phase(&R, OE_PHASE_R_FIRST);
}

START_TEST(require__no_probe)
{
    static const struct {
        const char *bytes;
        size_t n;
    } others[] = {
        {"\x82\x06\x00\x01\x00\x01#\x00", 8}, {"\xC0\x00", 2}, {"\x30\x03\x00\x01t", 5}, {"\xA2\x05\x00\x01\x00\x01#", 7}, {"\xE0\x00", 2}};
    EACH_VERSION(v)
    {
        for (size_t i = 0; i < sizeof(others) / sizeof(others[0]); i++) {
            for (int sent = 0; sent < 2; sent++) {
                for (size_t cut = 0; cut < others[i].n; cut++) {
                    to_required_first(v);
                    if (sent) {
                        push(drive_app, &R, connack_of(v));
                        ck_assert_int_eq(drive_app(&R, WORLD_MARKER, 19), OE_OK);
                        ck_assert_uint_eq(oe_conn_held(&R.conn), 19);
                        struct oe_buf c = connack_of(v);
                        ck_packet(&R.wire, &c); /* nothing but the CONNACK is in plain */
                    }
                    ck_assert_int_eq(drive_peer(&R, others[i].bytes, cut), OE_OK);
                    ck_assert_int_eq(drive_peer(&R, others[i].bytes + cut, others[i].n - cut), OE_OK);
                    if (sent)
                        ck_bytes(&R.wire, "", 0);
                    else
                        ck_connack(&R.wire, v, 1);
                    ck_refuses(OE_REASON_NOT_PROBED);
                    close_both();
                }
            }
        }
    }
}
END_TEST

/* The probe comes: what the application wrote behind its CONNACK, in the same write or later, goes out in records only. */
START_TEST(require__probe)
{
    EACH_VERSION(v)
    {
        for (int k = 0; k < 2; k++) {
            struct oe_buf all = {0}, wire = {0};
            to_required_first(v);
            struct oe_buf c = connack_of(v);
            drive_raw(&all, oe_buf_span(&c).p, oe_buf_n(&c));
            drive_publish(&all, (enum oe_mqtt)v, 0x30, "t", WORLD_MARKER, 19);
            size_t first = k ? oe_buf_n(&all) : oe_buf_n(&c);
            ck_assert_int_eq(drive_app(&R, oe_buf_span(&all).p, first), OE_OK);
            ck_assert_int_eq(drive_app(&R, oe_buf_span(&all).p + first, oe_buf_n(&all) - first), OE_OK);
            ck_assert(drive_same(&R.sent, &all));
            ck_packet(&R.wire, &c);
            c = connack_of(v);
            push(drive_peer, &I, c);
            ck_phase(&I, OE_PHASE_I_PROBE);
            for (int step = 0; step < 4; step++) {
                ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
                ck_bytes(&R.app, "", 0);
                drive_raw(&wire, oe_buf_span(&R.wire).p, oe_buf_n(&R.wire));
                ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
            }
            ck_records(OE_SEC_UNAUTHENTICATED, OE_REASON_HANDSHAKE_DONE);
            ck_assert(!drive_contains(&wire, "MARKER", 6));
            ck_packet(&I.app, &all);
            ck_assert_uint_eq(oe_conn_held(&R.conn), 0);
            oe_buf_free(&wire);
            close_both();
        }
    }
}
END_TEST

/* AUTH packets of an enhanced authentication pass in both directions before CONNACK. */
START_TEST(require__auth_exchange)
{
    static const char auth[] = "\xF0\x08\x18\x06\x15\x00\x03"
                               "abc";
    to_required_first(5);
    for (int i = 0; i < 2; i++) {
        ck_assert_int_eq(drive_app(&R, auth, sizeof(auth) - 1), OE_OK);
        ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
        ck_assert_int_eq(drive_app(&I, auth, sizeof(auth) - 1), OE_OK);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
    }
    clear(&R.app);
    clear(&I.app);
    push(drive_app, &R, connack_of(5));
    exchange();
    ck_records(OE_SEC_UNAUTHENTICATED, OE_REASON_HANDSHAKE_DONE);
    close_both();
}
END_TEST

/* Message 2 is out, and then the initiator gives up, says something else, or closes: what was held is gone. */
START_TEST(require__gave_up)
{
    static const struct {
        const char *bytes;
        size_t n;
    } others[] = {{"\x30\x0B\x00\x09oe-mqtt/1", 13}, {"\xC0\x00", 2}, {"\x82\x06\x00\x01\x00\x01#\x00", 8}};
    for (size_t i = 0; i < 3; i++) {
        for (size_t cut = 0; cut < others[i].n; cut++) {
            to_required_first(4);
            push(drive_app, &R, connack_of(4));
            ck_assert_int_eq(drive_app(&R, WORLD_MARKER, 19), OE_OK);
            ck_assert_int_eq(drive_move(&R, &I, SIZE_MAX), OE_OK);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            ck_phase(&R, OE_PHASE_R_MESSAGE3);
            clear(&R.wire);
            ck_assert_int_eq(drive_peer(&R, others[i].bytes, cut), OE_OK);
            ck_assert_int_eq(drive_peer(&R, others[i].bytes + cut, others[i].n - cut), OE_OK);
            ck_bytes(&R.wire, "", 0);
            ck_refuses(OE_REASON_INITIATOR_GAVE_UP);
            close_both();
        }
    }
    to_required_first(4); /* before the answer is out */
    push(drive_app, &R, connack_of(4));
    ck_assert_int_eq(drive_app(&R, WORLD_MARKER, 19), OE_OK);
    clear(&R.wire);
    ck_assert_int_eq(drive_end(&R), OE_OK);
    ck_bytes(&R.wire, "", 0);
    ck_refuses(OE_REASON_HANDSHAKE_ENDED);
    close_both();
}
END_TEST

/* What is held is bounded, and for how long. */
START_TEST(require__hold_is_bounded)
{
    uint8_t *block = calloc(1, OE_RESPONDER_HELD_BYTES_MAX + 1);
    to_required_first(4);
    push(drive_app, &R, connack_of(4));
    R.now += 10;
    ck_assert_int_eq(oe_conn_overdue(&R.conn, R.now + 1000000), OE_OK); /* nothing waits */
    ck_assert_int_eq(drive_app(&R, block, OE_RESPONDER_HELD_BYTES_MAX + 1), OE_OK);
    ck_assert_uint_eq(oe_conn_held(&R.conn), OE_RESPONDER_HELD_BYTES_MAX);
    ck_assert_uint_eq(oe_buf_n(&R.sent), 4 + OE_RESPONDER_HELD_BYTES_MAX);
    R.now += OE_RESPONDER_HELD_MS_MAX - 1;
    ck_assert_int_eq(oe_conn_overdue(&R.conn, R.now), OE_OK);
    ck_phase(&R, OE_PHASE_R_FIRST);
    R.now += 1;
    ck_assert_int_eq(oe_conn_overdue(&R.conn, R.now), OE_LIMIT);
    ck_phase(&R, OE_PHASE_BROKEN);
    free(block);
    close_both();
}
END_TEST

/* The application refuses the client itself: its CONNACK is the last thing that goes out, and there is one. */
START_TEST(require__app_refuses)
{
    EACH_VERSION(v)
    {
        for (int bytewise = 0; bytewise < 2; bytewise++) {
            for (int more = 0; more < 2; more++) {
                struct oe_buf c = {0};
                drive_connack(&c, (enum oe_mqtt)v, v == 5 ? 0x87 : 5);
                size_t n = oe_buf_n(&c);
                if (more)
                    drive_raw(&c, WORLD_MARKER, 19);
                to_required_first(v);
                R.how.bytewise = bytewise;
                (void)drive_app(&R, oe_buf_span(&c).p, oe_buf_n(&c));
                ck_assert_uint_eq(oe_buf_n(&R.wire), n);
                ck_assert(memcmp(oe_buf_span(&R.wire).p, oe_buf_span(&c).p, n) == 0);
                clear(&R.wire);
                ck_refuses(OE_REASON_CONNACK_REFUSED);
                ck_bytes(&R.wire, "", 0);
                oe_buf_free(&c);
                close_both();
            }
        }
    }
}
END_TEST

START_TEST(require__end_before_connack)
{
    EACH_VERSION(v)
    {
        to_required_first(v);
        ck_assert_int_eq(drive_end(&R), OE_OK);
        ck_connack(&R.wire, v, 1);
        ck_refuses(OE_REASON_HANDSHAKE_ENDED);
        close_both();
    }
}
END_TEST

/* A CONNECT that the stream ends in. */
START_TEST(require__end_in_connect)
{
    struct oe_buf c = connect_of(4);
    for (size_t n = 0; n < oe_buf_n(&c); n++) {
        open_responder(OE_POLICY_REQUIRE);
        ck_assert_int_eq(drive_peer(&R, oe_buf_span(&c).p, n), OE_OK);
        ck_assert_int_eq(drive_end(&R), OE_OK);
        ck_bytes(&R.app, oe_buf_span(&c).p, n < at_flags(4, 1) ? 0 : n);
        close_both();
    }
    oe_buf_free(&c);
}
END_TEST

/* ---- trust with a probe: downgrade = warn ---------------------------------------------------------------------------------------------- */

static struct drive_trust warn(enum drive_known who, int pinned)
{
    return (struct drive_trust){.known = who, .pinned = pinned, .epoch = EPOCH, .downgrade = OE_DOWNGRADE_WARN};
}

/* The state is that of the line that has the key; with another key it goes on, and says so. */
START_TEST(warn__probe)
{
    static const enum drive_known who[] = {DRIVE_KNOWN_NONE, DRIVE_KNOWN_RIGHT, DRIVE_KNOWN_WRONG, DRIVE_KNOWN_SECOND};
    EACH_VERSION(v)
    {
        for (int i = 0; i < 8; i++) {
            int pinned = i & 1, key = who[i / 2] == DRIVE_KNOWN_RIGHT || who[i / 2] == DRIVE_KNOWN_SECOND;
            open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, warn(who[i / 2], pinned));
            push(drive_app, &I, connect_of(v));
            ck_phase(&I, OE_PHASE_I_CONNACK);
            ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
            push(drive_app, &R, connack_of(v));
            exchange();
            ck_records(!key     ? OE_SEC_UNAUTHENTICATED
                       : pinned ? OE_SEC_PINNED
                                : OE_SEC_TOFU,
                       who[i / 2] == DRIVE_KNOWN_NONE ? OE_REASON_HANDSHAKE_DONE
                       : !key                         ? OE_REASON_KEY_CHANGED
                       : pinned                       ? OE_REASON_KEY_PINNED
                                                      : OE_REASON_KEY_KNOWN);
            ck_assert_msg(I.conn.downgraded == (who[i / 2] == DRIVE_KNOWN_WRONG), "downgraded is %d with keys %d", I.conn.downgraded,
                          i / 2);
            ck_assert(!I.conn.epoch_seen);
            close_both();
        }
    }
}
END_TEST

/* No OE-MQTT: plain, with a warning if it was known to have it, by whatever way it shows. */
START_TEST(warn__plain)
{
    for (int k = 0; k < 2; k++) {
        for (int i = 0; i < 7; i++) {
            open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, warn(k ? DRIVE_KNOWN_RIGHT : DRIVE_KNOWN_NONE, 0));
            if (i == 6)
                ck_assert_int_eq(drive_peer(&I, "220", 3), OE_OK);
            push(drive_app, &I, connect_of(4));
            I.conn.no_probe = i == 4 ? OE_REASON_REMEMBERED_CLOSED : OE_REASON_NONE;
            if (i == 5)
                ck_assert_int_eq(drive_peer(&I, "\x20\x02\x00\x05", 4), OE_OK);
            else if (i != 6)
                push(drive_peer, &I, connack_of(4));
            if (i == 0)
                stock_unsuback(4);
            else if (i == 1)
                ck_assert_int_eq(drive_end(&I), OE_OK);
            else if (i < 4)
                ck_assert_int_eq(drive_expire(&I), OE_OK);
            ck_assert_int_eq(I.conn.security, OE_SEC_PLAIN);
            ck_assert_msg(I.conn.downgraded == k, "way %d: downgraded is %d", i, I.conn.downgraded);
            if (i == 3) {
                stock_unsuback(4);
                ck_ended_plain(&I, OE_REASON_TIMEOUT);
                ck_assert_int_eq(I.conn.downgraded, k);
            }
            close_both();
        }
    }
}
END_TEST

START_TEST(warn__held_too_much)
{
    struct oe_buf p = publish_of(4, 0x30, "big", OE_INITIATOR_HELD_BYTES_MAX);
    open_trust(OE_POLICY_PREFER, OE_POLICY_PREFER, warn(DRIVE_KNOWN_RIGHT, 0));
    push(drive_app, &I, connect_of(4));
    push(drive_peer, &I, connack_of(4));
    push(drive_peer, &I, p);
    ck_phase(&I, OE_PHASE_I_LATE);
    ck_assert(I.conn.downgraded);
    close_both();
}
END_TEST

/* With require the first contact is XX: another key goes on with a warning, no OE-MQTT does not. */
START_TEST(warn__require)
{
    static const enum drive_known who[] = {DRIVE_KNOWN_NONE, DRIVE_KNOWN_RIGHT, DRIVE_KNOWN_WRONG, DRIVE_KNOWN_SECOND};
    EACH_VERSION(v)
    {
        for (int i = 0; i < 4; i++) {
            int key = i & 1;
            open_trust(OE_POLICY_REQUIRE, OE_POLICY_REQUIRE, warn(who[i], 1));
            push(drive_app, &I, connect_of(v));
            ck_phase(&I, OE_PHASE_I_PREFACE_XX);
            exchange();
            ck_records(key ? OE_SEC_PINNED : OE_SEC_UNAUTHENTICATED, key      ? OE_REASON_KEY_PINNED
                                                                     : i == 0 ? OE_REASON_HANDSHAKE_DONE
                                                                              : OE_REASON_KEY_CHANGED);
            ck_assert_int_eq(I.conn.downgraded, i == 2);
            ck_talk(connect_of(v));
            close_both();
            open_trust(OE_POLICY_REQUIRE, OE_POLICY_REQUIRE, warn(who[i], 1));
            push(drive_app, &I, connect_of(v));
            clear(&I.wire);
            ck_assert_int_eq(drive_peer(&I, "\x20\x02\x00\x01", 4), OE_OK);
            ck_refused(v, i == 0 ? OE_REASON_REQUIRED : OE_REASON_OE_MQTT_GONE);
            close_both();
        }
    }
}
END_TEST

/* After forget no key of an open handshake is left. */
START_TEST(forget_wipes_keys)
{
    static const uint8_t zeros[32];
    for (int ik = 0; ik < 2; ik++) {
        to_preface(ik ? second : nothing, 4);
        ck_assert_int_eq(drive_move(&I, &R, SIZE_MAX), OE_OK);
        oe_conn_forget(&I.conn);
        oe_conn_forget(&R.conn);
        close_both();
        to_preface(ik ? known_fresh : nothing, 4);
        exchange();
        ck_records(ik ? OE_SEC_TOFU : OE_SEC_UNAUTHENTICATED, ik ? OE_REASON_KEY_KNOWN : OE_REASON_HANDSHAKE_DONE);
        ck_assert(I.conn.hs == NULL && R.conn.hs == NULL);
        oe_conn_forget(&I.conn);
        ck_assert_mem_eq(I.conn.send.cipher.k.b, zeros, 32);
        ck_assert_mem_eq(I.conn.receive.cipher.k.b, zeros, 32);
        close_both();
    }
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        r_connect__preface_kept,
        r_connect__ik_fresh,
        r_connect__ik_fresh_twice,
        r_connect__ik_answer,
        r_connect__ik_payload_not_allowed,
        r_connect__ik_does_not_verify,
        r_connect__xx,
        r_connect__as_a_preface_and_then_not,
        r_connect__any_other_connect,
        r_connect__app_any_byte,
        r_retry__message1,
        r_preface__message3,
        r_preface__message3_payload,
        r_connect__xx_with_payload,
        r_retry_and_r_preface__anything_else,
        r_retry_and_r_preface__end,
        r_retry_and_r_preface__app_bytes,
        any__admitted,
        any__not_admitted_ik,
        any__not_admitted_is_not_seen,
        any__not_admitted_xx,
        any__not_admitted_probe,
        require__will,
        require__connect_large,
        require__malformed,
        require__not_mqtt,
        require__no_probe,
        require__probe,
        require__auth_exchange,
        require__gave_up,
        require__hold_is_bounded,
        require__app_refuses,
        require__end_before_connack,
        require__end_in_connect,
        warn__probe,
        warn__plain,
        warn__held_too_much,
        warn__require,
        forget_wipes_keys,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("preface_responder", tests);
}
