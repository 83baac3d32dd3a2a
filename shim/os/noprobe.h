/* Memory of brokers that must not be probed (PROTOCOL.md 2.5): the file "no_probe" in the state directory, one broker a line:
 * ENDPOINT SPACE UNTIL (seconds since 1970) SPACE REASON ("closed" or "time-out"). Replaced atomically under a lock file; a state directory that
 * cannot be written is no error (the caller keeps a memory of its own for the process). */
#ifndef OE_OS_NOPROBE_H
#define OE_OS_NOPROBE_H

#include <stdint.h>

#include "../core/status.h"

enum oe_noprobe_reason { OE_NOPROBE_NONE, OE_NOPROBE_CLOSED, OE_NOPROBE_TIMEOUT };

/* Whether endpoint ("host:port" or "[v6]:port") is remembered at time now (seconds since 1970). A line that cannot be parsed is ignored: this
 * memory only saves time, it decides nothing about security. */
enum oe_noprobe_reason oe_noprobe_lookup(const char *state_dir, const char *endpoint, int64_t now);

/* Remembers endpoint for OE_NO_PROBE_SECONDS from now on; drops lines that have ended, and the oldest beyond 1,024. Waits at most 100 ms for other
 * processes. OE_SYSTEM, OE_NOMEM; OE_INVALID: endpoint is empty, too long or has a blank, or reason is none. */
enum oe_status oe_noprobe_remember(const char *state_dir, const char *endpoint, enum oe_noprobe_reason reason, int64_t now);

#endif
