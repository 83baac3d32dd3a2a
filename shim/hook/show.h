/*
 * What this process shows of its connections to `oe-mqttctl status`: files in shared memory (os/stats.h), mapped when the first is needed. On the
 * way of the data it costs two relaxed stores into the connection's slot, under the lock of the direction that is held anyway.
 *
 * A slot has holders: the socket object, and once the connection is plain and let go, each of its descriptors (a mark in fdtab.h) until it is closed.
 * All but oe_show_listen may be called in a signal handler.
 */
#ifndef OE_HOOK_SHOW_H
#define OE_HOOK_SHOW_H

#include "../os/stats.h"
#include "sock.h"

/* The process listens: room for a server's connections is made now, while it may still be root. */
void oe_show_listen(void);

/* Shows s, or what is new of its state. One lock is held at least. */
void oe_show_state(struct oe_sock *s);

/* After bytes of a direction, under its lock. */
static inline void oe_show_moved(struct oe_sock *s, enum oe_dir dir)
{
    int decided = s->reported;

    if (atomic_load_explicit(&s->shown, memory_order_relaxed) <= decided)
        oe_show_state(s);
    struct oe_stats_slot *slot = atomic_load_explicit(&s->slot, memory_order_acquire);
    if (slot == NULL)
        return;
    const struct oe_link *link = dir == OE_FROM_APP ? &s->conn.send : &s->conn.receive;
    atomic_store_explicit(&slot->records[dir], link->cipher.n, memory_order_relaxed);
    atomic_store_explicit(&slot->plain_bytes[dir], link->plain_bytes, memory_order_relaxed);
}

/* Counted for the process. */
void oe_show_refused(void);
void oe_show_broken(void);

/* One holder more (0: the slot is free by now), one less. */
int oe_show_hold(struct oe_stats_slot *slot);
void oe_show_let_go(struct oe_stats_slot *slot);

/* In the child of a fork: what the parent shows is none of its business. */
void oe_show_fork_child(void);

#endif
