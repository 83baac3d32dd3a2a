/* Configuration: the grammar (core/conf), the choice of a policy (core/policy) and reading files (os/conffile). */
#include <check.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../shim/core/conf.h"
#include "../../shim/os/conffile.h"

#define A10 "aaaaaaaaaa"
#define A50 A10 A10 A10 A10 A10
#define A250 A50 A50 A50 A50 A50

static struct oe_conf conf;
static char why[1024];

static void set_up(void)
{
    memset(why, 'x', sizeof(why));
    oe_conf_init(&conf);
}

static void tear_down(void)
{
    oe_conf_free(&conf);
}

static enum oe_status parse(const char *text)
{
    oe_conf_free(&conf);
    return oe_conffile_parse("F", text, strlen(text), &conf, why, sizeof(why));
}

static void ck_parses(const char *text)
{
    enum oe_status status = parse(text);
    ck_assert_msg(status == OE_OK, "%s: status %d, %s", text, (int)status, why);
    ck_assert_str_eq(why, "");
}

/* Every wrong text: where, a part of what is said about it, and what is allowed instead. */
static const struct wrong {
    const char *text;
    const char *where;
    const char *part;
    const char *allowed;
} wrongs[] = {
    {"policy = off\n", "F:1: ", "before any section", "[link]"},
    {"\n\n[link]\npolicy = on\n", "F:4: ", "policy \"on\" is not known", "off, prefer"},
    {"[link]\npolicy = required\n", "F:2: ", "\"required\" is not known", "allowed: off, prefer, require"},
    {"[link]\ndowngrade = on\n", "F:2: ", "downgrade \"on\" is not known", "allowed: refuse, warn"},
    {"[link]\ndowngrade = warn\ndowngrade = warn\n", "F:3: ", "\"downgrade\" is given twice", "once in a section"},
    {"[connect \"h\"]\ndowngrade = warn\ndowngrade = warn\n", "F:3: ", "\"downgrade\" is given twice", "once in a section"},
    {"[accept \"1\"]\ndowngrade = warn\n", "F:2: ", "not known", "allowed in [accept]: policy"},
    {"[link]\npolicy = refuse\n", "F:2: ", "\"refuse\" is not known", "allowed: off, prefer"},
    {"[link]\npolicy = Off\n", "F:2: ", "\"Off\"", "allowed: off, prefer"},
    {"[link]\npolicy =\n", "F:2: ", "policy \"\"", "allowed: off, prefer"},
    {"[link]\npolicy = ; off\n", "F:2: ", "policy \"\"", "allowed: off, prefer"},
    {"[link]\npolicy = prefer;off\n", "F:2: ", "\"prefer;off\"", "allowed: off, prefer"},
    {"[link]\npolicy = off # no comment\n", "F:2: ", "\"off # no comment\"", "allowed: off, prefer"},
    {"[link]\npolicy\n", "F:2: ", "neither a section nor a key", "NAME = VALUE"},
    {"[link]\npolicy = off\n  prefer\n", "F:3: ", "neither a section nor a key", "NAME = VALUE"},
    {"[link]\npolicy = off\n  policy = prefer\n", "F:3: ", "given twice", "once in a section"},
    {"[link]\npolicy = off\npolicy = off\n", "F:3: ", "\"policy\" is given twice", "once in a section"},
    {"[link]\nhandshake-timeout = 2s\nhandshake-timeout = 2s\n", "F:3: ", "given twice", "once in a section"},
    {"[link]\n= off\n", "F:2: ", "key \"\" is not known", "policy, handshake-timeout"},
    {"[link]\npolice = off\n", "F:2: ", "\"police\" is not known", "policy, handshake-timeout"},
    {"[link]\nPolicy = off\n", "F:2: ", "\"Policy\" is not known", "policy, handshake-timeout"},
    {"[link]\n" A50 " = off\n", "F:2: ", "is not known", "policy, handshake-timeout"},
    {"[connect \"h\"]\nhandshake-timeout = 2s\n", "F:2: ", "not known", "allowed in [connect]: policy"},
    {"[accept \"1\"]\nhandshake-timeout = 2s\n", "F:2: ", "not known", "allowed in [accept]: policy"},
    {"[accept \"1\"]\npolicy = off\npolicy = off\n", "F:3: ", "given twice", "once in a section"},
    {"[connect \"h\"]\npolicy = refuse\n", "F:2: ", "not known", "allowed: off, prefer, require"},
    {"[link]\nhandshake-timeout = 2\n", "F:2: ", "\"2\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = s\n", "F:2: ", "\"s\"", "unit ms or s"},
    {"[link]\nhandshake-timeout = 0s\n", "F:2: ", "\"0s\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = -1s\n", "F:2: ", "\"-1s\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = 1.5s\n", "F:2: ", "\"1.5s\"", "whole number"},
    {"[link]\nhandshake-timeout = 2 s\n", "F:2: ", "\"2 s\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = 2S\n", "F:2: ", "\"2S\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = 99ms\n", "F:2: ", "\"99ms\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = 61s\n", "F:2: ", "\"61s\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = 60001ms\n", "F:2: ", "\"60001ms\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = 4294967297s\n", "F:2: ", "\"4294967297s\"", "100ms to 60s"},
    {"[link]\nhandshake-timeout = 18446744073709551618s\n", "F:2: ", "is wrong", "100ms to 60s"},
    {"[link]\n[link]\n", "F:2: ", "\"link\" is given twice", "once"},
    {"[]\n", "F:1: ", "\"\" is not known", "[link]"},
    {"[Link]\n", "F:1: ", "\"Link\" is not known", "[link]"},
    {"[topic \"a/b\"]\n", "F:1: ", "is not known", "[link], [connect \"HOST:PORT\"], [accept \"PORT\"]"},
    {"[link", "F:1: ", "without its closing", "[link]"},
    {"[link] policy = off\n", "F:1: ", "something behind the section", "comment"},
    {"[link]]\n", "F:1: ", "something behind the section", "comment"},
    {"[link \"x\"]\n", "F:1: ", "not in the right form", "[link]"},
    {"[connect]\n", "F:1: ", "not complete", "[connect \"HOST:PORT\"]"},
    {"[connect h:1883]\n", "F:1: ", "not complete", "[connect \"HOST:PORT\"]"},
    {"[connect 'h:1883']\n", "F:1: ", "not complete", "[connect \"HOST:PORT\"]"},
    {"[connect \"h:1883]\n", "F:1: ", "without its closing quote", "[connect \"HOST:PORT\"]"},
    {"[connect \"h\" \"i\"]\n", "F:1: ", "not in the right form", "[connect \"HOST:PORT\"]"},
    {"[connect \"h\"x]\n", "F:1: ", "not in the right form", "[connect \"HOST:PORT\"]"},
    {"[connect \"\"]\n", "F:1: ", "neither host nor port", "HOST:PORT"},
    {"[connect \":\"]\n", "F:1: ", "not a number from 1 to 65535", "PORT 1 to 65535"},
    {"[connect \"h:\"]\n", "F:1: ", "not a number from 1 to 65535", "PORT 1 to 65535"},
    {"[connect \"h:0\"]\n", "F:1: ", "not a number from 1 to 65535", "PORT 1 to 65535"},
    {"[connect \"h:65536\"]\n", "F:1: ", "not a number from 1 to 65535", "PORT 1 to 65535"},
    {"[connect \"h:4294968179\"]\n", "F:1: ", "not a number from 1 to 65535", "PORT 1 to 65535"},
    {"[connect \"h:1883x\"]\n", "F:1: ", "not a number from 1 to 65535", "PORT 1 to 65535"},
    {"[connect \"h:+1\"]\n", "F:1: ", "not a number from 1 to 65535", "PORT 1 to 65535"},
    {"[connect \"h: 1\"]\n", "F:1: ", "not a number from 1 to 65535", "PORT 1 to 65535"},
    {"[connect \"2001:db8::1\"]\n", "F:1: ", "more than one ':'", "[IPV6]:PORT"},
    {"[connect \"[2001:db8::1\"]\n", "F:1: ", "no closing ']'", "[IPV6]:PORT"},
    {"[connect \"[2001:db8::g]\"]\n", "F:1: ", "something else than an IPv6 address", "[IPV6]:PORT"},
    {"[connect \"[192.0.2.1]\"]\n", "F:1: ", "something else than an IPv6 address", "[IPV6]:PORT"},
    {"[connect \"[fe80::1%eth0]\"]\n", "F:1: ", "without zone", "[IPV6]:PORT"},
    {"[connect \"[]\"]\n", "F:1: ", "something else than an IPv6 address", "[IPV6]:PORT"},
    {"[connect \"[::1]1883\"]\n", "F:1: ", "something else than ':'", "[IPV6]:PORT"},
    {"[connect \"300.0.0.1\"]\n", "F:1: ", "neither a name", "HOST:PORT"},
    {"[connect \"127.1\"]\n", "F:1: ", "neither a name", "HOST:PORT"},
    {"[connect \".\"]\n", "F:1: ", "neither a name", "HOST:PORT"},
    {"[connect \"h..\"]\n", "F:1: ", "neither a name", "HOST:PORT"},
    {"[connect \".h\"]\n", "F:1: ", "neither a name", "HOST:PORT"},
    {"[connect \"h..i:1\"]\n", "F:1: ", "neither a name", "HOST:PORT"},
    {"[connect \"a b\"]\n", "F:1: ", "neither a name", "HOST:PORT"},
    {"[connect \"*\"]\n", "F:1: ", "neither a name", "HOST:PORT"},
    {"[connect \"b\xC3\xBC"
     "cher\"]\n",
     "F:1: ", "\"b??cher\" has a host that is neither a name (letters, digits", "HOST:PORT"},
    {"[connect \"" A250 "aaaaaa\"]\n", "F:1: ", "more than 255", "HOST:PORT"},
    {"[connect \"" A250 A50 "\"]\n", "F:1: ", "not in the right form", "HOST:PORT"},
    {"[connect \"" A250 A250 "\"]\n", "F:1: ", "too long", "320 characters"},
    {"[connect \"h:1\"]\n[connect \"i:1\"]\n[connect \"H.:1\"]\n", "F:3: ", "\"H.:1\" is given twice", "one section"},
    {"[connect \"[::1]\"]\n[connect \"[0:0:0:0:0:0:0:1]\"]\n", "F:2: ", "given twice", "one section"},
    {"[connect \"192.0.2.1\"]\n[connect \"[::ffff:192.0.2.1]\"]\n", "F:2: ", "given twice", "one section"},
    {"[accept \"1\"]\n[accept \"01\"]\n", "F:2: ", "given twice", "one section"},
    {"[accept \"\"]\n", "F:1: ", "not a port", "1 to 65535"},
    {"[accept \"0\"]\n", "F:1: ", "not a port", "1 to 65535"},
    {"[accept \"65536\"]\n", "F:1: ", "not a port", "1 to 65535"},
    {"[accept \"h:1883\"]\n", "F:1: ", "not a port", "1 to 65535"},
    {"[accept \":1883\"]\n", "F:1: ", "not a port", "1 to 65535"},
    {"[link]\npolicy\x01 = off\n", "F:2: ", "control character", "text"},
    {"[link]\r policy = off\n", "F:1: ", "control character", "text"},
    {"[link]\nx = " A250 "\n", "F:2: ", "too long", "190 characters"},
    {"\xEF\xBB\xBF[link]\n\xEF\xBB\xBFpolicy = off\n", "F:2: ", "not known", "policy, handshake-timeout"},
};

START_TEST(wrong_text_is_refused_and_explained)
{
    const struct wrong *w = &wrongs[_i];
    enum oe_status status = parse(w->text);

    ck_assert_msg(status == OE_INVALID, "%s: status %d", w->text, (int)status);
    ck_assert_msg(strncmp(why, w->where, strlen(w->where)) == 0, "%s: %s", w->text, why);
    ck_assert_msg(strstr(why, w->part) != NULL, "%s: %s", w->text, why);
    ck_assert_msg(strstr(why, "; allowed") != NULL && strstr(strstr(why, "; allowed"), w->allowed) != NULL, "%s: %s", w->text, why);
    for (const char *p = why; *p != '\0'; p++)
        ck_assert((unsigned char)*p >= ' ' && (unsigned char)*p < 0x7F);

    /* The same in the middle of a file and with the line ends of another system. */
    char crlf[2048];
    size_t n = 0;
    for (const char *p = w->text; *p != '\0'; p++) {
        if (*p == '\n')
            crlf[n++] = '\r';
        crlf[n++] = *p;
    }
    crlf[n] = '\0';
    char first[sizeof(why)];
    strcpy(first, why);
    ck_assert_int_eq(parse(crlf), OE_INVALID);
    ck_assert_str_eq(why, first);
}
END_TEST

START_TEST(why_is_terminated_however_small)
{
    const struct wrong *w = &wrongs[_i];
    char small[16];

    for (size_t n = 0; n < sizeof(small); n++) {
        memset(small, 'x', sizeof(small));
        oe_conf_free(&conf);
        ck_assert_int_eq(oe_conffile_parse("F", w->text, strlen(w->text), &conf, small, n), OE_INVALID);
        ck_assert(n == 0 || strlen(small) < n);
        ck_assert_int_eq(small[n], 'x');
    }
}
END_TEST

START_TEST(nothing_gives_the_defaults)
{
    static const char *const texts[] = {
        "", "\n", "# only\n; comments\n  # here\n", "\xEF\xBB\xBF", "\xEF\xBB\xBF# x", "[link]", "[link]\n\r\n \t\n"};
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        ck_parses(texts[i]);
        ck_assert_int_eq(conf.policy, OE_POLICY_PREFER);
        ck_assert_uint_eq(conf.handshake_ms, 2000);
        ck_assert_uint_eq(conf.rules_n, 0);
        ck_assert_int_eq(conf.override, 0);
        ck_assert_int_eq(oe_policy_connect(&conf, "h", "192.0.2.1", 1883), OE_POLICY_PREFER);
        ck_assert_int_eq(oe_policy_accept(&conf, 1883), OE_POLICY_PREFER);
    }
}
END_TEST

START_TEST(spelling_that_means_the_same)
{
    static const char *const texts[] = {
        "[link]\npolicy = off\nhandshake-timeout = 500ms\n",
        "[link]\r\npolicy = off\r\nhandshake-timeout = 500ms\r\n",
        "\xEF\xBB\xBF[link]\npolicy = off\nhandshake-timeout = 500ms",
        "  [link]\n    policy = off\n\thandshake-timeout = 500ms\n",
        "[link] ; comment ]\npolicy = off ; prefer\nhandshake-timeout=500ms\t;2s",
        "[ link ]\npolicy: off\nhandshake-timeout : 500ms\n",
        "# " A250 A250 "\n[link] ; " A250 A250 "\npolicy = off ; " A250 A250 "\nhandshake-timeout = 500ms\n",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        ck_parses(texts[i]);
        ck_assert_int_eq(conf.policy, OE_POLICY_OFF);
        ck_assert_uint_eq(conf.handshake_ms, 500);
    }
}
END_TEST

START_TEST(handshake_timeout_edges)
{
    static const struct {
        const char *text;
        unsigned ms;
    } edges[] = {{"[link]\nhandshake-timeout=100ms", 100},
                 {"[link]\nhandshake-timeout=1s", 1000},
                 {"[link]\nhandshake-timeout=60s", 60000},
                 {"[link]\nhandshake-timeout=60000ms", 60000},
                 {"[link]\nhandshake-timeout=0002s", 2000}};
    for (size_t i = 0; i < sizeof(edges) / sizeof(edges[0]); i++) {
        ck_parses(edges[i].text);
        ck_assert_uint_eq(conf.handshake_ms, edges[i].ms);
    }
}
END_TEST

START_TEST(long_sections_are_told_apart)
{
    /* inih would cut both after 49 characters and take them for one. */
    char text[2048];
    (void)snprintf(text, sizeof(text), "[connect \"%s.one:1883\"]\npolicy = off\n[connect \"%s.two:1883\"]\npolicy = prefer\n", A50 A50,
                   A50 A50);
    ck_parses(text);
    ck_assert_uint_eq(conf.rules_n, 2);
    ck_assert_int_eq(oe_policy_connect(&conf, A50 A50 ".one", NULL, 1883), OE_POLICY_OFF);
    ck_assert_int_eq(oe_policy_connect(&conf, A50 A50 ".two", NULL, 1883), OE_POLICY_PREFER);

    (void)snprintf(text, sizeof(text), "[connect \"%s:65535\"]\npolicy = off\n", A250 "aaaaa");
    ck_parses(text);
    ck_assert_int_eq(oe_policy_connect(&conf, A250 "aaaaa", "192.0.2.1", 65535), OE_POLICY_OFF);
    ck_assert_int_eq(oe_policy_connect(&conf, A250 "aaaa", "192.0.2.1", 65535), OE_POLICY_PREFER);
}
END_TEST

START_TEST(nul_byte_is_refused)
{
    static const char text[] = "[link]\npolicy = off\0\n";
    oe_conf_free(&conf);
    ck_assert_int_eq(oe_conffile_parse("F", text, sizeof(text) - 1, &conf, why, sizeof(why)), OE_INVALID);
    ck_assert_ptr_nonnull(strstr(why, "F:2: there is a NUL byte; allowed: text"));
}
END_TEST

START_TEST(line_length_edge)
{
    char text[512];
    for (size_t n = 170; n < 220; n++) {
        int used = snprintf(text, sizeof(text), "[link]\npolicy =");
        for (size_t i = strlen("policy ="); i < n - 3; i++)
            text[used++] = ' ';
        strcpy(text + used, "off\n");
        enum oe_status status = parse(text);
        ck_assert_int_eq(status, n <= 190 ? OE_OK : OE_INVALID);
        ck_assert_int_eq(conf.policy, n <= 190 ? OE_POLICY_OFF : OE_POLICY_PREFER);
    }
}
END_TEST

START_TEST(too_many_rules)
{
    size_t cap = 64 * 1024;
    char *text = malloc(cap);
    size_t n = 0;
    ck_assert_ptr_nonnull(text);
    for (unsigned i = 1; i <= OE_CONF_RULES_MAX; i++)
        n += (size_t)snprintf(text + n, cap - n, "[accept \"%u\"]\npolicy = off\n", i);
    ck_parses(text);
    ck_assert_uint_eq(conf.rules_n, OE_CONF_RULES_MAX);
    ck_assert_int_eq(oe_policy_accept(&conf, OE_CONF_RULES_MAX), OE_POLICY_OFF);
    ck_assert_int_eq(oe_policy_accept(&conf, OE_CONF_RULES_MAX + 1), OE_POLICY_PREFER);
    strcpy(text + n, "[connect \"h\"]\n");
    ck_assert_int_eq(parse(text), OE_LIMIT);
    ck_assert_str_eq(why, "F:2049: too many sections; allowed: 1024 of [connect] and [accept]");
    free(text);
}
END_TEST

START_TEST(the_most_exact_rule_wins)
{
    ck_parses("[link]\npolicy = prefer\n"
              "[connect \":2000\"]\npolicy = off\n"
              "[connect \"Broker.Example.org\"]\npolicy = prefer\n"
              "[connect \"broker.example.org:3000\"]\npolicy = off\n"
              "[connect \"192.0.2.1:4000\"]\npolicy = off\n"
              "[connect \"192.0.2.9\"]\npolicy = off\n"
              "[connect \"name.example\"]\npolicy = prefer\n"
              "[connect \"[2001:db8:0:0::1]:1883\"]\npolicy = off\n"
              "[connect \"without.policy:1\"]\n"
              "[accept \"1884\"]\npolicy = off\n");
    static const struct {
        const char *host, *address;
        uint16_t port;
        enum oe_policy policy;
    } cases[] = {
        {"x", "198.51.100.1", 1883, OE_POLICY_PREFER},
        {NULL, NULL, 1883, OE_POLICY_PREFER},
        {NULL, NULL, 2000, OE_POLICY_OFF},
        {"x", "198.51.100.1", 2000, OE_POLICY_OFF},
        {"broker.example.org", "198.51.100.1", 2000, OE_POLICY_PREFER}, /* host beats port */
        {"BROKER.example.ORG.", "198.51.100.1", 3000, OE_POLICY_OFF},   /* host and port beat host */
        {"broker.example.org", "192.0.2.1", 4000, OE_POLICY_OFF},       /* address and port beat name */
        {"broker.example.org", "192.0.2.1", 4001, OE_POLICY_PREFER},
        {"name.example", "192.0.2.9", 1, OE_POLICY_PREFER}, /* name beats address */
        {"other.example", "192.0.2.9", 1, OE_POLICY_OFF},
        {"192.0.2.9", NULL, 1, OE_POLICY_OFF},
        {NULL, "::ffff:192.0.2.9", 1, OE_POLICY_OFF},
        {NULL, "2001:db8::1", 1883, OE_POLICY_OFF},
        {"2001:DB8::0:1", NULL, 1883, OE_POLICY_OFF},
        {NULL, "2001:db8::1%eth0", 1883, OE_POLICY_OFF},
        {NULL, "2001:db8::1", 1884, OE_POLICY_PREFER},
        {"without.policy", NULL, 1, OE_POLICY_PREFER},
        {"", "", 1884, OE_POLICY_PREFER}, /* a rule of [accept] */
        {A250 A50, "not an address", 2000, OE_POLICY_OFF},
    };
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_msg(oe_policy_connect(&conf, cases[i].host, cases[i].address, cases[i].port) == cases[i].policy, "case %zu", i);
    ck_assert_int_eq(oe_policy_accept(&conf, 1884), OE_POLICY_OFF);
    ck_assert_int_eq(oe_policy_accept(&conf, 2000), OE_POLICY_PREFER);

    conf.override = 1;
    conf.override_policy = OE_POLICY_OFF;
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++)
        ck_assert_int_eq(oe_policy_connect(&conf, cases[i].host, cases[i].address, cases[i].port), OE_POLICY_OFF);
    conf.override_policy = OE_POLICY_REFUSE;
    ck_assert_int_eq(oe_policy_accept(&conf, 1884), OE_POLICY_REFUSE);
    ck_assert_int_eq(oe_policy_connect(&conf, "broker.example.org", NULL, 1883), OE_POLICY_REFUSE);
}
END_TEST

START_TEST(order_does_not_matter)
{
    static const char *const texts[] = {
        "[connect \"h:1\"]\npolicy = off\n[connect \"h\"]\npolicy = prefer\n[connect \":1\"]\npolicy = prefer\n",
        "[connect \":1\"]\npolicy = prefer\n[connect \"h\"]\npolicy = prefer\n[connect \"h:1\"]\npolicy = off\n",
        "[connect \"h\"]\npolicy = prefer\n[connect \"h:1\"]\npolicy = off\n[connect \":1\"]\npolicy = prefer\n",
    };
    for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++) {
        ck_parses(texts[i]);
        ck_assert_int_eq(oe_policy_connect(&conf, "h", NULL, 1), OE_POLICY_OFF);
        ck_assert_int_eq(oe_policy_connect(&conf, "h", NULL, 2), OE_POLICY_PREFER);
        ck_assert_int_eq(oe_policy_connect(&conf, "i", NULL, 1), OE_POLICY_PREFER);
    }
}
END_TEST

START_TEST(words)
{
    enum oe_policy policy = OE_POLICY_REFUSE;
    ck_assert_str_eq(oe_policy_name(OE_POLICY_OFF), "off");
    ck_assert_str_eq(oe_policy_name(OE_POLICY_PREFER), "prefer");
    ck_assert_str_eq(oe_policy_name(OE_POLICY_REFUSE), "refuse");
    ck_assert_int_eq(oe_policy_parse("off", &policy), OE_OK);
    ck_assert_int_eq(policy, OE_POLICY_OFF);
    ck_assert_int_eq(oe_policy_parse("prefer", &policy), OE_OK);
    ck_assert_int_eq(policy, OE_POLICY_PREFER);
    ck_assert_int_eq(oe_policy_parse("refuse", &policy), OE_INVALID);
    ck_assert_int_eq(oe_policy_parse("", &policy), OE_INVALID);
    ck_assert_int_eq(policy, OE_POLICY_PREFER);
}
END_TEST

START_TEST(set_after_a_wrong_section_is_refused)
{
    ck_assert_int_eq(oe_conf_section(&conf, "connect \"h\"", why, sizeof(why)), OE_OK);
    ck_assert_int_eq(oe_conf_section(&conf, "nonsense", why, sizeof(why)), OE_INVALID);
    ck_assert_int_eq(oe_conf_set(&conf, "policy", "off", why, sizeof(why)), OE_INVALID);
    ck_assert_int_eq(conf.rules[0].has_policy, 0);
}
END_TEST

/* ---- files ---- */

static char dir[] = "/tmp/oe-test-conf.XXXXXX";

/* Unchecked fixture: the directory goes also behind a test that failed. */
static void make_dir(void)
{
    strcpy(dir + sizeof(dir) - 7, "XXXXXX");
    if (mkdtemp(dir) == NULL)
        abort();
}

static char *path_in_dir(const char *name)
{
    static char path[256];
    (void)snprintf(path, sizeof(path), "%s/%s", dir, name);
    return path;
}

static void remove_dir(void)
{
    (void)unlink(path_in_dir("c"));
    if (rmdir(dir) != 0)
        abort();
}

static void set_up_file(void)
{
    set_up();
    (void)unlink(path_in_dir("c"));
}

START_TEST(file_is_read)
{
    const char *path = path_in_dir("c");
    FILE *f = fopen(path, "w");
    ck_assert_ptr_nonnull(f);
    (void)fputs("[link]\npolicy = off\n", f);
    (void)fclose(f);
    oe_conf_free(&conf);
    ck_assert_int_eq(oe_conffile_read(path, &conf, why, sizeof(why)), OE_OK);
    ck_assert_int_eq(conf.policy, OE_POLICY_OFF);
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(file_that_cannot_be_read)
{
    const char *path = path_in_dir("c");
    char expect[512];

    ck_assert_int_eq(oe_conffile_read(path, &conf, why, sizeof(why)), OE_SYSTEM);
    ck_assert_int_eq(errno, ENOENT);
    (void)snprintf(expect, sizeof(expect), "%s: the configuration cannot be read: No such file or directory", path);
    ck_assert_str_eq(why, expect);

    ck_assert_int_eq(oe_conffile_read(dir, &conf, why, sizeof(why)), OE_INVALID);
    ck_assert_ptr_nonnull(strstr(why, "not a regular file"));
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    ck_assert_int_eq(oe_conffile_read(path, &conf, why, sizeof(why)), OE_INVALID); /* and does not wait */
    ck_assert_int_eq(unlink(path), 0);

    if (geteuid() != 0) {
        FILE *f = fopen(path, "w");
        ck_assert_ptr_nonnull(f);
        (void)fclose(f);
        ck_assert_int_eq(chmod(path, 0), 0);
        ck_assert_int_eq(oe_conffile_read(path, &conf, why, sizeof(why)), OE_SYSTEM);
        ck_assert_ptr_nonnull(strstr(why, "Permission denied"));
        ck_assert_int_eq(unlink(path), 0);
    }
}
END_TEST

START_TEST(file_size_edge)
{
    const char *path = path_in_dir("c");
    for (int extra = 0; extra < 2; extra++) {
        FILE *f = fopen(path, "w");
        ck_assert_ptr_nonnull(f);
        for (unsigned i = 0; i < OE_CONF_FILE_BYTES_MAX + (unsigned)extra; i++)
            (void)fputc(i % 64 == 63 ? '\n' : '#', f);
        ck_assert_int_eq(fclose(f), 0);
        oe_conf_free(&conf);
        ck_assert_int_eq(oe_conffile_read(path, &conf, why, sizeof(why)), extra == 0 ? OE_OK : OE_INVALID);
    }
    ck_assert_ptr_nonnull(strstr(why, "too large; allowed: 1 MiB"));
    ck_assert_int_eq(unlink(path), 0);
}
END_TEST

START_TEST(example_is_right)
{
    static const char here[] = __FILE__;
    char path[1024];
    const char *slash = strrchr(here, '/');

    (void)snprintf(path, sizeof(path), "%.*s/../../oe-mqtt.conf.example", slash != NULL ? (int)(slash - here) : 1,
                   slash != NULL ? here : ".");
    oe_conf_free(&conf);
    ck_assert_msg(oe_conffile_read(path, &conf, why, sizeof(why)) == OE_OK, "%s", why);
    ck_assert_int_eq(conf.policy, OE_POLICY_PREFER);
    ck_assert_uint_eq(conf.handshake_ms, OE_HANDSHAKE_MS_DEFAULT);
    ck_assert_int_eq(conf.downgrade, OE_DOWNGRADE_REFUSE);
    ck_assert_uint_eq(conf.rules_n, 8);
    ck_assert_int_eq(oe_policy_connect(&conf, "vault.example.org", NULL, 1883), OE_POLICY_REQUIRE);
    ck_assert_int_eq(oe_policy_downgrade(&conf, "vault.example.org", NULL, 1883), OE_DOWNGRADE_REFUSE);
    ck_assert_int_eq(oe_policy_downgrade(&conf, "lab.example.org", NULL, 1883), OE_DOWNGRADE_WARN);
    ck_assert_int_eq(oe_policy_accept(&conf, 8884), OE_POLICY_REQUIRE);
    ck_assert_int_eq(oe_policy_connect(&conf, "broker.example.org", NULL, 1883), OE_POLICY_PREFER);
    ck_assert_int_eq(oe_policy_connect(&conf, "plc-7.plant.example", NULL, 1883), OE_POLICY_OFF);
    ck_assert_int_eq(oe_policy_connect(&conf, NULL, "2001:db8::1", 1883), OE_POLICY_OFF);
    ck_assert_int_eq(oe_policy_connect(&conf, "any", NULL, 8883), OE_POLICY_OFF);
    ck_assert_int_eq(oe_policy_accept(&conf, 1884), OE_POLICY_OFF);
}
END_TEST

int main(void)
{
    int wrongs_n = (int)(sizeof(wrongs) / sizeof(wrongs[0]));
    Suite *suite = suite_create("conf");
    TCase *grammar = tcase_create("grammar");
    TCase *files = tcase_create("files");
    SRunner *runner;
    int failed;

    tcase_add_checked_fixture(grammar, set_up, tear_down);
    tcase_add_loop_test(grammar, wrong_text_is_refused_and_explained, 0, wrongs_n);
    tcase_add_loop_test(grammar, why_is_terminated_however_small, 0, wrongs_n);
    tcase_add_test(grammar, nothing_gives_the_defaults);
    tcase_add_test(grammar, spelling_that_means_the_same);
    tcase_add_test(grammar, handshake_timeout_edges);
    tcase_add_test(grammar, long_sections_are_told_apart);
    tcase_add_test(grammar, nul_byte_is_refused);
    tcase_add_test(grammar, line_length_edge);
    tcase_add_test(grammar, too_many_rules);
    tcase_add_test(grammar, the_most_exact_rule_wins);
    tcase_add_test(grammar, order_does_not_matter);
    tcase_add_test(grammar, words);
    tcase_add_test(grammar, set_after_a_wrong_section_is_refused);
    suite_add_tcase(suite, grammar);
    tcase_add_unchecked_fixture(files, make_dir, remove_dir);
    tcase_add_checked_fixture(files, set_up_file, tear_down);
    tcase_add_test(files, file_is_read);
    tcase_add_test(files, file_that_cannot_be_read);
    tcase_add_test(files, file_size_edge);
    tcase_add_test(files, example_is_right);
    suite_add_tcase(suite, files);

    runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed == 0 ? 0 : 1;
}
