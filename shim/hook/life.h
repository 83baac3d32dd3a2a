/* The library's life in somebody else's process: start, configuration, identity, fork. */
#ifndef OE_HOOK_LIFE_H
#define OE_HOOK_LIFE_H

#include <stdatomic.h>
#include <sys/types.h>

#include "../core/secret.h"
#include "../os/env.h"
#include "sys.h"

struct oe_life {
    _Atomic int ready; /* the constructor is through: sockets may be tracked */
    _Atomic pid_t pid; /* of the process that this memory belongs to */
    struct oe_env env;
    char why[1024];             /* why the configuration cannot be used; "" */
    struct oe_secret *identity; /* in guarded memory, read-only; valid after oe_life_crypto */
};
extern struct oe_life oe_life;

/* libsodium and the identity, from the first connection on. Not 0: no cryptography, nothing can be tracked. */
int oe_life_crypto(void);

/* Around calls into shim/os that have cancellation points, where locks or descriptors are held. */
int oe_life_no_cancel(void);
void oe_life_cancel(int before);

/* Whether this is a vfork child (or another process that shares or copied this memory without fork's handlers): it runs our hooks in its parent's
 * memory and must not change what belongs to the parent. */
static inline int oe_life_foreign(void)
{
    return OE_SYS3(SYS_getpid, 0, 0, 0) != atomic_load_explicit(&oe_life.pid, memory_order_relaxed);
}

#endif
