/* Big buffers for the moment they are needed, kept for reuse: malloc and free at each call showed as page faults. Lock-free. */
#ifndef OE_HOOK_POOL_H
#define OE_HOOK_POOL_H

#include <stddef.h>
#include <stdint.h>

#include "../core/buf.h"
#include "../core/limits.h"

#define OE_POOL_BYTES (132U << 10) /* capacity of a buffer */

/* What one look at the kernel's queue takes at the most, and what one write into it takes from the application: whole records in every version. */
#define OE_READ_BYTES (64U << 10)
#define OE_WRITE_BYTES (8U * (OE_RECORD_PLAIN_BYTES_MAX - 1))

static_assert(OE_POOL_BYTES >= OE_READ_BYTES && OE_POOL_BYTES >= OE_WRITE_BYTES + 8 * OE_RECORD_OVERHEAD_BYTES_MAX,
              "a batch fits a buffer");

/* Keeps enough buffers for a call inside a signal handler inside a call: malloc may not be entered there. */
void oe_pool_fill(void);

/* Gives b, which is empty and owns nothing, a buffer of the pool. OE_NOMEM. */
enum oe_status oe_pool_get(struct oe_buf *b);

/* Takes the memory of b back, whatever it is by now; b is empty afterwards. */
void oe_pool_put(struct oe_buf *b);

#endif
