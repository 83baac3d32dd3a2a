/* Keys and their fingerprints. */
#include <sodium.h>
#include <string.h>

#include "../../shim/core/secret.h"
#include "run.h"

START_TEST(fingerprint_and_back)
{
    struct oe_public key, again;
    char text[OE_FINGERPRINT_CHARS + 1];

    for (unsigned i = 0; i < 1000; i++) {
        randombytes_buf(key.b, sizeof(key.b));
        memset(key.b, i < 2 ? (int)(i * 255) : key.b[0], i < 2 ? sizeof(key.b) : 1);
        oe_public_fingerprint(&key, text);
        ck_assert_uint_eq(strlen(text), OE_FINGERPRINT_CHARS);
        memset(&again, 0xAA, sizeof(again));
        ck_assert_int_eq(oe_public_parse(text, &again), OE_OK);
        ck_assert_mem_eq(again.b, key.b, sizeof(key.b));
    }
}
END_TEST

/* Whatever one byte of a fingerprint is changed to: either refused, or another key with exactly that fingerprint. */
START_TEST(fingerprint_with_another_byte)
{
    struct oe_public key = {{1, 2, 3, 0xFF, 0xFE}}, other;
    char text[OE_FINGERPRINT_CHARS + 1], bad[OE_FINGERPRINT_CHARS + 1], again[OE_FINGERPRINT_CHARS + 1];
    unsigned accepted = 0;

    oe_public_fingerprint(&key, text);
    for (size_t i = 0; i < OE_FINGERPRINT_CHARS; i++) {
        for (int c = 0; c < 256; c++) {
            memcpy(bad, text, sizeof(bad));
            bad[i] = (char)c;
            if (bad[i] == text[i] || oe_public_parse(bad, &other) != OE_OK)
                continue;
            oe_public_fingerprint(&other, again);
            ck_assert_str_eq(bad, again);
            ck_assert_msg(i >= 4 && i < OE_FINGERPRINT_CHARS - 1, "byte %zu may be %02x", i, (unsigned)c);
            ck_assert_mem_ne(other.b, key.b, sizeof(key.b));
            accepted++;
        }
    }
    ck_assert_uint_eq(accepted, 42 * 63 + 15); /* the last character before the padding has two bits that are zero */
}
END_TEST

START_TEST(fingerprint_of_another_length)
{
    struct oe_public key = {{0}}, out;
    char text[OE_FINGERPRINT_CHARS + 8];
    static const char *const wrong[] = {
        "",
        "oe1:",
        "OE1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "oe2:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "oe1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", /* 33 bytes */
        "oe1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==", /* 31 bytes */
        "oe1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA-=", /* base64url */
        "oe1: AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
    };

    for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++)
        ck_assert_msg(oe_public_parse(wrong[i], &out) == OE_INVALID, "%s", wrong[i]);
    oe_public_fingerprint(&key, text);
    for (size_t n = 0; n < OE_FINGERPRINT_CHARS; n++) {
        char cut[OE_FINGERPRINT_CHARS + 1] = "";
        memcpy(cut, text, n);
        ck_assert_int_eq(oe_public_parse(cut, &out), OE_INVALID);
    }
    for (size_t n = OE_FINGERPRINT_CHARS; n < sizeof(text) - 1; n++) {
        text[n] = "\n =A\r\t"[n % 6];
        text[n + 1] = '\0';
        ck_assert_int_eq(oe_public_parse(text, &out), OE_INVALID);
    }
}
END_TEST

START_TEST(public_of_a_secret)
{
    /* RFC 7748, section 6.1: Alice */
    static const uint8_t alice[32] = {0x77, 0x07, 0x6d, 0x0a, 0x73, 0x18, 0xa5, 0x7d, 0x3c, 0x16, 0xc1, 0x72, 0x51, 0xb2, 0x66, 0x45,
                                      0xdf, 0x4c, 0x2f, 0x87, 0xeb, 0xc0, 0x99, 0x2a, 0xb1, 0x77, 0xfb, 0xa5, 0x1d, 0xb9, 0x2c, 0x2a};
    struct oe_secret secret;
    struct oe_public key;
    char text[OE_FINGERPRINT_CHARS + 1];

    memcpy(secret.b, alice, sizeof(alice));
    oe_secret_public(&secret, &key);
    oe_public_fingerprint(&key, text);
    ck_assert_str_eq(text, "oe1:hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=");
    oe_secret_wipe(&secret);
    ck_assert(sodium_is_zero(secret.b, sizeof(secret.b)));
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {fingerprint_and_back, fingerprint_with_another_byte, fingerprint_of_another_length, public_of_a_secret};
    return sodium_init() < 0 ? 1 : RUN_TESTS("secret", tests);
}
