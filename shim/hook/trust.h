/* Trust in this process: who is known (PROTOCOL.md 9), from the files of the state directory and, where those can no longer be reached (a daemon that dropped its
 * privileges or lives in a chroot), from what they said at the start and what this process learned. Freshness of message 1 of IK (8.3). */
#ifndef OE_HOOK_TRUST_H
#define OE_HOOK_TRUST_H

#include "../os/peerfile.h"
#include "sock.h"

/* What the messages about a refusal need, kept with the socket. */
struct oe_trusted {
    char endpoint[OE_ENDPOINT_CHARS_MAX]; /* the name the peer is known by */
    int is_known;
    struct oe_peer first; /* the line that was tried first */
    char why[];           /* why it cannot be told; "": it can */
};

/* In the constructor: what the files say, while they can be read. */
void oe_trust_start(void);

/* Both locks held, before the first byte of an initiator's application: tells the connection what is known about its peer, sets s->trusted. OE_NOMEM. */
enum oe_status oe_trust_ask(struct oe_sock *s);

/* For an initiator that cannot be tracked: whether its peer is known, or it cannot be told, and that must not be plain. Only address and hosts of
 * s are looked at. */
int oe_trust_may_know(const struct oe_sock *s);

/* After a handshake that an initiator made: keeps the key and the epoch. No lock held. OE_CRYPTO: somebody has found another key there meanwhile. */
enum oe_status oe_trust_contact(const struct oe_trusted *trusted, const struct oe_public *key, const uint8_t *epoch);

/* What conn's responders ask. */
extern const struct oe_conn_calls oe_trust_calls;

/* What an operator needs beyond the reason of a refusal or a warning, in one line; "": nothing. */
void oe_trust_explain(const struct oe_trusted *trusted, enum oe_reason reason, const struct oe_public *peer, char *out, size_t n);

/* fork: the child's copy of the keys that were seen is a copy, its epoch must be another. */
void oe_trust_fork_prepare(void);
void oe_trust_fork_parent(void);
void oe_trust_fork_child(void);

#endif
