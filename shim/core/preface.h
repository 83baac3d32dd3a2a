/* The preface on the wire: CONNECT, AUTH and CONNACK of PROTOCOL.md 8.1, and what their Noise messages carry. No state machine here: that is conn's. */
#ifndef OE_CORE_PREFACE_H
#define OE_CORE_PREFACE_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "frame.h"
#include "limits.h"
#include "noise.h"
#include "packet.h"
#include "status.h"

/* The first byte of Authentication Data. */
enum oe_preface_id { OE_PREFACE_XX = 1, OE_PREFACE_IK = 2, OE_PREFACE_RETRY = 3 };

/* Bytes of message 1 of IK around the CONNECT it carries. */
#define OE_PREFACE_MESSAGE1_BYTES (OE_KEY_BYTES + OE_KEY_BYTES + OE_TAG_BYTES + OE_PREFACE_HELLO_BYTES + OE_TAG_BYTES)
#define OE_PREFACE_MESSAGE_BYTES_MAX (OE_PREFACE_MESSAGE1_BYTES + OE_PREFACE_CONNECT_BYTES_MAX)

/* Payload of message 1 of IK in front of the CONNECT: level, epoch. Of message 2: early, epoch. */
#define OE_PREFACE_HELLO_BYTES (1U + OE_EPOCH_BYTES)

/* A handshake with the prologue of the preface. rs is NULL for XX and for responders. */
void oe_preface_noise(struct oe_noise *ns, enum oe_noise_pattern pattern, int initiator, const struct oe_secret *s,
                      const struct oe_secret *e, const struct oe_public *rs);

/* Appends a packet around a message: type OE_TYPE_CONNECT is the preface, OE_TYPE_AUTH what follows it. OE_NOMEM. */
enum oe_status oe_preface_put(struct oe_sink *to, enum oe_type type, enum oe_preface_id id, struct oe_span message);

/*
 * Are the n bytes at p the front of such a packet? OE_OK: a whole one, n bytes long: *id, *message (inside p). OE_MORE: it may become one; ask again at *want
 * bytes. OE_MALFORMED: it is something else. OE_INVALID: it is one, but what it holds is not allowed.
 */
enum oe_status oe_preface_read(enum oe_type type, const uint8_t *p, size_t n, enum oe_preface_id *id, struct oe_span *message,
                               size_t *want);

/* How a responder refuses a preface. OE_OK: the n bytes at p are that packet; OE_MORE: its front; OE_MALFORMED. */
enum oe_status oe_preface_put_refusal(struct oe_sink *to);
enum oe_status oe_preface_read_refusal(const uint8_t *p, size_t n);

/* A CONNACK in any version that refuses. */
#define OE_REFUSE_UNAVAILABLE 0 /* server unavailable: what an initiator tells its application */
#define OE_REFUSE_NOT_AUTHORISED 1
enum oe_status oe_preface_put_connack(struct oe_sink *to, enum oe_mqtt version, int why);

#endif
