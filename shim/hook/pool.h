/* Big buffers for the moment they are needed, kept for reuse: malloc and free at each call showed as page faults. Lock-free. */
#ifndef OE_HOOK_POOL_H
#define OE_HOOK_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "../core/buf.h"
#include "../core/limits.h"

/* What one read of the kernel's queue, or one write into it, takes at the most. */
#define OE_POOL_BYTES (68U << 10) /* capacity of a buffer */
#define OE_BATCH_BYTES (64U << 10)

static_assert(OE_POOL_BYTES >= OE_BATCH_BYTES + 5 * OE_RECORD_OVERHEAD_BYTES_MAX, "a batch in records fits a buffer");

/* Keeps enough buffers for a call inside a signal handler inside a call: malloc may not be entered there. */
void oe_pool_fill(void);

/* Gives b, which is empty and owns nothing, a buffer of the pool. OE_NOMEM. */
enum oe_status oe_pool_get(struct oe_buf *b);

/* Takes the memory of b back, whatever it is by now; b is empty afterwards. */
void oe_pool_put(struct oe_buf *b);

#endif
