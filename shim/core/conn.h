/*
 * One connection, two directions: PROTOCOL.md sections 2 and 3, whole. Bytes of one direction are pushed in; out come bytes to forward in that
 * direction and bytes to answer with. However the input is chopped, the concatenated outputs of the peer's direction are the same.
 *
 * No system call, clock, lock or randomness of its own. In OE_PHASE_RECORDS the two directions share nothing that changes, so that each may be
 * pushed under a lock of its own; in every other phase the caller keeps both directions from running at once.
 */
#ifndef OE_CORE_CONN_H
#define OE_CORE_CONN_H

#include <stddef.h>
#include <stdint.h>

#include "buf.h"
#include "link.h"
#include "packet.h"
#include "policy.h"
#include "secret.h"
#include "status.h"

enum oe_role { OE_INITIATOR, OE_RESPONDER };

enum oe_dir {
    OE_FROM_APP,  /* forwarded to the wire */
    OE_FROM_PEER, /* forwarded to the application */
};

/* The states of PROTOCOL.md section 3. */
enum oe_phase {
    OE_PHASE_I_CONNECT,
    OE_PHASE_I_CONNACK,
    OE_PHASE_I_PROBE,
    OE_PHASE_I_UNSUBACK,
    OE_PHASE_I_LATE,
    OE_PHASE_R_CONNECT,
    OE_PHASE_R_FIRST,
    OE_PHASE_R_ANSWER,
    OE_PHASE_R_MESSAGE3,
    OE_PHASE_RECORDS,
    OE_PHASE_PLAIN,
    OE_PHASE_BROKEN,
};

/* What an operator is told about a connection. */
enum oe_security { OE_SEC_UNDECIDED, OE_SEC_PLAIN, OE_SEC_UNAUTHENTICATED };
const char *oe_security_name(enum oe_security security); /* "" for a number that is none: the names may be counted */

/* Why it is so; oe_reason_text has the words. */
enum oe_reason {
    OE_REASON_NONE,
    OE_REASON_HANDSHAKE_DONE,
    OE_REASON_NOT_MQTT,
    OE_REASON_TLS,
    OE_REASON_POLICY_OFF,
    OE_REASON_POLICY_REFUSE,
    OE_REASON_SHARED,
    OE_REASON_PEER_FIRST,
    OE_REASON_MALFORMED,
    OE_REASON_PIPELINED,
    OE_REASON_CONNACK_REFUSED,
    OE_REASON_CONNACK_LARGE,
    OE_REASON_PACKET_SIZE,
    OE_REASON_REMEMBERED_CLOSED,
    OE_REASON_REMEMBERED_TIMEOUT,
    OE_REASON_NO_OE_MQTT,
    OE_REASON_TIMEOUT,
    OE_REASON_PROBE_CLOSED,
    OE_REASON_HELD_TOO_MUCH,
    OE_REASON_NOT_PROBED,
    OE_REASON_INITIATOR_GAVE_UP,
    OE_REASON_BAD_MESSAGE3,
    OE_REASON_BAD_UNSUBACK,
    OE_REASON_HANDSHAKE_ENDED,
    OE_REASON_NOT_A_RECORD,
    OE_REASON_BAD_TAG,
    OE_REASON_TRUNCATED,
    OE_REASON_COUNTER,
    OE_REASON_MEMORY,
};
const char *oe_reason_text(enum oe_reason reason);

/* Why a broker should not be probed again (2.5); set once, for the caller to remember. */
enum oe_remember { OE_REMEMBER_NOTHING, OE_REMEMBER_CLOSED, OE_REMEMBER_TIMEOUT };

struct oe_conn_setup {
    enum oe_role role;
    enum oe_policy policy;
    uint32_t handshake_ms;            /* how long an initiator waits for the answer to its probe */
    const struct oe_secret *identity; /* outlives the connection */
    struct oe_secret ephemeral;       /* fresh random bytes, used for one handshake */
};

struct oe_conn {
    enum oe_role role;
    enum oe_phase phase;
    enum oe_policy policy;
    enum oe_mqtt version; /* OE_MQTT_NONE until CONNECT's version was seen */
    enum oe_security security;
    enum oe_reason reason;
    enum oe_reason no_probe;   /* initiator: set by the caller before CONNACK to go plain for this reason; OE_REASON_NONE: probe */
    enum oe_remember remember; /* set at the moment it is found out */
    enum oe_reason failed[2];  /* by enum oe_dir: why this direction of OE_PHASE_RECORDS can carry no more; OE_REASON_NONE: it can */
    struct oe_public peer;     /* the peer's long-term key, valid in OE_PHASE_RECORDS */
    struct oe_link send;
    struct oe_link receive;
    struct oe_buf part;      /* the front of a record whose end has not come */
    struct oe_handshake *hs; /* NULL when the handshake is over */
};

/* What a push gives. forward is where bytes go on; answer takes bytes for the wire and may be NULL for OE_FROM_APP. */
struct oe_flow {
    struct oe_sink *forward;
    struct oe_buf *answer;
    size_t taken; /* out: bytes of the input that were taken; less than all only for OE_FROM_APP, while a handshake is open */
};

/* OE_NOMEM. *setup may be wiped afterwards. */
enum oe_status oe_conn_init(struct oe_conn *c, const struct oe_conn_setup *setup);

/* Wipes everything and frees what it owned. */
void oe_conn_wipe(struct oe_conn *c);

/*
 * Pushes bytes of one direction. now_ms is a monotonic time. OE_OK: see flow. OE_INVALID: the policy refuses to carry MQTT in plain
 * (nothing was forwarded). Any other status: the connection is broken for good, oe_conn_why says why, and what flow already has may be used;
 * in OE_PHASE_RECORDS the phase stays and it is the caller who stops the other direction.
 */
enum oe_status oe_conn_push(struct oe_conn *c, enum oe_dir dir, struct oe_span in, uint64_t now_ms, struct oe_flow *flow);

/* The peer's stream has ended (in order or by an error). Releases what was held; OE_CRYPTO: it ended inside a record or a handshake. */
enum oe_status oe_conn_peer_end(struct oe_conn *c, struct oe_flow *flow);

/* Whether an initiator holds a CONNACK and waits for the answer to its probe: its caller waits for more bytes, at most until *deadline_ms. */
int oe_conn_waiting(const struct oe_conn *c, uint64_t *deadline_ms);

/* The deadline has come: releases what was held (OE_OK) or breaks a half-done handshake (OE_CRYPTO). */
enum oe_status oe_conn_expire(struct oe_conn *c, struct oe_flow *flow);

/* Why a push or end of a direction failed. */
enum oe_reason oe_conn_why(const struct oe_conn *c, enum oe_dir dir);

/* Wipes the keys and nothing else: touches no allocator. oe_conn_wipe is still to come. */
void oe_conn_forget(struct oe_conn *c);

/* Whether nothing of either direction is kept and nothing will be looked at again: the caller can let go of the connection. */
int oe_conn_transparent(const struct oe_conn *c);

/* How many bytes may come out of a peer's push of n bytes beyond n: what is kept from before. */
size_t oe_conn_kept(const struct oe_conn *c);

/* A responder's application waits to write: breaks the connection (OE_LIMIT) if message 3 has not come for OE_RESPONDER_HELD_MS_MAX. */
enum oe_status oe_conn_overdue(struct oe_conn *c, uint64_t now_ms);

/* Another process uses the connection: if it is not known to be MQTT yet the result is 1, and it is plain from here on (with OE_POLICY_REFUSE
 * it stays under watch). */
int oe_conn_abandon(struct oe_conn *c);

/* Whether a responder holds its application's output (R_MESSAGE3), and how much of it. */
size_t oe_conn_held(const struct oe_conn *c);

#endif
