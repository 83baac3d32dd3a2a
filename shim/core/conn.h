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
    OE_PHASE_I_PREFACE_IK,
    OE_PHASE_I_PREFACE_XX,
    OE_PHASE_R_CONNECT,
    OE_PHASE_R_FIRST,
    OE_PHASE_R_ANSWER,
    OE_PHASE_R_MESSAGE3,
    OE_PHASE_R_RETRY,
    OE_PHASE_R_PREFACE,
    OE_PHASE_RECORDS,
    OE_PHASE_PLAIN,
    OE_PHASE_REFUSED,
    OE_PHASE_BROKEN,
};

/* What an operator is told about a connection. */
enum oe_security {
    OE_SEC_UNDECIDED,
    OE_SEC_PLAIN,
    OE_SEC_UNAUTHENTICATED,
    OE_SEC_TOFU,   /* the peer's key is the one of an earlier contact */
    OE_SEC_PINNED, /* a person confirmed the peer's key */
    OE_SEC_REFUSED,
};
const char *oe_security_name(enum oe_security security); /* "" for a number that is none: the names may be counted */

/* Why it is so; oe_reason_text has the words. */
enum oe_reason {
    OE_REASON_NONE,
    OE_REASON_HANDSHAKE_DONE,
    OE_REASON_KEY_KNOWN,
    OE_REASON_KEY_PINNED,
    OE_REASON_CLIENT_LISTED,
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
    /* refusals, and with downgrade = warn the first two as warnings */
    OE_REASON_KEY_CHANGED,
    OE_REASON_OE_MQTT_GONE,
    OE_REASON_REQUIRED,
    OE_REASON_TRUST_UNDECIDED,
    OE_REASON_CONNECT_LARGE,
    OE_REASON_PREFACE_TIMEOUT,
    OE_REASON_PREFACE_ENDED,
    OE_REASON_NOT_ADMITTED_THERE,
    OE_REASON_NOT_ADMITTED,
    OE_REASON_WILL_IN_PLAIN,
    OE_REASON_BAD_PREFACE,
    /* ways to use a connection that cannot be followed */
    OE_REASON_STDIO,
    OE_REASON_KERNEL_COPY,
    OE_REASON_INHERITED,
};
const char *oe_reason_text(enum oe_reason reason);

/* Why a broker should not be probed again (2.5); set once, for the caller to remember. */
enum oe_remember { OE_REMEMBER_NOTHING, OE_REMEMBER_CLOSED, OE_REMEMBER_TIMEOUT };

/* A key that is known for the peer of an initiator (section 9.1). */
struct oe_known {
    struct oe_public key;
    int pinned;
};

/* What is known about the peer of an initiator. */
struct oe_trust {
    const struct oe_known *known; /* the one to try first is first */
    size_t n;
    uint8_t epoch[OE_EPOCH_BYTES]; /* of the peer with the first key; zeros: none is known */
    enum oe_downgrade downgrade;
    int undecided; /* it cannot be told whether the peer is known: refuse */
};

/* Whether a client may connect (section 9.2). */
enum oe_admission { OE_ADMIT_NOT, OE_ADMIT_ANY, OE_ADMIT_LISTED };

/* What a responder asks its caller. Called during a push, at most once each for a connection. */
struct oe_conn_calls {
    enum oe_admission (*admit)(const struct oe_public *client, enum oe_policy policy);
    void (*epoch)(uint8_t out[OE_EPOCH_BYTES]);
    int (*fresh)(const uint8_t epoch[OE_EPOCH_BYTES],
                 const struct oe_public *ephemeral); /* section 8.3; true once for each ephemeral key */
};

/* Where the state of handshakes, with its keys, lives: zeroed memory, wiped before it is given back. */
struct oe_conn_memory {
    void *(*get)(size_t n);
    void (*put)(void *p);
};

struct oe_conn_setup {
    enum oe_role role;
    enum oe_policy policy;
    uint32_t handshake_ms;               /* how long an initiator waits for the answer to its probe */
    const struct oe_secret *identity;    /* outlives the connection */
    struct oe_secret ephemeral[2];       /* fresh random bytes, each used for one handshake; a responder needs the first only */
    const struct oe_conn_calls *calls;   /* of a responder; outlives the connection */
    const struct oe_conn_memory *memory; /* NULL: the heap; outlives the connection */
};

struct oe_conn {
    enum oe_role role;
    enum oe_phase phase;
    enum oe_policy policy;
    enum oe_mqtt version; /* of the application; OE_MQTT_NONE until it is known */
    enum oe_mqtt wire;    /* of the records */
    enum oe_security security;
    enum oe_reason reason;
    enum oe_reason no_probe;       /* initiator: set by the caller before CONNACK to go plain for this reason; OE_REASON_NONE: probe */
    enum oe_remember remember;     /* set at the moment it is found out */
    enum oe_reason failed[2];      /* by enum oe_dir: why this direction of OE_PHASE_RECORDS can carry no more; OE_REASON_NONE: it can */
    struct oe_public peer;         /* the peer's long-term key, valid if peer_seen */
    int peer_seen;                 /* it has proved to have that key */
    int downgraded;                /* downgrade = warn, and the reason is one to warn of */
    uint8_t epoch[OE_EPOCH_BYTES]; /* initiator: the peer's, to be kept with its key, valid if epoch_seen */
    int epoch_seen;
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

/* Tells an initiator, before the first byte of its application, what is known about its peer. OE_NOMEM. *trust may be freed afterwards. */
enum oe_status oe_conn_trust(struct oe_conn *c, const struct oe_trust *trust);

/* Wipes everything and frees what it owned. */
void oe_conn_wipe(struct oe_conn *c);

/*
 * Pushes bytes of one direction. now_ms is a monotonic time. OE_OK: see flow. OE_INVALID: the policy refuses to carry MQTT in plain
 * (nothing was forwarded). Any other status: the connection is broken for good, oe_conn_why says why, and what flow already has may be used;
 * in OE_PHASE_RECORDS the phase stays and it is the caller who stops the other direction.
 */
enum oe_status oe_conn_push(struct oe_conn *c, enum oe_dir dir, struct oe_span in, uint64_t now_ms, struct oe_flow *flow);

/* OE_PHASE_REFUSED: the caller sends what is in flow for the wire, shuts the connection down, and tells its application the end of the stream; what an
 * initiator's application still gets comes with the next push or end of the peer's direction. */

/* The peer's stream has ended (in order or by an error). Releases what was held; OE_CRYPTO: it ended inside a record or a handshake. */
enum oe_status oe_conn_peer_end(struct oe_conn *c, struct oe_flow *flow);

/* Whether an initiator waits for the answer to its probe or preface: its caller waits for more bytes, at most until *deadline_ms. */
int oe_conn_waiting(const struct oe_conn *c, uint64_t *deadline_ms);

/* The deadline has come: releases what was held (OE_OK) or breaks a half-done handshake (OE_CRYPTO). */
enum oe_status oe_conn_expire(struct oe_conn *c, struct oe_flow *flow);

/* Why a push or end of a direction failed. */
enum oe_reason oe_conn_why(const struct oe_conn *c, enum oe_dir dir);

/* Wipes the keys and nothing else: touches no allocator. oe_conn_wipe is still to come. */
void oe_conn_forget(struct oe_conn *c);

/* Whether nothing of either direction is kept and nothing will be looked at again: the caller can let go of the connection. */
int oe_conn_transparent(const struct oe_conn *c);

/* How many bytes may come out of a peer's push of n bytes beyond n: what is kept from before. (A push that refuses gives a CONNACK instead.) */
size_t oe_conn_kept(const struct oe_conn *c);

/* A responder's application waits to write: breaks the connection (OE_LIMIT) if message 3 has not come for OE_RESPONDER_HELD_MS_MAX. */
enum oe_status oe_conn_overdue(struct oe_conn *c, uint64_t now_ms);

/* Another process uses the connection: if it is not known to be MQTT yet the result is 1, and it is plain from here on (where MQTT must not
 * pass in plain it stays under watch). */
int oe_conn_abandon(struct oe_conn *c);

/* The application will use the connection in a way that cannot be followed: it is plain from now on, for this reason. 0: it must not be, or is more than
 * plain already. */
int oe_conn_leave(struct oe_conn *c, enum oe_reason reason);

/* Whether an initiator has sent a preface and not been answered: writers wait, too. */
int oe_conn_prefaced(const struct oe_conn *c);

/* How much of its application's output a responder holds. */
size_t oe_conn_held(const struct oe_conn *c);

#endif
