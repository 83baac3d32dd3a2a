/*
 * Which process may go on with a connection after fork. fork copies nonce counters; two processes must never encrypt with one. Every change of a
 * direction's state claims the next number of a sequence in memory that parent and child share: after fork both know the same number, and
 * the compare-and-exchange lets exactly one of them have the next.
 */
#ifndef OE_HOOK_SHARE_H
#define OE_HOOK_SHARE_H

#include <stdatomic.h>
#include <stdint.h>

struct oe_share {
    _Atomic uint64_t seq[2];  /* by enum oe_dir */
    _Atomic uint32_t holders; /* processes that have a copy of the connection */
    _Atomic int32_t child;    /* the process id of the one child that has, 0: none or several */
    _Atomic uint32_t mqtt;    /* some process knows that it is MQTT */
    uint32_t next;            /* index + 1: in the list of free ones, or of those whose child may live */
};

/* This process' view of one connection's share. */
struct oe_claim {
    struct oe_share *share;
    uint64_t seq[2]; /* by enum oe_dir, each under that direction's lock */
};

/* Takes a share. -1: out of memory. The caller holds the lock of the table of connections, for give too. */
int oe_share_take(struct oe_claim *claim);
void oe_share_give(struct oe_claim *claim);

/* Before fork: one more process will hold it. In the child, for each: this is the process. */
void oe_share_fork(struct oe_claim *claim);
void oe_share_forked(struct oe_claim *claim, int32_t pid);

/* In the child of a fork: new connections take shares of their own. */
void oe_share_child(void);

/* Whether another process may hold the same connection. */
int oe_share_others(const struct oe_claim *claim);

/* Claims the next change of a direction. 0: another process went on with it, this one must not. */
static inline int oe_share_next(struct oe_claim *claim, int dir)
{
    uint64_t expected = claim->seq[dir];
    if (!atomic_compare_exchange_strong_explicit(&claim->share->seq[dir], &expected, expected + 1, memory_order_acq_rel,
                                                 memory_order_relaxed))
        return 0;
    claim->seq[dir]++;
    return 1;
}

#endif
