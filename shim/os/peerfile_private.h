/* What the files of peerfile share: peerfile_parse.c (lines), peerfile_edit.c (a new text from an old one), peerfile.c (the files). */
#ifndef OE_OS_PEERFILE_PRIVATE_H
#define OE_OS_PEERFILE_PRIVATE_H

#include "peerfile.h"

#define OE_PEERFILE_ROW_BYTES_MAX 512U /* a line as oe_peerfile_row writes it */

/* A line of a text, without its newline. */
struct oe_peer_line {
    const char *p;
    size_t n;
    int ended; /* by a newline */
};

/* The next line from *p on; 0: none is left. */
int oe_peerfile_next(const char **p, const char *end, struct oe_peer_line *line);

enum oe_peer_line_kind { OE_LINE_BLANK, OE_LINE_GOOD, OE_LINE_BAD };

/* A line of known_peers. problem: "what is wrong; allowed: ...", of a bad one. */
enum oe_peer_line_kind oe_peerfile_line(const struct oe_peer_line *line, struct oe_peer *peer, char problem[OE_PEERFILE_WHY_BYTES]);

/* PATH and what, fit for a terminal. Of a long path its end counts. Keeps errno, which %m shows. */
void oe_peerfile_why(char why[OE_PEERFILE_WHY_BYTES], const char *path, const char *format, ...) __attribute__((format(printf, 3, 4)));

/* OE_INVALID, and out->why says that the file has more than may be. */
enum oe_status oe_peerfile_too_long(struct oe_peers *out);

enum oe_peer_change { OE_CHANGE_CONTACT, OE_CHANGE_TRUST, OE_CHANGE_FORGET };

/* What to change in known_peers, and what came of it. */
struct oe_peer_edit {
    enum oe_peer_change change;
    const char *endpoint;        /* in its one spelling */
    const struct oe_public *key; /* OE_CHANGE_FORGET: NULL is any */
    const uint8_t *epoch;        /* OE_CHANGE_CONTACT: NULL is not known */
    int64_t now_s;
    int only_known; /* adds no line */
    size_t hits;    /* out: lines that have endpoint and key */
    size_t others;  /* out: lines that have endpoint and another key */
    int changed;    /* out: the new text differs */
};

/* The new text, *out (owned by the caller) of *out_n bytes; NULL where nothing changes. OE_NOMEM; OE_LIMIT: it would be too long. */
enum oe_status oe_peerfile_edit(struct oe_peer_edit *edit, const char *text, size_t n, char **out, size_t *out_n);

#endif
