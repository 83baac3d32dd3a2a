/* One tracked socket: a connection of the core, the bytes on their way in and out, and the locks. */
#ifndef OE_HOOK_SOCK_H
#define OE_HOOK_SOCK_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdint.h>

#define HASH_NONFATAL_OOM 1
#include <uthash.h>

#include "../core/conn.h"
#include "share.h"

/* How many names of one address are kept. */
#define OE_NAMES_EACH 4U

struct oe_stats_slot;

/* The peer's address. */
struct oe_address {
    uint8_t ip[16];
    uint16_t port;
    uint8_t v6;
};

struct oe_sock {
    _Atomic uint32_t refs; /* descriptors and calls under way; 0: dead. Memory of sockets is never unmapped, so refs may always be read */
    _Atomic int broken;    /* reads and writes fail with ECONNRESET */
    struct oe_sock *next;  /* in the list of dead or of free sockets */
    uint64_t cookie;       /* SO_COOKIE, or what track.c takes where there is none: names the kernel's socket */
    UT_hash_handle hh;     /* by cookie */
    int unlisted;          /* under the table's lock: not in it any more, its socket is another connection's */
    int unshared;          /* the same, of the last fork: it had ended before */
    struct oe_conn conn;
    struct oe_claim claim;
    struct oe_address address;
    char *hosts[OE_NAMES_EACH]; /* the names the address was looked up by, the latest first; owned */
    unsigned hosts_n;
    struct oe_trusted *trusted;           /* what was known of the peer when it was asked; owned */
    _Atomic(struct oe_stats_slot *) slot; /* where it is shown (show.h), or NULL */
    _Atomic uint8_t shown;                /* 0: not; 1: undecided; 2: decided */
    _Atomic int notsent;                  /* tag.h: TCP_NOTSENT_LOWAT as the application has it, while the tag stands there */
    _Atomic int lowat;                    /* tag.h: SO_RCVLOWAT as the application has it; 0: the kernel knows */
    uint8_t tag;                          /* enum oe_tag, on the socket */
    _Atomic uint8_t released;             /* it is plain, and no descriptor that was used since is in the table */
    _Atomic uint8_t inherited;            /* encrypted by another program: broken here, and not told yet */

    /* Lock order: rx, then tx. In OE_PHASE_RECORDS each guards its direction of conn; in every other phase both are held. None is held across a
     * call that blocks or is a cancellation point. */
    pthread_mutex_t rx;
    pthread_mutex_t tx;

    /* under rx */
    struct oe_buf owed; /* plaintext that the application has not had yet */
    size_t raw;         /* bytes at the front of the kernel's queue that conn has already seen */
    int rx_error;       /* an errno to report on the next call */
    uint8_t large;      /* the application reads large pieces: how many small reads ago, counted down from LARGE_FOR */

    /* under tx */
    struct oe_buf pending; /* bytes for the wire that the kernel has not taken yet */
    uint8_t debt;          /* bytes taken from the application and reported as not taken: 0 or 1 */
    int tx_error;
    uint8_t first_record; /* initiator: message 3 may be unacknowledged, the next bytes must not wait for that */

    /* under both */
    uint8_t reported;
    uint8_t memory_asked;
    uint8_t trust_asked;
    uint8_t shut; /* refused, and shut down */
};

#endif
