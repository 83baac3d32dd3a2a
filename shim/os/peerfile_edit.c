#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "peerfile_private.h"

#define FRESH_S 86400 /* LAST is not written anew more often than this, epochs aside */

static_assert(OE_ENDPOINT_CHARS_MAX + OE_FINGERPRINT_CHARS + sizeof("pinned") + 2 * (OE_CLOCK_UTC_CHARS + 1) + 2 * OE_EPOCH_BYTES + 8 <
                  OE_PEERFILE_ROW_BYTES_MAX,
              "a row fits");

/* A line with its newline, as this program writes it; returns its bytes. */
static size_t write_row(const struct oe_peer *peer, char out[OE_PEERFILE_ROW_BYTES_MAX])
{
    char key[OE_FINGERPRINT_CHARS + 1], first[OE_CLOCK_UTC_CHARS + 1], last[OE_CLOCK_UTC_CHARS + 1];
    char epoch[2 * OE_EPOCH_BYTES + 1] = "";
    int n;

    oe_public_fingerprint(&peer->key, key);
    oe_clock_utc_format(peer->first_s, first);
    oe_clock_utc_format(peer->last_s, last);
    if (peer->has_epoch)
        (void)sodium_bin2hex(epoch, sizeof(epoch), peer->epoch, sizeof(peer->epoch));
    n = snprintf(out, OE_PEERFILE_ROW_BYTES_MAX, "%s %s %s %s %s%s%s\n", peer->endpoint, key,
                 peer->state == OE_PEER_PINNED ? "pinned" : "tofu", first, last, peer->has_epoch ? " " : "", epoch);
    return (size_t)n;
}

/* Brings the line of a hit up to date; 0: it is. */
static int update(const struct oe_peer_edit *edit, struct oe_peer *peer)
{
    int64_t age = edit->now_s - peer->last_s;

    switch (edit->change) {
    case OE_CHANGE_CONTACT:
        if (edit->epoch != NULL && (!peer->has_epoch || memcmp(peer->epoch, edit->epoch, OE_EPOCH_BYTES) != 0)) {
            memcpy(peer->epoch, edit->epoch, OE_EPOCH_BYTES);
            peer->has_epoch = 1;
        } else if (peer->last_s >= 0 && age <= FRESH_S && age >= -FRESH_S) {
            return 0;
        }
        peer->last_s = edit->now_s;
        return 1;
    case OE_CHANGE_TRUST:
        if (peer->state == OE_PEER_PINNED)
            return 0;
        peer->state = OE_PEER_PINNED;
        return 1;
    case OE_CHANGE_FORGET:
        break;
    }
    return 0;
}

static struct oe_peer new_peer(const struct oe_peer_edit *edit)
{
    struct oe_peer peer = {.key = *edit->key, .state = OE_PEER_PINNED, .first_s = edit->now_s, .last_s = -1};

    (void)snprintf(peer.endpoint, sizeof(peer.endpoint), "%s", edit->endpoint);
    if (edit->change == OE_CHANGE_CONTACT) {
        peer.state = OE_PEER_TOFU;
        peer.last_s = edit->now_s;
        peer.has_epoch = edit->epoch != NULL;
        if (edit->epoch != NULL)
            memcpy(peer.epoch, edit->epoch, OE_EPOCH_BYTES);
    }
    return peer;
}

/* Whether the line is one that the change is about; counts it. */
static int is_hit(struct oe_peer_edit *edit, const struct oe_peer *peer)
{
    if (strcmp(peer->endpoint, edit->endpoint) != 0)
        return 0;
    if (edit->key != NULL && memcmp(peer->key.b, edit->key->b, OE_KEY_BYTES) != 0) {
        edit->others++;
        return 0;
    }
    edit->hits++;
    return 1;
}

enum oe_status oe_peerfile_edit(struct oe_peer_edit *edit, const char *text, size_t n, char **out, size_t *out_n)
{
    char problem[OE_PEERFILE_WHY_BYTES], row[OE_PEERFILE_ROW_BYTES_MAX];
    struct oe_peer_line line = {.ended = 1};
    struct oe_peer peer;
    const char *p = text;
    size_t used = 0, lines = 0;
    char *new = malloc(n + 1 + OE_PEERFILE_ROW_BYTES_MAX); /* a newline for the last line, and one row more or longer */

    *out = NULL;
    *out_n = 0;
    edit->hits = edit->others = 0;
    edit->changed = 0;
    if (new == NULL)
        return OE_NOMEM;
    while (n > 0 && oe_peerfile_next(&p, text + n, &line)) {
        int hit = oe_peerfile_line(&line, &peer, problem) == OE_LINE_GOOD && is_hit(edit, &peer);
        size_t raw = line.n + (size_t)line.ended;
        lines++;
        if (hit && edit->change == OE_CHANGE_FORGET) {
            edit->changed = 1;
        } else if (hit && edit->hits == 1 && update(edit, &peer)) { /* of duplicates the first counts */
            size_t row_n = write_row(&peer, row);
            memcpy(new + used, row, row_n);
            used += row_n;
            edit->changed = line.ended = 1;
        } else {
            memcpy(new + used, line.p, raw);
            used += raw;
        }
    }
    if (edit->hits == 0 && edit->change != OE_CHANGE_FORGET && !edit->only_known &&
        (edit->change == OE_CHANGE_TRUST || edit->others == 0)) {
        peer = new_peer(edit);
        size_t row_n = write_row(&peer, row);
        if (!line.ended)
            new[used++] = '\n';
        memcpy(new + used, row, row_n);
        used += row_n;
        lines++;
        edit->changed = 1;
    }
    if (!edit->changed || used > OE_PEERFILE_BYTES_MAX || lines > OE_PEERFILE_LINES_MAX) {
        free(new);
        return edit->changed ? OE_LIMIT : OE_OK;
    }
    *out = new;
    *out_n = used;
    return OE_OK;
}
