#include "noise.h"

#include <sodium.h>

/* ---- CipherState ---------------------------------------------------------------------------------------------------------------------- */

static void nonce_of(uint64_t n, uint8_t out[crypto_aead_chacha20poly1305_IETF_NPUBBYTES])
{
    memset(out, 0, 4);
    for (unsigned i = 0; i < 8; i++)
        out[4 + i] = (uint8_t)(n >> (8 * i));
}

enum oe_status oe_cipher_seal(struct oe_cipher *c, struct oe_span ad, const uint8_t *plain, size_t n, uint8_t *out)
{
    uint8_t nonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];
    if (c->n == UINT64_MAX)
        return OE_LIMIT;
    nonce_of(c->n, nonce);
    crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, plain, n, ad.p, ad.n, NULL, nonce, c->k.b);
    c->n++;
    return OE_OK;
}

enum oe_status oe_cipher_open(struct oe_cipher *c, struct oe_span ad, const uint8_t *sealed, size_t n, uint8_t *out)
{
    uint8_t nonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];
    if (c->n == UINT64_MAX)
        return OE_LIMIT;
    nonce_of(c->n, nonce);
    if (crypto_aead_chacha20poly1305_ietf_decrypt(out, NULL, NULL, sealed, n, ad.p, ad.n, nonce, c->k.b) != 0)
        return OE_CRYPTO;
    c->n++;
    return OE_OK;
}

void oe_cipher_rekey(struct oe_cipher *c)
{
    static const uint8_t zeros[OE_KEY_BYTES];
    uint8_t nonce[crypto_aead_chacha20poly1305_IETF_NPUBBYTES];
    uint8_t out[OE_KEY_BYTES + OE_TAG_BYTES];

    nonce_of(UINT64_MAX, nonce);
    crypto_aead_chacha20poly1305_ietf_encrypt(out, NULL, zeros, sizeof(zeros), NULL, 0, NULL, nonce, c->k.b);
    memcpy(c->k.b, out, OE_KEY_BYTES);
    sodium_memzero(out, sizeof(out));
}

/* ---- SymmetricState (section 5.2) ----------------------------------------------------------------------------------------------------- */

static void mix_hash(struct oe_noise *ns, const uint8_t *p, size_t n)
{
    crypto_hash_sha256_state st;
    crypto_hash_sha256_init(&st);
    crypto_hash_sha256_update(&st, ns->h, sizeof(ns->h));
    crypto_hash_sha256_update(&st, p, n);
    crypto_hash_sha256_final(&st, ns->h);
    sodium_memzero(&st, sizeof(st));
}

static void hmac(uint8_t out[OE_HASH_BYTES], const uint8_t key[OE_HASH_BYTES], const uint8_t *p, size_t n)
{
    crypto_auth_hmacsha256_state st;
    crypto_auth_hmacsha256_init(&st, key, OE_HASH_BYTES);
    crypto_auth_hmacsha256_update(&st, p, n);
    crypto_auth_hmacsha256_final(&st, out);
    sodium_memzero(&st, sizeof(st));
}

/* HKDF with two outputs (section 4.3). out1 and out2 may be ck. */
static void hkdf2(const uint8_t ck[OE_HASH_BYTES], const uint8_t *ikm, size_t ikm_n, uint8_t out1[OE_HASH_BYTES],
                  uint8_t out2[OE_HASH_BYTES])
{
    uint8_t temp[OE_HASH_BYTES], t[OE_HASH_BYTES + 1];

    hmac(temp, ck, ikm, ikm_n);
    t[0] = 1;
    hmac(t, temp, t, 1);
    memcpy(out1, t, OE_HASH_BYTES);
    t[OE_HASH_BYTES] = 2;
    hmac(out2, temp, t, sizeof(t));
    sodium_memzero(temp, sizeof(temp));
    sodium_memzero(t, sizeof(t));
}

static void mix_key(struct oe_noise *ns, const uint8_t dh[OE_KEY_BYTES])
{
    hkdf2(ns->ck, dh, OE_KEY_BYTES, ns->ck, ns->cipher.k.b);
    ns->cipher.n = 0;
    ns->has_key = 1;
}

static size_t sealed_n(const struct oe_noise *ns, size_t n)
{
    return ns->has_key ? n + OE_TAG_BYTES : n;
}

static enum oe_status encrypt_and_hash(struct oe_noise *ns, struct oe_span plain, uint8_t *out)
{
    if (ns->has_key) {
        enum oe_status st = oe_cipher_seal(&ns->cipher, (struct oe_span){ns->h, sizeof(ns->h)}, plain.p, plain.n, out);
        if (st != OE_OK)
            return st;
    } else if (plain.n != 0) {
        memcpy(out, plain.p, plain.n);
    }
    mix_hash(ns, out, sealed_n(ns, plain.n));
    return OE_OK;
}

static enum oe_status decrypt_and_hash(struct oe_noise *ns, struct oe_span sealed, uint8_t *out)
{
    if (ns->has_key) {
        enum oe_status st = oe_cipher_open(&ns->cipher, (struct oe_span){ns->h, sizeof(ns->h)}, sealed.p, sealed.n, out);
        if (st != OE_OK)
            return st;
    } else if (sealed.n != 0) {
        memcpy(out, sealed.p, sealed.n);
    }
    mix_hash(ns, sealed.p, sealed.n);
    return OE_OK;
}

/* ---- HandshakeState (section 5.3) and patterns (section 7) ---------------------------------------------------------------------------- */

enum token { END, E, S, EE, ES, SE, SS };

#define MESSAGES_MAX 3
#define TOKENS_MAX 5

struct oe_noise_def {
    const char *name;
    int pre_responder_s; /* "<- s" before the messages */
    unsigned messages;
    uint8_t tokens[MESSAGES_MAX][TOKENS_MAX];
};

static const struct oe_noise_def defs[] = {
    [OE_NOISE_XX] =
        {
            .name = "Noise_XX_25519_ChaChaPoly_SHA256",
            .messages = 3,
            .tokens = {{E}, {E, EE, S, ES}, {S, SE}},
        },
    [OE_NOISE_IK] =
        {
            .name = "Noise_IK_25519_ChaChaPoly_SHA256",
            .pre_responder_s = 1,
            .messages = 2,
            .tokens = {{E, ES, S, SS}, {E, EE, SE}},
        },
    [OE_NOISE_X] =
        {
            .name = "Noise_X_25519_ChaChaPoly_SHA256",
            .pre_responder_s = 1,
            .messages = 1,
            .tokens = {{E, ES, S, SS}},
        },
};

void oe_noise_init(struct oe_noise *ns, const struct oe_noise_setup *setup)
{
    *ns = (struct oe_noise){.def = &defs[setup->pattern], .initiator = setup->initiator};
    size_t name_n = strlen(ns->def->name);
    if (name_n <= OE_HASH_BYTES)
        memcpy(ns->h, ns->def->name, name_n);
    else
        crypto_hash_sha256(ns->h, (const uint8_t *)ns->def->name, name_n);
    memcpy(ns->ck, ns->h, sizeof(ns->ck));
    mix_hash(ns, setup->prologue.p, setup->prologue.n);
    if (setup->s != NULL) {
        ns->s = *setup->s;
        oe_secret_public(&ns->s, &ns->s_public);
    }
    if (setup->e != NULL)
        ns->e = *setup->e;
    if (setup->rs != NULL)
        ns->rs = *setup->rs;
    if (ns->def->pre_responder_s)
        mix_hash(ns, setup->initiator ? ns->rs.b : ns->s_public.b, OE_KEY_BYTES);
}

void oe_noise_wipe(struct oe_noise *ns)
{
    sodium_memzero(ns, sizeof(*ns));
}

int oe_noise_done(const struct oe_noise *ns)
{
    return ns->next == ns->def->messages;
}

/* Messages alternate, the initiator begins. */
static int our_turn(const struct oe_noise *ns, int writing)
{
    int initiators = ns->next % 2 == 0;
    return !oe_noise_done(ns) && (initiators == ns->initiator) == writing;
}

/* MixKey(DH(key, peer)) for the tokens ee, es, se, ss: the first letter is the initiator's key, the second the responder's. */
static enum oe_status mix_dh(struct oe_noise *ns, enum token token)
{
    int own_e = ns->initiator ? token == EE || token == ES : token == EE || token == SE;
    int peer_e = ns->initiator ? token == EE || token == SE : token == EE || token == ES;
    struct oe_secret dh;

    if (crypto_scalarmult(dh.b, own_e ? ns->e.b : ns->s.b, peer_e ? ns->re.b : ns->rs.b) != 0)
        return OE_CRYPTO;
    mix_key(ns, dh.b);
    oe_secret_wipe(&dh);
    return OE_OK;
}

static enum oe_status write_token(struct oe_noise *ns, enum token token, uint8_t *out, size_t out_max, size_t *n)
{
    switch (token) {
    case E:
        if (out_max - *n < OE_KEY_BYTES)
            return OE_LIMIT;
        oe_secret_public(&ns->e, &ns->e_public);
        memcpy(out + *n, ns->e_public.b, OE_KEY_BYTES);
        *n += OE_KEY_BYTES;
        mix_hash(ns, ns->e_public.b, OE_KEY_BYTES);
        return OE_OK;
    case S: {
        size_t size = sealed_n(ns, OE_KEY_BYTES);
        if (out_max - *n < size)
            return OE_LIMIT;
        enum oe_status st = encrypt_and_hash(ns, (struct oe_span){ns->s_public.b, OE_KEY_BYTES}, out + *n);
        *n += size;
        return st;
    }
    case EE:
    case ES:
    case SE:
    case SS:
        return mix_dh(ns, token);
    case END:
        break;
    }
    return OE_OK;
}

static enum oe_status read_token(struct oe_noise *ns, enum token token, struct oe_span *in)
{
    switch (token) {
    case E:
        if (in->n < OE_KEY_BYTES)
            return OE_CRYPTO;
        memcpy(ns->re.b, in->p, OE_KEY_BYTES);
        in->p += OE_KEY_BYTES;
        in->n -= OE_KEY_BYTES;
        mix_hash(ns, ns->re.b, OE_KEY_BYTES);
        return OE_OK;
    case S: {
        size_t size = sealed_n(ns, OE_KEY_BYTES);
        if (in->n < size)
            return OE_CRYPTO;
        enum oe_status st = decrypt_and_hash(ns, (struct oe_span){in->p, size}, ns->rs.b);
        in->p += size;
        in->n -= size;
        return st;
    }
    case EE:
    case ES:
    case SE:
    case SS:
        return mix_dh(ns, token);
    case END:
        break;
    }
    return OE_OK;
}

enum oe_status oe_noise_write(struct oe_noise *ns, struct oe_span payload, uint8_t *out, size_t out_max, size_t *out_n)
{
    struct oe_noise t = *ns;
    enum oe_status st = OE_LIMIT;
    size_t n = 0;

    if (!our_turn(&t, 1))
        goto out;
    const uint8_t *tokens = t.def->tokens[t.next];
    for (unsigned i = 0; i < TOKENS_MAX && tokens[i] != END; i++)
        if ((st = write_token(&t, (enum token)tokens[i], out, out_max, &n)) != OE_OK)
            goto out;
    st = OE_LIMIT;
    if (out_max - n < sealed_n(&t, payload.n))
        goto out;
    if ((st = encrypt_and_hash(&t, payload, out + n)) != OE_OK)
        goto out;
    *out_n = n + sealed_n(&t, payload.n);
    t.next++;
    *ns = t;
out:
    oe_noise_wipe(&t);
    return st;
}

enum oe_status oe_noise_read(struct oe_noise *ns, struct oe_span message, uint8_t *payload, size_t payload_max, size_t *payload_n)
{
    struct oe_noise t = *ns;
    enum oe_status st = OE_LIMIT;

    if (!our_turn(&t, 0))
        goto out;
    const uint8_t *tokens = t.def->tokens[t.next];
    for (unsigned i = 0; i < TOKENS_MAX && tokens[i] != END; i++)
        if ((st = read_token(&t, (enum token)tokens[i], &message)) != OE_OK)
            goto out;
    st = OE_CRYPTO;
    size_t tag = t.has_key ? OE_TAG_BYTES : 0;
    if (message.n < tag)
        goto out;
    st = OE_LIMIT;
    if (payload_max < message.n - tag)
        goto out;
    if ((st = decrypt_and_hash(&t, message, payload)) != OE_OK)
        goto out;
    *payload_n = message.n - tag;
    t.next++;
    *ns = t;
out:
    oe_noise_wipe(&t);
    return st;
}

void oe_noise_split(const struct oe_noise *ns, struct oe_cipher *send, struct oe_cipher *receive)
{
    struct oe_cipher *first = ns->initiator ? send : receive;
    struct oe_cipher *second = ns->initiator ? receive : send;

    hkdf2(ns->ck, NULL, 0, first->k.b, second->k.b);
    first->n = second->n = 0;
}
