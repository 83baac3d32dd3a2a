/* known_peers and allowed_peers, from the bytes of a file. What must hold for any bytes:
 * - a bad line explains itself in one line that names file and line, and without one there is nothing to say;
 * - what was accepted is in its one spelling, and no endpoint and key (or client's key) is there twice;
 * - a change alters what it is about and nothing else: the other lines come out byte for byte, and the same change again changes nothing. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../shim/os/peerfile_private.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void require(int holds, const char *what)
{
    if (!holds) {
        (void)fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

#define REQUIRE(x) require(!!(x), #x)
#define T0 INT64_C(1795354865)

static const struct oe_public key_1 = {{1}};

static void check_why(const struct oe_peers *peers)
{
    char expect[32];

    REQUIRE(memchr(peers->why, '\0', sizeof(peers->why)) != NULL);
    REQUIRE((peers->bad_line == 0) == (peers->why[0] == '\0'));
    if (peers->bad_line == 0)
        return;
    (void)snprintf(expect, sizeof(expect), "FILE:%u: ", peers->bad_line);
    REQUIRE(strncmp(peers->why, expect, strlen(expect)) == 0);
    REQUIRE(strstr(peers->why, "; allowed: ") != NULL);
    for (const char *p = peers->why; *p != '\0'; p++)
        REQUIRE(*p >= ' ' && *p < 0x7F);
}

static void check_known(const struct oe_peers *peers)
{
    char again[OE_ENDPOINT_CHARS_MAX];

    for (size_t i = 0; i < peers->n; i++) {
        const struct oe_peer *p = &peers->peers[i];
        REQUIRE(oe_peerfile_endpoint(p->endpoint, again) == OE_OK && strcmp(p->endpoint, again) == 0);
        REQUIRE(p->state == OE_PEER_TOFU || p->state == OE_PEER_PINNED);
        REQUIRE(p->first_s >= -1 && p->last_s >= -1);
        REQUIRE(p->line != peers->bad_line && p->line > (i > 0 ? p[-1].line : 0));
        for (size_t k = 0; k < i; k++)
            REQUIRE(strcmp(peers->peers[k].endpoint, p->endpoint) != 0 || memcmp(&peers->peers[k].key, &p->key, sizeof(p->key)) != 0);
    }
}

static void check_allowed(const struct oe_peers *peers)
{
    for (size_t i = 0; i < peers->n; i++) {
        const struct oe_client *c = &peers->clients[i];
        REQUIRE(c->name[0] != '\0' && strpbrk(c->name, " \t\r\n#:/") == NULL);
        for (size_t k = 0; k < i; k++)
            REQUIRE(memcmp(&peers->clients[k].key, &c->key, sizeof(c->key)) != 0);
    }
}

static enum oe_status parse(enum oe_peerfile which, const char *text, size_t n, struct oe_peers *out)
{
    *out = (struct oe_peers){.path = "FILE"};
    enum oe_status st = oe_peerfile_parse(which, text, n, out);
    REQUIRE(st == OE_OK || st == OE_INVALID);
    if (st == OE_OK)
        check_why(out);
    return st;
}

/* Lines of the text that are not about the endpoint and key, one after the other; returns how many bytes. */
static size_t others(const char *text, size_t n, const struct oe_peer_edit *edit, char *out)
{
    char problem[OE_PEERFILE_WHY_BYTES];
    struct oe_peer_line line;
    struct oe_peer peer;
    size_t used = 0;

    for (const char *p = text; oe_peerfile_next(&p, text + n, &line);) {
        REQUIRE(memchr(line.p, '\n', line.n) == NULL);
        if (oe_peerfile_line(&line, &peer, problem) == OE_LINE_GOOD && strcmp(peer.endpoint, edit->endpoint) == 0 &&
            (edit->key == NULL || memcmp(&peer.key, edit->key, sizeof(peer.key)) == 0))
            continue;
        memcpy(out + used, line.p, line.n);
        used += line.n;
        out[used++] = '\n';
    }
    return used;
}

static void change(enum oe_peer_change what, const char *endpoint, const struct oe_public *key, const uint8_t *epoch, const char *text,
                   size_t n)
{
    struct oe_peer_edit edit = {.change = what, .endpoint = endpoint, .key = key, .epoch = epoch, .now_s = T0}, again = edit;
    char *new = NULL, *none = NULL;
    size_t new_n, none_n;
    struct oe_peers peers;
    enum oe_status st = oe_peerfile_edit(&edit, text, n, &new, &new_n);

    REQUIRE(st == OE_OK || (st == OE_LIMIT && new == NULL));
    REQUIRE(st != OE_OK || edit.changed == (new != NULL));
    if (new == NULL)
        return;
    char *kept[2] = {malloc(n + 1), malloc(new_n + 1)};
    if (kept[0] == NULL || kept[1] == NULL)
        abort();
    size_t kept_n = others(text, n, &edit, kept[0]);
    REQUIRE(kept_n == others(new, new_n, &edit, kept[1]) && memcmp(kept[0], kept[1], kept_n) == 0);

    REQUIRE(parse(OE_PEERFILE_KNOWN, new, new_n, &peers) == OE_OK);
    size_t found = 0;
    for (size_t i = 0; i < peers.n; i++)
        if (strcmp(peers.peers[i].endpoint, endpoint) == 0 && (key == NULL || memcmp(&peers.peers[i].key, key, sizeof(*key)) == 0)) {
            found++;
            REQUIRE(what == OE_CHANGE_CONTACT || peers.peers[i].state == OE_PEER_PINNED);
            REQUIRE(what != OE_CHANGE_CONTACT || peers.peers[i].last_s == T0);
            REQUIRE(what != OE_CHANGE_CONTACT || epoch == NULL || memcmp(peers.peers[i].epoch, epoch, OE_EPOCH_BYTES) == 0);
        }
    REQUIRE(found == (what != OE_CHANGE_FORGET));
    oe_peers_free(&peers);

    REQUIRE(oe_peerfile_edit(&again, new, new_n, &none, &none_n) == OE_OK && none == NULL && !again.changed);
    for (int i = 0; i < 2; i++)
        free(kept[i]);
    free(new);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    static const uint8_t epoch[OE_EPOCH_BYTES] = {7};
    char *exact = malloc(n > 0 ? n : 1); /* of exactly n bytes, so that a byte too many is seen */
    char endpoint[OE_ENDPOINT_CHARS_MAX] = "a:1";
    struct oe_public key = key_1;
    struct oe_peers peers;

    if (exact == NULL)
        abort();
    if (n > 0)
        memcpy(exact, data, n);
    if (parse(OE_PEERFILE_ALLOWED, exact, n, &peers) == OE_OK)
        check_allowed(&peers);
    oe_peers_free(&peers);
    if (parse(OE_PEERFILE_KNOWN, exact, n, &peers) == OE_OK) {
        check_known(&peers);
        if (peers.n > 0) { /* one that is there, and a key that is there */
            const struct oe_peer *p = &peers.peers[n % peers.n];
            memcpy(endpoint, p->endpoint, sizeof(endpoint));
            key = p->key;
        }
        const struct oe_public *const keys[] = {&key, &key_1};
        for (size_t i = 0; i < 2; i++) {
            change(OE_CHANGE_CONTACT, endpoint, keys[i], i == 0 ? epoch : NULL, exact, n);
            change(OE_CHANGE_TRUST, endpoint, keys[i], NULL, exact, n);
            change(OE_CHANGE_FORGET, endpoint, i == 0 ? keys[i] : NULL, NULL, exact, n);
        }
    }
    oe_peers_free(&peers);
    free(exact);
    return 0;
}
