/* Policies and the rules that choose one for an endpoint (DESIGN.md 2). */
#ifndef OE_CORE_POLICY_H
#define OE_CORE_POLICY_H

#include <stddef.h>
#include <stdint.h>

#include "limits.h"
#include "status.h"

enum oe_policy {
    OE_POLICY_OFF,     /* never speak OE-MQTT */
    OE_POLICY_PREFER,  /* probe, and go on plain where the peer has no OE-MQTT */
    OE_POLICY_REQUIRE, /* nothing of MQTT in plain: refuse a peer that has no OE-MQTT */
    OE_POLICY_REFUSE,  /* the configuration is unusable: carry no MQTT at all */
};

/* A known peer with another key, or without OE-MQTT (PROTOCOL.md 9.1). */
enum oe_downgrade { OE_DOWNGRADE_REFUSE, OE_DOWNGRADE_WARN };

enum oe_rule_kind {
    OE_RULE_CONNECT, /* [connect "HOST:PORT"]: connections this process makes */
    OE_RULE_ACCEPT,  /* [accept "PORT"]: connections this process accepts */
};

/* One section of the configuration. host is "" for any host, port is 0 for any port. */
struct oe_rule {
    enum oe_rule_kind kind;
    char host[OE_HOST_CHARS_MAX + 1]; /* lower case, IPv6 without brackets */
    uint16_t port;
    enum oe_policy policy;
    int has_policy;
    enum oe_downgrade downgrade; /* OE_RULE_CONNECT */
    int has_downgrade;
};

/* What the configuration says. Made by oe_conf_init, freed by oe_conf_free (conf.h). */
struct oe_conf {
    enum oe_policy policy;       /* where no rule fits */
    enum oe_downgrade downgrade; /* the same */
    uint32_t handshake_ms;       /* handshake-timeout */
    struct oe_rule *rules;       /* owned */
    size_t rules_n;
    int override; /* set: override_policy beats policy and every rule (launcher's -p) */
    enum oe_policy override_policy;
    unsigned section;   /* conf.c, while reading: the section that oe_conf_set is about */
    unsigned link_seen; /* conf.c, while reading: what [link] has given so far */
};

/* The word for a policy ("off", "prefer", "require", "refuse"); never NULL. */
const char *oe_policy_name(enum oe_policy policy);

/* Reads "off", "prefer" or "require" into *out. OE_INVALID: anything else ("refuse" is not a word of the configuration). */
enum oe_status oe_policy_parse(const char *word, enum oe_policy *out);

/* The one spelling of a host name or address that rules are compared in: lower case, no final dot, addresses without brackets and zone in
 * their shortest form, IPv4 in IPv6 (::ffff:192.0.2.1) as IPv4. OE_INVALID (out is ""): not a name or address of at most
 * OE_HOST_CHARS_MAX letters, digits, '.', '-' and '_'. */
enum oe_status oe_policy_host(const char *text, char out[OE_HOST_CHARS_MAX + 1]);

/* The policy for a connection to host (the name it was asked for by, or NULL), address (text, without brackets, or NULL) and port. Of the
 * rules that fit, the most exact wins: host and port, then host, then port. A rule's host may be name or address; of two rules that are
 * equally exact, the one that has the name wins. */
enum oe_policy oe_policy_connect(const struct oe_conf *conf, const char *host, const char *address, uint16_t port);

/* What becomes of a known peer that is not what it was; chosen like the policy. */
enum oe_downgrade oe_policy_downgrade(const struct oe_conf *conf, const char *host, const char *address, uint16_t port);

/* The policy for a connection accepted on local port. */
enum oe_policy oe_policy_accept(const struct oe_conf *conf, uint16_t port);

#endif
