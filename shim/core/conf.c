#include "conf.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define QUOTED_CHARS_MAX 60U

enum section { SECTION_NONE, SECTION_LINK, SECTION_CONNECT, SECTION_ACCEPT };
enum link_seen { SEEN_SECTION = 1, SEEN_POLICY = 2, SEEN_HANDSHAKE = 4, SEEN_DOWNGRADE = 8 };

/* ---- messages ---- */

/* The strings one after the other, cut at why_n, always terminated. The list ends with NULL. */
static void __attribute__((sentinel)) say(char *why, size_t why_n, ...)
{
    va_list list;
    const char *text;
    size_t used = 0;

    if (why_n == 0)
        return;
    va_start(list, why_n);
    while ((text = va_arg(list, const char *)) != NULL)
        for (; *text != '\0' && used < why_n - 1; text++)
            why[used++] = *text;
    va_end(list);
    why[used] = '\0';
}

struct quoted {
    char text[QUOTED_CHARS_MAX + 6]; /* two quotes, "..." and NUL */
};

/* What somebody wrote, fit to be shown: in quotes, cut, and without anything a terminal would obey. */
static const char *quote(const char *text, struct quoted *q)
{
    size_t n = 0;

    q->text[n++] = '"';
    for (; *text != '\0' && n <= QUOTED_CHARS_MAX; text++)
        q->text[n++] = *text >= ' ' && *text < 0x7F ? *text : '?';
    if (*text != '\0') {
        memcpy(q->text + n, "...", 3);
        n += 3;
    }
    q->text[n++] = '"';
    q->text[n] = '\0';
    return q->text;
}

/* ---- values ---- */

/* Digits only, at most max, into *out; *end is what follows them. */
static enum oe_status number(const char *text, uint32_t max, uint32_t *out, const char **end)
{
    uint32_t value = 0;
    const char *p = text;

    for (; *p >= '0' && *p <= '9'; p++) {
        value = value * 10 + (uint32_t)(*p - '0');
        if (value > max)
            return OE_INVALID;
    }
    *out = value;
    *end = p;
    return p == text ? OE_INVALID : OE_OK;
}

static enum oe_status port_number(const char *text, uint16_t *port)
{
    uint32_t value;
    const char *end;

    if (number(text, UINT16_MAX, &value, &end) != OE_OK || *end != '\0' || value == 0)
        return OE_INVALID;
    *port = (uint16_t)value;
    return OE_OK;
}

static enum oe_status set_policy(enum oe_policy *policy, const char *value, char *why, size_t why_n)
{
    struct quoted q;

    if (oe_policy_parse(value, policy) == OE_OK)
        return OE_OK;
    say(why, why_n, "policy ", quote(value, &q), " is not known; allowed: off, prefer, require", (char *)NULL);
    return OE_INVALID;
}

static enum oe_status set_downgrade(enum oe_downgrade *downgrade, const char *value, char *why, size_t why_n)
{
    struct quoted q;

    if (strcmp(value, "refuse") == 0 || strcmp(value, "warn") == 0) {
        *downgrade = value[0] == 'w' ? OE_DOWNGRADE_WARN : OE_DOWNGRADE_REFUSE;
        return OE_OK;
    }
    say(why, why_n, "downgrade ", quote(value, &q), " is not known; allowed: refuse, warn", (char *)NULL);
    return OE_INVALID;
}

static enum oe_status set_link_policy(struct oe_conf *conf, const char *value, char *why, size_t why_n)
{
    return set_policy(&conf->policy, value, why, why_n);
}

static enum oe_status set_link_downgrade(struct oe_conf *conf, const char *value, char *why, size_t why_n)
{
    return set_downgrade(&conf->downgrade, value, why, why_n);
}

static enum oe_status set_handshake(struct oe_conf *conf, const char *value, char *why, size_t why_n)
{
    static_assert(OE_HANDSHAKE_MS_MIN == 100 && OE_HANDSHAKE_MS_MAX == 60000, "the message below names them");
    struct quoted q;
    uint32_t amount;
    const char *unit;

    if (number(value, OE_HANDSHAKE_MS_MAX, &amount, &unit) == OE_OK) {
        uint32_t ms = strcmp(unit, "ms") == 0 ? amount : strcmp(unit, "s") == 0 && amount <= OE_HANDSHAKE_MS_MAX / 1000 ? amount * 1000 : 0;
        if (ms >= OE_HANDSHAKE_MS_MIN && ms <= OE_HANDSHAKE_MS_MAX) {
            conf->handshake_ms = ms;
            return OE_OK;
        }
    }
    say(why, why_n, "handshake-timeout ", quote(value, &q), " is wrong; allowed: 100ms to 60s, a whole number with the unit ms or s",
        (char *)NULL);
    return OE_INVALID;
}

static enum oe_status set_rule_policy(struct oe_conf *conf, const char *value, char *why, size_t why_n)
{
    return set_policy(&conf->rules[conf->rules_n - 1].policy, value, why, why_n);
}

static enum oe_status set_rule_downgrade(struct oe_conf *conf, const char *value, char *why, size_t why_n)
{
    return set_downgrade(&conf->rules[conf->rules_n - 1].downgrade, value, why, why_n);
}

/* ---- sections ---- */

static const char *const connect_allowed = "; allowed: [connect \"HOST:PORT\"], [connect \"HOST\"], [connect \":PORT\"], "
                                           "[connect \"[IPV6]:PORT\"] with PORT 1 to 65535";

/* HOST, HOST:PORT, :PORT, [IPV6], [IPV6]:PORT */
static enum oe_status connect_argument(const char *text, struct oe_rule *rule, char *why, size_t why_n)
{
    const char *problem = NULL;
    char host[OE_HOST_CHARS_MAX + 1] = "";
    int bracket = text[0] == '[';
    const char *start = text + bracket;
    const char *end = start + strcspn(start, bracket ? "]" : ":");
    const char *rest = end + (bracket && *end == ']');
    size_t n = (size_t)(end - start);
    struct quoted q;

    if (n >= sizeof(host)) {
        problem = " has a host of more than 255 characters";
        goto out;
    }
    memcpy(host, start, n);
    if (*text == '\0')
        problem = " names neither host nor port";
    else if (bracket && *end != ']')
        problem = " has no closing ']' behind its address";
    else if (!bracket && *end == ':' && strchr(end + 1, ':') != NULL)
        problem = " has more than one ':' (an IPv6 address goes in brackets)";
    else if (bracket && (strchr(host, ':') == NULL || strchr(host, '%') != NULL || oe_policy_host(host, rule->host) != OE_OK))
        problem = " has something else than an IPv6 address (without zone) in its brackets";
    else if (!bracket && n > 0 && oe_policy_host(host, rule->host) != OE_OK)
        problem = " has a host that is neither a name (letters, digits, '.', '-', '_') nor an address";
    else if (*rest != '\0' && *rest != ':')
        problem = " has something else than ':' and a port behind its address";
    else if (*rest == ':' && port_number(rest + 1, &rule->port) != OE_OK)
        problem = " has a port that is not a number from 1 to 65535";
out:
    if (problem == NULL)
        return OE_OK;
    say(why, why_n, "connect ", quote(text, &q), problem, connect_allowed, (char *)NULL);
    return OE_INVALID;
}

static enum oe_status accept_argument(const char *text, struct oe_rule *rule, char *why, size_t why_n)
{
    struct quoted q;

    if (port_number(text, &rule->port) == OE_OK)
        return OE_OK;
    say(why, why_n, "accept ", quote(text, &q), " is not a port; allowed: [accept \"PORT\"] with PORT 1 to 65535", (char *)NULL);
    return OE_INVALID;
}

/* Every section there is. Those without argument are given once. */
static const struct section_kind {
    const char *name;
    enum section section;
    enum oe_rule_kind rule;
    enum oe_status (*argument)(const char *text, struct oe_rule *rule, char *why, size_t why_n);
} sections[] = {
    {"link", SECTION_LINK, 0, NULL},
    {"connect", SECTION_CONNECT, OE_RULE_CONNECT, connect_argument},
    {"accept", SECTION_ACCEPT, OE_RULE_ACCEPT, accept_argument},
};

static const char *const sections_allowed = "; allowed: [link], [connect \"HOST:PORT\"], [accept \"PORT\"]";

/* Room for one more rule. The array has as many places as the next power of two. */
static enum oe_status grow_rules(struct oe_conf *conf)
{
    size_t n = conf->rules_n;
    struct oe_rule *rules;

    if ((n & (n - 1)) != 0)
        return OE_OK;
    rules = realloc(conf->rules, (n == 0 ? 1 : 2 * n) * sizeof(*rules));
    if (rules == NULL)
        return OE_NOMEM;
    conf->rules = rules;
    return OE_OK;
}

static enum oe_status add_rule(struct oe_conf *conf, const struct section_kind *kind, const char *text, char *why, size_t why_n)
{
    static_assert(OE_CONF_RULES_MAX == 1024, "the message below names it");
    struct oe_rule rule = {.kind = kind->rule};
    struct quoted q;
    enum oe_status status = kind->argument(text, &rule, why, why_n);

    if (status != OE_OK)
        return status;
    for (size_t i = 0; i < conf->rules_n; i++) {
        const struct oe_rule *old = &conf->rules[i];
        if (old->kind == rule.kind && old->port == rule.port && strcmp(old->host, rule.host) == 0) {
            say(why, why_n, kind->name, " ", quote(text, &q), " is given twice; allowed: one section for each endpoint", (char *)NULL);
            return OE_INVALID;
        }
    }
    if (conf->rules_n == OE_CONF_RULES_MAX) {
        say(why, why_n, "too many sections; allowed: 1024 of [connect] and [accept]", (char *)NULL);
        return OE_LIMIT;
    }
    status = grow_rules(conf);
    if (status != OE_OK) {
        say(why, why_n, "out of memory", (char *)NULL);
        return status;
    }
    conf->rules[conf->rules_n++] = rule;
    return OE_OK;
}

static int is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* Splits NAME or NAME "ARGUMENT" at header. argument is "" and *quotes 0 where there is none. */
static enum oe_status split_header(const char *header, size_t *name_n, char argument[OE_ENDPOINT_CHARS_MAX + 1], int *quotes)
{
    const char *p = header + strcspn(header, " \t\"");
    size_t n;

    *name_n = (size_t)(p - header);
    argument[0] = '\0';
    while (is_blank(*p))
        p++;
    *quotes = *p == '"';
    if (!*quotes)
        return *p == '\0' ? OE_OK : OE_INVALID;
    n = strcspn(++p, "\"");
    if (p[n] != '"' || n > OE_ENDPOINT_CHARS_MAX)
        return OE_INVALID;
    memcpy(argument, p, n);
    argument[n] = '\0';
    for (p += n + 1; is_blank(*p); p++)
        ;
    return *p == '\0' ? OE_OK : OE_INVALID;
}

enum oe_status oe_conf_section(struct oe_conf *conf, const char *header, char *why, size_t why_n)
{
    const struct section_kind *kind = NULL;
    char argument[OE_ENDPOINT_CHARS_MAX + 1];
    struct quoted q;
    size_t name_n;
    int quotes;
    enum oe_status status;

    conf->section = SECTION_NONE;
    while (is_blank(*header))
        header++;
    status = split_header(header, &name_n, argument, &quotes);
    for (size_t i = 0; i < sizeof(sections) / sizeof(sections[0]); i++)
        if (strlen(sections[i].name) == name_n && memcmp(sections[i].name, header, name_n) == 0)
            kind = &sections[i];
    if (kind == NULL || status != OE_OK || quotes != (kind->argument != NULL)) {
        say(why, why_n, "section ", quote(header, &q), kind == NULL ? " is not known" : " is not complete or not in the right form",
            sections_allowed, (char *)NULL);
        return OE_INVALID;
    }
    if (kind->argument != NULL) {
        status = add_rule(conf, kind, argument, why, why_n);
    } else if (conf->link_seen & SEEN_SECTION) {
        say(why, why_n, "section ", quote(header, &q), " is given twice; allowed: once", (char *)NULL);
        status = OE_INVALID;
    } else {
        conf->link_seen |= SEEN_SECTION;
    }
    if (status == OE_OK)
        conf->section = kind->section;
    return status;
}

/* ---- keys ---- */

/* Every key there is, and where it is marked as given: a bit of link_seen, or an int of the last rule. */
static const struct key {
    enum section section;
    unsigned seen; /* 0: has is meant */
    size_t has;
    const char *name;
    enum oe_status (*set)(struct oe_conf *conf, const char *value, char *why, size_t why_n);
} keys[] = {
    {SECTION_LINK, SEEN_POLICY, 0, "policy", set_link_policy},
    {SECTION_LINK, SEEN_HANDSHAKE, 0, "handshake-timeout", set_handshake},
    {SECTION_LINK, SEEN_DOWNGRADE, 0, "downgrade", set_link_downgrade},
    {SECTION_CONNECT, 0, offsetof(struct oe_rule, has_policy), "policy", set_rule_policy},
    {SECTION_CONNECT, 0, offsetof(struct oe_rule, has_downgrade), "downgrade", set_rule_downgrade},
    {SECTION_ACCEPT, 0, offsetof(struct oe_rule, has_policy), "policy", set_rule_policy},
};

static const char *const keys_allowed[] = {
    [SECTION_NONE] = "",
    [SECTION_LINK] = "; allowed in [link]: policy, handshake-timeout, downgrade",
    [SECTION_CONNECT] = "; allowed in [connect]: policy, downgrade",
    [SECTION_ACCEPT] = "; allowed in [accept]: policy",
};

static int is_seen(const struct oe_conf *conf, const struct key *key)
{
    int has;

    if (key->seen != 0)
        return (conf->link_seen & key->seen) != 0;
    memcpy(&has, (const char *)&conf->rules[conf->rules_n - 1] + key->has, sizeof(has));
    return has;
}

static void mark_seen(struct oe_conf *conf, const struct key *key)
{
    static const int yes = 1;

    if (key->seen != 0)
        conf->link_seen |= key->seen;
    else
        memcpy((char *)&conf->rules[conf->rules_n - 1] + key->has, &yes, sizeof(yes));
}

enum oe_status oe_conf_set(struct oe_conf *conf, const char *name, const char *value, char *why, size_t why_n)
{
    const struct key *key = NULL;
    struct quoted q;
    enum oe_status status;

    if (conf->section == SECTION_NONE) {
        say(why, why_n, "key ", quote(name, &q), " stands before any section", sections_allowed, " in front of it", (char *)NULL);
        return OE_INVALID;
    }
    for (size_t i = 0; i < sizeof(keys) / sizeof(keys[0]); i++)
        if (keys[i].section == conf->section && strcmp(keys[i].name, name) == 0)
            key = &keys[i];
    if (key == NULL) {
        say(why, why_n, "key ", quote(name, &q), " is not known", keys_allowed[conf->section], (char *)NULL);
        return OE_INVALID;
    }
    if (is_seen(conf, key)) {
        say(why, why_n, "key ", quote(name, &q), " is given twice; allowed: once in a section", (char *)NULL);
        return OE_INVALID;
    }
    status = key->set(conf, value, why, why_n);
    if (status == OE_OK)
        mark_seen(conf, key);
    return status;
}

void oe_conf_init(struct oe_conf *conf)
{
    *conf = (struct oe_conf){.policy = OE_POLICY_PREFER, .handshake_ms = OE_HANDSHAKE_MS_DEFAULT};
}

void oe_conf_free(struct oe_conf *conf)
{
    free(conf->rules);
    conf->rules = NULL;
    conf->rules_n = 0;
}
