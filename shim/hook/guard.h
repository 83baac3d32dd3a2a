/*
 * Memory for keys: between pages that nobody may touch, and kept out of core dumps. Three things live here: the identity (read-only once it is loaded, and locked),
 * the sockets with the keys of their records, and the state of handshakes. Whoever is done with a key wipes it; nothing here is unmapped.
 */
#ifndef OE_HOOK_GUARD_H
#define OE_HOOK_GUARD_H

#include <stddef.h>

/* n bytes of zeros, rounded up to pages; NULL: none. */
void *oe_guard_map(size_t n);

/* What oe_guard_map gave: may only be read from here on, and stays in memory if the limits allow it. */
void oe_guard_seal(void *p, size_t n);

/* A block of zeros for a handshake, n at most OE_GUARD_BLOCK_BYTES; NULL: none. It is wiped by whoever gives it back. */
#define OE_GUARD_BLOCK_BYTES 1536U
void *oe_guard_get(size_t n);
void oe_guard_put(void *p);

void oe_guard_fork_prepare(void);
void oe_guard_fork_done(void);

#endif
