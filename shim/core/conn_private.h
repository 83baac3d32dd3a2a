/* What conn.c, initiator.c and responder.c share. Nobody else includes this. */
#ifndef OE_CORE_CONN_PRIVATE_H
#define OE_CORE_CONN_PRIVATE_H

#include "conn.h"
#include "frame.h"
#include "preface.h"

/* First bytes of a stream */
#define OE_FIRST_CONNECT (OE_TYPE_CONNECT << 4)
#define OE_FIRST_TLS 0x16

/* What only a handshake needs; freed when it is over. */
struct oe_handshake {
    struct oe_noise noise;
    struct oe_framer app;   /* watches what the application writes */
    struct oe_framer front; /* responder: watches a CONNECT that cannot be a preface any more */
    int watching;
    struct oe_buf kept; /* the front of the peer's packet that is not decided on */
    size_t want;        /* bytes of kept at which to decide again */
    size_t left;        /* bytes of the peer's packet that pass without being looked at */
    int dropping;       /* ... that are withheld instead */
    int app_spoke;      /* initiator: bytes of the application went out since the probe */
    int connack_sent;   /* responder */
    struct oe_buf held; /* initiator: for the application; responder: for the wire */
    uint32_t handshake_ms;
    uint64_t deadline_ms;
    struct oe_secret ephemeral[2];
    const struct oe_secret *identity;
    const struct oe_conn_calls *calls;
    const struct oe_conn_memory *memory;
    struct oe_known *known; /* initiator: keys of the peer; owned */
    size_t known_n;
    uint8_t epoch[OE_EPOCH_BYTES]; /* initiator: what is known of the peer's */
    enum oe_downgrade downgrade;
    int undecided;
    struct oe_buf connect;                                                 /* initiator: the application's CONNECT, kept for the preface */
    int connect_sent;                                                      /* ... and message 1 of IK carries it */
    int peer_spoke;                                                        /* initiator: before the application did */
    int preface_seen;                                                      /* responder: how to refuse */
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
void oe_conn_go_records(struct oe_conn *c, enum oe_security security, enum oe_reason reason);
void oe_conn_go_refused(struct oe_conn *c, enum oe_reason reason);
enum oe_status oe_conn_go_broken(struct oe_conn *c, enum oe_reason reason, enum oe_status st);

/* Whether MQTT must not pass in plain: section 8, and OE_POLICY_REFUSE. */
int oe_conn_strict(const struct oe_conn *c);

/* Whether a CONNECT may be handed on before the handshake is through (8.3): one whole packet of that version, without a Will. */
int oe_conn_may_be_early(struct oe_span connect, enum oe_mqtt version);

/* Initiator: whether the handshake comes before CONNECT; keeps bytes of the application that may be one; the peer's answers. */
int oe_initiator_wants_preface(const struct oe_conn *c);
enum oe_status oe_initiator_keep_connect(struct oe_conn *c, struct oe_span in, uint64_t now_ms, struct oe_flow *flow, size_t *taken);
enum oe_status oe_initiator_decide_preface(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict);
void oe_initiator_preface_failed(struct oe_conn *c);

/* Initiator: the state that the peer's key, known to be its own, gives. OE_SEC_REFUSED: another key than those that are known. */
enum oe_security oe_initiator_judge(const struct oe_conn *c, const struct oe_public *key, enum oe_reason *reason);

/* Responder: watches bytes pass that may be a CONNECT, up to its level, where keeping them is not needed. */
enum oe_status oe_responder_watch(struct oe_conn *c, struct oe_span in, struct oe_flow *flow, size_t *taken);

/* Responder: a whole preface; in R_RETRY and R_PREFACE what follows it. Whether the client, which has proved
 * its key, may connect, and the state that gives; if not it is refused. */
enum oe_status oe_responder_preface(struct oe_conn *c, enum oe_preface_id id, struct oe_span message, uint64_t now_ms,
                                    struct oe_flow *flow);
enum oe_status oe_responder_decide_preface(struct oe_conn *c, uint64_t now_ms, struct oe_flow *flow, enum oe_verdict *verdict);
enum oe_security oe_responder_judge(struct oe_conn *c, enum oe_reason *reason);

/* Seals in into records at to. Opens the records in in, of which the first may have begun and the last may end elsewhere, to forward. */
enum oe_status oe_conn_seal(struct oe_conn *c, struct oe_span in, struct oe_sink *to);
enum oe_status oe_conn_open(struct oe_conn *c, struct oe_span in, struct oe_sink *forward);

/* One direction of the records is at its end; the other is under somebody else's lock. Returns st. */
enum oe_status oe_conn_fail(struct oe_conn *c, enum oe_dir dir, enum oe_reason reason, enum oe_status st);

/* The bytes of a push, direction by direction. */
enum oe_status oe_conn_push_app(struct oe_conn *c, struct oe_span in, uint64_t now_ms, struct oe_flow *flow);
enum oe_status oe_conn_push_peer(struct oe_conn *c, struct oe_span in, uint64_t now_ms, struct oe_flow *flow);

/* The end of a handshake: what a side is told when the connection has just been refused; what is still kept goes on or away; the same where it was
 * refused. */
enum oe_status oe_conn_refusal(struct oe_conn *c, struct oe_sink *wire);
enum oe_status oe_conn_release(struct oe_conn *c, struct oe_flow *flow);
enum oe_status oe_conn_farewell(struct oe_conn *c, struct oe_flow *flow);

/* Moves all of b to the end of a sink. */
enum oe_status oe_conn_move(struct oe_buf *b, struct oe_sink *to);

/* A sink that is nothing but a buffer. */
static inline struct oe_sink oe_conn_sink(struct oe_buf *b)
{
    return (struct oe_sink){.rest = b};
}

#endif
