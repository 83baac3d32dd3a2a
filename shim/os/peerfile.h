/* The files of PROTOCOL.md section 9 in the state directory: known_peers (keys of brokers) and allowed_peers (clients that may connect). Reading takes
 * no lock: a new version replaces the old one whole. Writing is done under a lock file, from a fresh reading, atomically; on a full disk the old version
 * stays. Comments, blank lines and their order survive. */
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

/* One line of known_peers. */
struct oe_peer {
    char endpoint[OE_ENDPOINT_CHARS_MAX]; /* "host:port" or "[v6]:port", in the spelling of oe_peerfile_endpoint */
    struct oe_public key;
    enum oe_peer_state state;
    int64_t first_s; /* seconds since 1970; -1: the line does not say */
    int64_t last_s;
    int has_epoch;
    uint8_t epoch[OE_EPOCH_BYTES];
    unsigned line; /* its number in the file, from 1 */
};

/* A client of allowed_peers. */
struct oe_client {
    char name[OE_CLIENT_CHARS_MAX + 1]; /* letters, digits, '.', '-', '_', '@' */
    struct oe_public key;
    unsigned line;
};

/* What a file says. Zero-initialised it is the empty one; freed by oe_peers_free. */
struct oe_peers {
    struct oe_peer *peers;     /* known_peers; owned */
    struct oe_client *clients; /* allowed_peers; owned */
    size_t n;
    int missing;                     /* there is no such file (in a state directory that can be opened) */
    unsigned bad_line;               /* the first line that is in no allowed form; 0: none. The other lines are there all the same */
    char path[PATH_MAX];             /* of the file, for messages */
    char why[OE_PEERFILE_WHY_BYTES]; /* bad_line: "FILE:LINE: what is wrong; what is allowed", or why it could not be read */
};
void oe_peers_free(struct oe_peers *peers);

/* The one spelling of an endpoint: "HOST:PORT", "HOST" (port 1883), "[IPV6]:PORT", "[IPV6]", "IPV6"; host as in oe_policy_host. OE_INVALID. */
enum oe_status oe_peerfile_endpoint(const char *text, char out[OE_ENDPOINT_CHARS_MAX]);

/* OE_OK: whatever could be read is in *out, look at bad_line. OE_SYSTEM: it cannot be read (errno, why), and may hold what is not known. OE_NOMEM. OE_INVALID:
 * the file may be written by others than its owner, or is no regular file; why says what to do. */
enum oe_status oe_peerfile_read_known(const char *state_dir, struct oe_peers *out);
enum oe_status oe_peerfile_read_allowed(const char *state_dir, struct oe_peers *out);

/* A contact with endpoint that ended in a handshake with key. If the endpoint has no line it gets one (tofu); if it has one with this key, its last time and
 * epoch (may be NULL) are brought up to date where they differ (time: by more than a day); if its lines have other keys only, nothing changes and the result is
 * OE_CRYPTO. Nothing is written, and no lock taken, where nothing changes. A bad line is left as it is. Waits at most wait_ms for other processes.
 * OE_SYSTEM (errno, *why), OE_NOMEM. */
enum oe_status oe_peerfile_contact(const char *state_dir, const char *endpoint, const struct oe_public *key, const uint8_t *epoch,
                                   int64_t now_s, unsigned wait_ms, char why[OE_PEERFILE_WHY_BYTES]);

/* Adds the key as pinned, or makes the line that has it pinned; *added: it was not there. Other keys of the endpoint stay. */
enum oe_status oe_peerfile_trust(const char *state_dir, const char *endpoint, const struct oe_public *key, int64_t now_s, unsigned wait_ms,
                                 int *added, char why[OE_PEERFILE_WHY_BYTES]);

/* Removes the lines of endpoint, all (key NULL) or that with key; *removed is how many. */
enum oe_status oe_peerfile_forget(const char *state_dir, const char *endpoint, const struct oe_public *key, unsigned wait_ms,
                                  size_t *removed, char why[OE_PEERFILE_WHY_BYTES]);

#endif
