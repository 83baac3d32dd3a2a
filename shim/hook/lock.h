/*
 * Locks that fork takes, so that its child finds whole what they guard: signals wait while one is held. A handler may fork (POSIX allowed it until
 * 2024, and programs do), and would wait for ever for a lock that its own thread holds.
 */
#ifndef OE_HOOK_LOCK_H
#define OE_HOOK_LOCK_H

#include <pthread.h>
#include <stdint.h>

/* From here to oe_lock_signals(what it gave) signals wait, but for those that a fault of the program's makes at once: they cannot. */
uint64_t oe_lock_no_signals(void);
void oe_lock_signals(uint64_t before);

/* What oe_lock gave is for oe_unlock. Not in fork's handlers, which hold several and let signals wait once for all. */
uint64_t oe_lock(pthread_mutex_t *m);
void oe_unlock(pthread_mutex_t *m, uint64_t before);

#endif
