/* The configuration's grammar: sections, keys and values into struct oe_conf. Reading files is os/conffile's work. */
#ifndef OE_CORE_CONF_H
#define OE_CORE_CONF_H

#include <stddef.h>

#include "policy.h"
#include "status.h"

/* Built-in defaults: policy prefer, handshake-timeout 2000 ms, no rules. */
void oe_conf_init(struct oe_conf *conf);
void oe_conf_free(struct oe_conf *conf);

/* A new section header, the text between the brackets. OE_INVALID: not a section, wrong endpoint, or given twice; why (why_n bytes,
 * always terminated) says what is wrong and what is allowed. OE_NOMEM, OE_LIMIT. */
enum oe_status oe_conf_section(struct oe_conf *conf, const char *header, char *why, size_t why_n);

/* One "name = value" of the section last given (before any: OE_INVALID). Errors as above; a key given twice in one section is an error. */
enum oe_status oe_conf_set(struct oe_conf *conf, const char *name, const char *value, char *why, size_t why_n);

#endif
