/* Handshake packets and records, byte by byte as in PROTOCOL.md 2.1 and 4, and against tests/vectors/link.txt. */
#include <check.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/core/link.h"
#include "run.h"
#include "vectors.h"

#define LINK_VECTORS "tests/vectors/link.txt"
#define PACKET_MAX 17000

static const enum oe_mqtt versions[] = {OE_MQTT_31, OE_MQTT_311, OE_MQTT_5};
#define VERSIONS 3

static uint8_t *exact(const void *p, size_t n)
{
    uint8_t *copy = malloc(n == 0 ? 1 : n);
    ck_assert_ptr_nonnull(copy);
    if (n != 0)
        memcpy(copy, p, n);
    return copy;
}

static struct oe_secret secret(uint8_t byte)
{
    struct oe_secret s;
    memset(s.b, byte, sizeof(s.b));
    return s;
}

static struct oe_link new_link(uint64_t rekey)
{
    return (struct oe_link){.cipher = {.k = secret(1)}, .rekey_records = rekey};
}

/* ---- handshake packets ---------------------------------------------------------------------------------------------------------------- */

static size_t write_probe(enum oe_mqtt version, uint8_t *out)
{
    struct oe_secret s = secret(0x11), e = secret(0x22);
    struct oe_noise ns;
    size_t n;
    oe_link_noise(&ns, 1, &s, &e);
    ck_assert_int_eq(oe_link_write_probe(&ns, version, out, &n), OE_OK);
    return n;
}

START_TEST(probe_bytes)
{
    for (int v = 0; v < VERSIONS; v++) {
        uint8_t out[OE_PROBE_BYTES_MAX], message1[OE_MESSAGE1_BYTES];
        struct oe_public e;
        struct oe_secret es = secret(0x22);
        char text[44];
        int five = versions[v] == OE_MQTT_5;
        size_t n = write_probe(versions[v], out), at = 0;
        ck_assert_uint_eq(n, five ? 60 : 59);
        ck_assert_uint_eq(n, oe_link_probe_bytes(versions[v]));
        ck_assert_uint_eq(out[at++], 0xA2);
        ck_assert_uint_eq(out[at++], five ? 58 : 57);
        ck_assert_mem_eq(out + at, "\xFF\xFF", 2);
        at += 2;
        if (five)
            ck_assert_uint_eq(out[at++], 0);
        ck_assert_mem_eq(out + at, "\x00\x35", 2);
        ck_assert_mem_eq(out + at + 2, "\x6F\x65\x2D\x6D\x71\x74\x74\x2F\x31\x2F", 10);
        at += 12;
        oe_secret_public(&es, &e);
        sodium_bin2base64(text, sizeof(text), e.b, 32, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
        ck_assert_mem_eq(out + at, text, 43);
        ck_assert_uint_eq(at + 43, n);
        for (size_t k = 1; k <= n; k++) {
            uint8_t *p = exact(out, k);
            ck_assert_int_eq(oe_link_read_probe(p, k, versions[v], message1), k == n ? OE_OK : OE_MORE);
            free(p);
        }
        ck_assert_mem_eq(message1, e.b, 32);
    }
}
END_TEST

/* One encoding: any other bit is another probe's key or no probe. */
START_TEST(probe_every_bit)
{
    for (int v = 0; v < VERSIONS; v++) {
        uint8_t out[OE_PROBE_BYTES_MAX], message1[OE_MESSAGE1_BYTES], original[OE_MESSAGE1_BYTES];
        size_t n = write_probe(versions[v], out);
        ck_assert_int_eq(oe_link_read_probe(out, n, versions[v], original), OE_OK);
        for (size_t bit = 0; bit < n * 8; bit++) {
            out[bit / 8] ^= (uint8_t)(1 << bit % 8);
            enum oe_status st = oe_link_read_probe(out, n, versions[v], message1);
            if (bit / 8 < n - 43)
                ck_assert_int_eq(st, OE_MALFORMED);
            else
                ck_assert(st == OE_MALFORMED || (st == OE_OK && memcmp(message1, original, 32) != 0));
            out[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
        for (int w = 0; w < VERSIONS; w++)
            if ((versions[w] == OE_MQTT_5) != (versions[v] == OE_MQTT_5))
                ck_assert_int_eq(oe_link_read_probe(out, n, versions[w], message1), OE_MALFORMED);
    }
}
END_TEST

START_TEST(unsuback_bytes)
{
    uint8_t out[OE_UNSUBACK_BYTES_MAX];
    ck_assert_uint_eq(oe_link_write_unsuback(OE_MQTT_31, out), 4);
    ck_assert_mem_eq(out, "\xB0\x02\xFF\xFF", 4);
    ck_assert_uint_eq(oe_link_write_unsuback(OE_MQTT_311, out), 4);
    ck_assert_mem_eq(out, "\xB0\x02\xFF\xFF", 4);
    ck_assert_uint_eq(oe_link_write_unsuback(OE_MQTT_5, out), 6);
    ck_assert_mem_eq(out, "\xB0\x04\xFF\xFF\x00\x11", 6);
}
END_TEST

START_TEST(handshake_bytes)
{
    static const size_t sizes[] = {0, OE_MESSAGE3_BYTES, OE_MESSAGE2_BYTES};
    for (int v = 0; v < VERSIONS; v++) {
        for (int i = 0; i < 3; i++) {
            uint8_t message[OE_MESSAGE2_BYTES], out[OE_HANDSHAKE_PACKET_BYTES_MAX];
            struct oe_header h;
            struct oe_span view;
            int five = versions[v] == OE_MQTT_5;
            memset(message, 0xAB, sizeof(message));
            size_t n = oe_link_write_handshake(versions[v], message, sizes[i], out);
            size_t front = five ? 14 : 13;
            ck_assert_uint_eq(n, front + sizes[i]);
            ck_assert_uint_eq(out[0], 0x30);
            ck_assert_uint_eq(out[1], (five ? 12 : 11) + sizes[i]);
            ck_assert_mem_eq(out + 2, "\x00\x09\x6F\x65\x2D\x6D\x71\x74\x74\x2F\x31", 11);
            if (five)
                ck_assert_uint_eq(out[13], 0);
            ck_assert(sizes[i] == 0 || memcmp(out + front, message, sizes[i]) == 0);
            for (size_t k = 0; k <= n; k++) {
                uint8_t *p = exact(out, k);
                ck_assert_int_eq(oe_link_kind(p, k, &h), k < 13 ? OE_LINK_UNKNOWN : OE_LINK_HANDSHAKE);
                enum oe_status st = oe_link_read_handshake((struct oe_span){p, k}, versions[v], &view);
                ck_assert_int_eq(st, k == n ? OE_OK : OE_MALFORMED);
                if (st == OE_OK)
                    ck_assert(view.p == p + front && view.n == sizes[i]);
                free(p);
            }
            for (size_t bit = 0; bit < front * 8; bit++) {
                out[bit / 8] ^= (uint8_t)(1 << bit % 8);
                ck_assert_int_eq(oe_link_read_handshake((struct oe_span){out, n}, versions[v], &view), OE_MALFORMED);
                if (bit < 13 * 8 && bit / 8 != 1 && bit != 0 && bit != 3) /* DUP and RETAIN do not matter for the kind */
                    ck_assert_int_ne(oe_link_kind(out, n, &h), OE_LINK_HANDSHAKE);
                out[bit / 8] ^= (uint8_t)(1 << bit % 8);
            }
        }
    }
}
END_TEST

START_TEST(kinds)
{
    static const struct {
        const char *bytes;
        size_t n;
        enum oe_link_kind kind;
    } cases[] = {
        {"", 0, OE_LINK_UNKNOWN},
        {"\x30", 1, OE_LINK_UNKNOWN},
        {"\x32", 1, OE_LINK_UNKNOWN},
        {"\x32\x80", 2, OE_LINK_UNKNOWN},
        {"\x32\x05", 2, OE_LINK_OTHER},
        {"\xD0\x00", 2, OE_LINK_OTHER},
        {"\x30\x00", 2, OE_LINK_OTHER},
        {"\x30\x0A", 2, OE_LINK_UNKNOWN}, /* a record has fewer bytes before it is refused */
        {"\x30\x02", 2, OE_LINK_OTHER},
        {"\x30\x14\x00", 3, OE_LINK_UNKNOWN},
        {"\x30\x14\x00\x01", 4, OE_LINK_UNKNOWN},
        {"\x30\x14\x00\x01$", 5, OE_LINK_RECORD},
        {"\x30\x14\x00\x01x", 5, OE_LINK_OTHER},
        {"\x30\x14\x00\x09oe-mqtt/2", 13, OE_LINK_OTHER},
        {"\x30\x14\x00\x0Aoe-mqtt/1", 13, OE_LINK_OTHER},
        {"\x30\x8B\x00", 3, OE_LINK_MALFORMED},
        {"\x30\x80\x80\x80\x80", 5, OE_LINK_MALFORMED},
        {"\xC0\x80\x80\x80\x80", 5, OE_LINK_MALFORMED},
        {"\x39\x14\x00\x01$", 5, OE_LINK_RECORD},
        {"\x32\x14\x00\x01$", 5, OE_LINK_OTHER},
        {"\x34\x14\x00\x09oe-mqtt/1", 13, OE_LINK_OTHER},
        {"\x31\x14\x00\x09oe-mqtt/1", 13, OE_LINK_HANDSHAKE},
        {"\xB0\x02\xFF", 3, OE_LINK_UNKNOWN},
        {"\xB0\x02\xFF\xFF", 4, OE_LINK_UNSUBACK},
        {"\xB0\x06\xFF\xFF", 4, OE_LINK_UNSUBACK},
        {"\xB0\x02\xFF\xFE", 4, OE_LINK_OTHER},
        {"\xB0\x01\xFF", 3, OE_LINK_OTHER},
        {"\xB1\x02\xFF\xFF", 4, OE_LINK_OTHER},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        struct oe_header h;
        uint8_t *p = exact(cases[i].bytes, cases[i].n);
        ck_assert_msg(oe_link_kind(p, cases[i].n, &h) == cases[i].kind, "case %zu", i);
        free(p);
    }
}
END_TEST

/* ---- records -------------------------------------------------------------------------------------------------------------------------- */

static uint8_t pattern[PACKET_MAX], record[PACKET_MAX], opened[PACKET_MAX];

static void fill(size_t n, uint64_t counter)
{
    for (size_t i = 0; i < n; i++)
        pattern[i] = (uint8_t)(i + 7 * (i / 256) + 13 * counter);
}

START_TEST(record_numbers)
{
    ck_assert_uint_eq(oe_record_plain_max(OE_MQTT_31), 16364);
    ck_assert_uint_eq(oe_record_plain_max(OE_MQTT_311), 16364);
    ck_assert_uint_eq(oe_record_plain_max(OE_MQTT_5), 16363);
    for (int v = 0; v < VERSIONS; v++) {
        int five = versions[v] == OE_MQTT_5;
        size_t small = five ? 107 : 108; /* remaining length 127 */
        ck_assert_uint_eq(oe_record_bytes(versions[v], 1), 1 + (five ? 22 : 21));
        ck_assert_uint_eq(oe_record_bytes(versions[v], small), small + (five ? 22 : 21));
        ck_assert_uint_eq(oe_record_bytes(versions[v], small + 1), small + 1 + (five ? 23 : 22));
        ck_assert_uint_eq(oe_record_bytes(versions[v], oe_record_plain_max(versions[v])), 16386);
    }
}
END_TEST

START_TEST(record_every_size)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct oe_link a = new_link(OE_REKEY_RECORDS), b = a;
        size_t max = oe_record_plain_max(versions[v]), front = versions[v] == OE_MQTT_5 ? 4 : 3;
        for (size_t n = 1; n <= max; n += n < 300 || n + 20 > max ? 1 : 97) {
            size_t header_n, sealed_n, size = oe_record_bytes(versions[v], n);
            uint8_t *out = malloc(size);
            fill(n, n);
            ck_assert_int_eq(oe_record_seal(&a, versions[v], pattern, n, out), OE_OK);
            size_t remaining = front + n + 16, used = remaining > 127 ? 2 : 1;
            ck_assert_uint_eq(size, 1 + used + remaining);
            ck_assert_uint_eq(out[0], 0x30);
            ck_assert_uint_eq(out[1], used == 1 ? remaining : (remaining & 0x7F) | 0x80);
            ck_assert(used == 1 || out[2] == remaining >> 7);
            ck_assert_mem_eq(out + 1 + used, "\x00\x01$\x00", front);
            for (size_t k = 0; k <= 1 + used + front; k++) {
                uint8_t *p = exact(out, k);
                ck_assert_int_eq(oe_record_header(p, k, versions[v], &header_n, &sealed_n), k < 1 + used + front ? OE_MORE : OE_OK);
                free(p);
            }
            ck_assert(header_n == 1 + used + front && sealed_n == n + 16);
            uint8_t *back = malloc(n);
            ck_assert_int_eq(oe_record_open(&b, out + header_n, sealed_n, back), OE_OK);
            ck_assert_mem_eq(back, pattern, n);
            free(back);
            free(out);
        }
        ck_assert(a.cipher.n == b.cipher.n);
    }
}
END_TEST

/* The header at every prefix and for every value of each of its bytes. */
START_TEST(record_header_only_one)
{
    for (int v = 0; v < VERSIONS; v++) {
        size_t front = versions[v] == OE_MQTT_5 ? 4 : 3;
        static const size_t remainings[] = {20, 21, 127, 128, 16383};
        for (size_t i = 0; i < sizeof(remainings) / sizeof(remainings[0]); i++) {
            uint8_t h[8] = {0x30};
            size_t used = oe_varint_put(h + 1, (uint32_t)remainings[i]), header_n, sealed_n;
            memcpy(h + 1 + used, "\x00\x01$\x00", front);
            size_t n = 1 + used + front;
            int enough = remainings[i] >= front + 17;
            ck_assert_int_eq(oe_record_header(h, n, versions[v], &header_n, &sealed_n), enough ? OE_OK : OE_MALFORMED);
            for (size_t at = 0; at < n && enough; at++) {
                uint8_t good = h[at];
                for (unsigned value = 0; value < 256; value++) {
                    h[at] = (uint8_t)value;
                    enum oe_status st = oe_record_header(h, n, versions[v], &header_n, &sealed_n);
                    int is_length = at >= 1 && at <= used;
                    if (value != good && !is_length)
                        ck_assert_int_eq(st, OE_MALFORMED);
                    if (st == OE_OK)
                        ck_assert(header_n == n && sealed_n >= 17 && front + sealed_n <= OE_RECORD_REMAINING_MAX);
                }
                h[at] = good;
            }
        }
    }
}
END_TEST

START_TEST(record_length_forms)
{
    static const struct {
        const char *bytes;
        size_t n;
        enum oe_status st;
    } cases[] = {
        {"\x30\x94\x00\x00\x01$", 6, OE_MALFORMED},     /* 20 in two bytes */
        {"\x30\xFF\xFF\x01\x00\x01$", 7, OE_MALFORMED}, /* three bytes */
        {"\x30\xFF\xFF", 3, OE_MALFORMED},              /* known by the second */
        {"\x30\x13\x00\x01$", 5, OE_MALFORMED},         /* no byte of plaintext: 3 + 16 */
        {"\x30\x14\x00\x01$", 5, OE_OK},
        {"\x30\xFF\x7F\x00\x01$", 6, OE_OK},
        {"\x30\x00", 2, OE_MALFORMED},
        {"\x31", 1, OE_MALFORMED},
        {"\x38", 1, OE_MALFORMED},
        {"\x32", 1, OE_MALFORMED},
        {"\xB0", 1, OE_MALFORMED},
        {"\x30", 1, OE_MORE},
        {"", 0, OE_MORE},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        size_t header_n, sealed_n;
        uint8_t *p = exact(cases[i].bytes, cases[i].n);
        ck_assert_msg(oe_record_header(p, cases[i].n, OE_MQTT_311, &header_n, &sealed_n) == cases[i].st, "case %zu", i);
        free(p);
    }
}
END_TEST

START_TEST(record_every_bit)
{
    for (int v = 0; v < VERSIONS; v++) {
        struct oe_link a = new_link(OE_REKEY_RECORDS);
        const struct oe_link before = a;
        size_t n = 100, size = oe_record_bytes(versions[v], n);
        fill(n, 0);
        ck_assert_int_eq(oe_record_seal(&a, versions[v], pattern, n, record), OE_OK);
        for (size_t bit = 0; bit < size * 8; bit++) {
            struct oe_link b = before;
            size_t header_n, sealed_n;
            record[bit / 8] ^= (uint8_t)(1 << bit % 8);
            enum oe_status st = oe_record_header(record, size, versions[v], &header_n, &sealed_n);
            if (st == OE_OK && header_n + sealed_n <= size)
                st = oe_record_open(&b, record + header_n, sealed_n, opened);
            else if (st == OE_OK)
                st = OE_MORE; /* a longer record: its tag cannot be right either */
            ck_assert_int_ne(st, OE_OK);
            record[bit / 8] ^= (uint8_t)(1 << bit % 8);
        }
    }
}
END_TEST

START_TEST(record_order)
{
    struct oe_link a = new_link(OE_REKEY_RECORDS), b = a;
    uint8_t r[3][64];
    size_t size = oe_record_bytes(OE_MQTT_311, 5);
    for (int i = 0; i < 3; i++)
        ck_assert_int_eq(oe_record_seal(&a, OE_MQTT_311, (const uint8_t *)"hello", 5, r[i]), OE_OK);
    ck_assert_mem_ne(r[0], r[1], size);
    ck_assert_int_eq(oe_record_open(&b, r[0] + 5, size - 5, opened), OE_OK);
    struct oe_link c = b;
    ck_assert_int_eq(oe_record_open(&c, r[0] + 5, size - 5, opened), OE_CRYPTO); /* repeated */
    c = b;
    ck_assert_int_eq(oe_record_open(&c, r[2] + 5, size - 5, opened), OE_CRYPTO); /* one left out */
    ck_assert_int_eq(oe_record_open(&b, r[1] + 5, size - 5, opened), OE_OK);
}
END_TEST

/* Each direction changes its key before the records with a counter that is a positive multiple of the limit. */
START_TEST(rekey)
{
    for (uint64_t limit = 1; limit <= 5; limit++) {
        struct oe_link a = new_link(limit), b = a;
        struct oe_cipher by_hand = a.cipher;
        for (uint64_t c = 0; c < 40; c++) {
            uint8_t out[64], expected[64];
            if (c != 0 && c % limit == 0)
                oe_cipher_rekey(&by_hand);
            ck_assert_uint_eq(by_hand.n, c);
            ck_assert_int_eq(oe_cipher_seal(&by_hand, (struct oe_span){NULL, 0}, (const uint8_t *)"hello", 5, expected), OE_OK);
            ck_assert_int_eq(oe_record_seal(&a, OE_MQTT_5, (const uint8_t *)"hello", 5, out), OE_OK);
            ck_assert_mem_eq(out + 6, expected, 21);
            ck_assert_int_eq(oe_record_open(&b, out + 6, 21, opened), OE_OK);
            ck_assert_mem_eq(opened, "hello", 5);
        }
    }
}
END_TEST

START_TEST(counter_end)
{
    struct oe_link a = new_link(OE_REKEY_RECORDS), b = a;
    uint8_t out[64];
    a.cipher.n = b.cipher.n = UINT64_MAX - 1;
    ck_assert_int_eq(oe_record_seal(&a, OE_MQTT_311, (const uint8_t *)"x", 1, out), OE_OK);
    ck_assert_int_eq(oe_record_open(&b, out + 5, 17, opened), OE_OK);
    ck_assert_int_eq(oe_record_seal(&a, OE_MQTT_311, (const uint8_t *)"x", 1, out), OE_LIMIT);
    ck_assert_int_eq(oe_record_open(&b, out + 5, 17, opened), OE_LIMIT);
}
END_TEST

/* ---- vectors -------------------------------------------------------------------------------------------------------------------------- */

/* Brings the link to a counter: under its first key, changed as often as is due before that record. */
static void go_to(struct oe_link *link, uint64_t counter)
{
    uint64_t rekeys = counter == 0 ? 0 : (counter - 1) / link->rekey_records;
    for (uint64_t i = 0; i < rekeys; i++)
        oe_cipher_rekey(&link->cipher);
    link->cipher.n = counter;
}

static void vector_record(const struct vec_block *b)
{
    enum oe_mqtt version = (enum oe_mqtt)vec_number(b, "version");
    struct oe_link a = {.rekey_records = vec_number(b, "rekey")};
    uint64_t counter = vec_number(b, "counter");
    size_t n = (size_t)vec_number(b, "plain_n"), size = oe_record_bytes(version, n), header_n, sealed_n;
    uint8_t expected[1024];

    vec_bytes(b, "key", a.cipher.k.b, 32);
    go_to(&a, counter);
    struct oe_link c = a;
    fill(n, counter);
    if (counter == UINT64_MAX) {
        ck_assert_int_eq(oe_record_seal(&a, version, pattern, n, record), OE_LIMIT);
        return;
    }
    ck_assert_int_eq(oe_record_seal(&a, version, pattern, n, record), OE_OK);
    if (vec_get(b, "record") != NULL) {
        ck_assert_uint_eq(vec_bytes(b, "plain", expected, sizeof(expected)), n);
        ck_assert_mem_eq(pattern, expected, n);
        ck_assert_uint_eq(vec_bytes(b, "record", expected, sizeof(expected)), size);
        ck_assert_mem_eq(record, expected, size);
    } else {
        uint8_t digest[32];
        ck_assert_uint_eq(vec_number(b, "record_n"), size);
        vec_bytes(b, "record_head", expected, 32);
        ck_assert_mem_eq(record, expected, 32);
        vec_bytes(b, "record_tail", expected, 32);
        ck_assert_mem_eq(record + size - 32, expected, 32);
        vec_bytes(b, "record_sha256", expected, 32);
        crypto_hash_sha256(digest, record, size);
        ck_assert_mem_eq(digest, expected, 32);
    }
    ck_assert_int_eq(oe_record_header(record, size, version, &header_n, &sealed_n), OE_OK);
    ck_assert_uint_eq(header_n + sealed_n, size);
    ck_assert_int_eq(oe_record_open(&c, record + header_n, sealed_n, opened), OE_OK);
    ck_assert_mem_eq(opened, pattern, n);
}

static void vector_handshake(const struct vec_block *b, struct oe_secret *is, struct oe_secret *ie)
{
    enum oe_mqtt version = (enum oe_mqtt)vec_number(b, "version");
    uint8_t expected[256], out[256], message1[OE_MESSAGE1_BYTES];
    struct oe_noise ns;
    size_t n;

    vec_bytes(b, "initiator_secret", is->b, 32);
    vec_bytes(b, "initiator_ephemeral", ie->b, 32);
    oe_link_noise(&ns, 1, is, ie);
    ck_assert_int_eq(oe_link_write_probe(&ns, version, out, &n), OE_OK);
    ck_assert_uint_eq(vec_bytes(b, "probe", expected, sizeof(expected)), n);
    ck_assert_mem_eq(out, expected, n);
    ck_assert_int_eq(oe_link_read_probe(out, n, version, message1), OE_OK);
    n = oe_link_write_unsuback(version, out);
    ck_assert_uint_eq(vec_bytes(b, "answer", expected, sizeof(expected)), n);
    ck_assert_mem_eq(out, expected, n);
    n = oe_link_write_handshake(version, NULL, 0, out);
    ck_assert_uint_eq(vec_bytes(b, "abort", expected, sizeof(expected)), n);
    ck_assert_mem_eq(out, expected, n);
}

static void vector_refused(const struct vec_block *b, const struct oe_secret is[6], const struct oe_secret ie[6])
{
    enum oe_mqtt version = (enum oe_mqtt)vec_number(b, "version");
    const char *what = vec_get(b, "what");
    uint8_t packet[1024], message1[OE_MESSAGE1_BYTES], none[1];
    size_t n = vec_bytes(b, "packet", packet, sizeof(packet)), header_n, sealed_n, none_n;
    uint8_t *p = exact(packet, n);
    int bad = 0;

    if (strcmp(what, "probe") == 0) {
        bad = oe_link_read_probe(p, n, version, message1) != OE_OK;
    } else if (strcmp(what, "record") == 0) {
        struct oe_link link = new_link(OE_REKEY_RECORDS);
        enum oe_status st = oe_record_header(p, n, version, &header_n, &sealed_n);
        if (st == OE_OK && header_n + sealed_n == n)
            st = oe_record_open(&link, p + header_n, sealed_n, opened);
        bad = st != OE_OK;
    } else if (strcmp(what, "message2") == 0) {
        struct oe_noise ns;
        struct oe_header h;
        struct oe_span message;
        size_t probe_n;
        uint8_t probe[OE_PROBE_BYTES_MAX];
        oe_link_noise(&ns, 1, &is[version], &ie[version]);
        ck_assert_int_eq(oe_link_write_probe(&ns, version, probe, &probe_n), OE_OK);
        bad = oe_link_kind(p, n, &h) != OE_LINK_HANDSHAKE || oe_link_read_handshake((struct oe_span){p, n}, version, &message) != OE_OK ||
              message.n != OE_MESSAGE2_BYTES || oe_noise_read(&ns, message, none, 0, &none_n) != OE_OK;
    } else {
        bad = 1; /* message3: test_conn's, with a responder */
    }
    free(p);
    ck_assert_msg(bad, "version %d %s %s is accepted", (int)version, what, vec_get(b, "why"));
}

START_TEST(own_vectors)
{
    struct vec_block b = {0};
    struct oe_secret is[6], ie[6];
    unsigned records = 0, handshakes = 0, refused = 0;
    FILE *f = fopen(LINK_VECTORS, "r");
    ck_assert_msg(f != NULL, "%s: run from the project's root", LINK_VECTORS);
    while (vec_next(f, &b)) {
        if (strcmp(b.name, "record") == 0) {
            vector_record(&b);
            records++;
        } else if (strcmp(b.name, "handshake") == 0) {
            uint64_t version = vec_number(&b, "version");
            ck_assert(version >= 3 && version <= 5);
            vector_handshake(&b, &is[version], &ie[version]);
            handshakes++;
        } else {
            vector_refused(&b, is, ie);
            refused++;
        }
    }
    vec_free(&b);
    (void)fclose(f);
    ck_assert(records > 50 && handshakes == 3 && refused > 50);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        probe_bytes,
        probe_every_bit,
        unsuback_bytes,
        handshake_bytes,
        kinds,
        record_numbers,
        record_every_size,
        record_header_only_one,
        record_length_forms,
        record_every_bit,
        record_order,
        rekey,
        counter_end,
        own_vectors,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("link", tests);
}
