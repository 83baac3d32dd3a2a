/* An initiator whose peer is the fuzzer: see one_end.h. Byte 0: 0 to 2 the application has sent CONNECT of a version, 3 to 5 and the CONNACK
 * has come, so that the probe is out; 8 to 10 a preface of XX is out, 11 to 13 one of IK; otherwise the fuzzer is the application too, and the
 * peer is not known (6), not known and required (7), known (14), known with downgrade = warn (15). */
#include "one_end.h"

#define WAYS 16
#define PREFACE 8 /* from here to before 14 */

static void begin(struct drive *d, unsigned which, size_t size)
{
    struct drive_how how = {
        .policy = which >= 7 && which <= 10 ? OE_POLICY_REQUIRE : OE_POLICY_PREFER, .seed = 1, .room = size % 50, .peer_seed = 2};
    unsigned version = which >= PREFACE ? 3 + (which - PREFACE) % 3 : 3 + which % 3;
    struct oe_buf b = {0};
    if (which >= 11)
        how.trust = (struct drive_trust){.known = which == 14 ? DRIVE_KNOWN_SECOND : DRIVE_KNOWN_RIGHT,
                                         .epoch = which != 12,
                                         .downgrade = which == 15 ? OE_DOWNGRADE_WARN : OE_DOWNGRADE_REFUSE};
    drive_open(d, OE_INITIATOR, &how);
    if (which == 6 || which == 7 || which >= 14)
        return;
    drive_connect(&b, (enum oe_mqtt)version);
    (void)drive_app(d, oe_buf_span(&b).p, oe_buf_n(&b));
    oe_buf_free(&b);
    if (which >= PREFACE)
        REQUIRE(oe_conn_prefaced(&d->conn));
    if (which < 3 || which >= PREFACE)
        return;
    drive_connack(&b, (enum oe_mqtt)(3 + which % 3), 0);
    (void)drive_peer(d, oe_buf_span(&b).p, oe_buf_n(&b));
    oe_buf_free(&b);
    REQUIRE(d->conn.phase == OE_PHASE_I_PROBE);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    struct drive whole, pieces;
    if (n < 2)
        return 0;
    size_t size = 1 + data[1] % 7;
    begin(&whole, data[0] % WAYS, SIZE_MAX / 64);
    begin(&pieces, data[0] % WAYS, size);
    one_end_run(&whole, data + 2, n - 2, SIZE_MAX);
    one_end_run(&pieces, data + 2, n - 2, size);
    one_end_same(&whole, &pieces);
    one_end_check(&whole);
    if (data[0] % WAYS >= PREFACE && data[0] % WAYS < 14) {
        REQUIRE(!drive_contains(&whole.wire, "client", 6));
        REQUIRE(oe_conn_prefaced(&whole.conn) || whole.conn.phase == OE_PHASE_REFUSED);
    }
    drive_close(&whole);
    drive_close(&pieces);
    return 0;
}
