/* The files of PROTOCOL.md section 9 in the state directory: known_peers (keys of brokers) and allowed_peers (clients that may connect). Reading takes
 * no lock: a new version replaces the old one whole. Writing is done under a lock file, from a fresh reading, atomically; on a full disk the old version
 * stays. Comments, blank lines, bad lines and their order survive byte for byte. A symbolic link is followed by reading, and replaced by writing. */
#ifndef OE_OS_PEERFILE_H
#define OE_OS_PEERFILE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>

#include "../core/limits.h"
#include "../core/secret.h"
#include "../core/status.h"

#define OE_PEERFILE_WHY_BYTES 512U

enum oe_peer_state { OE_PEER_TOFU, OE_PEER_PINNED };

/* One line of known_peers. No two have the same endpoint and key. */
struct oe_peer {
    char endpoint
        [OE_ENDPOINT_CHARS_MAX]; /* "host:port" or "[v6]:port", in the spelling of oe_peerfile_endpoint, however the line spells it */
    struct oe_public key;
    enum oe_peer_state state;
    int64_t first_s; /* seconds since 1970; -1: the line does not say */
    int64_t last_s;
    int has_epoch;
    uint8_t epoch[OE_EPOCH_BYTES];
    unsigned line; /* its number in the file, from 1 */
};

/* A client of allowed_peers. No two have the same key; a name may have several. */
struct oe_client {
    char name[OE_CLIENT_CHARS_MAX + 1]; /* letters, digits, '.', '-', '_', '@' */
    struct oe_public key;
    unsigned line;
};

enum oe_peerfile { OE_PEERFILE_KNOWN, OE_PEERFILE_ALLOWED };

/* What a file says. Zero-initialised it is the empty one; freed by oe_peers_free. */
struct oe_peers {
    struct oe_peer *peers;     /* known_peers; owned */
    struct oe_client *clients; /* allowed_peers; owned */
    size_t n;
    int missing;         /* there is no such file: none in the state directory, no such directory, or none can be told (state_dir "") */
    unsigned bad_line;   /* the first line that is in no allowed form; 0: none. The other lines are there all the same */
    char path[PATH_MAX]; /* of the file, for messages */
    char why[OE_PEERFILE_WHY_BYTES]; /* bad_line: "FILE:LINE: what is wrong; allowed: ...", or why it could not be read; else "" */
};
void oe_peers_free(struct oe_peers *peers);

/* The one spelling of an endpoint: "HOST:PORT", "HOST" (port 1883), "[IPV6]:PORT", "[IPV6]", "IPV6"; host as in oe_policy_host. OE_INVALID (out is ""). */
enum oe_status oe_peerfile_endpoint(const char *text, char out[OE_ENDPOINT_CHARS_MAX]);

/* OE_OK: whatever could be read is in *out, look at bad_line. Anything else: the file may hold what is not known, and why says what to do. OE_SYSTEM: it
 * cannot be read (errno). OE_NOMEM. OE_INVALID: it may be written by others than its owner, belongs to a stranger, is no regular file, or has more than
 * OE_PEERFILE_BYTES_MAX or OE_PEERFILE_LINES_MAX. *out is to be freed in every case. */
enum oe_status oe_peerfile_read_known(const char *state_dir, struct oe_peers *out);
enum oe_status oe_peerfile_read_allowed(const char *state_dir, struct oe_peers *out);

/* The same from memory, into *out that is empty but for the path. text may be any n bytes. */
enum oe_status oe_peerfile_parse(enum oe_peerfile which, const char *text, size_t n, struct oe_peers *out);

/* A contact with endpoint that ended in a handshake with key. If the endpoint has no line it gets one (tofu); if it has one with this key, its last time and
 * epoch (NULL: not known, stays) are brought up to date where they differ (time: by more than a day); if its lines have other keys only, nothing changes and
 * the result is OE_CRYPTO. If it has no line but the file has a bad one, which may be about it, nothing changes and the result is OE_INVALID. Nothing is
 * written, and no lock taken, where nothing changes. Waits at most wait_ms for other processes. Further: what reading gives; OE_SYSTEM also for writing
 * (EWOULDBLOCK: others had the lock), OE_LIMIT: no room for another line, OE_INVALID: no endpoint. *why is "" with OE_OK. */
enum oe_status oe_peerfile_contact(const char *state_dir, const char *endpoint, const struct oe_public *key, const uint8_t *epoch,
                                   int64_t now_s, unsigned wait_ms, char why[OE_PEERFILE_WHY_BYTES]);

/* Adds the key as pinned (FIRST is now, LAST open), or makes the line that has it pinned; *added: it was not there. Other keys of the endpoint stay, and
 * bad lines are no obstacle. Errors as above. */
enum oe_status oe_peerfile_trust(const char *state_dir, const char *endpoint, const struct oe_public *key, int64_t now_s, unsigned wait_ms,
                                 int *added, char why[OE_PEERFILE_WHY_BYTES]);

/* Removes the lines of endpoint, all (key NULL) or those with key, duplicates too; *removed is how many. Errors as above. */
enum oe_status oe_peerfile_forget(const char *state_dir, const char *endpoint, const struct oe_public *key, unsigned wait_ms,
                                  size_t *removed, char why[OE_PEERFILE_WHY_BYTES]);

#endif
