/* Reads a configuration file with libinih into struct oe_conf. */
#ifndef OE_OS_CONFFILE_H
#define OE_OS_CONFFILE_H

#include <stddef.h>

#include "../core/conf.h"

/* Reads path into *conf (oe_conf_init is done here; free it in any case). On any error *why (why_n bytes, always terminated) is one line
 * "FILE:LINE: what is wrong; what is allowed" or "FILE: why it cannot be read", OE_INVALID or OE_SYSTEM or OE_NOMEM is returned, and *conf
 * must not be used. A line too long for libinih, a NUL byte and an unknown key are errors: nothing is skipped in silence. */
enum oe_status oe_conffile_read(const char *path, struct oe_conf *conf, char *why, size_t why_n);

/* The same from memory, for tests and the fuzzer; name stands for the file in messages. */
enum oe_status oe_conffile_parse(const char *name, const char *text, size_t n, struct oe_conf *conf, char *why, size_t why_n);

#endif
