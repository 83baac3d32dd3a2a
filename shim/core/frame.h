/* Incremental framing of one direction of an MQTT stream: where packets begin and end, however the bytes come. */
#ifndef OE_CORE_FRAME_H
#define OE_CORE_FRAME_H

#include <stddef.h>
#include <stdint.h>

#include "bytes.h"
#include "status.h"
#include "varint.h"

/* MQTT control packet types, upper four bits of the first byte [MQTT-2.1.2] */
enum oe_type {
    OE_TYPE_CONNECT = 1,
    OE_TYPE_CONNACK = 2,
    OE_TYPE_PUBLISH = 3,
    OE_TYPE_UNSUBSCRIBE = 10,
    OE_TYPE_UNSUBACK = 11,
    OE_TYPE_AUTH = 15,
};

struct oe_header {
    uint8_t first;   /* type and flags */
    size_t header_n; /* bytes of the fixed header, 2 to 5 */
    size_t total_n;  /* bytes of the whole packet */
};

static inline unsigned oe_header_type(uint8_t first)
{
    return first >> 4;
}

/* The fixed header at the front of n bytes. OE_OK, OE_MORE, OE_MALFORMED (remaining length of more than four bytes or not minimal). */
enum oe_status oe_frame_header(const uint8_t *p, size_t n, struct oe_header *out);

/*
 * A framer hands out one packet after the other in pieces. Zero-initialised it stands at a packet boundary. It copies the first bytes of a
 * packet, as many as its user wants to see, and only counts the rest.
 */
#define OE_FRAME_KEEP_MAX 16U

struct oe_framer {
    uint8_t kept[OE_FRAME_KEEP_MAX]; /* the first bytes of the packet */
    uint8_t kept_n;
    size_t left; /* bytes of the packet behind its fixed header that have not come; valid when header.header_n is not 0 */
    struct oe_header header;
};

/* Whether the next byte is the first of a packet. */
static inline int oe_framer_boundary(const struct oe_framer *f)
{
    return f->kept_n == 0;
}

/* Takes bytes of one packet from in: *taken is how many (at least 1 if in.n is not 0). OE_OK: the packet ends with them, f->kept and f->header
 * describe it until the next call; OE_MORE: it goes on; OE_MALFORMED: the fixed header is not MQTT, the framer must not be used again. */
enum oe_status oe_framer_push(struct oe_framer *f, struct oe_span in, size_t *taken);

/* Forgets the packet that oe_framer_push completed. */
void oe_framer_next(struct oe_framer *f);

#endif
