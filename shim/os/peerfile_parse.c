#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../core/policy.h"
#include "clock.h"
#include "file.h"
#include "peerfile_private.h"

#define FIELDS_MAX 6U
#define FIELD_BYTES (OE_ENDPOINT_CHARS_MAX + 2U) /* no right one is longer */
#define PORT_DEFAULT 1883U
#define PATH_SHOWN_MAX 256U
#define FIELD_SHOWN_MAX 60U

void oe_peerfile_why(char why[OE_PEERFILE_WHY_BYTES], const char *path, const char *format, ...)
{
    size_t path_n = strlen(path);
    const char *cut = path_n > PATH_SHOWN_MAX ? path + path_n - PATH_SHOWN_MAX : path;
    int saved = errno;
    int n = snprintf(why, OE_PEERFILE_WHY_BYTES, "%s%s", cut != path ? "..." : "", cut);
    va_list list;

    errno = saved; /* for %m */
    va_start(list, format);
    (void)vsnprintf(why + n, OE_PEERFILE_WHY_BYTES - (size_t)n, format, list);
    va_end(list);
    oe_file_one_line(why);
    errno = saved;
}

/* ---- endpoints ---- */

/* ":PORT" or nothing; 0: something else. */
static unsigned port_of(const char *text)
{
    unsigned port = 0;

    if (text[0] == '\0')
        return PORT_DEFAULT;
    if (text[0] != ':' || text[1] == '\0')
        return 0;
    for (const char *p = text + 1; *p != '\0'; p++) {
        if (*p < '0' || *p > '9' || (port = port * 10 + (unsigned)(*p - '0')) > UINT16_MAX)
            return 0;
    }
    return port;
}

enum oe_status oe_peerfile_endpoint(const char *text, char out[OE_ENDPOINT_CHARS_MAX])
{
    char given[OE_HOST_CHARS_MAX + 1], host[OE_HOST_CHARS_MAX + 1];
    const char *colon = strchr(text, ':');
    int bracket = text[0] == '[', bare_v6 = !bracket && colon != NULL && strchr(colon + 1, ':') != NULL;
    const char *start = text + bracket;
    size_t n = bare_v6 ? strlen(start) : strcspn(start, bracket ? "]" : ":");
    const char *rest = start + n + (bracket && start[n] == ']');
    unsigned port = port_of(rest);

    out[0] = '\0';
    if (n >= sizeof(given) || port == 0 || (bracket && start[n] != ']'))
        return OE_INVALID;
    memcpy(given, start, n);
    given[n] = '\0';
    if ((bracket && strchr(given, ':') == NULL) || oe_policy_host(given, host) != OE_OK)
        return OE_INVALID;
    (void)snprintf(out, OE_ENDPOINT_CHARS_MAX, strchr(host, ':') != NULL ? "[%s]:%u" : "%s:%u", host, port);
    return OE_OK;
}

/* ---- lines ---- */

int oe_peerfile_next(const char **p, const char *end, struct oe_peer_line *line)
{
    const char *newline;

    if (*p == end)
        return 0;
    newline = memchr(*p, '\n', (size_t)(end - *p));
    *line = (struct oe_peer_line){.p = *p, .n = (size_t)((newline != NULL ? newline : end) - *p), .ended = newline != NULL};
    *p += line->n + (size_t)line->ended;
    return 1;
}

struct field {
    char text[FIELD_BYTES + 1]; /* one that is longer is cut, and so in no allowed form */
};

static int is_blank(char c)
{
    return c == ' ' || c == '\t';
}

/* The fields of a line, at most FIELDS_MAX of them; returns how many there are. */
static unsigned split(const struct oe_peer_line *line, struct field fields[FIELDS_MAX])
{
    const char *p = line->p, *end = line->p + line->n;
    unsigned n = 0;

    for (;;) {
        const char *start;
        size_t size;
        while (p < end && is_blank(*p))
            p++;
        if (p == end)
            return n;
        for (start = p; p < end && !is_blank(*p);)
            p++;
        size = (size_t)(p - start);
        if (size > FIELD_BYTES)
            size = FIELD_BYTES;
        if (n < FIELDS_MAX) {
            memcpy(fields[n].text, start, size);
            fields[n].text[size] = '\0';
        }
        n++;
    }
}

/* OE_LINE_BAD, because of this field. */
static enum oe_peer_line_kind wrong(char problem[OE_PEERFILE_WHY_BYTES], const char *what, const struct field *field, const char *allowed)
{
    char shown[FIELD_SHOWN_MAX + 4];
    size_t n = 0;

    for (; field->text[n] != '\0' && n < FIELD_SHOWN_MAX; n++)
        shown[n] = field->text[n] >= ' ' && field->text[n] < 0x7F ? field->text[n] : '?';
    memcpy(shown + n, field->text[n] != '\0' ? "..." : "", field->text[n] != '\0' ? 4 : 1);
    (void)snprintf(problem, OE_PEERFILE_WHY_BYTES, "%s \"%s\" is wrong; allowed: %s", what, shown, allowed);
    return OE_LINE_BAD;
}

/* A line without fields or with a comment is blank; one that cannot be cut into fields is bad; the others are left to their parsers. */
static enum oe_peer_line_kind cut(const struct oe_peer_line *line, struct field fields[FIELDS_MAX], unsigned *n,
                                  char problem[OE_PEERFILE_WHY_BYTES])
{
    *n = 0;
    if (memchr(line->p, '\0', line->n) != NULL) {
        (void)snprintf(problem, OE_PEERFILE_WHY_BYTES, "a NUL byte; allowed: text");
        return OE_LINE_BAD;
    }
    *n = split(line, fields);
    return *n == 0 || fields[0].text[0] == '#' ? OE_LINE_BLANK : OE_LINE_GOOD;
}

/* 32 hexadecimal digits or "-". */
static enum oe_status parse_epoch(const char *text, struct oe_peer *peer)
{
    size_t n;

    peer->has_epoch = 0;
    if (strcmp(text, "-") == 0)
        return OE_OK;
    if (strlen(text) != 2 * (size_t)OE_EPOCH_BYTES ||
        sodium_hex2bin(peer->epoch, sizeof(peer->epoch), text, strlen(text), NULL, &n, NULL) != 0 || n != sizeof(peer->epoch))
        return OE_INVALID;
    peer->has_epoch = 1;
    return OE_OK;
}

static const char key_allowed[] = "oe1: and 44 characters of base64";

/* In the file the port is always there: a line that is valid for another port than its writer thinks would protect nothing. */
static int has_port(const char *endpoint)
{
    const char *colon = strrchr(endpoint, ':');
    return colon != NULL && (colon == strchr(endpoint, ':') || (endpoint[0] == '[' && colon[-1] == ']'));
}

enum oe_peer_line_kind oe_peerfile_line(const struct oe_peer_line *line, struct oe_peer *peer, char problem[OE_PEERFILE_WHY_BYTES])
{
    static const char time_allowed[] = "2026-11-22T13:41:05Z, -";
    struct field f[FIELDS_MAX];
    unsigned n;
    enum oe_peer_line_kind kind = cut(line, f, &n, problem);

    *peer = (struct oe_peer){.first_s = -1, .last_s = -1};
    if (kind != OE_LINE_GOOD)
        return kind;
    if (n != 3 && n != 5 && n != 6) {
        (void)snprintf(problem, OE_PEERFILE_WHY_BYTES, "%u field%s; allowed: ENDPOINT KEY STATE [FIRST LAST [EPOCH]]", n,
                       n == 1 ? "" : "s");
        return OE_LINE_BAD;
    }
    if (!has_port(f[0].text) || oe_peerfile_endpoint(f[0].text, peer->endpoint) != OE_OK)
        return wrong(problem, "endpoint", &f[0], "HOST:PORT, [IPV6]:PORT");
    if (oe_public_parse(f[1].text, &peer->key) != OE_OK)
        return wrong(problem, "key", &f[1], key_allowed);
    if (strcmp(f[2].text, "tofu") != 0 && strcmp(f[2].text, "pinned") != 0)
        return wrong(problem, "state", &f[2], "tofu, pinned");
    peer->state = f[2].text[0] == 't' ? OE_PEER_TOFU : OE_PEER_PINNED;
    if (n > 3 && oe_clock_utc_parse(f[3].text, &peer->first_s) != OE_OK)
        return wrong(problem, "first time", &f[3], time_allowed);
    if (n > 3 && oe_clock_utc_parse(f[4].text, &peer->last_s) != OE_OK)
        return wrong(problem, "last time", &f[4], time_allowed);
    if (n > 5 && parse_epoch(f[5].text, peer) != OE_OK)
        return wrong(problem, "epoch", &f[5], "32 hexadecimal digits, -");
    return OE_LINE_GOOD;
}

/* A line of allowed_peers. */
static enum oe_peer_line_kind client_line(const struct oe_peer_line *line, struct oe_client *client, char problem[OE_PEERFILE_WHY_BYTES])
{
    static const char name_chars[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_@";
    struct field f[FIELDS_MAX];
    unsigned n;
    enum oe_peer_line_kind kind = cut(line, f, &n, problem);
    size_t name_n = n > 0 ? strlen(f[0].text) : 0;

    *client = (struct oe_client){0};
    if (kind != OE_LINE_GOOD)
        return kind;
    if (n != 2) {
        (void)snprintf(problem, OE_PEERFILE_WHY_BYTES, "%u field%s; allowed: NAME KEY", n, n == 1 ? "" : "s");
        return OE_LINE_BAD;
    }
    static_assert(OE_CLIENT_CHARS_MAX == 63 && OE_CLIENT_CHARS_MAX < FIELD_BYTES, "the message names it; a cut field is too long");
    if (name_n > OE_CLIENT_CHARS_MAX || strspn(f[0].text, name_chars) != name_n)
        return wrong(problem, "name", &f[0], "1 to 63 letters, digits, '.', '-', '_', '@'");
    if (oe_public_parse(f[1].text, &client->key) != OE_OK)
        return wrong(problem, "key", &f[1], key_allowed);
    memcpy(client->name, f[0].text, name_n + 1);
    return OE_LINE_GOOD;
}

/* ---- files ---- */

struct parser {
    enum oe_peerfile which;
    struct oe_peers *out;
    uint32_t *slots; /* a hash table by key: index of a line in out, plus 1 */
    uint32_t mask;
};

static const struct oe_public *key_at(const struct parser *p, size_t i)
{
    return p->which == OE_PEERFILE_KNOWN ? &p->out->peers[i].key : &p->out->clients[i].key;
}

/* The number of an earlier line that is about the same as the one just parsed, at index out->n; 0: none, and it is noted. */
static unsigned earlier(struct parser *p)
{
    size_t new = p->out->n;
    uint32_t at;

    memcpy(&at, key_at(p, new)->b, sizeof(at));
    for (at &= p->mask; p->slots[at] != 0; at = (at + 1) & p->mask) {
        size_t old = p->slots[at] - 1;
        if (memcmp(key_at(p, old)->b, key_at(p, new)->b, OE_KEY_BYTES) != 0)
            continue;
        if (p->which == OE_PEERFILE_ALLOWED)
            return p->out->clients[old].line;
        if (strcmp(p->out->peers[old].endpoint, p->out->peers[new].endpoint) == 0)
            return p->out->peers[old].line;
    }
    p->slots[at] = (uint32_t) new + 1;
    return 0;
}

static void parse_line(struct parser *p, const struct oe_peer_line *line, unsigned number)
{
    struct oe_peers *out = p->out;
    char problem[OE_PEERFILE_WHY_BYTES];
    int known = p->which == OE_PEERFILE_KNOWN;
    enum oe_peer_line_kind kind =
        known ? oe_peerfile_line(line, &out->peers[out->n], problem) : client_line(line, &out->clients[out->n], problem);

    if (kind == OE_LINE_GOOD) {
        *(known ? &out->peers[out->n].line : &out->clients[out->n].line) = number;
        unsigned same = earlier(p);
        if (same == 0) {
            out->n++;
            return;
        }
        (void)snprintf(problem, sizeof(problem), "the %skey of line %u again; allowed: once", known ? "endpoint and " : "", same);
        kind = OE_LINE_BAD;
    }
    if (kind == OE_LINE_BAD && out->bad_line == 0) {
        out->bad_line = number;
        oe_peerfile_why(out->why, out->path, ":%u: %s", number, problem);
    }
}

enum oe_status oe_peerfile_too_long(struct oe_peers *out)
{
    oe_peerfile_why(out->why, out->path, ": too long; allowed: %u lines, %u bytes", OE_PEERFILE_LINES_MAX, OE_PEERFILE_BYTES_MAX);
    return OE_INVALID;
}

enum oe_status oe_peerfile_parse(enum oe_peerfile which, const char *text, size_t n, struct oe_peers *out)
{
    struct parser p = {.which = which, .out = out, .mask = 3};
    const char *at = text, *end = text + n;
    struct oe_peer_line line;
    size_t lines = 0;
    unsigned number = 0;

    while (oe_peerfile_next(&at, end, &line))
        lines++;
    if (n > OE_PEERFILE_BYTES_MAX || lines > OE_PEERFILE_LINES_MAX)
        return oe_peerfile_too_long(out);
    if (lines == 0)
        return OE_OK;
    while (p.mask < 2 * lines) /* at least half of the slots stay free */
        p.mask = 2 * p.mask + 1;
    p.slots = calloc((size_t)p.mask + 1, sizeof(*p.slots));
    if (which == OE_PEERFILE_KNOWN)
        out->peers = calloc(lines, sizeof(*out->peers));
    else
        out->clients = calloc(lines, sizeof(*out->clients));
    if (p.slots == NULL || (out->peers == NULL && out->clients == NULL)) {
        free(p.slots);
        oe_peers_free(out);
        oe_peerfile_why(out->why, out->path, ": no memory");
        return OE_NOMEM;
    }
    for (at = text; oe_peerfile_next(&at, end, &line);)
        parse_line(&p, &line, ++number);
    free(p.slots);
    return OE_OK;
}

void oe_peers_free(struct oe_peers *peers)
{
    free(peers->peers);
    free(peers->clients);
    peers->peers = NULL;
    peers->clients = NULL;
    peers->n = 0;
}
