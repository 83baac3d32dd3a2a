/* The link scope on the wire: the packets of the handshake (PROTOCOL.md 2.1) and records (4). No state machine here: that is conn's. */
#ifndef OE_CORE_LINK_H
#define OE_CORE_LINK_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "limits.h"
#include "noise.h"
#include "packet.h"
#include "status.h"

/* ---- handshake packets ---------------------------------------------------------------------------------------------------------------- */

#define OE_PROBE_BYTES_MAX 60U
#define OE_UNSUBACK_BYTES_MAX 6U

/* An XX handshake with the prologue of the link scope. */
void oe_link_noise(struct oe_noise *ns, int initiator, const struct oe_secret *s, const struct oe_secret *e);

/* The probe with message 1 of ns. out holds OE_PROBE_BYTES_MAX. */
enum oe_status oe_link_write_probe(struct oe_noise *ns, enum oe_mqtt version, uint8_t *out, size_t *out_n);

/* Bytes of the probe in a version; what a CONNACK's Maximum Packet Size must allow. */
size_t oe_link_probe_bytes(enum oe_mqtt version);

/* Are the n bytes at p the front of a probe? OE_OK: a whole one, message1 is filled; OE_MORE: they may become one; OE_MALFORMED: no. */
enum oe_status oe_link_read_probe(const uint8_t *p, size_t n, enum oe_mqtt version, uint8_t message1[OE_MESSAGE1_BYTES]);

/* The answer to the probe: UNSUBACK. out holds OE_UNSUBACK_BYTES_MAX; returns its bytes. */
size_t oe_link_write_unsuback(enum oe_mqtt version, uint8_t *out);

/* A handshake packet around message (n bytes, 0: abort). out holds OE_HANDSHAKE_PACKET_BYTES_MAX; returns its bytes. */
size_t oe_link_write_handshake(enum oe_mqtt version, const uint8_t *message, size_t n, uint8_t *out);

/* What the front of a packet is, for those who wait for a handshake packet. */
enum oe_link_kind {
    OE_LINK_UNKNOWN,   /* more bytes are needed to tell */
    OE_LINK_HANDSHAKE, /* QoS 0 PUBLISH, whatever DUP and RETAIN, on "oe-mqtt/1": header is filled */
    OE_LINK_RECORD,    /* the same on "$" */
    OE_LINK_UNSUBACK,  /* UNSUBACK with the probe's identifier: header is filled */
    OE_LINK_OTHER,
    OE_LINK_MALFORMED, /* a fixed header that is none */
};
enum oe_link_kind oe_link_kind(const uint8_t *p, size_t n, struct oe_header *header);

/* The message inside a whole handshake packet. OE_MALFORMED: not of the one encoding that is allowed. */
enum oe_status oe_link_read_handshake(struct oe_span packet, enum oe_mqtt version, struct oe_span *message);

/* ---- records -------------------------------------------------------------------------------------------------------------------------- */

/* One direction of a link. */
struct oe_link {
    struct oe_cipher cipher;
    uint64_t rekey_records; /* OE_REKEY_RECORDS but in tests */
    uint64_t plain_bytes;   /* what the records have carried */
};

/* Plaintext bytes that fit a record. */
size_t oe_record_plain_max(enum oe_mqtt version);

/* Bytes of the record that carries n bytes (1 to oe_record_plain_max). */
size_t oe_record_bytes(enum oe_mqtt version, size_t n);

/* Seals n bytes (1 to oe_record_plain_max) at plain into a record at out, which holds oe_record_bytes(). OE_LIMIT: the counter is at its end. */
enum oe_status oe_record_seal(struct oe_link *link, enum oe_mqtt version, const uint8_t *plain, size_t n, uint8_t *out);

/* The front of a record: OE_OK: *header_n bytes, then *sealed_n bytes of ciphertext and tag; OE_MORE; OE_MALFORMED: not a record. */
enum oe_status oe_record_header(const uint8_t *p, size_t n, enum oe_mqtt version, size_t *header_n, size_t *sealed_n);

/* Opens sealed_n bytes to sealed_n - 16 at out. OE_CRYPTO, OE_LIMIT: the link is broken. */
enum oe_status oe_record_open(struct oe_link *link, const uint8_t *sealed, size_t sealed_n, uint8_t *out);

#endif
