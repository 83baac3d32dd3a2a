/*
 * An initiator against a responder with the fuzzer as the relay between them, which may alter, drop, repeat, reorder and invent bytes.
 * Byte 0: the version, and what is known and required; then steps of one byte KIND and one byte ARGUMENT. What must hold: an end that is in
 * records gives its application nothing but a beginning of what the other end's application said in records, and puts nothing of its own
 * application's on the wire in plain; with a preface the CONNECT belongs to that, early or not.
 */
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../unit/drive.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);
int LLVMFuzzerInitialize(int *argc, char ***argv);

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    (void)argc;
    (void)argv;
    return sodium_init() < 0;
}

static void require(int holds, const char *what)
{
    if (!holds) {
        (void)fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

#define REQUIRE(x) require(!!(x), #x)

enum step { CARRY, CARRY_ALL, FLIP, DROP, REPEAT, INVENT, KEEP_BACK, GIVE_BACK, SPEAK, EXPIRE, END, STEPS };

/* What the initiator knows, the policies of both, and whom the responder admits. */
static const struct mode {
    enum oe_policy client, broker;
    struct drive_trust trust;
    enum oe_admission admission;
    int preface;
} modes[] = {
    {OE_POLICY_PREFER, OE_POLICY_PREFER, {.known = DRIVE_KNOWN_NONE}, OE_ADMIT_ANY, 0},
    {OE_POLICY_REQUIRE, OE_POLICY_PREFER, {.known = DRIVE_KNOWN_NONE}, OE_ADMIT_ANY, 1},
    {OE_POLICY_PREFER, OE_POLICY_REQUIRE, {.known = DRIVE_KNOWN_RIGHT, .epoch = 1}, OE_ADMIT_LISTED, 1},
    {OE_POLICY_PREFER, OE_POLICY_PREFER, {.known = DRIVE_KNOWN_RIGHT}, OE_ADMIT_ANY, 1},
    {OE_POLICY_PREFER, OE_POLICY_PREFER, {.known = DRIVE_KNOWN_SECOND, .epoch = 1}, OE_ADMIT_ANY, 1},
    {OE_POLICY_PREFER, OE_POLICY_PREFER, {.known = DRIVE_KNOWN_WRONG, .epoch = 1}, OE_ADMIT_ANY, 1},
    {OE_POLICY_REQUIRE, OE_POLICY_REQUIRE, {.known = DRIVE_KNOWN_WRONG, .downgrade = OE_DOWNGRADE_WARN}, OE_ADMIT_NOT, 1},
    {OE_POLICY_PREFER, OE_POLICY_REQUIRE, {.known = DRIVE_KNOWN_NONE}, OE_ADMIT_ANY, 0},
    {OE_POLICY_PREFER, OE_POLICY_REQUIRE, {.known = DRIVE_KNOWN_WRONG, .downgrade = OE_DOWNGRADE_WARN}, OE_ADMIT_NOT, 0},
};

struct relay {
    const struct mode *mode;
    struct drive end[2];    /* initiator, responder */
    struct oe_buf stash[2]; /* by sender: what was kept back */
    size_t wire_seen[2];
    unsigned spoken[2];
};

static int over(const struct drive *d)
{
    return d->dead[0] != OE_OK || d->dead[1] != OE_OK || d->conn.phase == OE_PHASE_BROKEN;
}

static void give(struct relay *r, int from, const uint8_t *p, size_t n)
{
    if (!over(&r->end[1 - from]))
        (void)drive_peer(&r->end[1 - from], p, n);
}

/* Takes up to n bytes off a wire into out; returns how many. */
static size_t take(struct relay *r, int from, uint8_t *out, size_t n)
{
    struct oe_buf *wire = &r->end[from].wire;
    n = n < oe_buf_n(wire) ? n : oe_buf_n(wire);
    if (n != 0)
        memcpy(out, oe_buf_span(wire).p, n);
    oe_buf_drop(wire, n);
    return n;
}

static void speak(struct relay *r, int who, enum oe_mqtt version)
{
    struct oe_buf b = {0};
    unsigned i = r->spoken[who]++;
    if (over(&r->end[who]))
        return;
    if (i == 0 && who == 0)
        drive_connect(&b, version);
    else if (i == 0)
        drive_connack(&b, version, 0);
    else
        drive_publish(&b, version, 0x30, "t", &i, sizeof(i)); /* no two are the same */
    (void)drive_app(&r->end[who], oe_buf_span(&b).p, oe_buf_n(&b));
    oe_buf_free(&b);
}

static void step(struct relay *r, enum oe_mqtt version, unsigned kind, unsigned argument)
{
    uint8_t bytes[70000];
    int from = (int)(argument & 1);
    size_t n = argument >> 1;
    struct drive *d = &r->end[from];

    switch ((enum step)(kind % STEPS)) {
    case CARRY:
        n = take(r, from, bytes, n);
        give(r, from, bytes, n);
        break;
    case CARRY_ALL:
        n = take(r, from, bytes, sizeof(bytes));
        give(r, from, bytes, n);
        break;
    case FLIP:
        if (n / 8 < oe_buf_n(&d->wire))
            d->wire.p[d->wire.pos + n / 8] ^= (uint8_t)(1 << n % 8);
        break;
    case DROP:
        (void)take(r, from, bytes, n);
        break;
    case REPEAT:
        n = n < oe_buf_n(&d->wire) ? n : oe_buf_n(&d->wire);
        if (n != 0)
            give(r, from, oe_buf_span(&d->wire).p, n);
        break;
    case INVENT:
        memset(bytes, (int)n, 2);
        give(r, from, bytes, 1 + n % 2);
        break;
    case KEEP_BACK:
        n = take(r, from, bytes, n);
        drive_raw(&r->stash[from], bytes, n);
        break;
    case GIVE_BACK:
        give(r, argument & 2 ? from : 1 - from, oe_buf_span(&r->stash[from]).p, oe_buf_n(&r->stash[from]));
        if (argument & 4)
            oe_buf_free(&r->stash[from]);
        break;
    case SPEAK:
        speak(r, from, version);
        break;
    case EXPIRE:
        if (!over(&r->end[0]))
            (void)drive_expire(&r->end[0]);
        break;
    case END:
        if (!over(d))
            (void)drive_end(d);
        break;
    case STEPS:
        break;
    }
}

static void check(const struct relay *r)
{
    if (r->mode->preface) {
        REQUIRE(!drive_contains(&r->end[0].wire, "client", 6));
        REQUIRE(r->end[0].conn.security != OE_SEC_PLAIN || r->end[0].conn.version == OE_MQTT_NONE);
    }
    if (r->mode->admission == OE_ADMIT_NOT)
        REQUIRE(r->end[1].conn.phase != OE_PHASE_RECORDS);
    if (r->mode->trust.known == DRIVE_KNOWN_WRONG && r->mode->trust.downgrade == OE_DOWNGRADE_REFUSE)
        REQUIRE(r->end[0].conn.phase != OE_PHASE_RECORDS);
    for (int i = 0; i < 2; i++) {
        const struct drive *d = &r->end[i], *other = &r->end[1 - i];
        if (d->app_at_records == SIZE_MAX)
            continue;
        size_t got = oe_buf_n(&d->app) - d->app_at_records, from = other->sent_at_records;
        if (r->mode->preface && i == 1 && from == SIZE_MAX)
            from = 0; /* the CONNECT of message 1 */
        if (from == SIZE_MAX) {
            REQUIRE(got == 0);
            continue;
        }
        REQUIRE(got <= oe_buf_n(&other->sent) - from);
        REQUIRE(got == 0 || memcmp(oe_buf_span(&d->app).p + d->app_at_records, oe_buf_span(&other->sent).p + from, got) == 0);
        /* What came out as records came out of an agreement about keys. */
        REQUIRE(got == 0 || other->sent_at_records == SIZE_MAX || memcmp(d->conn.receive.cipher.k.b, other->conn.send.cipher.k.b, 32) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct relay r;
    if (n < 1)
        return 0;
    enum oe_mqtt version = (enum oe_mqtt)(3 + data[0] % 3);
    memset(&r, 0, sizeof(r));
    r.mode = &modes[data[0] / 3 % (sizeof(modes) / sizeof(modes[0]))];
    drive_responders(r.mode->admission, 1, 1000);
    drive_open(&r.end[0], OE_INITIATOR,
               &(struct drive_how){.policy = r.mode->client, .bytewise = 1, .trust = r.mode->trust, .peer_seed = 8});
    drive_open(&r.end[1], OE_RESPONDER, &(struct drive_how){.policy = r.mode->broker, .seed = 8, .bytewise = 1});
    for (size_t at = 1; at + 1 < n && at < 400; at += 2) {
        step(&r, version, data[at], data[at + 1]);
        check(&r);
    }
    for (int i = 0; i < 2; i++) {
        drive_close(&r.end[i]);
        oe_buf_free(&r.stash[i]);
    }
    return 0;
}
