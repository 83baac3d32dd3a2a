/* What conn.c, initiator.c and responder.c share. Nobody else includes this. */
#ifndef OE_CORE_CONN_PRIVATE_H
#define OE_CORE_CONN_PRIVATE_H

#include "conn.h"
#include "frame.h"

/* First bytes of a stream */
#define OE_FIRST_CONNECT (OE_TYPE_CONNECT << 4)
#define OE_FIRST_TLS 0x16

/* What only a handshake needs; freed when it is over. */
struct oe_handshake {
    struct oe_noise noise;
    struct oe_framer app;     /* watches what the application writes */
    struct oe_framer connect; /* responder: watches the CONNECT that comes in */
    struct oe_buf kept;       /* the front of the peer's packet that is not decided on */
    size_t want;              /* bytes of kept at which to decide again */
    size_t left;              /* bytes of the peer's packet that pass without being looked at */
    int dropping;             /* ... that are withheld instead */
    int app_spoke;            /* initiator: bytes of the application went out since the probe */
    int connack_sent;         /* responder */
    struct oe_buf held;       /* initiator: for the application; responder: for the wire */
    uint32_t handshake_ms;
    uint64_t deadline_ms;
    struct oe_secret ephemeral;
    const struct oe_secret *identity;
    uint8_t answer[OE_HANDSHAKE_PACKET_BYTES_MAX + OE_UNSUBACK_BYTES_MAX]; /* responder: message 2 and UNSUBACK */
    size_t answer_n;                                                       /* initiator: the UNSUBACK that is expected */
};

/* What becomes of the peer's packet whose front is kept. */
enum oe_verdict {
    OE_VERDICT_MORE, /* decide again at hs->want bytes */
    OE_VERDICT_PASS, /* it goes on, unchanged */
    OE_VERDICT_DROP, /* it is withheld, what is still to come of it too */
    OE_VERDICT_GONE, /* the function disposed of what was kept itself */
};

/* Decides on hs->kept. In OE_PHASE_I_* and OE_PHASE_R_* respectively. */
enum oe_status oe_initiator_decide(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict);
enum oe_status oe_responder_decide(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict);

/* Called at the front of a packet of the application (its first bytes are in hs->app) and when it is complete. */
void oe_initiator_app_front(struct oe_conn *c);
void oe_initiator_app_packet(struct oe_conn *c);
void oe_responder_app_packet(struct oe_conn *c);

/* Responder: sends its answer if the application's output is at a packet boundary. to: where bytes for the wire go. */
enum oe_status oe_responder_answer(struct oe_conn *c, uint64_t now_ms, struct oe_sink *to);

/* Initiator: releases what was held to flow->forward and waits for the late answer. */
enum oe_status oe_initiator_give_up(struct oe_conn *c, enum oe_reason reason, struct oe_flow *flow);

/* The connection is plain from here on. What is kept of the peer's stream is still to be released by oe_conn_release. */
void oe_conn_go_plain(struct oe_conn *c, enum oe_reason reason);
void oe_conn_go_records(struct oe_conn *c);
enum oe_status oe_conn_go_broken(struct oe_conn *c, enum oe_reason reason, enum oe_status st);

/* Seals in into records at to. Opens the records in in, of which the first may have begun and the last may end elsewhere, to forward. */
enum oe_status oe_conn_seal(struct oe_conn *c, struct oe_span in, struct oe_sink *to);
enum oe_status oe_conn_open(struct oe_conn *c, struct oe_span in, struct oe_sink *forward);

/* One direction of the records is at its end; the other is under somebody else's lock. Returns st. */
enum oe_status oe_conn_fail(struct oe_conn *c, enum oe_dir dir, enum oe_reason reason, enum oe_status st);

/* Moves all of b to the end of a sink. */
enum oe_status oe_conn_move(struct oe_buf *b, struct oe_sink *to);

/* A sink that is nothing but a buffer. */
static inline struct oe_sink oe_conn_sink(struct oe_buf *b)
{
    return (struct oe_sink){.rest = b};
}

#endif
