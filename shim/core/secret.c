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
