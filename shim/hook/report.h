/* What is said about a connection, gathered under its locks and said outside them. */
#ifndef OE_HOOK_REPORT_H
#define OE_HOOK_REPORT_H

#include "sock.h"

struct oe_report {
    struct oe_sock *sock; /* of state: the caller of oe_report_emit has a reference */
    int state;            /* the connection's state was decided */
    int broken;           /* it broke */
    int refused;          /* the configuration refuses it */
    enum oe_role role;
    enum oe_mqtt version;
    enum oe_security security;
    enum oe_reason reason;
    enum oe_reason broken_reason;
    enum oe_remember remember;
    int peer_seen;
    int downgraded;
    int epoch_seen;
    uint8_t epoch[OE_EPOCH_BYTES];
    const struct oe_trusted *trusted; /* of the socket */
    struct oe_address address;
    struct oe_public peer;
    const char *host; /* of the socket */
};

/* Both locks are held, or the phase is OE_PHASE_RECORDS and one is: takes what has not been reported yet. */
void oe_report_take(struct oe_sock *s, struct oe_report *r);

/* A direction broke for reason. */
void oe_report_broken(struct oe_sock *s, enum oe_reason reason, struct oe_report *r);

/* The same for a connection that came here broken, at its first use. */
void oe_report_inherited(struct oe_sock *s, struct oe_report *r);

/* Without locks: logs, and remembers what is to be remembered. errno is kept. */
void oe_report_emit(const struct oe_report *r);

#endif
