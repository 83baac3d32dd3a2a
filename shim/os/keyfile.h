/* The endpoint's long-term identity in the state directory (PROTOCOL.md section 5). */
#ifndef OE_OS_KEYFILE_H
#define OE_OS_KEYFILE_H

#include <stddef.h>

#include "../core/secret.h"
#include "../core/status.h"

/* Loads state_dir/identity. OE_SYSTEM with errno ENOENT: there is none. OE_INVALID: wrong format, or the file may be read by others than its
 * owner. *why: one line naming the file and what to do. */
enum oe_status oe_keyfile_load(const char *state_dir, struct oe_secret *secret, char *why, size_t why_n);

/* Loads the identity, making state_dir (0700, parents too) and the identity (0600, O_EXCL, complete before it gets its name, fsynced) if there
 * is none. Of several processes that race exactly one wins and all load the winner's key. Nothing half-written is left on a full disk. */
enum oe_status oe_keyfile_load_or_create(const char *state_dir, struct oe_secret *secret, char *why, size_t why_n);

/* Makes a new identity in the same way. With replace it takes the place of the one that is there, which is gone then; without, OE_INVALID if there is
 * anything of that name. */
enum oe_status oe_keyfile_make(const char *state_dir, int replace, struct oe_secret *secret, char *why, size_t why_n);

#endif
