/* Noise: the project's own vectors, the public ones, and what must not verify. */
#include <check.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/core/noise.h"
#include "run.h"
#include "vectors.h"

#define LINK_VECTORS "tests/vectors/link.txt"
#define TEXT_MAX 256

static struct oe_span span(const void *p, size_t n)
{
    return (struct oe_span){p, n};
}

static struct oe_secret secret(uint8_t byte)
{
    struct oe_secret s;
    memset(s.b, byte, sizeof(s.b));
    return s;
}

/* ---- one handshake of any pattern ----------------------------------------------------------------------------------------------------- */

static const unsigned messages_of[] = {[OE_NOISE_XX] = 3, [OE_NOISE_IK] = 2, [OE_NOISE_X] = 1};

/* Two ends with fixed keys that know what their pattern wants them to know. */
static void open_pair(enum oe_noise_pattern pattern, struct oe_noise ends[2])
{
    struct oe_secret is = secret(0x11), ie = secret(0x22), rs = secret(0x33), re = secret(0x44);
    struct oe_public responder;
    oe_secret_public(&rs, &responder);
    oe_noise_init(&ends[0], &(struct oe_noise_setup){.pattern = pattern,
                                                     .initiator = 1,
                                                     .prologue = span("p", 1),
                                                     .s = &is,
                                                     .e = &ie,
                                                     .rs = pattern == OE_NOISE_XX ? NULL : &responder});
    oe_noise_init(&ends[1], &(struct oe_noise_setup){.pattern = pattern, .prologue = span("p", 1), .s = &rs, .e = &re});
}

/* Messages 0 to n - 1 go over. */
static void advance(struct oe_noise ends[2], unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        uint8_t message[256], payload[256];
        size_t message_n, payload_n;
        ck_assert_int_eq(oe_noise_write(&ends[i % 2], span("payload", 7), message, sizeof(message), &message_n), OE_OK);
        ck_assert_int_eq(oe_noise_read(&ends[1 - i % 2], span(message, message_n), payload, sizeof(payload), &payload_n), OE_OK);
        ck_assert(payload_n == 7 && memcmp(payload, "payload", 7) == 0);
    }
}

static void ck_same_keys(struct oe_noise ends[2])
{
    struct oe_cipher a_send, a_receive, b_send, b_receive;
    ck_assert(oe_noise_done(&ends[0]) && oe_noise_done(&ends[1]));
    ck_assert_mem_eq(ends[0].h, ends[1].h, OE_HASH_BYTES);
    oe_noise_split(&ends[0], &a_send, &a_receive);
    oe_noise_split(&ends[1], &b_send, &b_receive);
    ck_assert_mem_eq(a_send.k.b, b_receive.k.b, OE_KEY_BYTES);
    ck_assert_mem_eq(a_receive.k.b, b_send.k.b, OE_KEY_BYTES);
    ck_assert_mem_ne(a_send.k.b, a_receive.k.b, OE_KEY_BYTES);
    ck_assert(a_send.n == 0 && a_receive.n == 0 && b_send.n == 0 && b_receive.n == 0);
}

START_TEST(all_patterns_agree)
{
    for (int pattern = OE_NOISE_XX; pattern <= OE_NOISE_X; pattern++) {
        struct oe_noise ends[2];
        open_pair((enum oe_noise_pattern)pattern, ends);
        advance(ends, messages_of[pattern]);
        ck_same_keys(ends);
        ck_assert_mem_eq(ends[1].rs.b, ends[0].s_public.b, OE_KEY_BYTES);
        ck_assert_mem_eq(ends[0].rs.b, ends[1].s_public.b, OE_KEY_BYTES);
    }
}
END_TEST

START_TEST(turns_and_room)
{
    for (int pattern = OE_NOISE_XX; pattern <= OE_NOISE_X; pattern++) {
        for (unsigned i = 0; i < messages_of[pattern]; i++) {
            struct oe_noise ends[2];
            uint8_t message[256], payload[256];
            size_t n, message_n;
            open_pair((enum oe_noise_pattern)pattern, ends);
            advance(ends, i);
            struct oe_noise *writer = &ends[i % 2], *reader = &ends[1 - i % 2];
            struct oe_noise before[2] = {*writer, *reader};
            ck_assert_int_eq(oe_noise_write(reader, span("", 0), message, sizeof(message), &n), OE_LIMIT);
            ck_assert_int_eq(oe_noise_read(writer, span(message, sizeof(message)), payload, sizeof(payload), &n), OE_LIMIT);
            struct oe_noise copy = *writer;
            ck_assert_int_eq(oe_noise_write(&copy, span("payload", 7), message, sizeof(message), &message_n), OE_OK);
            for (size_t room = 0; room < message_n; room++) {
                uint8_t *small = malloc(room == 0 ? 1 : room);
                ck_assert_int_eq(oe_noise_write(writer, span("payload", 7), small, room, &n), OE_LIMIT);
                free(small);
            }
            for (size_t room = 0; room < 7; room++) {
                uint8_t *small = malloc(room == 0 ? 1 : room);
                ck_assert_int_eq(oe_noise_read(reader, span(message, message_n), small, room, &n), OE_LIMIT);
                free(small);
            }
            ck_assert_mem_eq(&before[0], writer, sizeof(*writer));
            ck_assert_mem_eq(&before[1], reader, sizeof(*reader));
        }
    }
}
END_TEST

START_TEST(every_bit_and_truncation)
{
    for (int pattern = OE_NOISE_XX; pattern <= OE_NOISE_X; pattern++) {
        for (unsigned i = 0; i < messages_of[pattern]; i++) {
            struct oe_noise ends[2];
            uint8_t message[256], payload[256];
            size_t n, message_n;
            open_pair((enum oe_noise_pattern)pattern, ends);
            advance(ends, i);
            struct oe_noise *reader = &ends[1 - i % 2];
            ck_assert_int_eq(oe_noise_write(&ends[i % 2], span("payload", 7), message, sizeof(message), &message_n), OE_OK);
            /* XX's first message is in plain: nothing of it can fail before the second, see xx_message1_bits. */
            for (size_t bit = 0; bit < message_n * 8 && !(pattern == OE_NOISE_XX && i == 0); bit++) {
                struct oe_noise before = *reader;
                message[bit / 8] ^= (uint8_t)(1 << bit % 8);
                enum oe_status st = oe_noise_read(reader, span(message, message_n), payload, sizeof(payload), &n);
                message[bit / 8] ^= (uint8_t)(1 << bit % 8);
                /* X25519 ignores the top bit of a public key (RFC 7748); MixHash does not. */
                ck_assert_msg(st == OE_CRYPTO, "pattern %d message %u bit %zu: %d", pattern, i, bit, (int)st);
                ck_assert_mem_eq(&before, reader, sizeof(*reader));
            }
            for (size_t cut = 0; cut < message_n; cut++) {
                struct oe_noise before = *reader;
                uint8_t *part = malloc(cut == 0 ? 1 : cut);
                memcpy(part, message, cut);
                enum oe_status st = oe_noise_read(reader, span(part, cut), payload, sizeof(payload), &n);
                free(part);
                if (pattern == OE_NOISE_XX && i == 0 && cut >= 32) {
                    ck_assert_int_eq(st, OE_OK); /* a shorter payload, and nothing is encrypted yet */
                    *reader = before;
                    continue;
                }
                ck_assert_int_eq(st, OE_CRYPTO);
                ck_assert_mem_eq(&before, reader, sizeof(*reader));
            }
            ck_assert_int_eq(oe_noise_read(reader, span(message, message_n), payload, sizeof(payload), &n), OE_OK);
        }
    }
}
END_TEST

START_TEST(xx_message1_bits)
{
    for (size_t bit = 0; bit < (32 + 7) * 8; bit++) {
        struct oe_noise ends[2];
        uint8_t message[256], payload[256];
        size_t n;
        open_pair(OE_NOISE_XX, ends);
        ck_assert_int_eq(oe_noise_write(&ends[0], span("payload", 7), message, sizeof(message), &n), OE_OK);
        message[bit / 8] ^= (uint8_t)(1 << bit % 8);
        ck_assert_int_eq(oe_noise_read(&ends[1], span(message, n), payload, sizeof(payload), &n), OE_OK);
        ck_assert_int_eq(oe_noise_write(&ends[1], span("", 0), message, sizeof(message), &n), OE_OK);
        ck_assert_int_eq(oe_noise_read(&ends[0], span(message, n), payload, sizeof(payload), &n), OE_CRYPTO);
    }
}
END_TEST

/* Another prologue, another responder's key: nothing verifies. */
START_TEST(other_context)
{
    struct oe_secret s = secret(0x55), e = secret(0x66);
    struct oe_public wrong;
    struct oe_noise ends[2];
    uint8_t message[256], payload[256];
    size_t n;

    oe_secret_public(&e, &wrong);
    open_pair(OE_NOISE_IK, ends);
    oe_noise_init(&ends[0], &(struct oe_noise_setup){
                                .pattern = OE_NOISE_IK, .initiator = 1, .prologue = span("p", 1), .s = &s, .e = &e, .rs = &wrong});
    ck_assert_int_eq(oe_noise_write(&ends[0], span("", 0), message, sizeof(message), &n), OE_OK);
    ck_assert_int_eq(oe_noise_read(&ends[1], span(message, n), payload, sizeof(payload), &n), OE_CRYPTO);

    open_pair(OE_NOISE_XX, ends);
    oe_noise_init(&ends[1], &(struct oe_noise_setup){.pattern = OE_NOISE_XX, .prologue = span("q", 1), .s = &s, .e = &e});
    ck_assert_int_eq(oe_noise_write(&ends[0], span("", 0), message, sizeof(message), &n), OE_OK);
    ck_assert_int_eq(oe_noise_read(&ends[1], span(message, n), payload, sizeof(payload), &n), OE_OK);
    ck_assert_int_eq(oe_noise_write(&ends[1], span("", 0), message, sizeof(message), &n), OE_OK);
    ck_assert_int_eq(oe_noise_read(&ends[0], span(message, n), payload, sizeof(payload), &n), OE_CRYPTO);
}
END_TEST

/* Points of small order, canonical or not, with the top bit and without (RFC 7748 section 6.1, cr.yp.to/ecdh.html). */
static const char *const low_order[] = {
    "0000000000000000000000000000000000000000000000000000000000000000", "0100000000000000000000000000000000000000000000000000000000000000",
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800", "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f", "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
};

START_TEST(low_order_keys)
{
    for (size_t i = 0; i < 2 * sizeof(low_order) / sizeof(low_order[0]); i++) {
        struct oe_noise ends[2];
        struct oe_public bad;
        uint8_t message[256], payload[256];
        size_t n;
        vec_hex(low_order[i / 2], bad.b, sizeof(bad.b));
        bad.b[31] |= i % 2 ? 0x80 : 0;

        /* XX: as the initiator's e it fails where ee is made, as the responder's e where it is read */
        open_pair(OE_NOISE_XX, ends);
        ck_assert_int_eq(oe_noise_read(&ends[1], span(bad.b, 32), payload, sizeof(payload), &n), OE_OK);
        ck_assert_int_eq(oe_noise_write(&ends[1], span("", 0), message, sizeof(message), &n), OE_CRYPTO);
        ck_assert_int_eq(oe_noise_write(&ends[0], span("", 0), message, sizeof(message), &n), OE_OK);
        memset(message, 0, 96);
        memcpy(message, bad.b, 32);
        struct oe_noise before = ends[0];
        ck_assert_int_eq(oe_noise_read(&ends[0], span(message, 96), payload, sizeof(payload), &n), OE_CRYPTO);
        ck_assert_mem_eq(&before, &ends[0], sizeof(before));

        /* IK, X: as the key that the initiator believes to be the responder's, and as its e */
        for (int pattern = OE_NOISE_IK; pattern <= OE_NOISE_X; pattern++) {
            struct oe_secret s = secret(1), e = secret(2);
            open_pair((enum oe_noise_pattern)pattern, ends);
            memset(message, 0, 112);
            memcpy(message, bad.b, 32);
            ck_assert_int_eq(oe_noise_read(&ends[1], span(message, 112), payload, sizeof(payload), &n), OE_CRYPTO);
            oe_noise_init(&ends[0], &(struct oe_noise_setup){
                                        .pattern = (enum oe_noise_pattern)pattern, .initiator = 1, .s = &s, .e = &e, .rs = &bad});
            ck_assert_int_eq(oe_noise_write(&ends[0], span("", 0), message, sizeof(message), &n), OE_CRYPTO);
        }
    }
}
END_TEST

/* ---- CipherState ---------------------------------------------------------------------------------------------------------------------- */

START_TEST(cipher_counter_end)
{
    struct oe_cipher a = {.k = secret(7), .n = UINT64_MAX - 1}, b = a;
    uint8_t sealed[5 + OE_TAG_BYTES], plain[5];

    ck_assert_int_eq(oe_cipher_seal(&a, span(NULL, 0), (const uint8_t *)"hello", 5, sealed), OE_OK);
    ck_assert_int_eq(oe_cipher_open(&b, span(NULL, 0), sealed, sizeof(sealed), plain), OE_OK);
    ck_assert_mem_eq(plain, "hello", 5);
    ck_assert(a.n == UINT64_MAX && b.n == UINT64_MAX);
    ck_assert_int_eq(oe_cipher_seal(&a, span(NULL, 0), (const uint8_t *)"hello", 5, sealed), OE_LIMIT);
    ck_assert_int_eq(oe_cipher_open(&b, span(NULL, 0), sealed, sizeof(sealed), plain), OE_LIMIT);
    ck_assert(a.n == UINT64_MAX && b.n == UINT64_MAX);
}
END_TEST

START_TEST(cipher_failure_keeps_nonce)
{
    struct oe_cipher a = {.k = secret(7)}, b = a;
    uint8_t sealed[5 + OE_TAG_BYTES], plain[5], zeros[5] = {0};

    for (uint64_t n = 0; n < 300; n++) {
        ck_assert_int_eq(oe_cipher_seal(&a, span("ad", 2), (const uint8_t *)"hello", 5, sealed), OE_OK);
        sealed[n % sizeof(sealed)] ^= 0x40;
        ck_assert_int_eq(oe_cipher_open(&b, span("ad", 2), sealed, sizeof(sealed), plain), OE_CRYPTO);
        ck_assert_mem_eq(plain, zeros, 5);
        sealed[n % sizeof(sealed)] ^= 0x40;
        ck_assert_int_eq(oe_cipher_open(&b, span("aD", 2), sealed, sizeof(sealed), plain), OE_CRYPTO);
        ck_assert_uint_eq(b.n, n);
        ck_assert_int_eq(oe_cipher_open(&b, span("ad", 2), sealed, sizeof(sealed), plain), OE_OK);
        ck_assert_mem_eq(plain, "hello", 5);
    }
}
END_TEST

START_TEST(cipher_in_place)
{
    struct oe_cipher a = {.k = secret(9)}, b = a;
    uint8_t buffer[100 + OE_TAG_BYTES];
    memset(buffer, 'x', 100);
    ck_assert_int_eq(oe_cipher_seal(&a, span(NULL, 0), buffer, 100, buffer), OE_OK);
    ck_assert_int_eq(oe_cipher_open(&b, span(NULL, 0), buffer, sizeof(buffer), buffer), OE_OK);
    for (size_t i = 0; i < 100; i++)
        ck_assert_uint_eq(buffer[i], 'x');
}
END_TEST

/* Nonce: four zero bytes, then the counter little-endian; REKEY with nonce 2^64-1 over 32 zero bytes. */
START_TEST(cipher_by_hand)
{
    struct oe_cipher c = {.k = secret(3), .n = UINT64_C(0x0102030405060708)};
    static const uint8_t nonce[12] = {0, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1};
    static const uint8_t last[12] = {0, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF};
    static const uint8_t zeros[32];
    struct oe_secret k = secret(3);
    uint8_t ours[3 + 16], expected[32 + 16];

    ck_assert_int_eq(oe_cipher_seal(&c, span("ad", 2), (const uint8_t *)"abc", 3, ours), OE_OK);
    crypto_aead_chacha20poly1305_ietf_encrypt(expected, NULL, (const uint8_t *)"abc", 3, (const uint8_t *)"ad", 2, NULL, nonce, k.b);
    ck_assert_mem_eq(ours, expected, sizeof(ours));
    crypto_aead_chacha20poly1305_ietf_encrypt(expected, NULL, zeros, 32, NULL, 0, NULL, last, k.b);
    oe_cipher_rekey(&c);
    ck_assert_mem_eq(c.k.b, expected, 32);
    ck_assert(c.n == UINT64_C(0x0102030405060709));
}
END_TEST

/* ---- vectors -------------------------------------------------------------------------------------------------------------------------- */

/* The message inside a handshake packet of link.txt: what follows front bytes. */
static size_t message_in(const struct vec_block *b, const char *key, size_t front, uint8_t *out)
{
    uint8_t packet[TEXT_MAX];
    size_t n = vec_bytes(b, key, packet, sizeof(packet));
    ck_assert_uint_ge(n, front);
    memcpy(out, packet + front, n - front);
    return n - front;
}

START_TEST(own_vectors)
{
    struct vec_block b = {0};
    int handshakes = 0;
    FILE *f = fopen(LINK_VECTORS, "r");
    ck_assert_msg(f != NULL, "%s: run from the project's root", LINK_VECTORS);

    while (vec_next(f, &b)) {
        struct oe_secret is, ie, rs, re;
        struct oe_noise ends[2];
        struct oe_cipher send, receive;
        uint8_t expected[TEXT_MAX], ours[TEXT_MAX], payload[1];
        size_t n, payload_n;
        if (strcmp(b.name, "handshake") != 0)
            continue;
        size_t front = vec_number(&b, "version") == 5 ? 14 : 13;
        vec_bytes(&b, "initiator_secret", is.b, 32);
        vec_bytes(&b, "initiator_ephemeral", ie.b, 32);
        vec_bytes(&b, "responder_secret", rs.b, 32);
        vec_bytes(&b, "responder_ephemeral", re.b, 32);
        struct oe_noise_setup setup = {.pattern = OE_NOISE_XX, .initiator = 1, .prologue = span("OE-MQTT/1 link", 14), .s = &is, .e = &ie};
        oe_noise_init(&ends[0], &setup);
        setup.initiator = 0;
        setup.s = &rs;
        setup.e = &re;
        oe_noise_init(&ends[1], &setup);
        ck_assert_int_eq(oe_noise_write(&ends[0], span("", 0), ours, sizeof(ours), &n), OE_OK);
        ck_assert_uint_eq(n, OE_MESSAGE1_BYTES);
        ck_assert_int_eq(oe_noise_read(&ends[1], span(ours, n), payload, 0, &payload_n), OE_OK);
        for (int i = 1; i <= 2; i++) {
            ck_assert_uint_eq(message_in(&b, i == 1 ? "message2" : "message3", front, expected),
                              i == 1 ? OE_MESSAGE2_BYTES : OE_MESSAGE3_BYTES);
            ck_assert_int_eq(oe_noise_write(&ends[i % 2], span("", 0), ours, sizeof(ours), &n), OE_OK);
            ck_assert_uint_eq(n, i == 1 ? OE_MESSAGE2_BYTES : OE_MESSAGE3_BYTES);
            ck_assert_mem_eq(ours, expected, n);
            ck_assert_int_eq(oe_noise_read(&ends[1 - i % 2], span(ours, n), payload, 0, &payload_n), OE_OK);
        }
        ck_same_keys(ends);
        vec_bytes(&b, "handshake_hash", expected, 32);
        ck_assert_mem_eq(ends[0].h, expected, 32);
        oe_noise_split(&ends[0], &send, &receive);
        vec_bytes(&b, "key_initiator", expected, 32);
        ck_assert_mem_eq(send.k.b, expected, 32);
        vec_bytes(&b, "key_responder", expected, 32);
        ck_assert_mem_eq(receive.k.b, expected, 32);
        vec_bytes(&b, "initiator_public", expected, 32);
        ck_assert_mem_eq(ends[1].rs.b, expected, 32);
        vec_bytes(&b, "responder_public", expected, 32);
        ck_assert_mem_eq(ends[0].rs.b, expected, 32);
        handshakes++;
    }
    vec_free(&b);
    (void)fclose(f);
    ck_assert_int_eq(handshakes, 3);
}
END_TEST

struct public_case {
    struct oe_noise ends[2];
    struct oe_cipher send[2], receive[2];
    unsigned handshake_messages;
    int one_way;
};

static const struct oe_secret *optional_secret(const struct vec_block *b, const char *key, struct oe_secret *out)
{
    if (vec_get(b, key) == NULL)
        return NULL;
    ck_assert_uint_eq(vec_bytes(b, key, out->b, sizeof(out->b)), sizeof(out->b));
    return out;
}

static void open_public(struct public_case *c, const struct vec_block *b, enum oe_noise_pattern pattern)
{
    static const char *const names[2][3] = {{"init_prologue", "init_static", "init_ephemeral"},
                                            {"resp_prologue", "resp_static", "resp_ephemeral"}};
    for (int i = 0; i < 2; i++) {
        struct oe_secret s, e;
        struct oe_public rs;
        uint8_t prologue[TEXT_MAX];
        const char *value = vec_get(b, names[i][0]);
        size_t n = value == NULL ? 0 : vec_hex(value, prologue, sizeof(prologue));
        int knows = i == 0 && vec_get(b, "init_remote_static") != NULL;
        if (knows)
            vec_bytes(b, "init_remote_static", rs.b, sizeof(rs.b));
        oe_noise_init(&c->ends[i], &(struct oe_noise_setup){.pattern = pattern,
                                                            .initiator = i == 0,
                                                            .prologue = span(prologue, n),
                                                            .s = optional_secret(b, names[i][1], &s),
                                                            .e = optional_secret(b, names[i][2], &e),
                                                            .rs = knows ? &rs : NULL});
    }
    c->handshake_messages = messages_of[pattern];
    c->one_way = pattern == OE_NOISE_X;
}

static void public_message(struct public_case *c, unsigned i, struct oe_span payload, struct oe_span expected)
{
    uint8_t ours[1024], back[1024];
    size_t n, back_n;
    int writer = c->one_way ? 0 : (int)(i % 2);

    if (i < c->handshake_messages) {
        ck_assert_int_eq(oe_noise_write(&c->ends[writer], payload, ours, sizeof(ours), &n), OE_OK);
        ck_assert_int_eq(oe_noise_read(&c->ends[1 - writer], span(ours, n), back, sizeof(back), &back_n), OE_OK);
    } else {
        n = payload.n + OE_TAG_BYTES;
        back_n = payload.n;
        ck_assert_int_eq(oe_cipher_seal(&c->send[writer], span(NULL, 0), payload.p, payload.n, ours), OE_OK);
        ck_assert_int_eq(oe_cipher_open(&c->receive[1 - writer], span(NULL, 0), ours, n, back), OE_OK);
    }
    ck_assert_uint_eq(n, expected.n);
    ck_assert_mem_eq(ours, expected.p, n);
    ck_assert_uint_eq(back_n, payload.n);
    ck_assert_mem_eq(back, payload.p, back_n);
    if (i + 1 != c->handshake_messages)
        return;
    ck_same_keys(c->ends);
    for (int e = 0; e < 2; e++)
        oe_noise_split(&c->ends[e], &c->send[e], &c->receive[e]);
}

/* Returns the messages that were compared. */
static unsigned run_public(const struct vec_block *b, enum oe_noise_pattern pattern)
{
    struct public_case c;
    unsigned messages = 0;
    uint8_t payload[1024], expected[1024];
    size_t payload_n = 0;

    memset(&c, 0, sizeof(c));
    open_public(&c, b, pattern);
    for (size_t i = 0; i < b->n; i++) {
        if (strcmp(b->line[i].key, "payload") == 0)
            payload_n = vec_hex(b->line[i].value, payload, sizeof(payload));
        if (strcmp(b->line[i].key, "ciphertext") == 0) {
            size_t n = vec_hex(b->line[i].value, expected, sizeof(expected));
            public_message(&c, messages++, span(payload, payload_n), span(expected, n));
        }
    }
    if (vec_get(b, "handshake_hash") != NULL) {
        vec_bytes(b, "handshake_hash", expected, 32);
        ck_assert_mem_eq(c.ends[0].h, expected, 32);
    }
    ck_assert_uint_gt(messages, c.handshake_messages);
    return messages;
}

START_TEST(public_vectors)
{
    static const char *const names[] = {[OE_NOISE_XX] = "XX", [OE_NOISE_IK] = "IK", [OE_NOISE_X] = "X"};
    struct vec_block b = {0};
    char command[1024];
    const char *where = getenv("OE_SHARED_VECTORS");
    unsigned compared[3] = {0}, others = 0;

    (void)snprintf(command, sizeof(command), "/usr/bin/python3 tests/vectors/convert.py '%s' 2>/dev/null",
                   where != NULL ? where : "../shared/vectors");
    FILE *f = popen(command, "r");
    ck_assert_ptr_nonnull(f);
    while (vec_next(f, &b)) {
        const char *pattern = vec_get(&b, "pattern");
        int known = -1;
        for (int i = 0; i < 3; i++)
            if (strcmp(pattern, names[i]) == 0)
                known = i;
        if (known < 0)
            others++;
        else if (run_public(&b, (enum oe_noise_pattern)known) != 0)
            compared[known]++;
    }
    vec_free(&b);
    if (pclose(f) != 0 || compared[0] + compared[1] + compared[2] == 0) {
        (void)fprintf(stderr, "test_noise: no public Noise vectors here: SKIPPED\n");
        return;
    }
    ck_assert(compared[0] > 0 && compared[1] > 0 && compared[2] > 0);
    (void)fprintf(stderr, "test_noise: public vectors: XX %u, IK %u, X %u; of other patterns %u\n", compared[0], compared[1], compared[2],
                  others);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        all_patterns_agree, turns_and_room,     every_bit_and_truncation,   xx_message1_bits, other_context,
        low_order_keys,     cipher_counter_end, cipher_failure_keeps_nonce, cipher_in_place,  cipher_by_hand,
        own_vectors,        public_vectors,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("noise", tests);
}
