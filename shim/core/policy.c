#include "policy.h"

#include <arpa/inet.h>
#include <string.h>

/* The words of the configuration; "refuse" is a state, not a word. */
static const struct {
    enum oe_policy policy;
    const char *name;
    int is_word;
} policies[] = {
    {OE_POLICY_OFF, "off", 1},
    {OE_POLICY_PREFER, "prefer", 1},
    {OE_POLICY_REQUIRE, "require", 1},
    {OE_POLICY_REFUSE, "refuse", 0},
};

#define POLICIES_N (sizeof(policies) / sizeof(policies[0]))

const char *oe_policy_name(enum oe_policy policy)
{
    for (size_t i = 0; i < POLICIES_N; i++)
        if (policies[i].policy == policy)
            return policies[i].name;
    return "refuse";
}

enum oe_status oe_policy_parse(const char *word, enum oe_policy *out)
{
    for (size_t i = 0; i < POLICIES_N; i++) {
        if (policies[i].is_word && strcmp(policies[i].name, word) == 0) {
            *out = policies[i].policy;
            return OE_OK;
        }
    }
    return OE_INVALID;
}

static int is_name_char(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}

/* An IPv6 address with its zone cut off; OE_INVALID if it is none. */
static enum oe_status host_of_ipv6(char *text, char out[OE_HOST_CHARS_MAX + 1])
{
    static const uint8_t mapped[12] = {[10] = 0xFF, [11] = 0xFF};
    uint8_t address[16];

    text[strcspn(text, "%")] = '\0';
    if (inet_pton(AF_INET6, text, address) != 1)
        return OE_INVALID;
    if (memcmp(address, mapped, sizeof(mapped)) == 0)
        return inet_ntop(AF_INET, address + sizeof(mapped), out, OE_HOST_CHARS_MAX + 1) != NULL ? OE_OK : OE_INVALID;
    return inet_ntop(AF_INET6, address, out, OE_HOST_CHARS_MAX + 1) != NULL ? OE_OK : OE_INVALID;
}

enum oe_status oe_policy_host(const char *text, char out[OE_HOST_CHARS_MAX + 1])
{
    char copy[OE_HOST_CHARS_MAX + 1];
    size_t n = strnlen(text, sizeof(copy));
    struct in_addr v4;

    out[0] = '\0';
    if (n == 0 || n == sizeof(copy))
        return OE_INVALID;
    memcpy(copy, text, n + 1);
    if (strchr(copy, ':') != NULL)
        return host_of_ipv6(copy, out);
    if (copy[n - 1] == '.')
        copy[--n] = '\0';
    for (size_t i = 0; i < n; i++) {
        if (copy[i] >= 'A' && copy[i] <= 'Z')
            copy[i] = (char)(copy[i] - 'A' + 'a');
        if (!is_name_char(copy[i]))
            return OE_INVALID;
    }
    if (n == 0 || copy[0] == '.' || copy[n - 1] == '.' || strstr(copy, "..") != NULL)
        return OE_INVALID;
    if (strspn(copy, "0123456789.") == n && inet_pton(AF_INET, copy, &v4) != 1)
        return OE_INVALID;
    memcpy(out, copy, n + 1);
    return OE_OK;
}

/* How exactly a rule fits, the more the better; 0: not at all. A host outweighs a port, and a port outweighs name before address. */
static unsigned fit(const struct oe_rule *rule, const char *host, const char *address, uint16_t port)
{
    unsigned exact = 0;
    if (rule->port != 0) {
        if (rule->port != port)
            return 0;
        exact += 2;
    }
    if (rule->host[0] != '\0') {
        int by_name = strcmp(rule->host, host) == 0;
        if (!by_name && strcmp(rule->host, address) != 0)
            return 0;
        exact += 4U + (unsigned)by_name;
    }
    return exact;
}

/* The endpoint a choice is about, in the spelling of rules. What no rule can name is "", which fits no rule's host. */
struct endpoint {
    enum oe_rule_kind kind;
    char host[OE_HOST_CHARS_MAX + 1];
    char address[OE_HOST_CHARS_MAX + 1];
    uint16_t port;
};

static struct endpoint connected(const char *host, const char *address, uint16_t port)
{
    struct endpoint e = {.kind = OE_RULE_CONNECT, .port = port};

    if (host != NULL)
        (void)oe_policy_host(host, e.host);
    if (address != NULL)
        (void)oe_policy_host(address, e.address);
    return e;
}

/* The most exact rule for e of those that have what is asked for (at this offset, an int); NULL: none. */
static const struct oe_rule *choose(const struct oe_conf *conf, const struct endpoint *e, size_t has)
{
    const struct oe_rule *found = NULL;
    unsigned best = 0;

    for (size_t i = 0; i < conf->rules_n; i++) {
        const struct oe_rule *rule = &conf->rules[i];
        int wanted;
        memcpy(&wanted, (const char *)rule + has, sizeof(wanted));
        unsigned exact = rule->kind == e->kind && wanted ? fit(rule, e->host, e->address, e->port) : 0;
        if (exact > best) {
            best = exact;
            found = rule;
        }
    }
    return found;
}

static enum oe_policy policy_of(const struct oe_conf *conf, const struct endpoint *e)
{
    if (conf->override)
        return conf->override_policy;
    const struct oe_rule *rule = choose(conf, e, offsetof(struct oe_rule, has_policy));
    return rule == NULL ? conf->policy : rule->policy;
}

enum oe_policy oe_policy_connect(const struct oe_conf *conf, const char *host, const char *address, uint16_t port)
{
    struct endpoint e = connected(host, address, port);
    return policy_of(conf, &e);
}

enum oe_downgrade oe_policy_downgrade(const struct oe_conf *conf, const char *host, const char *address, uint16_t port)
{
    struct endpoint e = connected(host, address, port);
    const struct oe_rule *rule = choose(conf, &e, offsetof(struct oe_rule, has_downgrade));
    return rule == NULL ? conf->downgrade : rule->downgrade;
}

enum oe_policy oe_policy_accept(const struct oe_conf *conf, uint16_t port)
{
    struct endpoint e = {.kind = OE_RULE_ACCEPT, .port = port};
    return policy_of(conf, &e);
}
