#include "secret.h"

#include <sodium.h>
#include <string.h>

void oe_secret_wipe(struct oe_secret *secret)
{
    sodium_memzero(secret->b, sizeof(secret->b));
}

void oe_secret_public(const struct oe_secret *secret, struct oe_public *out)
{
    crypto_scalarmult_base(out->b, secret->b);
}

void oe_public_fingerprint(const struct oe_public *key, char out[OE_FINGERPRINT_CHARS + 1])
{
    static_assert(OE_FINGERPRINT_CHARS == 4 + 44, "oe1: and base64 of 32 bytes");
    memcpy(out, "oe1:", 4);
    sodium_bin2base64(out + 4, OE_FINGERPRINT_CHARS + 1 - 4, key->b, sizeof(key->b), sodium_base64_VARIANT_ORIGINAL);
}

enum oe_status oe_public_parse(const char *text, struct oe_public *out)
{
    char again[OE_FINGERPRINT_CHARS + 1];
    size_t n;

    if (strlen(text) != OE_FINGERPRINT_CHARS || memcmp(text, "oe1:", 4) != 0 ||
        sodium_base642bin(out->b, sizeof(out->b), text + 4, OE_FINGERPRINT_CHARS - 4, NULL, &n, NULL, sodium_base64_VARIANT_ORIGINAL) !=
            0 ||
        n != sizeof(out->b))
        return OE_INVALID;
    oe_public_fingerprint(out, again); /* libsodium 1.0.18 reads some characters with the eighth bit set as if it were not */
    return strcmp(again, text) == 0 ? OE_OK : OE_INVALID;
}
