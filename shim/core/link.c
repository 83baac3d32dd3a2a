#include "link.h"

#include <sodium.h>

static const char prologue[] = "OE-MQTT/1 link";
static const char probe_filter[] = "oe-mqtt/1/";
static const char handshake_topic[] = "oe-mqtt/1";
static const char record_topic[] = "$";

#define FIRST_PUBLISH (OE_TYPE_PUBLISH << 4) /* QoS 0, no DUP, no RETAIN */
#define DUP_AND_RETAIN 0x09
#define FIRST_UNSUBSCRIBE (OE_TYPE_UNSUBSCRIBE << 4 | 2)
#define FIRST_UNSUBACK (OE_TYPE_UNSUBACK << 4)
#define CODE_NO_SUBSCRIPTION_EXISTED 0x11

/* Appends to out at *n. */
static void put(uint8_t *out, size_t *n, const void *p, size_t p_n)
{
    memcpy(out + *n, p, p_n);
    *n += p_n;
}

static void put16(uint8_t *out, size_t *n, uint16_t v)
{
    oe_bytes_put16(out + *n, v);
    *n += 2;
}

/* MQTT 5's empty property list; nothing before. */
static void put_properties(uint8_t *out, size_t *n, enum oe_mqtt version)
{
    if (version == OE_MQTT_5)
        out[(*n)++] = 0;
}

static size_t properties_n(enum oe_mqtt version)
{
    return version == OE_MQTT_5 ? 1 : 0;
}

/* ---- handshake packets ---------------------------------------------------------------------------------------------------------------- */

void oe_link_noise(struct oe_noise *ns, int initiator, const struct oe_secret *s, const struct oe_secret *e)
{
    oe_noise_init(ns, &(struct oe_noise_setup){
                          .pattern = OE_NOISE_XX,
                          .initiator = initiator,
                          .prologue = {(const uint8_t *)prologue, sizeof(prologue) - 1},
                          .s = s,
                          .e = e,
                      });
}

/* Everything of the probe but the 43 characters at its end; returns its bytes. */
static size_t probe_front(enum oe_mqtt version, uint8_t *out)
{
    size_t filter_n = sizeof(probe_filter) - 1 + OE_PROBE_KEY_CHARS;
    size_t n = 0;

    out[n++] = FIRST_UNSUBSCRIBE;
    out[n++] = (uint8_t)(2 + properties_n(version) + 2 + filter_n);
    put16(out, &n, OE_PROBE_ID);
    put_properties(out, &n, version);
    put16(out, &n, (uint16_t)filter_n);
    put(out, &n, probe_filter, sizeof(probe_filter) - 1);
    return n;
}

size_t oe_link_probe_bytes(enum oe_mqtt version)
{
    return 2 + 2 + properties_n(version) + 2 + sizeof(probe_filter) - 1 + OE_PROBE_KEY_CHARS;
}

enum oe_status oe_link_write_probe(struct oe_noise *ns, enum oe_mqtt version, uint8_t *out, size_t *out_n)
{
    uint8_t message1[OE_MESSAGE1_BYTES];
    char text[OE_PROBE_KEY_CHARS + 1];
    size_t message_n;

    enum oe_status st = oe_noise_write(ns, (struct oe_span){NULL, 0}, message1, sizeof(message1), &message_n);
    if (st != OE_OK)
        return st;
    *out_n = probe_front(version, out);
    sodium_bin2base64(text, sizeof(text), message1, sizeof(message1), sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    put(out, out_n, text, OE_PROBE_KEY_CHARS);
    return OE_OK;
}

enum oe_status oe_link_read_probe(const uint8_t *p, size_t n, enum oe_mqtt version, uint8_t message1[OE_MESSAGE1_BYTES])
{
    uint8_t front[OE_PROBE_BYTES_MAX];
    size_t front_n = probe_front(version, front);
    char again[OE_PROBE_KEY_CHARS + 1];
    size_t key_n;

    if (memcmp(p, front, n < front_n ? n : front_n) != 0)
        return OE_MALFORMED;
    if (n < front_n + OE_PROBE_KEY_CHARS)
        return OE_MORE;
    if (sodium_base642bin(message1, OE_MESSAGE1_BYTES, (const char *)p + front_n, OE_PROBE_KEY_CHARS, NULL, &key_n, NULL,
                          sodium_base64_VARIANT_URLSAFE_NO_PADDING) != 0 ||
        key_n != OE_MESSAGE1_BYTES)
        return OE_MALFORMED;
    /* libsodium 1.0.18 reads some characters with the eighth bit set as if it were not */
    sodium_bin2base64(again, sizeof(again), message1, OE_MESSAGE1_BYTES, sodium_base64_VARIANT_URLSAFE_NO_PADDING);
    return memcmp(again, p + front_n, OE_PROBE_KEY_CHARS) == 0 ? OE_OK : OE_MALFORMED;
}

size_t oe_link_write_unsuback(enum oe_mqtt version, uint8_t *out)
{
    size_t n = 0;

    out[n++] = FIRST_UNSUBACK;
    out[n++] = version == OE_MQTT_5 ? 4 : 2;
    put16(out, &n, OE_PROBE_ID);
    put_properties(out, &n, version);
    if (version == OE_MQTT_5)
        out[n++] = CODE_NO_SUBSCRIPTION_EXISTED;
    return n;
}

size_t oe_link_write_handshake(enum oe_mqtt version, const uint8_t *message, size_t n, uint8_t *out)
{
    size_t topic_n = sizeof(handshake_topic) - 1;
    size_t at = 0;

    out[at++] = FIRST_PUBLISH;
    out[at++] = (uint8_t)(2 + topic_n + properties_n(version) + n);
    put16(out, &at, (uint16_t)topic_n);
    put(out, &at, handshake_topic, topic_n);
    put_properties(out, &at, version);
    if (n != 0)
        put(out, &at, message, n);
    return at;
}

/* Whether the body of a PUBLISH, of which n bytes of total_n are here, begins with topic. UNKNOWN, yes (kind), or OTHER. */
static enum oe_link_kind topic_kind(const uint8_t *body, size_t n, size_t total_n, const char *topic, size_t topic_n,
                                    enum oe_link_kind kind)
{
    uint8_t front[2 + sizeof(handshake_topic)];
    oe_bytes_put16(front, (uint16_t)topic_n);
    memcpy(front + 2, topic, topic_n);
    if (total_n < 2 + topic_n || memcmp(body, front, n < 2 + topic_n ? n : 2 + topic_n) != 0)
        return OE_LINK_OTHER;
    return n < 2 + topic_n ? OE_LINK_UNKNOWN : kind;
}

enum oe_link_kind oe_link_kind(const uint8_t *p, size_t n, struct oe_header *header)
{
    if (n == 0)
        return OE_LINK_UNKNOWN;
    enum oe_status st = oe_frame_header(p, n, header);
    if (st == OE_MALFORMED)
        return OE_LINK_MALFORMED;
    if ((p[0] & ~DUP_AND_RETAIN) != FIRST_PUBLISH && p[0] != FIRST_UNSUBACK)
        return st == OE_MORE ? OE_LINK_UNKNOWN : OE_LINK_OTHER;
    if (st == OE_MORE)
        return OE_LINK_UNKNOWN;
    const uint8_t *body = p + header->header_n;
    size_t have = n - header->header_n;
    size_t total = header->total_n - header->header_n;
    if (p[0] == FIRST_UNSUBACK) {
        if (total < 2)
            return OE_LINK_OTHER;
        if (have < 2)
            return OE_LINK_UNKNOWN;
        return oe_bytes_get16(body) == OE_PROBE_ID ? OE_LINK_UNSUBACK : OE_LINK_OTHER;
    }
    enum oe_link_kind kind = topic_kind(body, have, total, handshake_topic, sizeof(handshake_topic) - 1, OE_LINK_HANDSHAKE);
    if (kind == OE_LINK_OTHER)
        kind = topic_kind(body, have, total, record_topic, sizeof(record_topic) - 1, OE_LINK_RECORD);
    return kind;
}

enum oe_status oe_link_read_handshake(struct oe_span packet, enum oe_mqtt version, struct oe_span *message)
{
    uint8_t expected[OE_HANDSHAKE_PACKET_BYTES_MAX];
    size_t front_n = oe_link_write_handshake(version, NULL, 0, expected);

    if (packet.n < front_n || packet.n > sizeof(expected) || packet.p[0] != expected[0] || packet.p[1] != packet.n - 2 ||
        memcmp(packet.p + 2, expected + 2, front_n - 2) != 0)
        return OE_MALFORMED;
    *message = (struct oe_span){packet.p + front_n, packet.n - front_n};
    return OE_OK;
}

/* ---- records -------------------------------------------------------------------------------------------------------------------------- */

/* Bytes between the remaining length and the ciphertext. */
static size_t record_front_n(enum oe_mqtt version)
{
    return 2 + sizeof(record_topic) - 1 + properties_n(version);
}

size_t oe_record_plain_max(enum oe_mqtt version)
{
    return OE_RECORD_REMAINING_MAX - record_front_n(version) - OE_TAG_BYTES;
}

size_t oe_record_bytes(enum oe_mqtt version, size_t n)
{
    size_t remaining = record_front_n(version) + n + OE_TAG_BYTES;
    return 1 + (remaining > 127 ? 2 : 1) + remaining;
}

/* Each direction changes its key before every rekey_records-th record. */
static void rekey_when_due(struct oe_link *link)
{
    if (link->cipher.n != 0 && link->cipher.n % link->rekey_records == 0)
        oe_cipher_rekey(&link->cipher);
}

enum oe_status oe_record_seal(struct oe_link *link, enum oe_mqtt version, const uint8_t *plain, size_t n, uint8_t *out)
{
    size_t at = 0;

    out[at++] = FIRST_PUBLISH;
    at += oe_varint_put(out + at, (uint32_t)(record_front_n(version) + n + OE_TAG_BYTES));
    put16(out, &at, (uint16_t)(sizeof(record_topic) - 1));
    put(out, &at, record_topic, sizeof(record_topic) - 1);
    put_properties(out, &at, version);
    rekey_when_due(link);
    enum oe_status st = oe_cipher_seal(&link->cipher, (struct oe_span){NULL, 0}, plain, n, out + at);
    if (st == OE_OK)
        link->plain_bytes += n;
    return st;
}

enum oe_status oe_record_header(const uint8_t *p, size_t n, enum oe_mqtt version, size_t *header_n, size_t *sealed_n)
{
    static const uint8_t front[] = {0, sizeof(record_topic) - 1, '$', 0};
    uint32_t remaining;
    size_t used;

    if (n == 0)
        return OE_MORE;
    if (p[0] != FIRST_PUBLISH)
        return OE_MALFORMED;
    enum oe_status st = oe_varint_get(p + 1, n - 1 < 2 ? n - 1 : 2, &remaining, &used);
    if (st == OE_MORE && n - 1 >= 2)
        return OE_MALFORMED; /* a third byte of remaining length */
    if (st != OE_OK)
        return st;
    size_t front_n = record_front_n(version);
    if (remaining < front_n + 1 + OE_TAG_BYTES)
        return OE_MALFORMED;
    size_t have = n - 1 - used;
    if (memcmp(p + 1 + used, front, have < front_n ? have : front_n) != 0)
        return OE_MALFORMED;
    if (have < front_n)
        return OE_MORE;
    *header_n = 1 + used + front_n;
    *sealed_n = remaining - front_n;
    return OE_OK;
}

enum oe_status oe_record_open(struct oe_link *link, const uint8_t *sealed, size_t sealed_n, uint8_t *out)
{
    rekey_when_due(link);
    enum oe_status st = oe_cipher_open(&link->cipher, (struct oe_span){NULL, 0}, sealed, sealed_n, out);
    if (st == OE_OK)
        link->plain_bytes += sealed_n - OE_TAG_BYTES;
    return st;
}
