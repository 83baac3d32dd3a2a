/*
 * One end against the fuzzer: the fuzzer is the peer, and, if it likes, the application. The input is a list of steps:
 *   byte 0: which application; byte 1: pieces; then steps of KIND, LENGTH, and that many bytes.
 * The same steps are run in one piece each and in small pieces: everything that comes out must be the same.
 */
#ifndef OE_TESTS_ONE_END_H
#define OE_TESTS_ONE_END_H

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

static inline void require(int holds, const char *what)
{
    if (!holds) {
        (void)fprintf(stderr, "does not hold: %s\n", what);
        abort();
    }
}

#define REQUIRE(x) require(!!(x), #x)

enum step_kind { STEP_PEER, STEP_PEER_LONG, STEP_APP, STEP_EXPIRE, STEP_END, STEP_LATER, STEP_KINDS };

/* The steps, each push cut into pieces of at most size bytes. */
static inline void one_end_run(struct drive *d, const uint8_t *data, size_t n, size_t size)
{
    while (n >= 2 && d->dead[0] == OE_OK && d->dead[1] == OE_OK && d->conn.phase != OE_PHASE_BROKEN) {
        enum step_kind kind = (enum step_kind)(data[0] % STEP_KINDS);
        size_t k = kind == STEP_PEER_LONG ? (size_t)data[1] * 256 : data[1];
        data += 2;
        n -= 2;
        k = k < n ? k : n;
        switch (kind) {
        case STEP_PEER:
        case STEP_PEER_LONG:
        case STEP_APP:
            for (size_t at = 0; at < k;) {
                size_t piece = k - at < size ? k - at : size, before = oe_buf_n(&d->sent);
                if ((kind == STEP_APP ? drive_app : drive_peer)(d, data + at, piece) != OE_OK)
                    return;
                at += piece;
                if (kind == STEP_APP && (oe_buf_n(&d->sent) - before < piece || d->conn.phase == OE_PHASE_REFUSED))
                    break; /* not taken: nothing more of this step is */
            }
            data += k;
            n -= k;
            break;
        case STEP_EXPIRE:
            (void)drive_expire(d);
            break;
        case STEP_END:
            (void)drive_end(d);
            break;
        case STEP_LATER:
            d->now += 20000;
            break;
        case STEP_KINDS:
            break;
        }
    }
}

static inline void one_end_same(const struct drive *a, const struct drive *b)
{
    REQUIRE(drive_same(&a->app, &b->app));
    REQUIRE(drive_same(&a->wire, &b->wire));
    REQUIRE(a->conn.phase == b->conn.phase);
    REQUIRE(a->conn.reason == b->conn.reason);
    REQUIRE(a->conn.security == b->conn.security);
    REQUIRE(a->conn.remember == b->conn.remember);
    REQUIRE(a->conn.downgraded == b->conn.downgraded);
    REQUIRE(a->dead[0] == b->dead[0] && a->dead[1] == b->dead[1]);
    REQUIRE(oe_conn_kept(&a->conn) == oe_conn_kept(&b->conn));
}

/* A peer without a secret never comes to records, and in plain nothing is lost or made up. */
static inline void one_end_check(const struct drive *d)
{
    REQUIRE(d->conn.phase != OE_PHASE_RECORDS);
    REQUIRE(d->conn.security == OE_SEC_UNDECIDED || d->conn.security == OE_SEC_PLAIN || d->conn.security == OE_SEC_REFUSED);
}

#endif
