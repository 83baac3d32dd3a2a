/*
 * Drives connections in memory: one end (struct drive), or an initiator against a responder with a scripted client and broker behind them
 * (struct world) and a relay between that can cut, alter and end the streams. No Check here: fuzzers use it too; what must always hold of
 * conn.h's contract is asserted by abort().
 */
#ifndef OE_TESTS_DRIVE_H
#define OE_TESTS_DRIVE_H

#include "../../shim/core/conn.h"

/* ---- packets -------------------------------------------------------------------------------------------------------------------------- */

/* Put at the end of b. */
void drive_connect(struct oe_buf *b, enum oe_mqtt version);
/* ... with a Will, and a user name that makes it n bytes long (0: no user name). */
void drive_connect_of(struct oe_buf *b, enum oe_mqtt version, size_t n, int will);
void drive_connack(struct oe_buf *b, enum oe_mqtt version, unsigned code);
void drive_publish(struct oe_buf *b, enum oe_mqtt version, unsigned first, const char *topic, const void *payload, size_t n);
void drive_raw(struct oe_buf *b, const void *p, size_t n);

/* ---- one end -------------------------------------------------------------------------------------------------------------------------- */

/* Which keys an initiator knows of its peer. */
enum drive_known {
    DRIVE_KNOWN_NONE,
    DRIVE_KNOWN_RIGHT,
    DRIVE_KNOWN_WRONG,
    DRIVE_KNOWN_SECOND, /* the right one, behind another */
};

struct drive_trust {
    enum drive_known known;
    int pinned;    /* the right key; the other one is so if this one is not */
    uint8_t epoch; /* all of its bytes */
    enum oe_downgrade downgrade;
    int undecided;
};

struct drive_how {
    enum oe_policy policy;
    uint8_t seed; /* of its keys */
    size_t room;  /* bytes of caller's memory that each push may fill first */
    int bytewise; /* each push byte by byte */
    struct drive_trust trust;
    uint8_t peer_seed;                  /* whose key is the right one */
    const struct oe_secret *identity;   /* these three beat the seed; NULL: they do not */
    const struct oe_secret *ephemeral0; /* of the first handshake */
    const struct oe_secret *ephemeral1;
};

struct drive {
    struct oe_conn conn;
    struct oe_secret identity;
    struct drive_how how;
    struct oe_buf app;      /* what its application was given */
    struct oe_buf wire;     /* what it put on the wire and nobody has taken */
    struct oe_buf sent;     /* what was taken from its application */
    enum oe_status st;      /* of the last call */
    enum oe_status dead[2]; /* by enum oe_dir: the error that ended it */
    uint64_t now;
    /* where records began, SIZE_MAX: they have not (exact with how.bytewise) */
    size_t app_at_records;
    size_t sent_at_records;
};

/* What responders say from here on: who may connect, their epoch (all of its bytes), and how many CONNECTs in message 1 may be fresh; no
 * ephemeral key has been seen yet. */
void drive_responders(enum oe_admission who, uint8_t epoch_byte, unsigned fresh_n);

/* Who may connect, and nothing else. */
void drive_admit(enum oe_admission who);

/* Another epoch, in which every key is new again. */
void drive_new_epoch(const uint8_t bytes[OE_EPOCH_BYTES]);

/* The key of an identity that comes from a seed. */
struct oe_public drive_key(uint8_t seed);

void drive_open(struct drive *d, enum oe_role role, const struct drive_how *how);
void drive_close(struct drive *d);

/* Each pushes n bytes of exactly allocated memory. What the application's bytes were not taken is the difference in d->sent. */
enum oe_status drive_app(struct drive *d, const void *p, size_t n);
enum oe_status drive_peer(struct drive *d, const void *p, size_t n);
enum oe_status drive_end(struct drive *d);
enum oe_status drive_expire(struct drive *d);

/* Takes n bytes (SIZE_MAX: all) from one end's wire to the other. */
enum oe_status drive_move(struct drive *from, struct drive *to, size_t n);

/* ---- two ends ------------------------------------------------------------------------------------------------------------------------- */

enum world_way { WORLD_UP, WORLD_DOWN }; /* initiator to responder, and back */

struct world_how {
    enum oe_mqtt version;
    enum oe_policy client, broker;
    struct drive_trust trust;    /* what the client knows */
    enum oe_admission admission; /* what the broker says: see drive_responders */
    uint8_t epoch;
    unsigned fresh_n;
    size_t connect_n; /* bytes of CONNECT; 0: small */
    int will;
    size_t large;   /* bytes of a large payload in each direction; 0: none */
    size_t room;    /* see struct drive_how */
    int bytes[2];   /* by way: byte by byte */
    size_t cut[2];  /* by way: an offset of the stream that no delivery goes over; 0: none */
    size_t flip[2]; /* by way: offset of a byte that is altered; SIZE_MAX: none */
    uint8_t mask;   /* ... by exclusive or with this */
    size_t end[2];  /* by way: offset at which the stream ends; SIZE_MAX: it does not */
};

#define WORLD_PARTS 4

struct world {
    struct world_how how;
    struct drive client, broker;
    struct oe_buf script[2][WORLD_PARTS]; /* by way: what the applications say, in turns, the client first */
    struct oe_buf whole[2];               /* by way: all of it */
    size_t said[2];                       /* by way: bytes that were taken */
    size_t delivered[2];                  /* by way */
    struct oe_buf seen[2];                /* by way: every byte that was delivered */
    int ended[2];                         /* by way: the receiver was told */
    int expired;
};

/* A marker that is in every packet the applications send after CONNACK, and in no other. */
#define WORLD_MARKER "MARKER of plaintext"

extern const struct world_how world_default; /* MQTT 3.1.1, prefer, nothing known, nothing altered */

void world_open(struct world *w, const struct world_how *how);
void world_run(struct world *w); /* until nothing moves; who is broken or refused ends the streams, a waiting initiator expires */
void world_close(struct world *w);

/* Whether a is the beginning of b. */
int drive_prefix(const struct oe_buf *a, const struct oe_buf *b);
int drive_same(const struct oe_buf *a, const struct oe_buf *b);
int drive_contains(const struct oe_buf *b, const void *p, size_t n);

#endif
