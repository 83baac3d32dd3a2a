/* Files of the state directory that many processes share: read whole without a lock, written by replacing them whole under a lock file. For the file NAME
 * (at most OE_STATEFILE_NAME_MAX characters) these are NAME.lock, which stays, and NAME.new, which only whoever has the lock writes. */
#ifndef OE_OS_STATEFILE_H
#define OE_OS_STATEFILE_H

#include <stddef.h>
#include <sys/stat.h>

#include "../core/status.h"

#define OE_STATEFILE_NAME_MAX 24U

/* The whole file into *text (n bytes, not terminated; the caller frees it), and what fstat says of it into *about (may be NULL). OE_SYSTEM: errno says why;
 * ENOENT: there is none, ENOLINK: a symbolic link that leads nowhere. OE_INVALID: no regular file. OE_LIMIT: more than max bytes. OE_NOMEM. */
enum oe_status oe_statefile_read(int dir, const char *name, size_t max, char **text, size_t *n, struct stat *about);

/* The lock, for oe_statefile_unlock. -1: errno says why; EWOULDBLOCK: others had it for wait_ms. */
int oe_statefile_lock(int dir, const char *name, unsigned wait_ms);
void oe_statefile_unlock(int lock); /* keeps errno, ignores -1 */

/* Replaces the file by these n bytes, mode 0600; the caller has the lock. durable: down to the disk, for what must survive a loss of power. OE_SYSTEM: the
 * old one is as it was. */
enum oe_status oe_statefile_replace(int dir, const char *name, const void *text, size_t n, int durable);

#endif
