/*
 * Noise Protocol Framework, revision 34: the patterns XX, IK and X with 25519, ChaChaPoly and SHA256.
 * Randomness is an argument: the caller hands in a fresh ephemeral secret.
 */
#ifndef OE_CORE_NOISE_H
#define OE_CORE_NOISE_H

#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "limits.h"
#include "secret.h"
#include "status.h"

enum oe_noise_pattern { OE_NOISE_XX, OE_NOISE_IK, OE_NOISE_X };

/* CipherState (section 5.1): key and nonce. */
struct oe_cipher {
    struct oe_secret k;
    uint64_t n; /* UINT64_MAX: at its end */
};

/* Encrypts n bytes at plain to n + 16 at out (out may be plain) with ad; OE_LIMIT: the nonce is at its end. */
enum oe_status oe_cipher_seal(struct oe_cipher *c, struct oe_span ad, const uint8_t *plain, size_t n, uint8_t *out);

/* Decrypts n bytes at sealed (n at least 16) to n - 16 at out. OE_CRYPTO: the tag is wrong, nothing usable is at out, the nonce stays. */
enum oe_status oe_cipher_open(struct oe_cipher *c, struct oe_span ad, const uint8_t *sealed, size_t n, uint8_t *out);

/* REKEY (section 4.2, 11.3). */
void oe_cipher_rekey(struct oe_cipher *c);

/* HandshakeState (section 5.3). Wipe it when it is no longer needed. */
struct oe_noise {
    const struct oe_noise_def *def;
    int initiator;
    unsigned next; /* the message that is written or read next */
    int has_key;
    struct oe_cipher cipher;
    uint8_t ck[OE_HASH_BYTES];
    uint8_t h[OE_HASH_BYTES]; /* after the last message: the handshake hash */
    struct oe_secret s, e;
    struct oe_public s_public, e_public, rs, re; /* rs: the peer's long-term key once it is known */
};

struct oe_noise_setup {
    enum oe_noise_pattern pattern;
    int initiator;
    struct oe_span prologue;
    const struct oe_secret *s;  /* own long-term key; NULL: none (responder of nothing, never in these patterns but X's tests) */
    const struct oe_secret *e;  /* fresh ephemeral secret */
    const struct oe_public *rs; /* the responder's key, for initiators of IK and X; else NULL */
};

void oe_noise_init(struct oe_noise *ns, const struct oe_noise_setup *setup);
void oe_noise_wipe(struct oe_noise *ns);

/* Writes the next message with payload to out (out_max bytes); *out_n. OE_CRYPTO: a peer's key gives an all-zero secret; OE_LIMIT: out is too
 * small, or it is not our turn. On an error ns is unchanged. */
enum oe_status oe_noise_write(struct oe_noise *ns, struct oe_span payload, uint8_t *out, size_t out_max, size_t *out_n);

/* Reads the next message; its payload goes to payload (payload_max bytes), *payload_n. OE_CRYPTO: it does not verify; OE_LIMIT as above.
 * On an error ns is unchanged, so that another message may be tried. */
enum oe_status oe_noise_read(struct oe_noise *ns, struct oe_span message, uint8_t *payload, size_t payload_max, size_t *payload_n);

/* Whether all messages of the pattern are done. */
int oe_noise_done(const struct oe_noise *ns);

/* Split(): the CipherStates of this end's sending and receiving direction. */
void oe_noise_split(const struct oe_noise *ns, struct oe_cipher *send, struct oe_cipher *receive);

#endif
