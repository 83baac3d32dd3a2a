/* The configuration parser, from the bytes of a file. What must hold for any bytes:
 * - an error explains itself in one line that begins with the file's name, success says nothing;
 * - what was accepted stays within its limits, and every policy it gives is one that the file can ask for;
 * - the same bytes give the same result, and a comment or an empty line in front of them changes nothing but the line number. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/os/conffile.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int holds, const char *what)
{
    if (!holds) {
        (void)fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

#define REQUIRE(x) require(!!(x), #x)

static int is_word(enum oe_policy policy)
{
    return policy == OE_POLICY_OFF || policy == OE_POLICY_PREFER || policy == OE_POLICY_REQUIRE;
}

static void check_accepted(const struct oe_conf *conf)
{
    REQUIRE(is_word(conf->policy));
    REQUIRE(conf->downgrade == OE_DOWNGRADE_REFUSE || conf->downgrade == OE_DOWNGRADE_WARN);
    REQUIRE(conf->handshake_ms >= OE_HANDSHAKE_MS_MIN && conf->handshake_ms <= OE_HANDSHAKE_MS_MAX);
    REQUIRE(conf->rules_n <= OE_CONF_RULES_MAX);
    REQUIRE(!conf->override);
    for (size_t i = 0; i < conf->rules_n; i++) {
        const struct oe_rule *rule = &conf->rules[i];
        char host[OE_HOST_CHARS_MAX + 1];
        REQUIRE(is_word(rule->policy));
        REQUIRE(rule->kind == OE_RULE_CONNECT || (rule->kind == OE_RULE_ACCEPT && rule->host[0] == '\0' && rule->port != 0));
        REQUIRE(rule->host[0] != '\0' || rule->port != 0);
        REQUIRE(memchr(rule->host, '\0', sizeof(rule->host)) != NULL);
        if (rule->host[0] != '\0') {
            /* The spelling is final, and the rule is found by it. */
            REQUIRE(oe_policy_host(rule->host, host) == OE_OK && strcmp(rule->host, host) == 0);
            if (rule->has_policy && rule->port != 0)
                REQUIRE(oe_policy_connect(conf, rule->host, NULL, rule->port) == rule->policy);
            if (rule->has_downgrade && rule->port != 0)
                REQUIRE(oe_policy_downgrade(conf, rule->host, NULL, rule->port) == rule->downgrade);
        }
        if (rule->kind == OE_RULE_ACCEPT && rule->has_policy)
            REQUIRE(oe_policy_accept(conf, rule->port) == rule->policy);
    }
}

static enum oe_status parse(const void *text, size_t n, struct oe_conf *conf, char *why, size_t why_n)
{
    enum oe_status status;
    memset(why, 'x', why_n);
    status = oe_conffile_parse("FILE", text, n, conf, why, why_n);
    REQUIRE(memchr(why, '\0', why_n) != NULL);
    if (status == OE_OK) {
        REQUIRE(why[0] == '\0');
        check_accepted(conf);
    } else {
        REQUIRE(status == OE_INVALID || status == OE_LIMIT || status == OE_NOMEM);
        REQUIRE(strncmp(why, "FILE:", 5) == 0 && why[5] >= '1' && why[5] <= '9');
        for (const char *p = why; *p != '\0'; p++)
            REQUIRE(*p >= ' ' && *p < 0x7F);
        REQUIRE(status == OE_NOMEM || strstr(why, "; allowed") != NULL);
    }
    return status;
}

static int same(const struct oe_conf *a, const struct oe_conf *b)
{
    if (a->policy != b->policy || a->downgrade != b->downgrade || a->handshake_ms != b->handshake_ms || a->rules_n != b->rules_n)
        return 0;
    for (size_t i = 0; i < a->rules_n; i++)
        if (a->rules[i].kind != b->rules[i].kind || a->rules[i].port != b->rules[i].port || a->rules[i].policy != b->rules[i].policy ||
            a->rules[i].has_policy != b->rules[i].has_policy || a->rules[i].downgrade != b->rules[i].downgrade ||
            a->rules[i].has_downgrade != b->rules[i].has_downgrade || strcmp(a->rules[i].host, b->rules[i].host) != 0)
            return 0;
    return 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const char comment[] = "# comment\n\n";
    static const char bom[] = "\xEF\xBB\xBF";
    struct oe_conf conf, again;
    char why[1024], small[24];
    /* An allocation of exactly n bytes, so that a byte too many is seen. */
    uint8_t *exact = malloc(n > 0 ? n : 1);
    uint8_t *more = malloc(n + sizeof(comment));
    enum oe_status status;

    if (exact == NULL || more == NULL)
        abort();
    if (n > 0)
        memcpy(exact, data, n);
    status = parse(exact, n, &conf, why, sizeof(why));

    (void)memset(small, 'x', sizeof(small));
    REQUIRE(oe_conffile_parse("FILE", (const char *)exact, n, &again, small, sizeof(small)) == status);
    REQUIRE(strncmp(small, why, sizeof(small) - 1) == 0);
    REQUIRE(status != OE_OK || same(&conf, &again));
    oe_conf_free(&again);

    if (n < 3 || memcmp(data, bom, 3) != 0) {
        memcpy(more, comment, sizeof(comment) - 1);
        if (n > 0)
            memcpy(more + sizeof(comment) - 1, data, n);
        REQUIRE(parse(more, n + sizeof(comment) - 1, &again, why, sizeof(why)) == status);
        REQUIRE(status != OE_OK || same(&conf, &again));
        oe_conf_free(&again);
    }
    oe_conf_free(&conf);
    free(more);
    free(exact);
    return 0;
}
