/*
 * Every allocation of a whole connection fails in turn. Whatever fails: no crash, nothing leaks, an error is final and says why, no plaintext
 * is on the wire where ciphertext was due, applications see a beginning of what was said, and freed memory holds neither plaintext nor keys.
 * Linked with -Wl,--wrap=malloc,--wrap=calloc,--wrap=realloc,--wrap=free.
 */
#include <arpa/inet.h>
#include <check.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../shim/hook/io_private.h"
#include "../../shim/hook/pool.h"
#include "../../shim/os/peerfile.h"
#include "../unit/drive.h"
#include "../unit/run.h"

void *__real_malloc(size_t n);
void *__real_calloc(size_t n, size_t size);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);
void *__wrap_malloc(size_t n);
void *__wrap_calloc(size_t n, size_t size);
void *__wrap_realloc(void *p, size_t n);
void __wrap_free(void *p);

/* ---- the allocator -------------------------------------------------------------------------------------------------------------------- */

#define BLOCKS_MAX 4096

/* What the core has allocated. The tests' own allocations are not counted and never fail: `counting` is set around calls of the core only. */
static struct block {
    uint8_t *p;
    size_t n;
} blocks[BLOCKS_MAX];
static size_t blocks_n;
static int counting;
static size_t calls, fail_at; /* 1: the first call fails; 0: none does */
static int fail_on;           /* all from fail_at on */
static size_t unwiped;        /* freed blocks with something of `secrets` in them */

static struct oe_buf secrets[4];

static int fails(void)
{
    if (!counting)
        return 0;
    calls++;
    return fail_at != 0 && (calls == fail_at || (fail_on && calls > fail_at));
}

static void *note(void *p, size_t n)
{
    if (counting && p != NULL) {
        if (blocks_n == BLOCKS_MAX)
            abort(); /* no ck_assert here: Check allocates too */
        blocks[blocks_n++] = (struct block){p, n};
    }
    return p;
}

void *__wrap_malloc(size_t n)
{
    return fails() ? NULL : note(__real_malloc(n), n);
}

void *__wrap_calloc(size_t n, size_t size)
{
    return fails() ? NULL : note(__real_calloc(n, size), n * size);
}

void *__wrap_realloc(void *p, size_t n)
{
    if (counting) {
        (void)fprintf(stderr, "the core calls realloc, which leaves copies behind\n");
        abort();
    }
    return __real_realloc(p, n);
}

void __wrap_free(void *p)
{
    for (size_t i = 0; i < blocks_n; i++) {
        if (blocks[i].p != p)
            continue;
        for (size_t k = 0; k < sizeof(secrets) / sizeof(secrets[0]); k++) {
            struct oe_span s = oe_buf_span(&secrets[k]);
            if (s.n != 0 && blocks[i].n >= s.n && memmem(p, blocks[i].n, s.p, s.n) != NULL) {
                unwiped++;
                break;
            }
        }
        blocks[i] = blocks[--blocks_n];
        break;
    }
    __real_free(p);
}

/* The core is entered through this and end_call. */

static enum oe_status counted_push(struct oe_conn *c, enum oe_dir dir, struct oe_span in, struct oe_flow *flow)
{
    counting = 1;
    enum oe_status st = oe_conn_push(c, dir, in, 1000, flow);
    counting = 0;
    return st;
}

/* ---- two ends ------------------------------------------------------------------------------------------------------------------------- */

struct end {
    struct oe_conn conn;
    struct oe_buf app, wire, sent;
    struct oe_secret identity;
    int dead;
};

/* What a run did. */
struct run {
    struct end client, broker;
    struct oe_buf up, down, wires[2];
    int expire; /* the handshake's time-out comes instead of the answer */
    const struct way *way;
};

/* How a connection begins. */
struct way {
    enum oe_policy client, broker;
    enum drive_known known;
    uint8_t epoch;
    enum oe_admission admission;
    enum oe_phase end; /* of the initiator, if nothing fails */
};

static const struct way probe = {OE_POLICY_PREFER, OE_POLICY_PREFER, DRIVE_KNOWN_NONE, 0, OE_ADMIT_ANY, OE_PHASE_RECORDS};
static const struct way ways[] = {
    {OE_POLICY_REQUIRE, OE_POLICY_PREFER, DRIVE_KNOWN_NONE, 0, OE_ADMIT_ANY, OE_PHASE_RECORDS},
    {OE_POLICY_PREFER, OE_POLICY_REQUIRE, DRIVE_KNOWN_RIGHT, 7, OE_ADMIT_ANY, OE_PHASE_RECORDS},
    {OE_POLICY_PREFER, OE_POLICY_PREFER, DRIVE_KNOWN_RIGHT, 0, OE_ADMIT_LISTED, OE_PHASE_RECORDS},
    {OE_POLICY_PREFER, OE_POLICY_PREFER, DRIVE_KNOWN_SECOND, 7, OE_ADMIT_ANY, OE_PHASE_RECORDS},
    {OE_POLICY_PREFER, OE_POLICY_PREFER, DRIVE_KNOWN_WRONG, 7, OE_ADMIT_ANY, OE_PHASE_REFUSED},
    {OE_POLICY_PREFER, OE_POLICY_REQUIRE, DRIVE_KNOWN_RIGHT, 7, OE_ADMIT_NOT, OE_PHASE_REFUSED},
    {OE_POLICY_PREFER, OE_POLICY_REQUIRE, DRIVE_KNOWN_NONE, 0, OE_ADMIT_ANY, OE_PHASE_RECORDS}, /* a probe, where it is required */
};
#define WAYS (sizeof(ways) / sizeof(ways[0]))
#define WAY_OF_PROBE 6

static const char connect_packet[] = "\x10\x12\x00\x04MQTT\x04\x02\x00\x3C\x00\x06"
                                     "client";
static const char connack_packet[] = "\x20\x02\x00\x00";

/* What the responder says: its admission is the way's, its epoch 7, everything is fresh in it. */
static enum oe_admission admission;

static enum oe_admission admit(const struct oe_public *client, enum oe_policy policy)
{
    (void)client;
    (void)policy;
    return admission;
}

static void epoch(uint8_t out[OE_EPOCH_BYTES])
{
    memset(out, 7, OE_EPOCH_BYTES);
}

static int fresh(const uint8_t told[OE_EPOCH_BYTES], const struct oe_public *ephemeral)
{
    (void)ephemeral;
    return told[0] == 7;
}

static const struct oe_conn_calls responder_calls = {.admit = admit, .epoch = epoch, .fresh = fresh};

/* Tells an initiator about its peer, whose seed is known. */
static enum oe_status tell(struct end *e, const struct way *way, uint8_t peer_seed)
{
    struct oe_known keys[2] = {{.pinned = 1}};
    struct oe_trust trust = {.known = keys, .n = way->known == DRIVE_KNOWN_NONE ? 0 : way->known == DRIVE_KNOWN_SECOND ? 2 : 1};
    size_t right = way->known == DRIVE_KNOWN_SECOND;
    keys[0].key = keys[1].key = drive_key((uint8_t)(peer_seed + 60));
    if (way->known != DRIVE_KNOWN_WRONG)
        keys[right].key = drive_key((uint8_t)(peer_seed - 1)); /* drive's seeds are one less */
    memset(trust.epoch, way->epoch, sizeof(trust.epoch));
    return oe_conn_trust(&e->conn, &trust);
}

static void open_end(struct end *e, enum oe_role role, const struct way *way, uint8_t seed, uint8_t peer_seed)
{
    struct oe_conn_setup setup = {.role = role,
                                  .policy = role == OE_INITIATOR ? way->client : way->broker,
                                  .handshake_ms = 2000,
                                  .identity = &e->identity,
                                  .calls = &responder_calls};
    memset(e->identity.b, seed, 32);
    memset(setup.ephemeral[0].b, seed + 1, 32);
    memset(setup.ephemeral[1].b, seed + 2, 32);
    admission = way->admission;
    counting = 1;
    e->dead = oe_conn_init(&e->conn, &setup) != OE_OK || (role == OE_INITIATOR && tell(e, way, peer_seed) != OE_OK);
    counting = 0;
}

/* A failed call is final, and says why. */
static void judge(struct end *e, enum oe_dir dir, enum oe_status st)
{
    if (st == OE_OK)
        return;
    ck_assert_int_ne(st, OE_MORE);
    ck_assert_msg(oe_conn_why(&e->conn, dir) != OE_REASON_NONE, "an error without a reason, phase %d status %d", (int)e->conn.phase,
                  (int)st);
    ck_assert_msg(e->conn.phase == OE_PHASE_BROKEN || e->conn.phase == OE_PHASE_RECORDS ||
                      (e->conn.phase == OE_PHASE_REFUSED && dir == OE_FROM_APP && st == OE_CRYPTO),
                  "an error in phase %d", (int)e->conn.phase);
    if (st == OE_NOMEM)
        ck_assert_int_eq(oe_conn_why(&e->conn, dir), OE_REASON_MEMORY);
    e->dead = 1;
}

static void end_push(struct end *e, enum oe_dir dir, const void *p, size_t n)
{
    struct oe_buf rest = {0}, answer = {0};
    struct oe_sink forward = {.rest = &rest};
    struct oe_flow flow = {.forward = &forward, .answer = &answer};
    if (e->dead)
        return;
    enum oe_status st = counted_push(&e->conn, dir, (struct oe_span){p, n}, &flow);
    drive_raw(dir == OE_FROM_APP ? &e->wire : &e->app, oe_buf_span(&rest).p, oe_buf_n(&rest));
    drive_raw(&e->wire, oe_buf_span(&answer).p, oe_buf_n(&answer));
    if (dir == OE_FROM_APP)
        drive_raw(&e->sent, p, st == OE_OK ? flow.taken : n);
    oe_buf_free(&rest);
    oe_buf_free(&answer);
    judge(e, dir, st);
}

static void end_call(struct end *e, enum oe_status function(struct oe_conn *, struct oe_flow *))
{
    struct oe_buf rest = {0}, answer = {0};
    struct oe_sink forward = {.rest = &rest};
    struct oe_flow flow = {.forward = &forward, .answer = &answer};
    if (e->dead)
        return;
    counting = 1;
    enum oe_status st = function(&e->conn, &flow);
    counting = 0;
    drive_raw(&e->app, oe_buf_span(&rest).p, oe_buf_n(&rest));
    oe_buf_free(&rest);
    oe_buf_free(&answer);
    judge(e, OE_FROM_PEER, st);
}

/* Carries what is on one end's wire to the other in two pieces. */
static void carry(struct run *r, struct end *from, struct end *to, int way)
{
    struct oe_buf piece = {0};
    size_t n = oe_buf_n(&from->wire), half = n / 3;
    drive_raw(&piece, oe_buf_span(&from->wire).p, n);
    oe_buf_drop(&from->wire, n);
    drive_raw(&r->wires[way], oe_buf_span(&piece).p, n);
    end_push(to, OE_FROM_PEER, oe_buf_span(&piece).p, half);
    end_push(to, OE_FROM_PEER, oe_buf_span(&piece).p + half, n - half);
    oe_buf_free(&piece);
}

static void say(struct end *e, struct oe_buf *script, size_t n)
{
    if (e->dead)
        return;
    uint8_t *text = __real_malloc(n + sizeof(WORLD_MARKER));
    for (size_t i = 0; i < n; i++)
        text[i] = (uint8_t)WORLD_MARKER[i % (sizeof(WORLD_MARKER) - 1)];
    drive_raw(script, text, n);
    end_push(e, OE_FROM_APP, text, n);
    __real_free(text);
}

static void scenario(struct run *r)
{
    struct end *i = &r->client, *o = &r->broker;
    open_end(i, OE_INITIATOR, r->way, 1, 3);
    open_end(o, OE_RESPONDER, r->way, 3, 1);
    drive_raw(&r->up, connect_packet, sizeof(connect_packet) - 1);
    end_push(i, OE_FROM_APP, connect_packet, sizeof(connect_packet) - 1);
    carry(r, i, o, 0);
    drive_raw(&r->down, connack_packet, sizeof(connack_packet) - 1);
    end_push(o, OE_FROM_APP, connack_packet, sizeof(connack_packet) - 1);
    carry(r, o, i, 1); /* CONNACK: the probe */
    carry(r, i, o, 0); /* message 2 and UNSUBACK */
    if (!i->dead && !o->dead && i->conn.phase == OE_PHASE_I_PROBE && !r->expire)
        say(o, &r->down, 3000); /* held */
    if (r->expire)
        end_call(i, oe_conn_expire);
    carry(r, o, i, 1);
    carry(r, i, o, 0); /* message 3, or abort */
    carry(r, o, i, 1); /* what was held */
    for (int k = 0; k < 2 && !r->expire; k++) {
        if (i->conn.phase == OE_PHASE_RECORDS)
            say(i, &r->up, 40000);
        if (o->conn.phase == OE_PHASE_RECORDS)
            say(o, &r->down, 20000);
        carry(r, i, o, 0);
        carry(r, o, i, 1);
    }
    end_call(i, oe_conn_peer_end);
    end_call(o, oe_conn_peer_end);
}

/* The handshake comes first; the CONNECT is early, or comes in records. */
static void scenario_preface(struct run *r)
{
    struct end *i = &r->client, *o = &r->broker;
    open_end(i, OE_INITIATOR, r->way, 1, 3);
    open_end(o, OE_RESPONDER, r->way, 3, 1);
    drive_raw(&r->up, connect_packet, sizeof(connect_packet) - 1);
    end_push(i, OE_FROM_APP, connect_packet, sizeof(connect_packet) - 1);
    for (int k = 0; k < 3; k++) {
        carry(r, i, o, 0);
        if (r->expire && k == 0)
            end_call(i, oe_conn_expire);
        carry(r, o, i, 1);
    }
    for (int k = 0; k < 2; k++) {
        if (o->conn.phase == OE_PHASE_RECORDS && i->conn.phase == OE_PHASE_RECORDS) {
            say(i, &r->up, 20000);
            say(o, &r->down, 20000);
        }
        carry(r, i, o, 0);
        carry(r, o, i, 1);
    }
    end_call(i, oe_conn_peer_end);
    end_call(o, oe_conn_peer_end);
}

static void run_once(const struct way *way, int expire, struct run *r)
{
    memset(r, 0, sizeof(*r));
    r->expire = expire;
    r->way = way;
    calls = blocks_n = 0;
    if (way == &probe || way == &ways[WAY_OF_PROBE])
        scenario(r);
    else
        scenario_preface(r);
}

static void close_run(struct run *r)
{
    struct oe_buf *all[] = {&r->up,          &r->down,        &r->wires[0],   &r->wires[1],    &r->client.app,
                            &r->client.wire, &r->client.sent, &r->broker.app, &r->broker.wire, &r->broker.sent};
    oe_conn_wipe(&r->client.conn);
    oe_conn_wipe(&r->broker.conn);
    for (size_t i = 0; i < sizeof(all) / sizeof(all[0]); i++)
        oe_buf_free(all[i]);
}

/* A beginning of what was said, or the CONNACK of an initiator that refuses. */
static int is_fair(const struct run *r)
{
    if (r->client.conn.security == OE_SEC_REFUSED)
        return oe_buf_n(&r->client.app) == 0 || (oe_buf_n(&r->client.app) == 4 && drive_contains(&r->client.app, "\x20\x02\x00\x03", 4));
    return drive_prefix(&r->client.app, &r->down);
}

static void ck_run(const struct run *r, size_t at)
{
    ck_assert_msg(is_fair(r), "allocation %zu: the client's bytes differ", at);
    /* the front of a preface whose end failed is somebody else's packet */
    ck_assert_msg(drive_prefix(&r->broker.app, &r->up) ||
                      (r->broker.conn.security == OE_SEC_PLAIN && drive_prefix(&r->broker.app, &r->wires[0])),
                  "allocation %zu: the broker's bytes differ", at);
    for (int way = 0; way < 2 && !r->expire; way++)
        ck_assert_msg(!drive_contains(&r->wires[way], WORLD_MARKER, sizeof(WORLD_MARKER) - 1), "allocation %zu: plaintext on the wire", at);
    if (r->way != &probe && r->way != &ways[WAY_OF_PROBE])
        ck_assert_msg(!drive_contains(&r->wires[0], "client", 6), "allocation %zu: CONNECT is on the wire", at);
}

static void every_allocation(const struct way *way, int expire, int all_from_there)
{
    enum oe_phase end = !expire ? way->end : way == &probe ? OE_PHASE_PLAIN : OE_PHASE_REFUSED;
    struct run r;
    fail_at = 0;
    run_once(way, expire, &r);
    size_t total = calls;
    ck_assert(!r.client.dead && !r.broker.dead);
    ck_assert_int_eq(r.client.conn.phase, end);
    ck_assert(end == OE_PHASE_REFUSED || (drive_same(&r.client.app, &r.down) && drive_same(&r.broker.app, &r.up)));
    ck_run(&r, 0);
    close_run(&r);
    ck_assert_uint_eq(blocks_n, 0);
    ck_assert_uint_gt(total, 10);
    fail_on = all_from_there;
    for (fail_at = 1; fail_at <= total; fail_at++) {
        run_once(way, expire, &r);
        size_t at = fail_at;
        ck_run(&r, at);
        ck_assert_msg(!all_from_there || r.client.dead || r.broker.dead || at > total / 2, "allocation %zu: nobody noticed", at);
        close_run(&r);
        ck_assert_msg(blocks_n == 0, "allocation %zu: %zu blocks leak", at, blocks_n);
    }
    fail_at = 0;
}

START_TEST(one_allocation_fails)
{
    every_allocation(&probe, 0, 0);
}
END_TEST

START_TEST(all_allocations_fail_from_one_on)
{
    every_allocation(&probe, 0, 1);
}
END_TEST

START_TEST(one_fails_with_a_timeout)
{
    every_allocation(&probe, 1, 0);
    every_allocation(&probe, 1, 1);
}
END_TEST

START_TEST(one_fails_in_a_preface)
{
    for (size_t i = 0; i < WAYS; i++)
        every_allocation(&ways[i], 0, 0);
}
END_TEST

START_TEST(all_fail_in_a_preface)
{
    for (size_t i = 0; i < WAYS; i++)
        every_allocation(&ways[i], 0, 1);
}
END_TEST

START_TEST(one_fails_with_a_timeout_of_a_preface)
{
    for (size_t i = 0; i < WAY_OF_PROBE; i++) {
        every_allocation(&ways[i], 1, 0);
        every_allocation(&ways[i], 1, 1);
    }
}
END_TEST

/* What the core frees holds no plaintext of records, no secret key and no key of the records. */
static void ck_wiped(const struct way *way)
{
    struct run r;
    unwiped = 0;
    run_once(way, 0, &r); /* for its keys */
    drive_raw(&secrets[0], way == &probe ? WORLD_MARKER : "client", way == &probe ? 12 : 6);
    drive_raw(&secrets[1], r.client.conn.send.cipher.k.b, 32);
    drive_raw(&secrets[2], r.client.conn.receive.cipher.k.b, 32);
    drive_raw(&secrets[3], r.client.identity.b, 32);
    close_run(&r);
    unwiped = 0;
    run_once(way, 0, &r);
    /* buffers of this test carry wire and application bytes, but are not counted: only the core's are looked at */
    close_run(&r);
    for (size_t i = 0; i < 4; i++)
        oe_buf_free(&secrets[i]);
    ck_assert_msg(unwiped == 0, "%zu blocks were freed with plaintext or keys in them", unwiped);
}

START_TEST(freed_memory_is_wiped)
{
    ck_wiped(&probe);
    for (size_t i = 0; i < WAY_OF_PROBE; i++)
        if (ways[i].end == OE_PHASE_RECORDS)
            ck_wiped(&ways[i]);
}
END_TEST

/* The same for a buffer that was emptied before it is freed, and one whose content was moved. */
START_TEST(buf_wipes_what_was_taken)
{
    struct oe_buf b = {0};
    uint8_t text[600];
    unwiped = 0;
    drive_raw(&secrets[0], WORLD_MARKER, sizeof(WORLD_MARKER) - 1);
    memset(text, '.', sizeof(text));
    counting = 1;
    ck_assert_int_eq(oe_buf_put(&b, WORLD_MARKER, sizeof(WORLD_MARKER) - 1), OE_OK);
    oe_buf_drop(&b, sizeof(WORLD_MARKER) - 1);
    oe_buf_free(&b);
    size_t emptied = unwiped;
    ck_assert_int_eq(oe_buf_put(&b, text, 500), OE_OK);
    ck_assert_int_eq(oe_buf_put(&b, text, 400), OE_OK);
    ck_assert_int_eq(oe_buf_put(&b, WORLD_MARKER, sizeof(WORLD_MARKER) - 1), OE_OK); /* at offset 900 of 1,000 */
    oe_buf_drop(&b, 600);
    ck_assert_int_eq(oe_buf_put(&b, text, 200), OE_OK); /* the rest moves to the front */
    oe_buf_free(&b);
    counting = 0;
    size_t moved = unwiped - emptied;
    oe_buf_free(&secrets[0]);
    ck_assert_msg(emptied == 0 && moved == 0, "emptied: %zu, moved: %zu blocks freed unwiped", emptied, moved);
}
END_TEST

/* ---- the funnel ----------------------------------------------------------------------------------------------------------------------- */

/* A TCP connection to ourselves: two[0] gets what two[1] sends. */
static void open_tcp(int two[2])
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t n = sizeof(a);
    int listener = socket(AF_INET, SOCK_STREAM, 0);
    two[1] = socket(AF_INET, SOCK_STREAM, 0);
    ck_assert(listener >= 0 && two[1] >= 0);
    ck_assert(bind(listener, (struct sockaddr *)&a, n) == 0 && listen(listener, 1) == 0);
    ck_assert(getsockname(listener, (struct sockaddr *)&a, &n) == 0 && connect(two[1], (struct sockaddr *)&a, n) == 0);
    two[0] = accept(listener, NULL, NULL);
    ck_assert_int_ge(two[0], 0);
    close(listener);
}

/* What has been seen leaves the kernel's queue also without a buffer of the pool: all of it, and nothing more. */
START_TEST(discard_without_memory)
{
    static const size_t sizes[] = {1, 511, 512, 513, 5000, 40000};
    static uint8_t data[40001], all[40001];
    struct oe_buf none = {0};
    int two[2];
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        size_t n = sizes[i];
        open_tcp(two);
        data[n] = 'x'; /* the first byte behind */
        ck_assert_int_eq(send(two[1], data, n + 1, 0), n + 1);
        ck_assert_int_eq(recv(two[0], all, n + 1, MSG_PEEK | MSG_WAITALL), n + 1);
        calls = 0;
        fail_at = fail_on = counting = 1;
        enum oe_status st = oe_pool_get(&none);
        oe_io_discard(two[0], n);
        fail_at = fail_on = counting = 0;
        ck_assert_int_eq(st, OE_NOMEM);
        ssize_t left = recv(two[0], all, n + 1, MSG_DONTWAIT);
        ck_assert_msg(left == 1 && all[0] == 'x', "of %zu bytes and one more %zd are left", n, left);
        data[n] = 0;
        close(two[0]);
        close(two[1]);
    }
}
END_TEST

/* ---- known_peers ---------------------------------------------------------------------------------------------------------------------- */

static char state_dir[] = "/tmp/oe-test-alloc.XXXXXX";

static size_t known_peers(char *text, size_t n)
{
    char path[64];
    size_t got = 0;
    (void)snprintf(path, sizeof(path), "%s/known_peers", state_dir);
    FILE *f = fopen(path, "r");
    if (f != NULL) {
        got = fread(text, 1, n, f);
        fclose(f);
    }
    return got;
}

enum { READ, READ_ALLOWED, CONTACT_NEW, CONTACT_AGAIN, TRUST_NEW, TRUST_AGAIN, FORGET, PEER_CALLS };

static enum oe_status peer_call(int which)
{
    static const uint8_t epoch[OE_EPOCH_BYTES] = {1};
    struct oe_public key = {{(uint8_t)(which == TRUST_NEW ? 9 : 5)}};
    struct oe_peers peers = {0};
    char why[OE_PEERFILE_WHY_BYTES] = "";
    enum oe_status st = OE_INVALID;
    size_t removed = 0;
    int added = 0;
    counting = 1;
    if (which == READ || which == READ_ALLOWED)
        st = (which == READ ? oe_peerfile_read_known : oe_peerfile_read_allowed)(state_dir, &peers);
    else if (which == CONTACT_NEW || which == CONTACT_AGAIN)
        st = oe_peerfile_contact(state_dir, "a:1", &key, which == CONTACT_NEW ? NULL : epoch, 1000, 1000, why);
    else if (which == TRUST_NEW || which == TRUST_AGAIN)
        st = oe_peerfile_trust(state_dir, "a:1", &key, 1000, 1000, &added, why);
    else
        st = oe_peerfile_forget(state_dir, "a:1", NULL, 1000, &removed, why);
    size_t n = peers.n;
    oe_peers_free(&peers);
    counting = 0;
    if (st == OE_OK)
        ck_assert_uint_eq(n, which == READ ? 2 : which == READ_ALLOWED ? 1 : 0);
    else
        ck_assert_uint_eq(n + removed + (unsigned)added, 0);
    ck_assert_msg((st == OE_OK) == (why[0] == '\0') || which <= READ_ALLOWED, "call %d: %s", which, why);
    return st;
}

/* Whatever fails, the file is the old one or the new one, nothing leaks, and the same call succeeds later. */
START_TEST(peers_without_memory)
{
    static char before[4096], after[4096];
    char path[64];
    size_t before_n = 0, after_n = 0;
    ck_assert_ptr_nonnull(mkdtemp(state_dir));
    (void)snprintf(path, sizeof(path), "%s/allowed_peers", state_dir);
    FILE *f = fopen(path, "w");
    fputs("kitchen oe1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=\n", f);
    fclose(f);
    static const int order[] = {CONTACT_NEW, CONTACT_AGAIN, TRUST_NEW, TRUST_AGAIN, READ, READ_ALLOWED, FORGET};
    for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        enum oe_status st = OE_NOMEM;
        for (fail_at = 1, fail_on = 0; st != OE_OK; fail_at++) {
            before_n = known_peers(before, sizeof(before));
            calls = blocks_n = 0;
            st = peer_call(order[i]);
            ck_assert_msg(blocks_n == 0, "call %d, allocation %zu: %zu blocks leak", order[i], fail_at, blocks_n);
            after_n = known_peers(after, sizeof(after));
            if (st == OE_OK)
                break;
            ck_assert_int_eq(st, OE_NOMEM);
            ck_assert(before_n == after_n && memcmp(before, after, after_n) == 0);
            ck_assert_uint_lt(fail_at, 100);
        }
        ck_assert_uint_gt(fail_at, order[i] == CONTACT_NEW ? 2 : order[i] == READ_ALLOWED || order[i] == READ ? 3 : 8);
        ck_assert_msg((before_n != after_n) == (order[i] != READ && order[i] != READ_ALLOWED), "call %d", order[i]);
    }
    fail_at = 0;
    ck_assert_uint_eq(after_n, 0);
    static const char *const names[] = {"known_peers", "known_peers.lock", "allowed_peers"};
    for (size_t i = 0; i < 3; i++) {
        (void)snprintf(path, sizeof(path), "%s/%s", state_dir, names[i]);
        ck_assert_int_eq(unlink(path), 0);
    }
    ck_assert_int_eq(rmdir(state_dir), 0);
}
END_TEST

int main(void)
{
    const TTest *const tests[] = {
        one_allocation_fails,     all_allocations_fail_from_one_on,
        one_fails_with_a_timeout, one_fails_in_a_preface,
        all_fail_in_a_preface,    one_fails_with_a_timeout_of_a_preface,
        freed_memory_is_wiped,    buf_wipes_what_was_taken,
        discard_without_memory,   peers_without_memory,
    };
    return sodium_init() < 0 ? 1 : RUN_TESTS("alloc", tests);
}
