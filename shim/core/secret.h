/* The one type that keys live in. It is wiped by its own function; nothing else copies key bytes about. */
#ifndef OE_CORE_SECRET_H
#define OE_CORE_SECRET_H

#include <stdint.h>

#include "limits.h"
#include "status.h"

struct oe_secret {
    uint8_t b[OE_KEY_BYTES];
};

/* X25519 public keys are not secret. */
struct oe_public {
    uint8_t b[OE_KEY_BYTES];
};

void oe_secret_wipe(struct oe_secret *secret);

/* The X25519 public key of a secret key. */
void oe_secret_public(const struct oe_secret *secret, struct oe_public *out);

/* "oe1:" and the key in base64, terminated (PROTOCOL.md section 5). */
void oe_public_fingerprint(const struct oe_public *key, char out[OE_FINGERPRINT_CHARS + 1]);

/* The key of a fingerprint: exactly what oe_public_fingerprint writes. OE_INVALID: something else. */
enum oe_status oe_public_parse(const char *text, struct oe_public *out);

#endif
